"""All points of a sweep as one result, the same bytes wherever and in whatever order they were computed."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoes_sim.display.result import Result, flat
from smoes_sim.display.tables import WIDTH, Table, percent, ranged, time_column
from smoes_sim.prediction.changes import Change, changes, changes_as_dict
from smoes_sim.prediction.prediction import NOMINAL, Prediction
from smoes_sim.results.write import write_tables
from smoes_sim.sweeps.charts import sweep_chart
from smoes_sim.sweeps.store import Outcome
from smoes_sim.sweeps.study import LABEL, PlotSpec, Sweep, in_one_line, text_at, text_of

if TYPE_CHECKING:
    import altair as alt

_CHANGED = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "tokens_per_s": "tokens/s",
    "exchanges_s": "exchanges",
    "exchanges_bytes": "bytes",
}
"""Changes that are printed, in percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One point of a sweep: a prediction, or the error in one line.

    Attributes:
        name: The settings in one line.
        settings: What the point sets, by key.
        prediction: The prediction; None if it failed.
        error: Why there is no prediction; None with one.
        changes: Changes from the point that it is compared with, empty if one of the two failed; None if the study compares
            nothing.
    """

    name: str
    settings: Mapping[str, Any]
    prediction: Prediction | None
    error: str | None
    changes: Mapping[str, Change] | None

    def to_dict(self) -> dict[str, Any]:
        """The row of ``summary.json``."""
        values = {} if self.prediction is None else self.prediction.values()
        changed = {} if self.changes is None else {"change": changes_as_dict(self.changes)}
        return {"name": self.name, "set": dict(self.settings), "error": self.error, **values, **changed}


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepResult(Result):
    """The points of a sweep, in the order of the study.

    Attributes:
        sweep: The study and its scenarios.
        rows: One for each point.
    """

    sweep: Sweep
    rows: list[SweepPoint]

    def to_dict(self) -> dict[str, Any]:
        """The content of ``summary.json``."""
        about = self.sweep.file.model_dump(include={"description", "against", "caution"})
        failed = sum(row.prediction is None for row in self.rows)
        return {**about, "points": len(self.rows), "failed": failed, "rows": [row.to_dict() for row in self.rows]}

    def records(self) -> list[dict[str, Any]]:
        """One row per point; settings in columns ``set_<key>``."""
        return [flat(row) for row in self._tidy()]

    def tables(self) -> list[Table]:
        """The swept keys and the main quantities of each point, then the changes; dashes for points that failed."""
        known = [row.prediction for row in self.rows if row.prediction is not None]
        head = [f"warning: {text}" for text in dict.fromkeys(text for found in known for text in found.warnings)]
        head += [] if all(found.calibration for found in known) else [NOMINAL]
        tables = [Table(notes=head)] if head else []
        tables.append(self._table(self._columns(), left=2, notes=self._labels()))
        against = self.sweep.file.against
        if against is not None:
            columns = {name: [_change(row, key) for row in self.rows] for key, name in _CHANGED.items()}
            title = f"Change from the point with {in_one_line(against)} (%), draw by draw"
            tables.append(self._table(columns, title=title))
        return tables

    def plot(self, spec: PlotSpec | None = None) -> alt.LayerChart | alt.FacetChart:
        """The picture that the study asks for, or another one.

        If it asks for none: TTFT, or TPOT of decode alone, over the first swept key.

        Raises:
            ConfigError: If no point has the metric as a number, or the plotting libraries are not installed.
        """
        spec = spec or self.sweep.file.plot
        if spec is None:
            over, *by = self.sweep.swept() or list(self.rows[0].settings)
            known = [row.prediction for row in self.rows if row.prediction is not None]
            metric = "tpot_s" if known and all(found.ttft_s is None for found in known) else "ttft_s"
            spec = PlotSpec(metric=metric, over=over, by=by or None)
        return sweep_chart(self.rows, spec)

    def write(self, out: Path) -> None:
        """Write ``runs.parquet`` and ``summary.json`` into a folder.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        write_tables(out, self._tidy(), self.to_dict())

    def _tidy(self) -> list[dict[str, Any]]:
        """The rows with every swept key, each key of one type."""
        keys = dict.fromkeys(key for row in self.rows for key in row.settings)
        columns = {key: _column([row.settings.get(key) for row in self.rows]) for key in keys}
        return [row.to_dict() | {"set": {key: columns[key][number] for key in keys}} for number, row in enumerate(self.rows)]

    def _columns(self) -> dict[str, list[str]]:
        """Cells by name of the column: traffic and balance, times in the unit of their column, and what is plotted."""
        columns = {"GB": self._cells("bytes_remote", lambda value: f"{value / 1e9:.3g}")}
        columns["max/mean"] = self._cells("imbalance", "{:.2f}".format)
        for key, name in (("ttft_s", "TTFT"), ("tpot_s", "TPOT")):
            unit, form = time_column(self._values(key))
            columns[f"{name} ({unit})"] = self._cells(key, form)
        columns["tokens/s"] = self._cells("tokens_per_s", thousands)
        columns["EP overhead (%)"] = self._cells("ep_overhead", percent)
        shown = {"bytes_remote", "imbalance", "ttft_s", "tpot_s", "tokens_per_s", "ep_overhead"}
        plot = self.sweep.file.plot
        if plot is not None and plot.metric not in shown:
            columns |= self._plotted(plot.metric)
        return columns

    def _plotted(self, metric: str) -> dict[str, list[str]]:
        """The column of a field of predictions; none for another metric, such as a change."""
        if metric not in Prediction.__dataclass_fields__:
            return {}
        if not metric.endswith("_s") or metric.endswith("per_s"):
            return {metric: self._cells(metric, thousands)}
        unit, form = time_column(self._values(metric))
        return {f"{metric.removesuffix('_s')} ({unit})": self._cells(metric, form)}

    def _values(self, key: str) -> list[float | None]:
        """The values of a column and the ends of their intervals."""
        values: list[float | None] = []
        for row in self.rows:
            if row.prediction is not None:
                values += [getattr(row.prediction, key), *(row.prediction.interval(key) or ())]
        return values

    def _cells(self, key: str, form: Callable[[float], str]) -> list[str]:
        return [
            "-" if row.prediction is None else ranged(getattr(row.prediction, key), row.prediction.interval(key), form)
            for row in self.rows
        ]

    def _table(
        self, columns: Mapping[str, list[str]], *, left: int = 0, title: str = "", notes: Sequence[str] = ()
    ) -> Table:
        """The swept keys and the columns that some point has; the first ``left`` columns stay beside the keys."""
        keys = self.sweep.swept()
        shown = {name: cells for name, cells in columns.items() if set(cells) != {"-"}}
        places = [[text_at(row.settings, key) for key in keys] for row in self.rows]
        body = [[*place, *cells] for place, *cells in zip(places, *shown.values(), strict=True)]
        beside = sum(name in shown for name in list(columns)[:left])
        return Table(header=[*keys, *shown], rows=body, left=len(keys) + beside, title=title, notes=notes)

    def _labels(self) -> list[str]:
        """What each label sets, where that differs between points."""
        own = [entry for entry in self.sweep.file.entries if LABEL in entry]
        keys = dict.fromkeys(key for entry in own for key in entry if key != LABEL)
        varying = [key for key in keys if len({text_at(entry, key) for entry in own}) > 1]
        lines = []
        for entry in own:
            sets = in_one_line({key: entry[key] for key in varying if key in entry})
            lines += textwrap.wrap(f"{entry[LABEL]}: {sets or 'the base scenario'}", WIDTH, subsequent_indent="  ")
        return lines


