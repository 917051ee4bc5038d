"""The typed answer of ``plan``: every option, the cheapest that meets what is asked, and how both are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from smoes_sim.display.charts import COLOURS, load_altair
from smoes_sim.display.result import Result, flat
from smoes_sim.display.tables import Interval, Table, ranged, time_column
from smoes_sim.prediction.prediction import NOMINAL

if TYPE_CHECKING:
    import altair as alt

_COUNTED = ("imbalance", "transmission_rate", "policy", "token_placement", "expert_placement", "not_counted")
"""Keys that a JSON document holds only for options that were predicted."""


@dataclass(frozen=True, kw_only=True)
class PlanOption:
    """One offer in one number of replicas; times in seconds, rates per second over all replicas.

    Attributes:
        name: Number of replicas and topology.
        topology: Name of the topology.
        tried_name: The entry of ``try`` in one line; ``try`` in JSON.
        tried: Its index.
        scenario: Index of the offer.
        replicas: Number of replicas.
        ranks: Ranks of all replicas; None where it is not known.
        ranks_per_replica: Ranks of one.
        cost_per_hour: Price of all replicas.
        cost_source: Who asks that price, and when.
        settings: Keys of the scenario that the offer sets.
        ttft_s: Time to first token, like all times and rates the median over the draws; None where nothing was predicted.
        tpot_s: Time per output token; None where answers have one token.
        tokens_per_s: Output tokens per second.
        max_rate_per_s: Largest rate of requests that keeps the times; None without ``serving``.
        intervals: 80% intervals by key.
        meets_slo: Whether it meets what is asked in the median over the draws.
        meets_share: Share of the draws in which it does.
        margin: Smallest of limit / time and rate / limit.
        tightest: Key of the quantity that has it.
        binds: The resource that holds this quantity back, in words.
        sensitivity: Relative gain with each resource twice as fast.
        fits: Whether it fits into memory; None where it is not known.
        ranks_needed: Fewest ranks that fit; None where no number does.
        problem: Why nothing was predicted.
        wins: Share of the draws in which it is the cheapest that meets everything; None where draws do not pair.
        calibration: Calibration of its constants; None for nominal ones. Not in JSON.
    """

    name: str
    topology: str
    tried_name: str
    tried: int
    scenario: int
    replicas: int
    cost_per_hour: float
    cost_source: str
    settings: Mapping[str, Any]
    ranks: int | None = None
    ranks_per_replica: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    tokens_per_s: float | None = None
    max_rate_per_s: float | None = None
    intervals: Mapping[str, list[float]] = field(default_factory=dict)
    meets_slo: bool = False
    meets_share: float = 0.0
    margin: float | None = None
    tightest: str | None = None
    binds: str | None = None
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    fits: bool | None = None
    ranks_needed: int | None = None
    problem: str | None = None
    imbalance: float | None = None
    transmission_rate: Mapping[str, float | None] | None = None
    policy: str | None = None
    token_placement: str | None = None
    expert_placement: str | None = None
    not_counted: list[str] | None = None
    wins: float | None = None
    calibration: str | None = None

    def interval(self, key: str) -> Interval | None:
        """The 80% interval of a time or rate; None where there is none."""
        ends = self.intervals.get(key)
        return None if ends is None else (ends[0], ends[1])

    def to_dict(self) -> dict[str, Any]:
        """The option in the JSON document."""
        row = {part.name: getattr(self, part.name) for part in fields(self)}
        del row["calibration"]
        row["try"] = row.pop("tried_name")
        if self.policy is None:
            for key in _COUNTED:
                del row[key]
        return row


@dataclass(frozen=True, kw_only=True)
class CheapestOfTry:
    """The cheapest option under one entry of ``try`` that meets what is asked.

    Attributes:
        tried_name: The entry in one line; ``try`` in JSON.
        cheapest: Index of the option; None if none meets it.
        cost_per_hour: Its price.
    """

    tried_name: str
    cheapest: int | None
    cost_per_hour: float | None

    def to_dict(self) -> dict[str, Any]:
        """The entry in the JSON document."""
        return {"try": self.tried_name, "cheapest": self.cheapest, "cost_per_hour": self.cost_per_hour}


@dataclass(frozen=True, kw_only=True, repr=False)
class PlanAnswer(Result):
    """What :func:`~smoes_sim.planning.make_plan` returns.

    Attributes:
        description: That of the plan file.
        slo: What is asked, by name.
        serving: How requests arrive; None where a batch arrives together.
        currency: Of all prices.
        options: In the order of the file.
        cheapest: Index of the cheapest option that meets everything; None if none does.
        runner_up: Index of the next option on another topology, or on more of the same.
        safe: Index of the cheapest option that meets everything in all draws.
        indistinguishable: Indices of options that could be the answer, as far as the constants are known.
        by_try: The cheapest of every entry of ``try``.
        offers: Number of offers of the plan: candidates times entries of ``try``.
        offers_left: How many of them were not predicted, because the work was interrupted.
        answer: The answer in words.
        meaning: What the numbers mean.
        version: Version of the package.
    """

    description: str
    slo: Mapping[str, Any]
    serving: Mapping[str, Any] | None
    currency: str
    options: list[PlanOption]
    cheapest: int | None
    runner_up: int | None
    safe: int | None
    indistinguishable: list[int]
    by_try: list[CheapestOfTry]
    offers: int
    offers_left: int
    answer: str
    meaning: str
    version: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``plan --json``."""
        document = {part.name: getattr(self, part.name) for part in fields(self)}
        return document | {
            "options": [option.to_dict() for option in self.options],
            "by_try": [entry.to_dict() for entry in self.by_try],
        }

    def records(self) -> list[dict[str, Any]]:
        """One flat row per option."""
        return [flat(option.to_dict()) for option in self.options]

    def tables(self) -> list[Table]:
        """The answer, every option from the cheapest on, what binds it, and the cheapest of every entry of ``try``."""
        predicted = [option for option in self.options if option.margin is not None]
        is_nominal = any(option.calibration is None for option in predicted)
        order = sorted(self.options, key=lambda option: (option.cost_per_hour, option.name, option.tried))
        return [
            Table(notes=[*([NOMINAL] if is_nominal else []), self.answer]),
            self._timed(order),
            self._bound(order),
            self._cheapest(),
            Table(notes=[self.meaning]),
        ]

    def _timed(self, order: Sequence[PlanOption]) -> Table:
        rate = ("tokens_per_s", "tokens/s") if self.serving is None else ("max_rate_per_s", "requests/s")
        units = {key: time_column([getattr(option, key) for option in order]) for key in ("ttft_s", "tpot_s")}
        rows = []
        for option in order:
            times = [ranged(getattr(option, key), option.interval(key), form) for key, (_, form) in units.items()]
            found = ranged(getattr(option, rate[0]), option.interval(rate[0]), _digits)
            margin = ranged(option.margin, None, "{:.2f}".format)
            cells = [f"{option.cost_per_hour:g}", *times, found, margin, _verdict(option)]
            rows.append([option.name, option.tried_name, *cells])
        header = ["option", "tried", f"{self.currency}/h", f"TTFT ({units['ttft_s'][0]})", f"TPOT ({units['tpot_s'][0]})"]
        return Table(title="Options", header=[*header, rate[1], "margin", "meets"], rows=rows, left=2)

    def _bound(self, order: Sequence[PlanOption]) -> Table:
        rows = [[option.name, option.tried_name, str(option.ranks or "-"), _bound_by(option)] for option in order]
        return Table(
            title="What holds each back (gain if that takes half as long)",
            header=["option", "tried", "ranks", "bound by"],
            rows=rows,
            left=2,
        )

    def _cheapest(self) -> Table:
        rows = []
        for entry in self.by_try:
            name = "-" if entry.cheapest is None else self.options[entry.cheapest].name
            cost = "none" if entry.cost_per_hour is None else f"{entry.cost_per_hour:g}"
            rows.append([entry.tried_name, name, cost])
        header = ["tried", "option", f"{self.currency}/h"]
        return Table(title="Cheapest that meets it, by what is tried", header=header, rows=rows, left=2)

    def plot(self) -> alt.Chart:
        """Margin of every predicted option over its price; 1 is just met.

        Raises:
            ConfigError: If the plotting libraries are not installed.
        """
        alt = load_altair()
        data = [
            {"option": option.name, "tried": option.tried_name, "cost": option.cost_per_hour, "margin": option.margin}
            for option in self.options
            if option.margin is not None
        ]
        return (
            alt.Chart(alt.Data(values=data))
            .mark_point(filled=True, size=60)
            .encode(
                x=alt.X("cost:Q", title=f"price ({self.currency}/h)"),
                y=alt.Y("margin:Q", title="margin (1 is just met)"),
                color=alt.Color("tried:N", title=None, scale=alt.Scale(range=list(COLOURS))),
                tooltip=["option:N", "tried:N", "cost:Q", "margin:Q"],
            )
        )


def _verdict(option: PlanOption) -> str:
    """Whether it meets what is asked, and in how many of the draws."""
    if option.margin is None:
        return "-"
    return f"{'yes' if option.meets_slo else 'no'} ({100 * option.meets_share:.0f}%)"


def _bound_by(option: PlanOption) -> str:
    return option.problem or f"{option.binds} ({100 * max(option.sensitivity.values()):.0f}%)"


def _digits(value: float) -> str:
    """Three digits; from ten thousand on as 166,000 and not 1.66e+05."""
    text = f"{value:.3g}"
    return f"{float(text):,.0f}" if value >= 1e4 else text
