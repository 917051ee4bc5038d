"""nccl-tests for a cluster that is not there: time one all-to-all of a given size, skew or matrix."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, PlacementError, TraceError
from smoes_sim.exchanges.bandwidth import alltoall_bandwidth
from smoes_sim.network import Fidelity, Flows, Network, Order, Schedule, exchange_time, lower_bound, phases_of
from smoes_sim.network.fifo.exchange import TCP_WINDOW, Injection, fifo_exchange_time
from smoes_sim.network.fluid.solve import LinkUse
from smoes_sim.network.hot import HotLinks, hot_links, use_over_time
from smoes_sim.prediction.constants import Calibration, interval_of, network_under
from smoes_sim.routing import load_trace
from smoes_sim.traffic.skewed import (
    full_workload_name,
    lognormal_matrix,
    read_matrix,
    trace_matrix,
    uniform_matrix,
    workload_matrix,
    zipf_matrix,
)
from smoes_sim.units import parse_size

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Who sends how much to whom, as the command line says it; nothing said is 64 MiB a rank in equal blocks.

    At most one of ``size``, ``sweep``, ``matrix``, and one of ``matrix``, ``zipf``, ``lognormal``, ``workload``, ``trace``.

    Attributes:
        size: Bytes that a rank sends, its own block included, such as ``64 MiB``.
        sweep: First and last of sizes that double, such as ``1 KiB:1 GiB``.
        matrix: File of bytes from rank to rank.
        zipf: Exponent of the popularity of destinations.
        per_source: Whether each rank has its own popular destinations, for ``zipf``.
        lognormal: Spread of the popularity of destinations.
        workload: Name of an imbalance workload.
        step: Its step; 0 when left out.
        trace: File of a routing trace.
    """

    size: str | None = None
    sweep: str | None = None
    matrix: Path | None = None
    zipf: float | None = None
    per_source: bool = False
    lognormal: float | None = None
    workload: str | None = None
    step: int | None = None
    trace: Path | None = None

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ConfigError: With the options that exclude each other or lack another.
        """
        if sum(given is not None for given in (self.size, self.sweep, self.matrix)) > 1:
            raise ConfigError("--bytes, --sweep and --matrix exclude each other. Give one of them.")
        names = ("matrix", "zipf", "lognormal", "workload", "trace")
        given = [f"--{name}" for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} each say who sends what. Give one of them.")
        if self.per_source and self.zipf is None:
            raise ConfigError("--per-source says how --zipf is drawn. Give --zipf too.")
        if self.step is not None and self.workload is None:
            raise ConfigError("--step picks a step of --workload. Give --workload too.")
        for name, value in (("--zipf", self.zipf), ("--lognormal", self.lognormal)):
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} = {value}: must be a number >= 0. Write for example {name} 1.")

    @property
    def is_uniform(self) -> bool:
        """Whether all blocks are equal by construction."""
        return all(given is None for given in (self.matrix, self.zipf, self.lognormal, self.workload, self.trace))

    @property
    def words(self) -> str:
        """What is sent, for people."""
        if self.zipf is not None:
            return f"Zipf {self.zipf:g}, {'drawn for each source' if self.per_source else 'the same for all sources'}"
        if self.lognormal is not None:
            return f"log-normal, sigma {self.lognormal:g}, the same for all sources"
        if self.workload is not None:
            return f"workload {full_workload_name(self.workload)}, step {self.step or 0}"
        if self.trace is not None:
            return f"in the proportions of {self.trace}"
        return "equal blocks" if self.matrix is None else f"{self.matrix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlltoallOptions:
    """How the exchange is done and timed.

    Attributes:
        schedule: What the library posts.
        order: In which order a rank posts its messages.
        message_size: Bytes of one copy, for ``low_latency``.
        fidelity: Which model of the network.
        tolerance: Relative error aimed at, for ``fluid``.
        injection: How messages of a rank share its port, for ``fifo`` and ``packet``.
        window: Bytes of a message before its receiver must answer, for ``fifo`` and ``packet``.
        chunk: Bytes served together, for ``fifo``; chosen by the size of the case when left out.
        num_hot: Busiest links to name.
        record_links: Whether to keep the use of links over time, for ``fluid``.
        seed: Of the random order.
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
        """Refuse what breaks a rule.

        Raises:
            ConfigError: With the option and the way out.
        """
        if self.schedule == "low_latency" and self.message_size is None:
            raise ConfigError("--schedule low_latency sends one message a copy. Give --message-size, such as 14 KiB.")
        for name, value in (("--message-size", self.message_size), ("--window", self.window), ("--chunk", self.chunk)):
            if value is not None and not value > 0:
                raise ConfigError(f"{name} = {value:g} B: must be more than 0 bytes. Write for example 64 KiB.")
        if not 0 <= self.tolerance <= 0.1:
            raise ConfigError(f"--tolerance = {self.tolerance}: must be between 0 (exact) and 0.1. Write for example 1e-4.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlltoallTime:
    """One exchange, timed.

    Attributes:
        row: nccl-tests' columns, the bound and what the answer rests on, units in the names.
        hot: The busiest links.
        use: Seconds and share of capacity in use from then on, by label of the busiest links; empty if not recorded.
        wall: Seconds that the answer took here.
    """

    row: dict[str, Any]
    hot: list[HotLinks]
    use: dict[str, list[tuple[float, float]]]
    wall: float


def sweep_sizes(low: float, high: float) -> list[float]:
    """Sizes from ``low`` to ``high``, doubling.

    Raises:
        ConfigError: If the range is empty or starts at zero.
    """
    if not 0 < low <= high:
        raise ConfigError(
            f"--sweep = {low:.0f} B to {high:.0f} B is empty: the first size must be > 0 and <= the last. "
            'Write "1 KiB:1 GiB".'
        )
    return list(low * 2.0 ** np.arange(int(np.floor(np.log2(high / low))) + 1))


def choose_matrices(num_ranks: int, demand: Demand, *, seed: int) -> list[Matrix]:
    """The matrices that are asked for, one per size, (R, R) each.

    Raises:
        ConfigError: If the demand contradicts itself, or a size, name or file breaks a rule.
    """
    demand.check()
    if demand.matrix is not None:
        return [read_matrix(demand.matrix, num_ranks)]
    if demand.sweep is None:
        sizes = [_size("--bytes", "64 MiB" if demand.size is None else demand.size)]
    else:
        low, separator, high = demand.sweep.partition(":")
        if not separator:
            raise ConfigError(f'--sweep = "{demand.sweep}" is not LOW:HIGH. Write "1 KiB:1 GiB".')
        sizes = sweep_sizes(_size("--sweep", low), _size("--sweep", high))
    matrix_of = _matrix_of(num_ranks, demand, seed)
    return [matrix_of(size) for size in sizes]


def _matrix_of(num_ranks: int, demand: Demand, seed: int) -> Callable[[float], Matrix]:
    """The matrix of a size."""
    zipf, sigma, workload, trace = demand.zipf, demand.lognormal, demand.workload, demand.trace
    if zipf is not None:
        return lambda size: zipf_matrix(num_ranks, size, exponent=zipf, seed=seed, per_source=demand.per_source)
    if sigma is not None:
        return lambda size: lognormal_matrix(num_ranks, size, sigma=sigma, seed=seed)
    if workload is not None:
        return lambda size: workload_matrix(workload, num_ranks, size, seed=seed, step=demand.step or 0)
    if trace is not None:
        routing = load_trace(trace)
        try:
            of_one_byte = trace_matrix(routing, num_ranks, 1.0)
        except (PlacementError, TraceError) as error:
            raise error.at(str(trace)) from None
        return lambda size: size * of_one_byte
    return lambda size: uniform_matrix(num_ranks, size)


def _size(option: str, text: str) -> float:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def time_alltoall(network: Network, matrix: Matrix, options: AlltoallOptions) -> AlltoallTime:
    """Time one exchange and name its busiest links.

    ``size_bytes`` is what nccl-tests prints: for equal blocks the bytes of a rank, its own block included; for unequal
    ones the largest sum over a row or column. ``mean_bytes`` is what a rank sends, on average.

    Args:
        network: Capacities and constants.
        matrix: Bytes from rank to rank, shape (R, R); the diagonal counts as sent but does not travel.
        options: How; :meth:`AlltoallOptions.check` has passed.

    Raises:
        ConfigError: If a case is too large for ``packet``.
    """
    started = time.perf_counter()
    phases = phases_of(
        network,
        [matrix],
        schedule=options.schedule,
        order=options.order,
        seed=options.seed,
        message_size=options.message_size,
    )
    bound = lower_bound(network, phases)
    duration, error, link_use = _time(network, phases, options)
    hot = hot_links(network, phases, duration=duration, most=options.num_hot, link_use=link_use)
    size = float(max(matrix.sum(axis=0).max(), matrix.sum(axis=1).max()))
    algbw, busbw = alltoall_bandwidth(size, duration, network.topology.num_ranks)
    row = {
        "size_bytes": size,
        "mean_bytes": float(matrix.sum() / len(matrix)),
        "time_s": duration,
        "algbw_GBps": algbw / 1e9,
        "busbw_GBps": busbw / 1e9,
        "bound_s": bound,
        "flows": sum(len(flows) for flows in phases),
        "messages": int(sum(flows.messages.sum() for flows in phases)),
        "links": network.topology.num_links,
        "error_bound": error,
    }
    use = {entry.group.label: use_over_time(entry.group.links, link_use, duration) for entry in hot if link_use}
    return AlltoallTime(row=row, hot=hot, use=use, wall=time.perf_counter() - started)


def time_calibrated(network: Network, matrix: Matrix, options: AlltoallOptions, calibration: Calibration) -> AlltoallTime:
    """Time one exchange under every draw of a calibration.

    ``time_s`` is the median, ``low_s`` and ``high_s`` the ends of the 80% interval; everything else belongs to the draw
    that is nearest to the median. Arguments and what is raised as in :func:`time_alltoall`.
    """
    timed = [
        time_alltoall(network_under(network, calibration.draw(index)), matrix, options)
        for index in range(calibration.num_draws)
    ]
    durations = [time.row["time_s"] for time in timed]
    middle, low, high = interval_of(durations, spread=calibration.spread_of(options.schedule))
    nearest = timed[int(np.argmin(np.abs(np.array(durations) - middle)))]
    algbw, busbw = alltoall_bandwidth(nearest.row["size_bytes"], middle, network.topology.num_ranks)
    row = nearest.row | {
        "time_s": middle,
        "low_s": low,
        "high_s": high,
        "algbw_GBps": algbw / 1e9,
        "busbw_GBps": busbw / 1e9,
    }
    return replace(nearest, row=row, wall=sum(time.wall for time in timed))


def _time(network: Network, phases: list[Flows], options: AlltoallOptions) -> tuple[float, float, tuple[LinkUse, ...]]:
    """Seconds at a fidelity, relative error of the solution (not of the model), and the use of links over time."""
    if options.fidelity == "bound":
        return lower_bound(network, phases), 0.0, ()
    if options.fidelity == "fluid":
        fluid = exchange_time(network, phases, tolerance=options.tolerance, record_links=options.record_links)
        return fluid.duration, fluid.error_bound, fluid.link_use
    if options.fidelity == "fifo":
        fifo = fifo_exchange_time(network, phases, chunk=options.chunk, window=options.window, injection=options.injection)
        return fifo.duration, 0.0, ()
    from smoes_sim.network.packet import packet_exchange_time  # noqa: PLC0415 - slow, so rarely asked for

    return packet_exchange_time(network, phases, window=options.window, injection=options.injection).duration, 0.0, ()
