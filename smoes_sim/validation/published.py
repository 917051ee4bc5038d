"""How wrong are we on the published systems? Every row predicted by constants that were fitted without it.

The headline leaves whole systems out: a hardware with its software, at all its numbers of ranks and nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from smoes_sim.libraries.families import prepare_cases
from smoes_sim.libraries.leave_out import Outcome, evaluate
from smoes_sim.libraries.pooling import PreparedCase
from smoes_sim.libraries.published import LARGE, by_pool, doubt_of
from smoes_sim.measurements import data_hash, read_measurements
from smoes_sim.validation.validate import Predicted, errors_by, row_of

SPLITS = {
    "system": "systems left out: hardware and software at all ranks and nodes",
    "hardware": "transport classes inside the node left out: all A100, all xGMI, ...",
    "size": "sizes left out, a fifth at a time, at every system",
    "nodes": "the largest node count left out, of systems that have several",
    "in-sample": "fitted and predicted on the same rows, which says little",
}
"""What is left out, the headline first."""
_VERY_LARGE = 2.0**24
"""Bytes per rank from which a node's links alone rule."""
Row = dict[str, Any]


def published_errors(path: Path) -> Row:
    """Leave out, fit, predict; in the form of :func:`smoes_sim.validation.validate.validate` with the splits beside.

    Returns:
        ``families``, ``systems`` and ``rows`` with systems left out, ``in_sample``, ``skipped``, ``calibrated_on``, and
        ``splits``: for each of :data:`SPLITS` its ``families`` and ``systems``.
    """
    table = prepare_cases(read_measurements(path))
    found: dict[str, list[Outcome]] = {name: [] for name in SPLITS}
    for members in by_pool(table.cases).values():
        for name, outcomes in evaluate(members).items():
            found[name] += outcomes
    rows = {name: _rows(outcomes, is_fitted=name == "in-sample") for name, outcomes in found.items()}
    splits = {
        name: {"families": _by_groups(chosen), "systems": errors_by(chosen, "series")} for name, chosen in rows.items()
    }
    headline = next(iter(SPLITS))
    return {
        "families": splits[headline]["families"],
        "systems": splits[headline]["systems"],
        "in_sample": splits["in-sample"]["families"],
        "splits": splits,
        "rows": rows[headline],
        "unmeasured": [],
        "skipped": [{"id": name, "reason": reason} for name, reason in table.skipped],
        "repeatability": None,
        "calibrated_on": {
            "rows": len(table.cases),
            "data_hash": data_hash(path),
            "same_file": True,
            "command": "smoes-sim validate",
            "left_out": headline,
            "open": [],
        },
    }


def _rows(outcomes: Iterable[Outcome], *, is_fitted: bool) -> list[Row]:
    return [_row(outcome, is_fitted=is_fitted) for outcome in outcomes]


def _row(outcome: Outcome, *, is_fitted: bool) -> Row:
    prepared = outcome.prepared
    answer = Predicted(
        seconds=outcome.seconds,
        low=outcome.low,
        high=outcome.high,
        family=groups_of(prepared)[0],
        system=prepared.case.system,
        doubt=doubt_of(prepared, outcome.fitted),
    )
    row = row_of(prepared.case.row, answer, outcome.measured, is_fitted=is_fitted)
    return row | {"groups": groups_of(prepared), "series": f"{prepared.case.system}: {prepared.family.name}"}


def groups_of(prepared: PreparedCase) -> list[str]:
    """The lines of the table in which a row counts; the first is its family."""
    size = prepared.case.row.size
    if prepared.family.pool != "nccl" or size is None:
        return [prepared.family.name]
    groups = [f"{prepared.family.name}, {'>=' if size >= LARGE else '<'} 1 MiB"]
    if size >= _VERY_LARGE and prepared.case.inter is None:
        groups.append(f"{prepared.family.name}, >= 16 MiB, one node")
    return groups


def _by_groups(rows: Sequence[Row]) -> dict[str, Row]:
    return errors_by([row | {"group": group} for row in rows for group in row["groups"]], "group")
