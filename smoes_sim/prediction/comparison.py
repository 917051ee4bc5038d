"""Several deployments side by side: what changes, draw by draw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from smoes_sim.display.result import Result, flat
from smoes_sim.display.tables import Table, percent, ranged, time_column
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.changes import Change, changes, changes_as_dict
from smoes_sim.prediction.charts import comparison_chart
from smoes_sim.prediction.constants import calibration_table, load_calibration
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.prediction import NOMINAL, Prediction
from smoes_sim.prediction.simulate import num_passes, predict
from smoes_sim.scenario import Scenario

if TYPE_CHECKING:
    import altair as alt

_CHANGED = {
    "ttft_s": "TTFT",
    "tpot_s": "TPOT",
    "tokens_per_s": "tokens/s",
    "exchanges_s": "exchanges",
    "exchanges_bytes": "bytes",
}
_NAMED = {"routing.policy": "routing", "placement.experts": "experts", "placement.tokens": "tokens"}
"""Keys with a column of their own in every comparison, and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedScenario:
    """A deployment to compare: the name that results carry, the scenario, and what it was varied in.

    ``varied`` has the text of each override by its key, such as ``{"placement.spare": "2"}``.
    """

    name: str
    scenario: Scenario
    varied: Mapping[str, str]


def compare(
    candidates: Sequence[ComparedScenario], *, baseline: int = 0, on_progress: Callable[[float], None] = lambda done: None
) -> Comparison:
    """The predictions of several deployments, and the change of each from the baseline.

    Changes are relative, ``value / baseline - 1``; between calibrations with equal numbers of draws they are taken draw by
    draw, so that what is unknown in both rows cancels, and have an interval.

    Args:
        candidates: What to predict.
        baseline: Index of the row that the others are compared with.
        on_progress: Called with the number of rows predicted, parts of one included.

    Raises:
        ConfigError: If there is no such row.
        KeyboardInterrupt: If it is interrupted; the text says how many rows are lost.
    """
    if not 0 <= baseline < len(candidates):
        raise ConfigError(f"baseline = {baseline} is not one of the {len(candidates)} rows. Use 0 to {len(candidates) - 1}.")
    rows: list[Prediction] = []
    try:
        for candidate in candidates:
            rows.append(_row(candidate, lambda share: on_progress(len(rows) + share)))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{len(rows)} of {len(candidates)} deployments were predicted, and are lost; a sweep keeps its finished points"
        ) from None
    return Comparison(
        rows=rows,
        changes=[changes(row, rows[baseline]) for row in rows],
        candidates=list(candidates),
        baseline=baseline,
    )


