"""Errors on the published systems; every row is predicted with constants that were fitted without it.

The headline leaves whole systems out: a hardware with its software, at all its numbers of ranks and nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

from smoes_sim.display.progress import Progress, progress
from smoes_sim.display.tables import Table
from smoes_sim.libraries.families import prepare_cases
from smoes_sim.libraries.leave_out import CasePrediction, evaluate, num_fits
from smoes_sim.libraries.pooling import PreparedCase
from smoes_sim.libraries.published import LARGE, PUBLISHED, RowPrediction, by_pool, doubt_of
from smoes_sim.measurements import Measurements, read_measurements
from smoes_sim.validation.errors import ErrorSummary, SkippedRow, ValidatedRow, errors_by
from smoes_sim.validation.result import CalibrationSource, Validation, as_dicts, error_table
from smoes_sim.validation.validate import validated_row

SPLITS = {
    "system": "systems left out: hardware and software at all ranks and nodes",
    "hardware": "transport classes inside the node left out: all A100, all xGMI, ...",
    "size": "sizes left out, a fifth at a time, at every system",
    "nodes": "the largest node count left out, of systems that have several",
    "in-sample": "fitted and predicted on the same rows, which says little",
}
"""What is left out of the fit, the headline first."""
_BY_SYSTEM = {"system": "each left out whole", "size": "sizes left out"}
"""Splits that are also printed by system."""
_VERY_LARGE = 2.0**24
"""Bytes per rank from which only the bandwidth of the links inside a node matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow(ValidatedRow):
    """A predicted row of the published table.

    Attributes:
        groups: Lines of the table of families in which the row counts; the first is its family.
        series: System and family.
    """

    groups: tuple[str, ...]
    series: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitErrors:
    """Errors of one way to leave rows out, by family and by system with family."""

    families: Mapping[str, ErrorSummary]
    systems: Mapping[str, ErrorSummary]


@dataclass(frozen=True, kw_only=True, repr=False)
class PublishedValidation(Validation):
    """Errors on the published systems; ``families``, ``systems`` and ``rows`` are those with systems left out.

    Attributes:
        splits: Errors of each of :data:`SPLITS`.
    """

    splits: Mapping[str, SplitErrors]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``smoes-sim validate`` without a table."""
        document = Validation.to_dict(self)
        splits = {
            name: {"families": as_dicts(split.families), "systems": as_dicts(split.systems)}
            for name, split in self.splits.items()
        }
        for row in document["rows"]:
            row["groups"] = list(row["groups"])
        return document | {"splits": splits}

    def records(self) -> list[dict[str, Any]]:
        """The rows as predicted with their systems left out."""
        return [row | {"groups": "; ".join(row["groups"])} for row in Validation.records(self)]

    def tables(self) -> list[Table]:
        """Errors of every split by family, of two of them by system too; never one mean over all."""
        number = 0 if self.calibrated_on is None else self.calibrated_on.rows
        title = f"Absolute relative error (%) on {number} published measurements; 80%: share inside the 80% interval"
        notes = ["Same hardware at another site differs by 5-12%: the floor of any error"]
        tables = [Table(title=title, notes=notes)]
        for name, words in SPLITS.items():
            split = self.splits[name]
            tables.append(error_table("family", split.families, title=f"{name}: {words}"))
            if name in _BY_SYSTEM:
                tables.append(error_table("system", split.systems, title=f"by system, {_BY_SYSTEM[name]}"))
        return tables


def published_errors(measurements: Measurements | None = None, *, show_progress: Progress = "none") -> PublishedValidation:
    """Errors of the library models, with systems, hardware, sizes and node counts left out of the fit.

    Args:
        measurements: A table of rows with known libraries; the published one if None.
        show_progress: Where to show the number of finished fits.
    """
    measurements = read_measurements(PUBLISHED) if measurements is None else measurements
    table = prepare_cases(measurements)
    found: dict[str, list[CasePrediction]] = {name: [] for name in SPLITS}
    pools = by_pool(table.cases).values()
    finished = count(1)
    with progress("fits", sum(map(num_fits, pools)), show_progress) as advance:
        for members in pools:
            for name, outcomes in evaluate(members, on_fit=lambda: advance(next(finished))).items():
                found[name] += outcomes
    rows = {name: _rows(outcomes, is_fitted=name == "in-sample") for name, outcomes in found.items()}
    splits = {name: _split(chosen) for name, chosen in rows.items()}
    headline = next(iter(SPLITS))
    return PublishedValidation(
        families=splits[headline].families,
        systems=splits[headline].systems,
        in_sample=splits["in-sample"].families,
        splits=splits,
        rows=tuple(rows[headline]),
        unmeasured=(),
        skipped=tuple(SkippedRow(id=name, reason=reason) for name, reason in table.skipped),
        repeatability=None,
        calibrated_on=CalibrationSource(
            rows=len(table.cases),
            data_hash=measurements.data_hash,
            same_file=True,
            command="smoes-sim validate",
            left_out=headline,
        ),
    )


def _split(rows: Sequence[PublishedRow]) -> SplitErrors:
    return SplitErrors(families=errors_by(rows, lambda row: row.groups), systems=errors_by(rows, lambda row: [row.series]))


def _rows(outcomes: Iterable[CasePrediction], *, is_fitted: bool) -> list[PublishedRow]:
    return [_row(outcome, is_fitted=is_fitted) for outcome in outcomes]


def _row(outcome: CasePrediction, *, is_fitted: bool) -> PublishedRow:
    prepared = outcome.prepared
    answer = RowPrediction(
        seconds=outcome.seconds,
        low=outcome.low,
        high=outcome.high,
        family=groups_of(prepared)[0],
        system=prepared.case.system,
        doubt=doubt_of(prepared, outcome.fitted),
    )
    row = validated_row(prepared.case.row, answer, outcome.measured, is_fitted=is_fitted)
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    return PublishedRow(
        **values, groups=tuple(groups_of(prepared)), series=f"{prepared.case.system}: {prepared.family.name}"
    )


def groups_of(prepared: PreparedCase) -> list[str]:
    """Lines of the table of families in which a row counts; the first is its family."""
    size = prepared.case.row.size
    if prepared.family.pool != "nccl" or size is None:
        return [prepared.family.name]
    groups = [f"{prepared.family.name}, {'>=' if size >= LARGE else '<'} 1 MiB"]
    if size >= _VERY_LARGE and prepared.case.inter is None:
        groups.append(f"{prepared.family.name}, >= 16 MiB, one node")
    return groups
