"""How the cost grows with ranks, flows, the links they cross, and skew."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.case import Case, Fabric
from benchmarks.peers import has_simgrid, run_simgrid
from benchmarks.processes import Lab
from benchmarks.rows import FABRIC_NAMES

PANELS = ("ranks", "flows", "crossings", "zipf")
"""What the cost is measured against, one panel each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    panel: str
    series: str
    case: Case


def measure_growth(lab: Lab, *, quick: bool) -> list[dict[str, Any]]:
    """CPU seconds of every point: ``panel``, ``series``, ``x``, ``cpu_s``, ``wall_s``, ``peak_MB``, ``flows``, ``links``.

    A point without an answer has an ``error`` instead of times.
    """
    points = []
    for planned in _points(quick=quick):
        print(f"growth: {planned.panel}, {planned.series}, {planned.case.ranks} ranks ...", file=sys.stderr, flush=True)
        answer = lab.exchange(planned.case)
        point = {"panel": planned.panel, "series": planned.series, "ranks": planned.case.ranks, "zipf": planned.case.zipf}
        keys = ("error", "flows", "links", "crossings", "cpu_s", "wall_s", "peak_MB")
        point |= {key: answer[key] for key in keys if key in answer}
        points.append(point | {"x": point.get(planned.panel)})
    return points + _simgrid_points(lab, quick=quick)


def _points(*, quick: bool) -> list[_Point]:
    middle, largest, largest_torus, largest_exact = (128, 128, 128, 64) if quick else (256, 2048, 1024, 128)
    points = []
    lines: list[tuple[str, Case, int]] = [
        ("star", Case(fabric="star", ranks=0), largest),
        ("rail-optimised", Case(fabric="rail", ranks=0), largest),
        ("3-D torus", Case(fabric="torus", ranks=0), largest_torus),
        ("star, exact", Case(fabric="star", ranks=0, tolerance=0), largest_exact),
        ("star, uniform", Case(fabric="star", ranks=0, zipf=0, tolerance=0), largest),
    ]
    for series, case, last in lines:
        points += [_Point(panel="ranks", series=series, case=replace(case, ranks=n)) for n in _doubling(64, last)]
    for series, fabric in _named(("star", "rail", "torus")):
        case = Case(fabric=fabric, ranks=middle)
        points += [_Point(panel="flows", series=series, case=replace(case, skip=skip)) for skip in (16, 8, 4, 2, 1)]
    for series, fabric in _named(("star", "two_level", "rail", "fat_tree", "dragonfly", "torus")):
        points.append(_Point(panel="crossings", series=series, case=Case(fabric=fabric, ranks=middle)))
    for series, fabric in _named(("star", "two_level", "rail")):
        case = Case(fabric=fabric, ranks=middle)
        points += [_Point(panel="zipf", series=series, case=replace(case, zipf=s)) for s in (0.0, 0.1, 0.3, 0.6, 1.0, 1.5)]
    return points


def _doubling(first: int, last: int) -> list[int]:
    return [first << step for step in range((last // first).bit_length())]


def _named(fabrics: Sequence[Fabric]) -> list[tuple[str, Fabric]]:
    return [(FABRIC_NAMES[fabric], fabric) for fabric in fabrics]


def _simgrid_points(lab: Lab, *, quick: bool) -> list[dict[str, Any]]:
    """SimGrid's run on the star's input, where it is installed: the line to compare ``star, exact`` with."""
    points = []
    for ranks in (32,) if quick else (32, 64):
        if not has_simgrid():
            continue
        answer = run_simgrid(lab, Case(fabric="star", ranks=ranks, whole_bytes=True))
        point = {"panel": "ranks", "series": "SimGrid, star", "x": ranks, "ranks": ranks, "zipf": 1.0}
        point |= (
            {"error": answer["error"]} if "error" in answer else {"cpu_s": answer["run_cpu_s"], "peak_MB": answer["peak_MB"]}
        )
        points.append(point)
    return points
