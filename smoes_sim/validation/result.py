"""What a validation returns: errors by family and system, every row, and what was skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table, percent, seconds, wrapped
from smoes_sim.errors import ConfigError
from smoes_sim.validation.chart import scatter_chart
from smoes_sim.validation.errors import ErrorSummary, SkippedRow, UnmeasuredRow, ValidatedRow

if TYPE_CHECKING:
    import altair as alt

_WORST = 5
"""Number of rows in the table of the largest errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSource:
    """What the constants were fitted on.

    Attributes:
        rows: Number of fitted rows.
        data_hash: SHA-256 of the fitted file.
        same_file: Whether the validated table is that file.
        command: Command that makes the constants.
        open: Constants that the fit leaves open.
        left_out: What each prediction's fit did without: ``system``; "" for one fit to all fitted rows.
    """

    rows: int
    data_hash: str
    same_file: bool
    command: str
    open: tuple[str, ...] = ()
    left_out: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON document."""
        left_out = {"left_out": self.left_out} if self.left_out else {}
        return {
            "rows": self.rows,
            "data_hash": self.data_hash,
            "same_file": self.same_file,
            "command": self.command,
            **left_out,
            "open": list(self.open),
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class Validation(Result):
    """Errors of predictions against measurements.

    Attributes:
        families: Errors of the rows that were not fitted, by kind of operation.
        systems: The same, by hardware or topology.
        in_sample: Errors of the rows that were fitted, by kind of operation; they do not say how good predictions are.
        rows: Every predicted row with a measured time.
        unmeasured: Predictions for rows without a time.
        skipped: Rows that cannot be predicted.
        repeatability: Median relative scatter of the repeats of one row; None where no row has repeats.
        calibrated_on: What the constants were fitted on; None if links are at their nominal rates.

    Example:
        >>> from smoes_sim import read_measurements, validate
        >>> table = read_measurements("published")
        >>> len(validate(table.with_rows(table.rows[:2])).rows)
        2

    """

    families: Mapping[str, ErrorSummary]
    systems: Mapping[str, ErrorSummary]
    in_sample: Mapping[str, ErrorSummary]
    rows: tuple[ValidatedRow, ...]
    unmeasured: tuple[UnmeasuredRow, ...]
    skipped: tuple[SkippedRow, ...]
    repeatability: float | None
    calibrated_on: CalibrationSource | None

    @property
    def held_out(self) -> list[ValidatedRow]:
        """Predicted rows that were not fitted."""
        return [row for row in self.rows if not row.in_sample]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``smoes-sim validate``."""
        return {
            "families": as_dicts(self.families),
            "systems": as_dicts(self.systems),
            "in_sample": as_dicts(self.in_sample),
            "rows": [asdict(row) for row in self.rows],
            "unmeasured": [asdict(row) for row in self.unmeasured],
            "skipped": [asdict(row) for row in self.skipped],
            "repeatability": self.repeatability,
            "calibrated_on": None if self.calibrated_on is None else self.calibrated_on.to_dict(),
        }

    def records(self) -> list[dict[str, Any]]:
        """The predicted rows that have a measured time."""
        return [asdict(row) for row in self.rows]

    def tables(self) -> list[Table]:
        """Errors by family and system, the largest errors, rows without a time, and what was skipped."""
        tables = [] if self.unmeasured and not self.rows else self._errors()
        return [*tables, *_unmeasured(self.unmeasured), *_skipped(self.skipped)]

    def _errors(self) -> list[Table]:
        known = self.calibrated_on
        if not self.rows:
            return [Table(title="No row could be predicted and has a measured time.")]
        notes = self._notes()
        if not self.families:
            title = "Every predicted row was fitted, so these rows cannot tell how wrong predictions are."
            remedy = "Hold rows out with calibrate --fit, or validate with rows that were measured later."
            tables = [Table(title=title, notes=wrapped([remedy, *notes]))]
        else:
            what = "at nominal link rates; nothing is fitted" if known is None else "of rows that were not fitted"
            tables = [error_table("family", self.families, title=f"Absolute relative error (%) {what}", notes=notes)]
        if len(self.systems) > 1:
            tables.append(error_table("system", self.systems))
        if self.in_sample:
            tables.append(error_table("family", self.in_sample, title="In-sample: rows that were fitted (%)"))
        return tables + (_largest(self.held_out) if known is not None else [])

    def _notes(self) -> list[str]:
        """What the numbers rest on."""
        known, notes = self.calibrated_on, []
        if self.families:
            notes.append("80%: share of the measurements that lie inside the 80% interval of their prediction.")
        if known is not None:
            notes.append(f"Constants fitted on {known.rows} rows.")
            if not known.same_file:
                notes.append("note: this is not the file that was fitted; fitted rows are recognised by id and time.")
            if known.open:
                notes.append(f"note: not pinned down by the fit: {', '.join(known.open)}")
        if self.repeatability is not None:
            notes.append(f"Repeats of one row differ by {100 * self.repeatability:.2g} %: no model can be better.")
        return notes

    def plot(self) -> alt.LayerChart:
        """Predicted over measured time of every row, both axes logarithmic; shapes tell fitted rows from others.

        Raises:
            ConfigError: If the plotting libraries are not installed, or no row could be predicted.
        """
        if not self.rows:
            raise ConfigError("no row could be predicted, so there is nothing to plot. See the reasons in skipped.")
        return scatter_chart(self.rows, floor=self.repeatability)


