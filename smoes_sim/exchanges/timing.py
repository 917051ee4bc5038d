"""Time one all-to-all with any model of the network, with given constants or under a calibration."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.bandwidth import alltoall_bandwidth
from smoes_sim.exchanges.demand import Matrix
from smoes_sim.network import Fidelity, Flows, Network, Order, Schedule, exchange_time, lower_bound, phases_of
from smoes_sim.network.bounds import ErrorKind, ExchangeDuration, exchange_duration
from smoes_sim.network.even import even_exchange_time
from smoes_sim.network.fifo.exchange import TCP_WINDOW, Injection, fifo_exchange_time
from smoes_sim.network.flows import link_load
from smoes_sim.network.fluid.solve import FEW_FLOWS, LinkUse
from smoes_sim.network.hot import HotLinks, hot_links, use_over_time
from smoes_sim.prediction.constants import Calibration, interval_of, network_under
from smoes_sim.validation_errors import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class AlltoallOptions:
    """How an exchange is posted and timed.

    Attributes:
        schedule: Which messages the library posts, and when.
        order: Order in which a rank posts its messages.
        message_size: Bytes of one copy, for ``low_latency``.
        fidelity: Model of the network.
        tolerance: Relative error to aim at, for ``fluid``; 0 is exact.
        injection: How the messages of a rank share its port, for ``fifo`` and ``packet``.
        window: Bytes of a message before its receiver must answer, for ``fifo`` and ``packet``.
        chunk: Bytes served together, for ``fifo``; default: by the size of the case.
        num_hot: Number of busiest links to name.
        record_links: Whether to record the use of links over time, for ``fluid``.
        seed: Random seed of the random order.
    """

    schedule: Schedule = "direct"
    order: Order = "shifted"
    message_size: float | None = None
    fidelity: Fidelity = "fluid"
    tolerance: float = 1e-4
    injection: Injection = "fifo"
    window: float = TCP_WINDOW
    chunk: float | None = None
    num_hot: int = 0
    record_links: bool = False
    seed: int = 0

    def check(self) -> None:
        """Check every option.

        Raises:
            ConfigError: With the option and the way out.
        """
        for option, word, known in (
            ("schedule", self.schedule, get_args(Schedule)),
            ("order", self.order, get_args(Order)),
            ("fidelity", self.fidelity, get_args(Fidelity)),
            ("injection", self.injection, get_args(Injection)),
        ):
            if word not in known:
                raise ConfigError(f'{option} = "{word}" is unknown. {nearest(str(word), known)}')
        if self.schedule == "low_latency" and self.message_size is None:
            raise ConfigError("--schedule low_latency sends one message a copy. Give --message-size, such as 14 KiB.")
        for name, value in (("--message-size", self.message_size), ("--window", self.window), ("--chunk", self.chunk)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} = {value:g} B: must be more than 0 bytes. Write for example 64 KiB.")
        if not 0 <= self.tolerance <= 0.1:
            raise ConfigError(f"--tolerance = {self.tolerance}: must be between 0 (exact) and 0.1. Write for example 1e-4.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlltoallRow:
    """Columns of nccl-tests for one size, the lower bound beside them, and what the time rests on.

    Attributes:
        size_bytes: Size as nccl-tests prints it. Equal blocks: bytes of a rank, its own block included. Unequal blocks: the
            largest sum over a row or column of the matrix.
        mean_bytes: Bytes that a rank sends, mean over the ranks.
        time_s: Seconds; the median over the draws under a calibration.
        algbw_GBps: Algorithm bandwidth, 1e9 B/s.
        busbw_GBps: Bus bandwidth, 1e9 B/s.
        bound_s: Lower bound of the time, seconds.
        flows: Number of flows on the network.
        messages: Number of messages.
        links: Number of directed links of the topology.
        error_bound: Relative error of the solution; 0 if exact for the model.
        error_kind: ``exact``; ``certified`` by bounds that enclose the time; or ``measured`` against wider windows.
        low_s: Lower end of the 80% interval, seconds; None without a calibration.
        high_s: Upper end.
    """

    size_bytes: float
    mean_bytes: float
    time_s: float
    algbw_GBps: float  # noqa: N815 - the name of the column and of the JSON key
    busbw_GBps: float  # noqa: N815
    bound_s: float
    flows: int
    messages: int
    links: int
    error_bound: float
    error_kind: ErrorKind = "exact"
    low_s: float | None = None
    high_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row by column; the interval only where there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlltoallTime:
    """One exchange, timed.

    Attributes:
        row: Size, times and bandwidths.
        hot: The busiest links.
        use: Seconds and share of capacity in use from then on, by label of the busiest links; empty if not recorded.
        wall: Seconds of computing it.
    """

    row: AlltoallRow
    hot: Sequence[HotLinks] = ()
    use: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    wall: float


def time_alltoall(network: Network, matrix: Matrix, options: AlltoallOptions) -> AlltoallTime:
    """Time one exchange and name its busiest links.

    Args:
        network: Capacities and constants.
        matrix: Bytes from rank to rank, shape (R, R); the diagonal counts as sent but does not travel.
        options: How; :meth:`AlltoallOptions.check` has passed.

    Raises:
        ConfigError: If a case is too large for ``packet``.
    """
    started = time.perf_counter()
    exchange = _even(network, matrix, options) or _by_flows(network, matrix, options)
    duration, link_use = exchange.duration, exchange.link_use
    hot = hot_links(network, exchange.load, duration=duration, most=options.num_hot, link_use=link_use)
    size = float(max(matrix.sum(axis=0).max(), matrix.sum(axis=1).max()))
    algbw, busbw = alltoall_bandwidth(size, duration, network.topology.num_ranks)
    row = AlltoallRow(
        size_bytes=size,
        mean_bytes=float(matrix.sum() / len(matrix)),
        time_s=duration,
        algbw_GBps=algbw / 1e9,
        busbw_GBps=busbw / 1e9,
        bound_s=exchange.bound,
        flows=exchange.num_flows,
        messages=exchange.num_messages,
        links=network.topology.num_links,
        error_bound=exchange.error_bound,
        error_kind=exchange.error_kind,
    )
    use = {entry.group.label: use_over_time(entry.group.links, link_use, duration) for entry in hot if link_use}
    return AlltoallTime(row=row, hot=hot, use=use, wall=time.perf_counter() - started)


def time_calibrated(network: Network, matrix: Matrix, options: AlltoallOptions, calibration: Calibration) -> AlltoallTime:
    """Time one exchange under every draw of a calibration.

    ``time_s`` is the median over the draws, ``low_s`` and ``high_s`` are the ends of the 80% interval; everything else
    belongs to the draw that is nearest to the median. Arguments and errors as in :func:`time_alltoall`.
    """
    timed = [
        time_alltoall(network_under(network, calibration.draw(index)), matrix, options)
        for index in range(calibration.num_draws)
    ]
    durations = [one.row.time_s for one in timed]
    middle, low, high = interval_of(durations, spread=calibration.spread_of(options.schedule))
    nearest = timed[int(np.argmin(np.abs(np.array(durations) - middle)))]
    algbw, busbw = alltoall_bandwidth(nearest.row.size_bytes, middle, network.topology.num_ranks)
    row = replace(nearest.row, time_s=middle, low_s=low, high_s=high, algbw_GBps=algbw / 1e9, busbw_GBps=busbw / 1e9)
    return replace(nearest, row=row, wall=sum(one.wall for one in timed))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """What a model says of one exchange.

    Attributes:
        duration: Seconds.
        bound: Lower bound of it, seconds.
        error_bound: Relative error of the solution, not of the model.
        error_kind: What that rests on.
        num_flows: Number of flows on the network.
        num_messages: Number of messages.
        load: Bytes on each link, shape (H,); zeros unless busiest links are wanted.
        link_use: Use of the links over time; empty unless recorded.
    """

    duration: float
    bound: float
    error_bound: float
    error_kind: ErrorKind
    num_flows: int
    num_messages: int
    load: NDArray[np.float64]
    link_use: tuple[LinkUse, ...]


def _even(network: Network, matrix: Matrix, options: AlltoallOptions) -> _Exchange | None:
    """Equal blocks between equal ranks, without a list of flows; None where that does not apply."""
    fits = options.schedule == "direct" and options.fidelity in {"bound", "fluid"}
    block, num_ranks = float(matrix[0, -1]), len(matrix)
    if not fits or num_ranks * (num_ranks - 1) <= FEW_FLOWS or not block > 0 or (matrix != block).any():
        return None
    found = even_exchange_time(network, block, record_links=options.record_links)
    if found is None:
        return None
    is_bound = options.fidelity == "bound"
    return _Exchange(
        duration=found.bound if is_bound else found.duration,
        bound=found.bound,
        error_bound=0.0,
        error_kind="exact",
        num_flows=found.num_flows,
        num_messages=found.num_flows,
        load=found.load,
        link_use=() if is_bound else found.link_use,
    )


def _by_flows(network: Network, matrix: Matrix, options: AlltoallOptions) -> _Exchange:
    """Any exchange, flow by flow."""
    phases = phases_of(
        network,
        [matrix],
        schedule=options.schedule,
        order=options.order,
        seed=options.seed,
        message_size=options.message_size,
    )
    solution, link_use = _time(network, phases, options)
    load = np.zeros(network.topology.num_links)
    for flows in phases if options.num_hot else ():
        load += link_load(flows, len(load))
    return _Exchange(
        duration=solution.duration,
        bound=solution.bound,
        error_bound=solution.error_bound,
        error_kind=solution.error_kind,
        num_flows=sum(len(flows) for flows in phases),
        num_messages=int(sum(len(flows) if flows.copies is None else flows.copies.sum() for flows in phases)),
        load=load,
        link_use=link_use,
    )


def _time(network: Network, phases: list[Flows], options: AlltoallOptions) -> tuple[ExchangeDuration, tuple[LinkUse, ...]]:
    """Duration at a fidelity, and the use of links over time."""
    if options.fidelity == "fluid" and options.record_links:
        fluid = exchange_time(network, phases, tolerance=options.tolerance, record_links=True)
        return ExchangeDuration.of(fluid), fluid.link_use
    if options.fidelity == "fluid":
        return exchange_duration(network, phases, tolerance=options.tolerance), ()
    duration = bound = lower_bound(network, phases)
    if options.fidelity == "fifo":
        duration = fifo_exchange_time(
            network, phases, chunk=options.chunk, window=options.window, injection=options.injection
        ).duration
    elif options.fidelity == "packet":
        from smoes_sim.network.packet import packet_exchange_time  # noqa: PLC0415 - slow, so rarely asked for

        duration = packet_exchange_time(network, phases, window=options.window, injection=options.injection).duration
    return ExchangeDuration(duration=duration, bound=bound, error_bound=0.0, error_kind="exact"), ()
