"""Other simulators on identical input: SimGrid where it is installed, ASTRA-sim's network where a program is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.case import Case
from benchmarks.processes import Lab, run_process
from benchmarks.rows import Outcome, Row, describe, factor_text, failed, time_text

SIMGRID_PYTHON = "/usr/bin/python3"
"""The interpreter that Debian's python3-simgrid is for."""
_SIMGRID_DRIVER = Path(__file__).parent.parent / "tests" / "network" / "simgrid_driver.py"
ASTRA_PROGRAM = "SMOES_BENCH_ASTRA"
"""Environment variable: a program that times flows on a star (docs/accuracy/performance.md says in which form)."""
_RECORDED_ASTRA = {
    ("zipf", 128): "its bare network library 0.023 CPU-s, the whole simulator 0.6",
    ("zipf", 256): "its bare network library 0.17 CPU-s",
    ("uniform", 1024): "its bare network library 0.58 CPU-s, the whole simulator 27.8",
    ("zipf", 1024): "its bare network library 7.4 CPU-s",
}
"""Other runs in 2026-11 on 2-core machines: ASTRA-sim c459ab6, astra-network-analytical 599a047."""
_RECORDED_SIMGRID = "recorded 2026-11 in another run, SimGrid 3.32: {} CPU-s"
_SIMGRID_CPU_S = {32: "0.18", 64: "3.5", 128: "118"}


@cache
def has_simgrid() -> bool:
    """Whether Debian's Python can import SimGrid."""
    if shutil.which(SIMGRID_PYTHON) is None:
        return False
    return subprocess.run([SIMGRID_PYTHON, "-c", "import simgrid"], capture_output=True, check=False).returncode == 0


def simgrid_row(ranks: int, *, times_loose: float | None, times_exact: float | None) -> Row:
    """SimGrid's fluid model against ours at 0.1% and exact, Zipf per source on a star, sizes in whole bytes.

    The factor counts SimGrid's run alone, without reading and building, against all of ours.
    """
    case = Case(fabric="star", ranks=ranks, whole_bytes=True, tolerance=1e-3)
    wanted = "-"
    if times_loose is not None:
        wanted = f">= {times_loose:g} times faster at 0.1%, >= {times_exact:g} exact"

    def measure(lab: Lab) -> Outcome:
        loose, exact = lab.exchange(case), lab.exchange(replace(case, tolerance=0.0))
        outcome = Outcome(name=f"simgrid-{ranks}", work="SimGrid's input, " + describe(case, loose), target=wanted)
        for answer in (loose, exact):
            if "error" in answer:
                return failed(outcome, answer)
        outcome = replace(outcome, reached=f"{time_text(loose)}; exact {time_text(exact)}", peak_MB=exact["peak_MB"])
        if not has_simgrid():
            return replace(outcome, ratio="not installed; " + _RECORDED_SIMGRID.format(_SIMGRID_CPU_S.get(ranks, "?")))
        theirs = run_simgrid(lab, case)
        if "error" in theirs:
            return replace(outcome, ratio=f"SimGrid failed: {theirs['error']}")
        factors = [theirs["run_cpu_s"] / answer["cpu_s"] for answer in (loose, exact)]
        errors = [abs(answer["duration_s"] / theirs["makespan_s"] - 1) for answer in (loose, exact)]
        missed = _too_slow(factors, times_loose, times_exact)
        return replace(
            outcome,
            error=f"{errors[0]:.1e}, exact {errors[1]:.1e} vs SimGrid",
            ratio=f"SimGrid {theirs['run_cpu_s']:.3g} CPU-s: {factor_text(factors[0])}, exact {factor_text(factors[1])}",
            hit=None if times_loose is None else not missed,
            reason=missed,
            facts={"loose": loose, "exact": exact, "simgrid": theirs},
        )

    return Row(name=f"simgrid-{ranks}", measure=measure)


def _too_slow(factors: list[float], times_loose: float | None, times_exact: float | None) -> str:
    wanted = (times_loose or 0.0, times_exact or 0.0)
    named = zip(("0.1%", "exact"), factors, wanted, strict=True)
    return "; ".join(f"{label}: {factor:.3g}x < {least:g}x" for label, factor, least in named if factor < least)