def as_dicts(groups: Mapping[str, ErrorSummary]) -> dict[str, dict[str, Any]]:
    """Errors of groups as in the JSON document."""
    return {name: asdict(errors) for name, errors in groups.items()}


def error_table(what: str, groups: Mapping[str, ErrorSummary], *, title: str = "", notes: Iterable[str] = ()) -> Table:
    """Errors of groups in %, one row each."""
    return Table(
        header=[what, "n", "median", "p90", "worst", "80%"],
        rows=[
            [name, str(known.n), *map(percent, (known.median_ape, known.p90_ape, known.max_ape, known.coverage))]
            for name, known in groups.items()
        ],
        title=title,
        notes=wrapped(notes),
    )


def _largest(rows: Iterable[ValidatedRow]) -> list[Table]:
    """The largest errors with their possible causes."""
    worst = sorted(rows, key=lambda row: (-abs(row.relative_error), row.id))[:_WORST]
    body = [[row.id, seconds(row.measured_s), seconds(row.predicted_s), f"{100 * row.relative_error:+.1f}"] for row in worst]
    header = ["id", "measured", "predicted", "error (%)"]
    return [Table(title="Largest errors", header=header, rows=body, notes=_doubts(worst))] if body else []


def _unmeasured(rows: Iterable[UnmeasuredRow]) -> list[Table]:
    """Predictions for rows without a time."""
    body = [[row.id, row.family, *map(seconds, (row.predicted_s, row.low_s, row.high_s))] for row in rows]
    title, header = "Predictions for rows without a time", ["id", "family", "predicted", "10%", "90%"]
    return [Table(title=title, header=header, rows=body, left=2, notes=_doubts(rows))] if body else []


def _doubts(rows: Iterable[ValidatedRow | UnmeasuredRow]) -> list[str]:
    """Known weaknesses of predictions, each with the rows that have it."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.doubt, []).append(row.id)
    return wrapped(f"{', '.join(found)}: {doubt}" for doubt, found in names.items() if doubt)


def _skipped(rows: tuple[SkippedRow, ...]) -> list[Table]:
    """Number of skipped rows by reason."""
    reasons = Counter(row.reason for row in rows)
    notes = [f"{number} x {reason}" for reason, number in reasons.items()]
    return [Table(title=f"Skipped {len(rows)} rows", notes=wrapped(notes))] if rows else []
