"""The rows of the table: each runs its work, holds it against its target and against something known to be right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.case import Case, Fabric
from benchmarks.processes import Lab

_EXACT, _TIGHTER = 0.0, 1e-6
"""Tolerances of the solutions that others are held against. Exact takes a minute at 256 ranks, and 1,000 at 1,024."""
_CLOSE = 1e-4
"""The makespan error that the targets allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One line of the table.

    Attributes:
        name: What ``--only`` selects.
        work: What was done.
        target: What was wanted.
        reached: What it took.
        peak_MB: Largest memory of the process; None where none ran.
        error: Makespan against exact, or against a tighter tolerance and the bound.
        ratio: Against a peer, the bound or the exact solution, in this run.
        hit: Whether the target was reached; None where there is none.
        reason: Measured facts, for a target that was missed.
        facts: Everything behind the line, for ``--json``.
    """

    name: str
    work: str
    target: str
    reached: str = "-"
    peak_MB: float | None = None  # noqa: N815 (a unit)
    error: str = "-"
    ratio: str = "-"
    hit: bool | None = None
    reason: str = ""
    facts: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Work that is measured when asked for."""

    name: str
    measure: Callable[[Lab], Outcome]


def failed(outcome: Outcome, answer: dict[str, Any]) -> Outcome:
    """The line of work that gave no answer: a miss if there was a target."""
    return replace(outcome, hit=False if outcome.target != "-" else None, reason=answer["error"], facts=answer)


def time_text(answer: dict[str, Any]) -> str:
    """Wall seconds, and CPU seconds in brackets."""
    return f"{answer['wall_s']:.3g} s ({answer['cpu_s']:.3g} CPU-s)"


def factor_text(factor: float) -> str:
    """How much faster we are, 2 for twice as fast."""
    return f"{factor:.3g}x faster" if factor >= 1 else f"{1 / factor:.3g}x slower"


