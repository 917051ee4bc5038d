"""The result of an all-to-all prediction: nccl-tests' columns, the busiest links, and what the times rest on."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from smoes_sim.display.result import Result
from smoes_sim.display.tables import WIDTH, Table, percent, size, time_column
from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.charts import bandwidth_chart, link_use_chart
from smoes_sim.exchanges.timing import AlltoallRow, AlltoallTime
from smoes_sim.network import Fidelity, Order, Schedule
from smoes_sim.network.fifo.exchange import Injection
from smoes_sim.network.hot import HotLinks
from smoes_sim.units import parse_duration, print_bandwidth

if TYPE_CHECKING:
    import altair as alt

_ROUNDING = 1e-12
"""Smaller errors are those of floating-point sums."""
_TCP_WINDOW = "65535 B (TCP)"
"""The default window, ``network.fifo.exchange.TCP_WINDOW``, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlltoallSettings:
    """The options of an all-to-all as they were given; the JSON document repeats them.

    Attributes:
        schedule: Which messages the library posts, and when.
        message_size: Bytes of one copy, for ``low_latency``.
        order: Order in which a rank posts its messages.
        calibration: Name of the fitted constants; None for nominal links without software.
        per_message: Time of the sender for each message.
        fidelity: Model of the network.
        tolerance: Relative error to aim at, for ``fluid``.
        injection: How the messages of a rank share its port, for ``fifo`` and ``packet``.
        window: Bytes of a message before its receiver must answer; None for TCP's first window.
        chunk: Bytes served together, for ``fifo``; None: by the size of the case.
        seed: Random seed of the skew, the random order and the choice between equal routes.
    """

    schedule: Schedule = "direct"
    message_size: str | None = None
    order: Order = "shifted"
    calibration: str | None = None
    per_message: str = "0 us"
    fidelity: Fidelity = "fluid"
    tolerance: float = 1e-4
    injection: Injection = "fifo"
    window: str | None = None
    chunk: str | None = None
    seed: int = 0

    @property
    def counts_messages(self) -> bool:
        """Whether a message costs its sender time, so that the order of messages matters to ``fluid``."""
        return self.calibration is not None or parse_duration(self.per_message) > 0

    @property
    def model(self) -> str:
        """The model of the network in words."""
        window = "no window" if self.window == "inf" else f"window {self.window or _TCP_WINDOW}"
        queues = f"{self.order} order, {self.injection} injection, {window}"
        meaning = {
            "bound": "no order or timing of these messages is faster",
            "fluid": "links shared max-min fairly, no packets, no queues",
            "fifo": f"chunks through ports, {queues}",
            "packet": f"every packet, {queues}",
        }
        return f"{self.fidelity}: {meaning[self.fidelity]}"

    @property
    def constants(self) -> str:
        """What the links and the software are taken to reach, in words."""
        if self.calibration is not None:
            return f"constants of {self.calibration}"
        costs = f"costs {self.per_message} per message" if self.counts_messages else "costs nothing"
        return f"no calibration: links at nominal bandwidth, software {costs}"


@dataclass(frozen=True, kw_only=True, repr=False)
class BusiestLinks(Result):
    """The busiest links of each exchange.

    Attributes:
        times: Exchanges with their busiest links.
        is_windowed: Whether times on links are accurate to a window only, in large cases.
    """

    times: Sequence[AlltoallTime]
    is_windowed: bool

    def __len__(self) -> int:
        return len(self.records())

    def to_dict(self) -> dict[str, Any]:
        """The rows, under ``hot_links``."""
        return {"hot_links": self.records()}

    def records(self) -> list[dict[str, Any]]:
        """One row per size and link, or group of equally busy links."""
        return [{"size_bytes": one.row.size_bytes} | hot.to_dict() for one in self.times for hot in one.hot]

    def tables(self) -> Sequence[Table]:
        """The busiest links at the last size, and when they were busy."""
        last = self.times[-1]
        if not last.hot:
            return [Table(title="# no links are recorded: ask for them with links=8, or --links 8")]
        unit, form = time_column(value for hot in last.hot for value in (hot.busy, hot.first, hot.last, hot.full))
        titles = [
            f"# busiest links at size {last.row.size_bytes:.0f} B, times in {unit}",
            "# busy: bytes at full rate; first, last: in use; full: at 99.9% of capacity or more",
        ]
        if self.is_windowed and last.hot[-1].full is not None:
            titles.append("# first, last and full are accurate to a window in large cases; --tolerance 0 is exact")
        header = ["link", "kind", "bytes", "capacity", "busy", "busy(%)", "first", "last", "full"]
        return [Table(title="\n".join(titles), header=header, rows=[_cells(hot, form) for hot in last.hot], left=2)]


