"""The typed answers of ``serve``: one service, or the largest rate with services at rates around it, and how both print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from smoes_sim.display.result import Result, flat
from smoes_sim.display.tables import Interval, Table, pairs, percent, ranged, seconds, time_column
from smoes_sim.prediction.prediction import NOMINAL
from smoes_sim.serving.batching import BLOCK, Limits
from smoes_sim.serving.charts import goodput_chart
from smoes_sim.serving.search import WANTED

if TYPE_CHECKING:
    import altair as alt

_TIMES = {"TTFT": "ttft", "TPOT": "tpot", "end to end": "e2e"}
_STATISTICS = ("mean", "p50", "p90", "p99")
_CURVE_TIMES = {"TTFT p50": "ttft_p50_s", "TTFT p90": "ttft_p90_s", "TPOT p50": "tpot_p50_s", "TPOT p90": "tpot_p90_s"}


@dataclass(frozen=True, kw_only=True)
class ServedRequests:
    """Figures of a service, medians over the sets of constants; docs/how-to/serving.md states each.

    Times in seconds, rates per second, shares from 0 to 1. TPOT is None where every answer has one token, attainment and
    goodput where there is no objective.
    """

    requests: int
    makespan_s: float
    requests_per_s: float
    output_tokens_per_s: float
    tokens_per_s: float
    busy: float
    waiting_mean: float
    waiting_max: float
    running_mean: float
    kv_use_mean: float
    kv_use_max: float
    preemptions: float
    steps: float
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    e2e_mean_s: float
    e2e_p50_s: float
    e2e_p90_s: float
    e2e_p99_s: float
    tpot_mean_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p90_s: float | None = None
    tpot_p99_s: float | None = None
    attainment: float | None = None
    goodput_per_s: float | None = None
    intervals: Mapping[str, list[float]] = field(default_factory=dict)

    def interval(self, key: str) -> Interval | None:
        """The 80% interval of a figure; None with one set of constants."""
        ends = self.intervals.get(key)
        return None if ends is None else (ends[0], ends[1])

    def to_dict(self) -> dict[str, Any]:
        """The figures in the JSON document; those that do not exist are left out."""
        row = {part.name: getattr(self, part.name) for part in fields(self)}
        return {key: value for key, value in row.items() if value is not None}

    def text(self, key: str, *, factor: float = 1.0) -> str:
        """A figure times a factor, and its interval."""
        return ranged(getattr(self, key), self.interval(key), lambda value: f"{factor * value:.4g}")


@dataclass(frozen=True, kw_only=True)
class ServedSystem:
    """What serves the requests.

    Attributes:
        scenario: Its name.
        model: Name of the model.
        topology: Name of the topology.
        ranks: Number of ranks.
        policy: Routing policy.
        slo: The objective in one line; None without one.
        limits: What bounds its batches.
        calibration: Calibration of its constants; None for nominal ones. Not in JSON.
    """

    scenario: str
    model: str
    topology: str
    ranks: int
    policy: str
    slo: str | None
    limits: Limits
    calibration: str | None

    def to_dict(self) -> dict[str, Any]:
        """The head of the JSON document."""
        document = asdict(self)
        del document["calibration"]
        return document

    def head(self) -> list[Table]:
        """A line for nominal constants."""
        return [] if self.calibration else [Table(notes=[NOMINAL])]

    def lines(self) -> dict[str, str]:
        """What it is, and how it batches."""
        limits = self.limits
        cache = f"a KV cache of {limits.cache_blocks} blocks of {BLOCK} tokens"
        return {
            "deployment": f"{self.model} on {self.topology} ({self.ranks} ranks), routing {self.policy}",
            "attention groups": f"{limits.groups}, each with at most {limits.max_batch_tokens} tokens a step",
            "limits of each": f"{limits.max_sequences} sequences, {cache}",
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class ServiceResult(Result):
    """One service.

    Attributes:
        system: What serves.
        rate_per_s: Rate of Poisson arrivals; None for a file.
        arrivals: File of the requests; None for Poisson arrivals.
        served: Its figures.

    Example:
        >>> from smoes_sim import serve
        >>> small = {"workload": {"text_tokens": 8, "output_tokens": 2, "batch": 2}, "calibration": None}
        >>> found = serve("olmoe-two-orin", small, rate="1/s", requests=4)
        >>> found.served.requests
        4

    """

    system: ServedSystem
    rate_per_s: float | None
    arrivals: str | None
    served: ServedRequests

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``serve --json``."""
        return self.system.to_dict() | {"rate_per_s": self.rate_per_s, "arrivals": self.arrivals} | self.served.to_dict()

    def records(self) -> list[dict[str, Any]]:
        """One flat row."""
        return [flat(self.to_dict())]

    def tables(self) -> list[Table]:
        """What was served, then what users waited."""
        return [*self.system.head(), pairs(self.system.lines() | self._lines()), self._times()]

    def _lines(self) -> dict[str, str]:
        served, slo = self.served, self.system.slo
        source = self.arrivals if self.rate_per_s is None else f"Poisson, {self.rate_per_s:g}/s"
        lines = {
            "arrivals": f"{served.requests} requests, {source}",
            "served": f"{served.text('requests_per_s')} requests/s",
            "output tokens/s": served.text("output_tokens_per_s"),
            "all tokens/s": served.text("tokens_per_s"),
        }
        if slo is not None:
            lines[f"meet {slo}"] = f"{served.text('attainment', factor=100)} %"
            lines["goodput"] = f"{served.text('goodput_per_s')} requests/s"
        return lines | {
            "waiting": f"{served.text('waiting_mean')} requests on average, at most {served.text('waiting_max')}",
            "running": f"{served.text('running_mean')} requests on average",
            "KV cache in use (%)": f"{served.text('kv_use_mean', factor=100)} on average",
            "at most (%)": served.text("kv_use_max", factor=100),
            "preemptions": served.text("preemptions"),
            "busy (%)": f"{served.text('busy', factor=100)} of {ranged(served.makespan_s, None, seconds)}",
            "steps": served.text("steps"),
        }

    def _times(self) -> Table:
        rows = []
        for name, key in _TIMES.items():
            keys = [f"{key}_{statistic}_s" for statistic in _STATISTICS]
            if getattr(self.served, keys[0]) is not None:
                unit, form = time_column([getattr(self.served, one) for one in keys])
                cells = [ranged(getattr(self.served, one), self.served.interval(one), form) for one in keys]
                rows.append([f"{name} ({unit})", *cells])
        return Table(header=["", *_STATISTICS], rows=rows)