def astra_row(kind: str, ranks: int) -> Row:
    """ASTRA-sim's congestion-aware network against ours on a star: fluid, and FIFO ports with whole messages as it has.

    It takes one tier, equal links and times in whole nanoseconds; the rows with two tiers and oversubscription are what
    it cannot express.
    """
    case = Case(fabric="star", ranks=ranks, zipf=0.0 if kind == "uniform" else 1.0, whole_bytes=True)
    same = replace(case, chunk=float("inf"), store=True)

    def measure(lab: Lab) -> Outcome:
        fluid, fifo = lab.exchange(case), lab.exchange(same)
        outcome = Outcome(name=f"astra-{ranks}-{kind}", work="ASTRA-sim's input, " + describe(case, fluid), target="faster")
        for answer in (fluid, fifo):
            if "error" in answer:
                return failed(outcome, answer)
        outcome = replace(outcome, reached=f"{time_text(fluid)}; fifo {time_text(fifo)}", peak_MB=fluid["peak_MB"])
        program = os.environ.get(ASTRA_PROGRAM)
        if not program:
            recorded = _RECORDED_ASTRA[kind, ranks]
            return replace(
                outcome, ratio=f"not installed ({ASTRA_PROGRAM} is not set); recorded 2026-11 in other runs: {recorded}"
            )
        theirs = _with_flows(lab, case, "astra", [program])
        if "error" in theirs:
            return replace(outcome, ratio=f"{program} failed: {theirs['error']}")
        factor = theirs["cpu_s"] / fluid["cpu_s"]
        errors = [theirs["makespan_s"] / answer["duration_s"] - 1 for answer in (fluid, fifo)]
        return replace(
            outcome,
            error=f"it is {100 * errors[0]:+.2f}% off fluid, {errors[1]:+.1e} off fifo of whole messages",
            ratio=f"ASTRA-sim {theirs['cpu_s']:.3g} CPU-s: {factor_text(factor)}, "
            f"fifo {factor_text(theirs['cpu_s'] / fifo['cpu_s'])}",
            hit=factor > 1,
            reason="" if factor > 1 else f"{fluid['cpu_s']:.3g} CPU-s > {theirs['cpu_s']:.3g} of its bare network library",
            facts={"fluid": fluid, "fifo": fifo, "astra": theirs},
        )

    return Row(name=f"astra-{ranks}-{kind}", measure=measure)


def run_simgrid(lab: Lab, case: Case) -> dict[str, Any]:
    """SimGrid on a case of whole bytes: ``makespan_s``, ``run_cpu_s`` of its run alone, ``peak_MB``; or ``error``."""
    answer = _with_flows(lab, case, "simgrid", [SIMGRID_PYTHON, str(_SIMGRID_DRIVER)])
    if "error" in answer:
        return answer
    return {"makespan_s": max(answer["finish"]), "run_cpu_s": answer["cpu_seconds"], "peak_MB": answer["peak_MB"]}


def _with_flows(lab: Lab, case: Case, form: str, command: list[str]) -> dict[str, Any]:
    """What a peer's program answers when it is given the messages of a case on its standard input."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flows"
        written = lab.run({"work": "write_flows", "case": case.to_json(), "form": form, "path": str(path)})
        if "error" in written:
            return written
        done = run_process(command, stdin=path)
    if done.problem:
        return {"error": done.problem}
    return dict(json.loads(done.output)) | {"peak_MB": done.peak_MB, "process_cpu_s": done.cpu_s}


def peer_rows(*, quick: bool, full: bool) -> list[Row]:
    """Peers, at the sizes that the targets name."""
    if quick:
        return [simgrid_row(32, times_loose=None, times_exact=None), astra_row("zipf", 128)]
    rows = [simgrid_row(ranks, times_loose=None, times_exact=None) for ranks in (32, 64)]
    if full:
        rows.append(simgrid_row(128, times_loose=100, times_exact=5))
    return [*rows, astra_row("zipf", 128), astra_row("zipf", 256), astra_row("uniform", 1024), astra_row("zipf", 1024)]
