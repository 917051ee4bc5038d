"""Targets of the lab benchmark, judged against the repeatability of the same run; a noisy machine decides no miss."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.lab_report import ATTENTION
from benchmarks.processes import machine

HISTORY = "history.jsonl"
"""One JSON document a line and run: date, machine, figures and verdicts; never overwritten."""
_REPEATABLE = 0.02
"""Median difference between two measurements of one exchange, held out or fitted, above which no miss counts: constants that
were fitted on disturbed exchanges shift every prediction."""
_EXCHANGES, _FITTED = "exchanges, receives posted first", "fitted: ping-pong and one all-to-all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One target.

    Attributes:
        what: Name of the figure.
        error: Its value, a share.
        target: Its largest allowed value.
        floor: Difference between two measurements of the same cases in this run, a share.
        is_met: Whether the target is met; None where the floor is too high to tell.
    """

    what: str
    error: float
    target: float
    floor: float
    is_met: bool | None

    def __str__(self) -> str:
        words = {True: "met", False: "MISSED", None: "not judged: the machine is too noisy"}[self.is_met]
        return f"{self.what}: {self.error:.1%} of at most {self.target:.0%} (measured again: {self.floor:.1%}): {words}"


def verdicts(document: dict[str, Any]) -> list[Verdict]:
    """Verdicts on the figures of :meth:`lab_report.Accuracy.document`, for the groups that were measured."""
    groups = document["groups"]
    exchanges = groups.get(_EXCHANGES)
    layers = groups.get("whole MoE layers")
    found = []
    if exchanges is not None:
        found += [
            _verdict("exchanges, median error", exchanges["median"], 0.03, exchanges["floor_median"]),
            _verdict("exchanges, 90th percentile", exchanges["p90"], 0.10, exchanges["floor_p90"]),
        ]
    attention = groups.get(ATTENTION)
    if attention is not None:
        found.append(_verdict("exchanges of attention, median error", attention["median"], 0.05, attention["floor_median"]))
    if layers is not None:
        found.append(_verdict("whole MoE layers, median error", layers["median"], 0.06, layers["floor_median"]))
        found += [
            _verdict(
                f"saving of SMoES, tokens {saving['tokens']}, points apart",
                abs(saving["time_predicted"] - saving["time_measured"]),
                0.06,
                layers["floor_median"],
            )
            for saving in document["savings"]
        ]
    noise = max((groups[name]["floor_median"] for name in (_EXCHANGES, _FITTED) if name in groups), default=0.0)
    if noise <= _REPEATABLE:
        return found
    return [Verdict(**asdict(verdict) | {"is_met": verdict.is_met or None}) for verdict in found]


def _verdict(what: str, error: float, target: float, floor: float) -> Verdict:
    """A target is met if the error is at most the target, or at most the floor."""
    return Verdict(what=what, error=error, target=target, floor=floor, is_met=error <= max(target, floor))


def keep(folder: Path, document: dict[str, Any], judged: list[Verdict]) -> Path:
    """Append a run to the history of a folder; its file."""
    path = folder / HISTORY
    line = {"machine": machine()} | document | {"verdicts": [asdict(verdict) for verdict in judged]}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return path
