"""Run one program in every rank of a lab; the first failure ends them all."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from typing import Any

from smoes_sim.lab.lab import Lab
from smoes_sim.lab.namespaces import end_processes

_GLANCE = 0.05
"""Seconds between checks for processes that have ended."""


def run_everywhere(lab: Lab, argv: Sequence[str]) -> int:
    """Run a program in every rank and wait for all; when one fails, the others are sent SIGTERM and killed a second later.

    Returns:
        0, or the exit code of the first rank that failed (128 + n for one that signal n ended).
    """
    processes: list[subprocess.Popen[Any]] = []
    try:
        processes += [lab.popen(rank, argv, stdin=subprocess.DEVNULL) for rank in range(len(lab.ranks))]
        while True:
            codes = [process.poll() for process in processes]
            failed = next((code for code in codes if code), None)
            if failed is not None:
                return exit_code(failed)
            if None not in codes:
                return 0
            time.sleep(_GLANCE)
    finally:
        end_processes(lab.namespaces)
        for process in processes:
            process.wait()


def exit_code(code: int) -> int:
    """Exit code as a shell reports it; ``code`` is negative if a signal ended the process."""
    return code if code >= 0 else 128 - code
