"""Start the ranks of a run on this machine or in the namespaces of a lab, and wait until all have ended.

The ranks get the same environment as under ``torchrun``. We start them ourselves because ``torchrun`` hides the one line
that a failing rank prints under a report of its own, and cannot start ranks in namespaces.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from smoes_sim.lab import Lab

Start = Callable[..., subprocess.Popen[bytes]]
"""Starts a rank; takes its number and the keyword arguments of ``Popen``."""
GRACE = 10.0
"""Seconds in which the other ranks may notice a failed rank, report it and exit."""
_KILL = 2.0
"""Seconds between SIGTERM and SIGKILL."""
_NAP = 0.05
_QUIET = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Defaults of environment variables: one thread per rank as under ``torchrun``, and no log lines of the library."""


def python_command(*arguments: str) -> list[str]:
    """The command line ``smoes-sim ARGUMENTS`` for a rank."""
    return [sys.executable, "-m", "smoes_sim", *arguments]


def on_this_machine(command: Sequence[str], num_ranks: int) -> Start:
    """Starts ranks that communicate over the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }

    def start(rank: int, **popen: Any) -> subprocess.Popen[bytes]:
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        variables = _QUIET | {"GLOO_SOCKET_IFNAME": "lo"} | os.environ | shared | own
        return subprocess.Popen(command, env=variables, **popen)

    return start


def in_lab(lab: Lab, command: Sequence[str]) -> Start:
    """Starts ranks in the namespaces of a lab."""

    def start(rank: int, **popen: Any) -> subprocess.Popen[bytes]:
        unset = {name: value for name, value in _QUIET.items() if name not in os.environ}
        return lab.popen(rank, list(command), env=unset, **popen)

    return start


def run_ranks(start: Start, num_ranks: int, *, grace: float = GRACE) -> list[int]:
    """Start ranks and wait for all of them; stdout of rank 0 and stderr of every rank are passed on.

    When a rank fails, the others have ``grace`` seconds to exit before they are ended. No process is left running.

    Returns:
        Exit codes, shape (R,); minus the number of the signal that ended a rank.
    """
    processes: list[subprocess.Popen[bytes]] = []
    messages = _Messages()
    with _ended_by_signals():
        try:
            for rank in range(num_ranks):
                output = None if rank == 0 else subprocess.DEVNULL
                processes.append(start(rank, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE))
                messages.listen(rank, processes[-1])
            _wait(processes, grace)
        finally:
            _end(processes)
            messages.finish()
    return [process.returncode for process in processes]


def exit_code(codes: Sequence[int]) -> int:
    """Exit code of the launcher: 0 if all ranks succeeded, 2 if one met bad input, else 1."""
    if not any(codes):
        return 0
    return 2 if 2 in codes else 1


def _wait(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """Wait until all have ended, or ``grace`` seconds after the first failure; print which ranks a signal ended."""
    deadline = math.inf
    named: set[int] = set()
    while True:
        codes = [process.poll() for process in processes]
        for rank, code in enumerate(codes):
            if code is not None and code < 0 and rank not in named:
                named.add(rank)
                _say(f"smoes-sim: rank {rank} was ended by {signal.Signals(-code).name}\n")
        if any(codes):
            deadline = min(deadline, time.monotonic() + grace)
        if None not in codes or time.monotonic() > deadline:
            return
        time.sleep(_NAP)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _KILL
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Messages:
    """Passes on stderr of the ranks line by line: our own messages once, other lines with the rank in front."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._own: set[str] = set()

    def listen(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        """Pass on the stderr of a rank until it closes."""
        thread = threading.Thread(target=self._pass_on, args=(rank, process), daemon=True)
        thread.start()
        self._threads.append(thread)

    def finish(self) -> None:
        """Wait for the last lines."""
        for thread in self._threads:
            thread.join(_KILL)

    def _pass_on(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        stream = process.stderr
        for raw in stream or ():
            line = raw.decode(errors="replace")
            with self._lock:
                if not line.startswith("smoes-sim: "):
                    _say(f"[rank {rank}] {line}")
                elif line not in self._own:
                    self._own.add(line)
                    _say(line)
        if stream is not None:
            stream.close()


def _say(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the ranks are ended too; possible in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise SystemExit(128 + number)