def _row(candidate: ComparedScenario, on_share: Callable[[float], None]) -> Prediction:
    """The prediction of one deployment; ``on_share`` is called with the share that is done, up to 1."""
    deployment = deploy(candidate.scenario)
    number, done = num_passes(deployment), itertools.count(1)
    return replace(predict(deployment, on_pass=lambda: on_share(next(done) / number)), name=candidate.name)


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Result):
    """Several predictions and their changes from one of them.

    Attributes:
        rows: A prediction for each deployment.
        changes: Relative changes of each row from the baseline, by JSON key.
        candidates: What was compared.
        baseline: Index of the row that the others are compared with.

    Example:
        >>> from smoes_sim import compare
        >>> small = {"workload": {"text_tokens": 8, "output_tokens": 2, "batch": 2}, "calibration": None}
        >>> found = compare("olmoe-two-orin", small, seed=[0, 1])
        >>> found.labels()
        ['seed 0', 'seed 1']
        >>> found.changes[0]["ttft_s"].value
        0.0

    """

    rows: list[Prediction]
    changes: list[dict[str, Change]]
    candidates: list[ComparedScenario]
    baseline: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``compare --json``."""
        return {"baseline": self.baseline, "rows": self.row_dicts()}

    def row_dicts(self) -> list[dict[str, Any]]:
        """Each row with its ``change``, as in the JSON document."""
        return [
            row.to_dict() | {"change": changes_as_dict(change)} for row, change in zip(self.rows, self.changes, strict=True)
        ]

    def records(self) -> list[dict[str, Any]]:
        """One flat row per deployment; what was varied is in columns ``set_<key>``."""
        keys = self.varied()
        settings = [{f"set_{key}": candidate.varied.get(key) for key in keys} for candidate in self.candidates]
        return [flat(row) | chosen for row, chosen in zip(self.row_dicts(), settings, strict=True)]

    def plot(self) -> alt.HConcatChart:
        """Bars of every row: traffic, imbalance, TTFT, TPOT; whiskers are intervals."""
        return comparison_chart([row.to_dict() for row in self.rows], self.labels())

    def varied(self) -> list[str]:
        """Keys that were given more than one value, in the order in which they were given."""
        keys = dict.fromkeys(key for candidate in self.candidates for key in candidate.varied)
        return [key for key in keys if len({candidate.varied.get(key) for candidate in self.candidates}) > 1]

    def labels(self) -> list[str]:
        """A short name for each row: the values of its leading columns."""
        header, cells = self._leading()
        return [", ".join(f"{name} {cell}" for name, cell in zip(header, row, strict=True)) for row in cells]

    def _leading(self) -> tuple[list[str], list[list[str]]]:
        """Columns that tell the rows apart: routing, experts and tokens, and every other key that varies."""
        columns: dict[str, list[str]] = {
            "routing": [row.policy for row in self.rows],
            "experts": [row.expert_placement for row in self.rows],
            "tokens": [row.token_placement for row in self.rows],
        }
        for key in self.varied():
            if key not in _NAMED:
                columns[_short(key, self.varied())] = [candidate.varied.get(key, "") for candidate in self.candidates]
        files = [candidate.name.split(" ")[0] for candidate in self.candidates]
        if len(set(files)) > 1:
            columns = {"scenario": files} | columns
        many = {name: cells for name, cells in columns.items() if len(set(cells)) > 1} or {"routing": columns["routing"]}
        return list(many), [list(cells) for cells in zip(*many.values(), strict=True)]

    def _shortest(self, header: list[str], cells: list[list[str]]) -> tuple[list[str], list[list[str]]]:
        """The leading columns without that of the experts, where the rest still tells all rows apart."""
        kept = [index for index, name in enumerate(header) if name != "experts"]
        short = [[row[index] for index in kept] for row in cells]
        if not kept or len({tuple(row) for row in short}) < len(cells):
            return header, cells
        return [header[index] for index in kept], short

    def tables(self) -> list[Table]:
        """What is counted, what is timed, what changes, and which constants are not known."""
        header, cells = self._leading()
        named, names = self._shortest(header, cells)
        head = [f"warning: {text}" for text in dict.fromkeys(text for row in self.rows for text in row.warnings)]
        head += [] if all(row.calibration for row in self.rows) else [NOMINAL]
        head += self._same(header)
        return [
            *([Table(notes=head)] if head else []),
            self._counted(header, cells),
            self._timed(named, names),
            self._changed(named, names),
            *self._constants(),
        ]

    def _same(self, shown: Sequence[str]) -> list[str]:
        """A line with what all rows have in common of routing, experts and tokens."""
        row = self.rows[0]
        all_of = {"routing": row.policy, "experts": row.expert_placement, "tokens": row.token_placement}
        same = ", ".join(f"{name} {value}" for name, value in all_of.items() if name not in shown)
        return [f"in every row: {same}"] if same else []

    def _counted(self, header: list[str], cells: list[list[str]]) -> Table:
        shown = {"prefill_vision": "vision", "prefill_text": "text", "prefill": "V+T", "decode": "decode"}
        if self._is_decode:
            shown = {"decode": "decode"}
        rows = []
        for row, leading in zip(self.rows, cells, strict=True):
            rates = row.transmission_rate
            shares = [percent(None if rates is None else getattr(rates, name)) for name in shown]
            attention = [f"{row.attention_exchange_bytes / 1e9:.3f}"] if self._is_spread else []
            rows.append([*leading, *shares, f"{row.bytes_remote / 1e9:.3f}", *attention, f"{row.imbalance:.2f}"])
        return Table(
            title="What travels (share of tokens and layers that need another rank, %; bytes between ranks in "
            f"{self._pass()})",
            header=[*header, *shown.values(), "GB", *(["attention GB"] if self._is_spread else []), "max/mean"],
            rows=rows,
            left=len(header),
        )

    @property
    def _is_spread(self) -> bool:
        """Whether sequences of some row are on several ranks, which exchange something around attention."""
        return any(row.attention_exchange_bytes or row.cache_move_bytes for row in self.rows)

    def _timed(self, header: list[str], cells: list[list[str]]) -> Table:
        keys = {"tpot_s": "TPOT"} if self._is_decode else {"ttft_s": "TTFT", "tpot_s": "TPOT"}
        keys |= {"exchanges_s": "exchanges"} if self._is_spread else {}
        units = {key: time_column(_with_ends(self.rows, key)) for key in keys}
        rows = []
        for row, leading in zip(self.rows, cells, strict=True):
            times = [ranged(getattr(row, key), row.interval(key), units[key][1]) for key in keys]
            rate = ranged(row.tokens_per_s, row.interval("tokens_per_s"), "{:.3g}".format)
            overhead = [] if self._is_spread else [ranged(row.ep_overhead, row.interval("ep_overhead"), percent)]
            rows.append([*leading, *times, rate, *overhead])
        return Table(
            title="How long it takes" + self._meaning_of_brackets(),
            header=[
                *header,
                *(f"{name} ({units[key][0]})" for key, name in keys.items()),
                "tokens/s",
                *([] if self._is_spread else ["EP overhead (%)"]),
            ],
            rows=rows,
            left=len(header),
        )

    @property
    def _is_decode(self) -> bool:
        """Whether every row asks for decode alone."""
        return all(row.phase == "decode" for row in self.rows)

    def _pass(self) -> str:
        """The pass that quantities without the name of a phase describe."""
        if self._is_decode:
            return "a decode step"
        return "prefill, or decode alone" if any(row.phase == "decode" for row in self.rows) else "prefill"

    def _meaning_of_brackets(self) -> str:
        if not any(row.intervals for row in self.rows):
            return ""
        if self.rows[0].calibration is None:
            return " (middle [ends] of the stated efficiencies of the device)"
        return " (median [10%, 90%] over the draws of the calibration)"

    def _changed(self, header: list[str], cells: list[list[str]]) -> Table:
        rows = []
        shown = {key: name for key, name in _CHANGED.items() if key != "ttft_s" or not self._is_decode}
        for found, leading in zip(self.changes, cells, strict=True):
            rows.append([*leading, *(str(found[key]) if key in found else "-" for key in shown)])
        base = f"row {self.baseline + 1}" if self.baseline else "the first row"
        return Table(title=f"Change from {base} (%)", header=[*header, *shown.values()], rows=rows, left=len(header))

    def _constants(self) -> list[Table]:
        names = dict.fromkeys(row.calibration for row in self.rows if row.calibration)
        return [calibration_table(load_calibration(name)) for name in names]


def _with_ends(rows: Iterable[Prediction], key: str) -> list[float | None]:
    """The values of a column and the ends of their intervals."""
    values: list[float | None] = []
    for row in rows:
        values += [getattr(row, key), *(row.interval(key) or ())]
    return values


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, or all of it where two keys end alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in keys) == 1 else key
