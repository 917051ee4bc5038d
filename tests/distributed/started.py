"""Starts a script of this folder as ranks on this machine, by our launcher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from smoes_sim.distributed.launch import on_this_machine, run_ranks


def run_script(name: str, num_ranks: int, *arguments: str, absent: int | None = None, grace: float = 10.0) -> list[int]:
    """Exit codes of ``num_ranks`` ranks; ``absent`` is one that is never started."""
    command = [sys.executable, str(Path(__file__).parent / name), *arguments]
    start_rank = on_this_machine(command, num_ranks)

    def start(rank: int, **popen: Any) -> subprocess.Popen[bytes]:
        if rank == absent:
            return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **popen)
        return start_rank(rank, **popen)

    return run_ranks(start, num_ranks, grace=grace)