@dataclass(frozen=True, kw_only=True, repr=False)
class Alltoall(Result):
    """Predicted times of an all-to-all, one row per size.

    Attributes:
        topology: Name of the topology.
        ranks: Number of ranks.
        collective: ``alltoall`` for equal blocks, else ``alltoallv``.
        traffic: Who sends what, in words.
        settings: Options as given.
        times: The exchanges, one per size.
        is_sweep: Whether sizes were swept.
        names_links: Whether the busiest links were asked for.

    Example:
        >>> from smoes_sim import alltoall
        >>> found = alltoall("8x-h100", size="64M")
        >>> f"{found.rows[0].busbw_GBps:.0f} GB/s"
        '448 GB/s'

    """

    topology: str
    ranks: int
    collective: Literal["alltoall", "alltoallv"]
    traffic: str
    settings: AlltoallSettings
    times: Sequence[AlltoallTime]
    is_sweep: bool
    names_links: bool

    @property
    def rows(self) -> Sequence[AlltoallRow]:
        """Sizes, times and bandwidths."""
        return [one.row for one in self.times]

    @property
    def wall_s(self) -> float:
        """Seconds of computing the answer."""
        return sum(one.wall for one in self.times)

    @property
    def links(self) -> BusiestLinks:
        """The busiest links; empty unless ``links`` was given."""
        return BusiestLinks(times=self.times, is_windowed=self.settings.tolerance > 0)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``smoes-sim alltoall --json``."""
        return {
            "topology": self.topology,
            "ranks": self.ranks,
            "collective": self.collective,
            "traffic": self.traffic,
            **asdict(self.settings),
            "wall_s": self.wall_s,
            "rows": [
                one.row.to_dict() | ({"hot_links": [hot.to_dict() for hot in one.hot]} if self.names_links else {})
                for one in self.times
            ],
        }

    def records(self) -> list[dict[str, Any]]:
        """One row per size: columns of :class:`~smoes_sim.exchanges.timing.AlltoallRow`."""
        return [row.to_dict() for row in self.rows]

    def tables(self) -> Sequence[Table]:
        """The columns of nccl-tests with the bound beside them, and the busiest links if asked for."""
        has_interval = any(_microseconds(row.low_s) != _microseconds(row.high_s) for row in self.rows)
        header = ["size(B)", "count", "type", "redop", "root", "time(us)", "algbw(GB/s)", "busbw(GB/s)"]
        header += ["10%(us)", "90%(us)"] * has_interval + ["bound(us)", "flows"]
        header += ["mean(B)"] * (self.collective == "alltoallv")
        body = [self._cells(row, has_interval=has_interval) for row in self.rows]
        title = "\n".join(self._head(has_interval=has_interval))
        table = Table(title=title, header=header, rows=body, left=0)
        return [table, *(self.links.tables() if self.names_links else ())]

    def _cells(self, row: AlltoallRow, *, has_interval: bool) -> list[str]:
        return [
            f"{row.size_bytes:.0f}",
            f"{row.size_bytes / 4:.0f}",
            "float",
            "none",
            "-1",
            _microseconds(row.time_s),
            f"{row.algbw_GBps:.2f}",
            f"{row.busbw_GBps:.2f}",
            *([_microseconds(row.low_s), _microseconds(row.high_s)] if has_interval else []),
            _microseconds(row.bound_s),
            f"{row.flows}",
            *([f"{row.mean_bytes:.0f}"] if self.collective == "alltoallv" else []),
        ]

    def _head(self, *, has_interval: bool) -> list[str]:
        """What was asked and what the answer rests on, as comments."""
        is_even = self.collective == "alltoall"
        meaning = "what a rank sends" if is_even else "the most that a rank sends or receives"
        within = _within(max(self.rows, key=lambda row: row.error_bound))
        constants = self.settings.constants
        if self.settings.calibration is not None:
            ends = "10% and 90% are the ends of the 80% interval" if has_interval else "without an interval"
            constants += f"; {ends}"
        lines = [
            f"{self.collective} on {self.topology}: {self.ranks} ranks, {self.rows[0].links} directed links; {self.traffic}",
            constants,
            f"size is {meaning}, its own block included" + ("" if is_even else "; mean is what a rank sends"),
            f"schedule {self.settings.schedule}; solution {within}",
            f"model {self.settings.model}",
        ]
        return [line for text in lines for line in _wrapped(f"# {text}")]

    def plot(self) -> alt.TopLevelMixin:
        """Bus bandwidth over size for a sweep; for one size the use of the busiest links over time.

        Raises:
            ConfigError: If the plotting libraries are not installed, or the use of links was not recorded.
        """
        title = f"{self.collective} on {self.topology}, {self.ranks} ranks, {self.traffic}"
        if self.is_sweep:
            return bandwidth_chart(self.rows, num_ranks=self.ranks, title=f"{title}, {self.settings.fidelity}")
        use: Mapping[str, Sequence[tuple[float, float]]] = self.times[-1].use
        if not use:
            raise ConfigError(
                "a plot of one size shows the use of links over time, which was not recorded. "
                "Give links=8 with fidelity fluid, or a sweep."
            )
        return link_use_chart(use, title=title)


def _within(row: AlltoallRow) -> str:
    """The error of the solution and what it rests on."""
    if row.error_kind == "exact":
        return "exact for the model"
    proof = "proven by bounds" if row.error_kind == "certified" else "of two runs with wider windows"
    return f"within {max(row.error_bound, _ROUNDING):.1g} {proof}"


def _microseconds(value: float | None) -> str:
    """A time as nccl-tests prints it."""
    return "-" if value is None else f"{value * 1e6:.2f}"


def _cells(hot: HotLinks, form: Callable[[float], str]) -> list[str]:
    """A line of the table of busiest links; ``form`` prints a time."""
    return [
        hot.group.label,
        hot.kind,
        size(hot.size),
        print_bandwidth(float(f"{hot.capacity:.6g}")),
        form(hot.busy),
        percent(hot.utilisation),
        *("-" if value is None else form(value) for value in (hot.first, hot.last, hot.full)),
    ]


def _wrapped(text: str) -> list[str]:
    """A comment of at most the width of a table, continued on further lines."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="#   ", break_on_hyphens=False, break_long_words=False)
