"""Starts a script of this folder as ranks on this machine, by our launcher."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from forked import fork_context

from smoes_sim.distributed.launch import run_ranks


def run_script(name: str, num_ranks: int, *arguments: str, absent: int | None = None, grace: float = 10.0) -> list[int]:
    """Exit codes of ``num_ranks`` ranks; ``absent`` is one that is never started."""
    script = str(Path(__file__).parent / name)
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
        probe.close()
        shared = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}

        def start(rank: int, **popen: Any) -> subprocess.Popen[bytes]:
            if rank == absent:
                return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **popen)
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            return cast("subprocess.Popen[bytes]", ForkedRank([script, *arguments], shared | own, Path(folder, str(rank))))

        return run_ranks(start, num_ranks, grace=grace)


class ForkedRank:
    """A rank with those parts of ``subprocess.Popen`` that the launcher uses."""

    def __init__(self, argv: list[str], environment: dict[str, str], pipe: Path) -> None:
        os.mkfifo(pipe)
        self._process = fork_context().Process(target=_be_rank, args=(argv, environment, str(pipe)))
        self._process.start()
        self.stderr = pipe.open("rb")

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("rank", timeout or 0.0)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def _be_rank(argv: list[str], environment: dict[str, str], pipe: str) -> None:
    """Run a script as the main program of this process."""
    os.dup2(os.open(pipe, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.environ.update(environment)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