@dataclass(frozen=True, kw_only=True, repr=False)
class ServiceCurve(Result):
    """The largest rate that keeps an objective, and services at rates around it.

    Attributes:
        system: What serves.
        max_rate_per_s: The largest rate; 0 where even requests that are alone miss the objective.
        intervals: Its 80% interval by its key; empty with one set of constants.
        rates: Requests per second of each service.
        rows: The figures of each service.

    Example:
        Without a rate ``serve`` finds the largest one that keeps the objective.

        >>> from smoes_sim import serve
        >>> small = {"workload": {"text_tokens": 8, "output_tokens": 2, "batch": 2}, "calibration": None}
        >>> found = serve("olmoe-two-orin", small, slo="ttft=1us", requests=4)
        >>> found.max_rate_per_s
        0.0

    """

    system: ServedSystem
    max_rate_per_s: float
    intervals: Mapping[str, list[float]]
    rates: Sequence[float]
    rows: Sequence[ServedRequests]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``serve --json``."""
        found = {"max_rate_per_s": self.max_rate_per_s, "intervals": self.intervals, "rows": self.row_dicts()}
        return self.system.to_dict() | found

    def row_dicts(self) -> list[dict[str, Any]]:
        """Each service as in the JSON document."""
        return [{"rate_per_s": rate} | row.to_dict() for rate, row in zip(self.rates, self.rows, strict=True)]

    def records(self) -> list[dict[str, Any]]:
        """One flat row per rate."""
        return [flat(row) for row in self.row_dicts()]

    def tables(self) -> list[Table]:
        """The largest rate, then goodput and times at the rates around it."""
        ends = self.intervals.get("max_rate_per_s")
        found = "none: even requests that are alone miss it"
        if self.max_rate_per_s:
            interval = None if ends is None else (ends[0], ends[1])
            found = ranged(self.max_rate_per_s, interval, "{:.4g}".format) + " requests/s"
        largest = {f"{100 * WANTED:g}% meet {self.system.slo} up to": found}
        return [*self.system.head(), pairs(self.system.lines() | largest), self._goodput(), self._times()]

    def _goodput(self) -> Table:
        body = []
        for rate, row in zip(self.rates, self.rows, strict=True):
            shares = [ranged(getattr(row, key), row.interval(key), percent) for key in ("attainment", "kv_use_max")]
            body.append([f"{rate:.4g}", shares[0], row.text("goodput_per_s"), row.text("output_tokens_per_s"), shares[1]])
        return Table(
            header=["rate (1/s)", "meet it (%)", "goodput (1/s)", "output tokens/s", "KV max (%)"], rows=body, left=0
        )

    def _times(self) -> Table:
        columns = {name: [getattr(row, key) for row in self.rows] for name, key in _CURVE_TIMES.items()}
        forms = {name: time_column(values) for name, values in columns.items()}
        body = []
        for rate, row in zip(self.rates, self.rows, strict=True):
            cells = [ranged(getattr(row, key), row.interval(key), forms[name][1]) for name, key in _CURVE_TIMES.items()]
            body.append([f"{rate:.4g}", *cells])
        return Table(header=["rate (1/s)", *(f"{name} ({forms[name][0]})" for name in forms)], rows=body, left=0)

    def plot(self) -> alt.HConcatChart:
        """Share of requests that meet the objective, and goodput, over the rate."""
        title = f"{self.system.model} on {self.system.topology}, {self.system.slo}"
        return goodput_chart(self.row_dicts(), max_rate=self.max_rate_per_s, wanted=WANTED, title=title)