def result_of(sweep: Sweep, outcomes: Sequence[Outcome]) -> SweepResult:
    """The result of a sweep from the outcome of each point, in the order of the study."""
    bases = sweep.file.bases()
    rows = [
        SweepPoint(
            name=point.name,
            settings=point.settings,
            prediction=None if outcome.prediction is None else replace(outcome.prediction, name=point.name),
            error=outcome.error,
            changes=_changes(outcome, outcomes[bases[index]]) if bases else None,
        )
        for index, (point, outcome) in enumerate(zip(sweep.points, outcomes, strict=True))
    ]
    return SweepResult(sweep=sweep, rows=rows)


def thousands(value: float) -> str:
    """Three digits, without an exponent from ten thousand on.

    Example:
        >>> thousands(166123), thousands(12.345)
        ('166,000', '12.3')
    """
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1e4 else f"{value:.3g}"


def _changes(mine: Outcome, base: Outcome) -> dict[str, Change]:
    if mine.prediction is None or base.prediction is None:
        return {}
    return changes(mine.prediction, base.prediction)


def _change(row: SweepPoint, key: str) -> str:
    found = (row.changes or {}).get(key)
    return "-" if found is None else str(found)


def _column(values: Sequence[Any]) -> list[Any]:
    """Values of a key as one column: unchanged if all are of one simple type, otherwise as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds in ({int}, {float}, {int, float}, {bool}, {str}, set()):
        return list(values)
    return [None if value is None else text_of(value) for value in values]