def where_time_went(answer: dict[str, Any]) -> str:
    """Shares of the wall time by part, and how busy the machine was."""
    parts = sorted(answer["parts_s"].items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {100 * seconds / answer['wall_s']:.0f}%" for name, seconds in parts if seconds > 0)
    return f"{shares}; CPU/wall {answer['cpu_s'] / answer['wall_s']:.2f} at load {answer['load']:.1f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an exchange may take."""

    seconds: float
    memory: float = math.inf
    error: float = math.inf

    def __str__(self) -> str:
        parts = [f"<= {self.seconds:g} s"]
        if math.isfinite(self.memory):
            parts.append(f"<= {self.memory / 1e9:g} GB")
        if math.isfinite(self.error):
            parts.append("exact" if self.error == 0 else f"<= {100 * self.error:g}%")
        return ", ".join(parts)

    def excess(self, answer: dict[str, Any], error: float) -> list[str]:
        """What is over a limit, with the numbers."""
        found = []
        if answer["wall_s"] > self.seconds:
            found.append(f"{answer['wall_s']:.3g} s > {self.seconds:g} s ({where_time_went(answer)})")
        if answer["peak_MB"] * 1e6 > self.memory:
            found.append(f"{answer['peak_MB'] / 1e3:.3g} GB > {self.memory / 1e9:g} GB")
        if error > self.error + _ROUNDING:
            found.append(f"makespan off by {error:.1e} > {self.error:g}")
        return found


_ROUNDING = 1e-9
"""Relative difference of two sums of floats that counts as none."""


def exchange_row(name: str, case: Case, limits: Limits, *, judge: float | None = None) -> Row:
    """A fluid or FIFO exchange, held against the bound and, if fluid, against the solution at tolerance ``judge``."""

    def measure(lab: Lab) -> Outcome:
        answer = lab.exchange(case)
        outcome = Outcome(name=name, work=describe(case, answer), target=str(limits))
        if "error" in answer:
            return failed(outcome, answer)
        error, error_text = _judged(lab, case, answer, judge)
        excess = limits.excess(answer, error)
        return replace(
            outcome,
            reached=time_text(answer),
            peak_MB=answer["peak_MB"],
            error=error_text,
            ratio=f"time/bound {answer['duration_s'] / answer['bound_s']:.4f}",
            hit=not excess,
            reason="; ".join(excess),
            facts=answer,
        )

    return Row(name=name, measure=measure)


def _judged(lab: Lab, case: Case, answer: dict[str, Any], tolerance: float | None) -> tuple[float, str]:
    """Relative makespan error, and against what."""
    if case.chunk is not None:
        return 0.0, "same model, no approximation"
    if case.tolerance == 0:
        return 0.0, f"exact; {answer['duration_s'] / answer['bound_s'] - 1:.0e} above the bound"
    if tolerance is None:
        return answer["error_bound"], f"{answer['error_bound']:.1e} vs wider windows"
    solution = lab.exchange(replace(case, tolerance=tolerance))
    if "error" in solution:
        return math.inf, solution["error"]
    if solution["rate_changes"] == answer["rate_changes"]:
        return answer["error_bound"], f"{answer['error_bound']:.1e} vs wider windows; {tolerance:g} needs no finer ones"
    error = abs(answer["duration_s"] / solution["duration_s"] - 1)
    against = "exact" if tolerance == _EXACT else f"tolerance {tolerance:g}"
    return error, f"{error:.1e} vs {against} ({solution['cpu_s']:.3g} CPU-s)"


FABRIC_NAMES: dict[Fabric, str] = {
    "star": "star",
    "two_level": "two-level 4:1",
    "fat_tree": "fat tree 4:1",
    "rail": "rail-optimised",
    "torus": "3-D torus",
    "dragonfly": "dragonfly",
}
"""How texts and plots call the fabrics of ``case.topology_spec``."""


def describe(case: Case, answer: dict[str, Any]) -> str:
    """The work in words, with its size where known."""
    whose = "per source" if case.per_source else "shared"
    skew = "uniform" if case.zipf == 0 else f"Zipf({case.zipf:g}) {whose}"
    model = "fluid"
    if case.chunk is not None:
        model = "fifo, one chunk" if math.isinf(case.chunk) else f"fifo, {case.chunk / 1024:g} KiB chunks"
    size = f", {answer['flows']:,} flows" if "flows" in answer else ""
    fabric = FABRIC_NAMES[case.fabric] + (" (equal routes share)" if case.split and case.fabric != "star" else "")
    return f"{model}: {case.ranks:,} ranks, {fabric}, {skew}{size}"


_SKEWS = {"zipf1": (1.0, True), "zipf1-shared": (1.0, False), "zipf0.3": (0.3, True)}
"""Exponent, and whether each source has popular destinations of its own."""
_AT_256: tuple[tuple[Fabric, str, float], ...] = (
    ("star", "zipf1", _EXACT),
    ("star", "zipf1-shared", _EXACT),
    ("star", "zipf0.3", _TIGHTER),
    ("two_level", "zipf1", _TIGHTER),
    ("two_level", "zipf1-shared", _EXACT),
    ("two_level", "zipf0.3", _EXACT),
    ("fat_tree", "zipf1", _EXACT),
)
"""Fabric, skew, and what the error is taken against: exact once for each fabric and skew, the rest to save minutes."""
_AT_1024: tuple[tuple[Fabric, str], ...] = (
    ("star", "zipf1"),
    ("two_level", "zipf1"),
    ("rail", "zipf1"),
    ("dragonfly", "zipf1"),
    ("two_level", "zipf0.3"),
)
_AT_4096: tuple[Fabric, ...] = ("star", "rail")


def core_rows(*, quick: bool) -> list[Row]:
    """Exchanges with targets of their own."""
    small, large, huge = (64, 64, 64) if quick else (256, 1024, 4096)
    at_small, at_large = Limits(seconds=0.5, error=_CLOSE), Limits(seconds=5, memory=4e9, error=_CLOSE)
    at_huge, symmetric = Limits(seconds=60, memory=16e9, error=_CLOSE), Limits(seconds=10, error=0.0)
    rows = []
    for fabric, label, judge in _AT_256:
        zipf, per_source = _SKEWS[label]
        case = Case(fabric=fabric, ranks=small, zipf=zipf, per_source=per_source)
        rows.append(exchange_row(f"256-{fabric}-{label}", case, at_small, judge=judge))
    for fabric, label in _AT_1024:
        case = Case(fabric=fabric, ranks=large, zipf=_SKEWS[label][0])
        rows.append(exchange_row(f"1024-{fabric}-{label}", case, at_large, judge=_TIGHTER))
    rows += [exchange_row(f"4096-{fabric}-zipf1", Case(fabric=fabric, ranks=huge), at_huge) for fabric in _AT_4096]
    uniform = Case(fabric="star", ranks=huge, zipf=0, tolerance=0, split=True)
    rows += [exchange_row(f"4096-{fabric}-uniform", replace(uniform, fabric=fabric), symmetric) for fabric in _AT_4096]
    for label, chunk, seconds in (("one-chunk", math.inf, 10), ("64KiB", 65536.0, 60)):
        for skew, zipf in (("uniform", 0.0), ("zipf1", 1.0)):
            case = Case(fabric="star", ranks=large, zipf=zipf, chunk=chunk)
            rows.append(exchange_row(f"fifo-1024-{label}-{skew}", case, Limits(seconds=seconds)))
    return rows
