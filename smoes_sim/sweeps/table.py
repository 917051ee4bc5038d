"""All points of a sweep as one table, the same bytes whoever computed them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smoes_sim.prediction.changes import changes, changes_as_dict
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.results.write import write_tables
from smoes_sim.sweeps.store import Outcome
from smoes_sim.sweeps.study import Sweep, text_of

Row = dict[str, Any]


def rows_of(sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Row]:
    """A row per point in the order of the study: ``name``, what it ``set``, its ``error`` or null, what was predicted.

    Where points are compared, also its ``change`` from its base, empty if one of the two failed.
    """
    rows = [
        {"name": point.name, "set": dict(point.settings), "error": outcome.get("error"), **outcome.get("values", {})}
        for point, outcome in zip(sweep.points, outcomes, strict=True)
    ]
    for index, base in enumerate(sweep.file.bases()):
        rows[index]["change"] = _change(outcomes[index], outcomes[base])
    return rows


def _change(mine: Outcome, base: Outcome) -> dict[str, Any]:
    if "error" in mine or "error" in base:
        return {}
    predictions = [Prediction.of_dict(outcome["values"], outcome["draws"]) for outcome in (mine, base)]
    return changes_as_dict(changes(*predictions))


def write_sweep(out: Path, sweep: Sweep, outcomes: Sequence[Outcome]) -> list[Row]:
    """Write ``runs.parquet`` (settings in columns ``set_<key>``) and ``summary.json``; returns the rows.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    rows = rows_of(sweep, outcomes)
    failed = sum(row["error"] is not None for row in rows)
    keys = dict.fromkeys(key for row in rows for key in row["set"])
    columns = {key: _column([row["set"].get(key) for row in rows]) for key in keys}
    tidy = [row | {"set": {key: columns[key][number] for key in keys}} for number, row in enumerate(rows)]
    about = sweep.file.model_dump(include={"description", "against", "caution"})
    summary = {**about, "points": len(rows), "failed": failed, "rows": rows}
    write_tables(out, tidy, summary)
    return rows


def _column(values: Sequence[Any]) -> list[Any]:
    """Values of a key as one column: as they are if all are of one simple kind, as text otherwise."""
    kinds = {type(value) for value in values if value is not None}
    if kinds in ({int}, {float}, {int, float}, {bool}, {str}, set()):
        return list(values)
    return [None if value is None else text_of(value) for value in values]
