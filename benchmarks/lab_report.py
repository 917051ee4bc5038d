"""The errors of all labs as text for a terminal and as docs/accuracy/lab-accuracy.md with its plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import between, machine_line
from benchmarks.lab_cases import TWO_NODES
from benchmarks.lab_savings import Saving
from benchmarks.processes import machine
from smoes_sim.cli import show

_PLOT = "lab-accuracy.png"
_HALF_DUPLEX = "all_to_all_single"
ATTENTION = "exchanges of attention"
"""Queries there and results back, and keys and values, where sequences live on several ranks."""
Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """What was found.

    Attributes:
        exchanges: Validation of the exchanges, with the fitted constants.
        layers: Validation of everything with the constants that layers add.
        floors: By id of an exchange: the same case measured again, relative difference.
        savings: On two nodes, by token placement.
        labs: Labs that were measured.
    """

    exchanges: Row
    layers: Row
    floors: dict[str, float]
    savings: Sequence[Saving]
    labs: Sequence[str]

    @property
    def held_out(self) -> list[Row]:
        """Exchanges that were not fitted."""
        return [row for row in self.exchanges["rows"] if not row["in_sample"]]

    def layers_of(self, phase: str) -> list[Row]:
        """Rows of one phase that were not fitted."""
        rows = [row for row in self.layers["rows"] if row["family"].startswith(f"{phase}, ")]
        return [row for row in rows if not row["in_sample"]]

    def document(self) -> Row:
        """Figures for scripts."""
        groups = {name: errors(rows, self.floors) for name, rows in _groups(self).items()}
        return {
            "groups": groups,
            "savings": [asdict(saving) | {"time_predicted": _time_saved(self, saving)} for saving in self.savings],
            "constants": self.layers["constants"],
            "labs": list(self.labs),
        }


def errors(rows: Sequence[Row], floors: dict[str, float]) -> Row:
    """Count, absolute relative errors, share inside the 80% interval, and how far the same cases lie apart measured again.

    Where a case was not measured again its repeats say it: half of the distance from their 10th to 90th percentile.
    """
    absolute = np.abs([row["relative_error"] for row in rows])
    floor = np.abs(np.array([floors.get(row["id"], row["repeatability"]) for row in rows], dtype=np.float64))
    return {
        "n": len(rows),
        "median": float(np.median(absolute)),
        "p90": float(np.percentile(absolute, 90)),
        "worst": float(absolute.max()),
        "coverage": float(np.mean([row["inside"] for row in rows])),
        "floor_median": float(np.median(floor)),
        "floor_p90": float(np.percentile(floor, 90)),
    }


def _groups(accuracy: Accuracy) -> dict[str, list[Row]]:
    """Rows by what they are; the first two lines are what the targets speak of."""
    held_out = accuracy.held_out
    own = [row for row in held_out if not row["family"].endswith(_HALF_DUPLEX)]
    groups = {
        "exchanges, receives posted first": own,
        "whole MoE layers": accuracy.layers_of("layer"),
        f"gloo's own {_HALF_DUPLEX}": [row for row in held_out if row["family"].endswith(_HALF_DUPLEX)],
    }
    for name in sorted({row["family"] for row in held_out}):
        groups[name] = [row for row in held_out if row["family"] == name]
    for lab in accuracy.labs:
        groups[f"on {lab}"] = [row for row in own if _lab_of(row, accuracy.labs) == lab]
    for policy in ("standard", "smoes"):
        groups[f"layers, {policy}"] = [row for row in groups["whole MoE layers"] if row["family"] == f"layer, {policy}"]
    for phase in ("dispatch", "experts", "combine"):
        groups[f"{phase} alone"] = accuracy.layers_of(phase)
    groups[ATTENTION] = [row for phase in ("attention_gather", "attention_scatter") for row in accuracy.layers_of(phase)]
    groups["fitted: ping-pong and one all-to-all"] = [row for row in accuracy.exchanges["rows"] if row["in_sample"]]
    return {name: rows for name, rows in groups.items() if rows}


def _lab_of(row: Row, labs: Sequence[str]) -> str:
    """The lab whose name begins the id; of several the longest."""
    return max((lab for lab in labs if row["id"].startswith(f"{lab}-")), key=len)


def _errors_table(accuracy: Accuracy) -> Table:
    header = ["%", "n", "median", "p90", "worst", "in 80%", "floor: median", "p90"]
    keys = ("median", "p90", "worst", "coverage", "floor_median", "floor_p90")
    body = []
    for name, rows in _groups(accuracy).items():
        found = errors(rows, accuracy.floors)
        body.append([name, str(found["n"]), *(f"{100 * found[key]:.1f}" for key in keys)])
    return header, body


def _time_saved(accuracy: Accuracy, saving: Saving) -> float:
    """Predicted share of the layers' time."""
    seconds = {
        policy: sum(
            row["predicted_s"]
            for row in accuracy.layers["rows"]
            if row["id"].startswith(f"{TWO_NODES}-{policy}-{saving.tokens}-") and row["id"].endswith("-layer")
        )
        for policy in ("standard", "smoes")
    }
    return 1 - seconds["smoes"] / seconds["standard"]


def _savings_table(accuracy: Accuracy) -> Table:
    header = ["token placement", "bytes saved: measured", "predicted", "time saved: measured", "predicted", "points apart"]
    body = []
    for saving in accuracy.savings:
        predicted = _time_saved(accuracy, saving)
        shares = [saving.bytes_measured, saving.bytes_predicted, saving.time_measured, predicted]
        body.append(
            [
                saving.tokens,
                *(f"{100 * share:.1f}" for share in shares),
                f"{100 * abs(predicted - saving.time_measured):.1f}",
            ]
        )
    return header, body


def _constants_table(accuracy: Accuracy) -> Table:
    header = ["constant", "median", "10%", "90%", "pinned down"]
    body = [
        [name, *(f"{known[key]:.3g}" for key in ("value", "low", "high")), "yes" if known["identified"] else "no"]
        for name, known in accuracy.layers["constants"].items()
    ]
    return header, body


def report(accuracy: Accuracy) -> str:
    """Everything as text."""
    parts = [
        "Absolute relative error (%) of cases that were not fitted; floor: the same case measured again",
        show.table(*_errors_table(accuracy)),
        "Constants, one set for all labs",
        show.table(*_constants_table(accuracy)),
    ]
    if accuracy.savings:
        parts += [f"SMoES against standard routing on {TWO_NODES} (%)", show.table(*_savings_table(accuracy))]
    return "\n".join(parts)


def write_page(folder: Path, accuracy: Accuracy) -> None:
    """Put the tables between the markers of ``lab-accuracy.md`` in a folder, and the plot beside it.

    Raises:
        SystemExit: If there is no such file, or a marker is missing.
    """
    from benchmarks.lab_chart import save_scatter  # noqa: PLC0415 (altair is an extra, and large)

    path = folder / "lab-accuracy.md"
    text = path.read_text(encoding="utf-8")
    tables: dict[str, Callable[[Accuracy], Table]] = {
        "errors": _errors_table,
        "constants": _constants_table,
        "savings": _savings_table,
    }
    for marker, make in tables.items():
        text = between(text, marker, _markdown(*make(accuracy)), path)
    text = between(text, "machine", machine_line(machine()), path)
    path.write_text(text, encoding="utf-8")
    save_scatter([*accuracy.held_out, *accuracy.layers_of("layer")], folder / _PLOT)


def _markdown(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
