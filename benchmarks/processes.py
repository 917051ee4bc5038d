"""Run work in processes of their own and say what they took: wall and CPU seconds, peak memory, by the kernel's count."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.case import Case

_LIMIT_S = 600.0
"""A process that runs longer is stopped, and its row says so; the default."""
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A process that ended.

    Attributes:
        output: Its standard output.
        problem: Why it failed, in one line; empty if it did not.
        wall_s, cpu_s: Seconds from start to end, of all its threads and children.
        peak_MB: Largest resident memory, 1e6 bytes.
    """

    output: str
    problem: str
    wall_s: float
    cpu_s: float
    peak_MB: float  # noqa: N815 (a unit)


def run_process(
    command: Sequence[str],
    *,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
    limit_s: float = _LIMIT_S,
    exit_code: int = 0,
) -> Finished:
    """Run a command to its end, for at most ``limit_s`` seconds; another exit code than ``exit_code`` is a problem."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors, open(stdin or os.devnull) as given:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=given, stdout=output, stderr=errors, cwd=_ROOT, env=dict(os.environ) | dict(environment or {})
        )
        stop = threading.Timer(limit_s, process.kill)
        stop.daemon = True  # so that Ctrl-C ends at once
        stop.start()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        stop.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        problem = "" if process.returncode == exit_code else _last_line(errors.read(), process.returncode)
        if wall > limit_s:
            problem = f"stopped after {limit_s:.0f} s"
        return Finished(
            output=output.read(),
            problem=problem,
            wall_s=wall,
            cpu_s=used.ru_utime + used.ru_stime,
            peak_MB=used.ru_maxrss * 1024 / 1e6,
        )


def _last_line(text: str, code: int) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


class Lab:
    """Runs cases, each once however many rows ask for it."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}

    def exchange(self, case: Case) -> dict[str, Any]:
        """The answer of ``work.exchange``, with ``peak_MB`` and the load average when it began."""
        return self.run({"work": "exchange", "case": case.to_json()})

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request to ``benchmarks.work``; ``{"error": ...}`` if there is none."""
        text = json.dumps(request)
        if text not in self._known:
            load = os.getloadavg()[0]
            done = run_process([sys.executable, "-m", "benchmarks.work", text])
            answer = {"error": done.problem} if done.problem else json.loads(done.output)
            self._known[text] = answer | {"peak_MB": done.peak_MB, "load": load, "process_wall_s": done.wall_s}
        return self._known[text]


def machine() -> dict[str, Any]:
    """What this ran on."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("smoes-sim", "numpy", "numba", "simpy")},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
