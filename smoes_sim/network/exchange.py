"""One exchange: what each rank does in it, and how long it takes alone on the network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from smoes_sim.errors import SimulationError
from smoes_sim.network.flows import Flows, Network, lower_bound
from smoes_sim.network.fluid.engine import Engine, Exchange
from smoes_sim.network.fluid.solve import UNSEEN, LinkUse, fluid_times, last_difference

_ATTEMPTS = 5
"""Windows tried for an exchange of several phases, each half as wide as the one before."""
Processes = Generator[simpy.Event, None, None]
_ROUNDING = 1e-9
"""A time may lie below its bound by this much, relatively: both are sums of floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeTime:
    """How long an exchange takes that starts everywhere at once.

    Attributes:
        duration: Seconds until the last rank is done.
        finish: Seconds until each rank has sent and received everything, shape (R,).
        bound: Seconds that nothing can beat.
        num_flows: Messages on the network.
        rate_changes: How often rates were shared anew.
        error_bound: 0 if exact. Otherwise the largest relative difference to the durations with windows twice and four times
            as wide, and at least 1e-4: a measured error, not a proven one.
        link_use: Use of the links from each sharing on; empty unless asked for.
    """

    duration: float
    finish: NDArray[np.float64]
    bound: float
    num_flows: int
    rate_changes: int
    error_bound: float = 0.0
    link_use: tuple[LinkUse, ...] = ()


def announce(engine: Engine, phases: Sequence[Exchange], rank: int, *, at: float) -> None:
    """Post what a rank posts first in an exchange that it enters at ``at``, now or later."""
    entered = at + engine.network.per_exchange
    for phase in phases:
        if phase.flows.rendezvous == "entry":
            engine.expect(phase, rank, at=entered)
    for phase in itertools.takewhile(lambda phase: phase.flows.after < 0, phases):
        _post(engine, phase, rank, at=entered)


def take_part(engine: Engine, phases: Sequence[Exchange], rank: int) -> Processes:
    """What a rank does in an exchange once it was announced: post what waits for arrivals, and end with its last message."""
    if engine.network.per_exchange > 0:
        yield engine.env.timeout(engine.network.per_exchange)
    for phase in itertools.dropwhile(lambda phase: phase.flows.after < 0, phases):
        if phase.flows.after >= 0:
            before = phases[phase.flows.after]
            received, sent = before.received[rank], _sent(phases, before)[rank]
            yield received & sent if phase.flows.after_sent else received
        _post(engine, phase, rank)
    ends = [event for phase in phases for event in (_sent(phases, phase)[rank], phase.received[rank])]
    yield engine.env.all_of(ends)


def _sent(phases: Sequence[Exchange], phase: Exchange) -> list[simpy.Event]:
    """When a phase counts as sent, for each rank: with its last byte, or when the kernel takes the rest."""
    return phases[phase.flows.behind].sent if phase.flows.is_buffered else phase.sent


def _post(engine: Engine, phase: Exchange, rank: int, *, at: float | None = None) -> None:
    """A rank's part of a phase: its receives, if they are posted with it, and its sends."""
    if phase.flows.rendezvous == "phase":
        engine.expect(phase, rank, at=at)
    engine.post(phase, rank, at=at)


def exchange_time(
    network: Network, phases: Sequence[Flows], *, tolerance: float = 0.0, record_links: bool = False
) -> ExchangeTime:
    """Time one exchange that starts everywhere at once, links shared max-min fairly.

    Args:
        network: Capacities and constants.
        phases: What is sent.
        tolerance: Relative error of the duration to aim at where many messages are in flight; 0 is exact. Above 0 windows
            are halved until three successive durations agree within it (``ExchangeTime.error_bound``).
        record_links: Keep the use of every link over time.

    Raises:
        SimulationError: If the answer is below the bound (a bug).

    Example:
        4 ranks on a star of 50 GB/s, 64 MiB a rank, 16 MiB a pair: 3 * 16777216 / 50e9 s = 1.006633 ms.
    """
    if len(phases) == 1 and not (network.send_buffer or network.per_receive):
        return _single_phase(network, phases[0], tolerance, record_links)
    durations: list[float] = []
    error, solves = math.inf, 0
    while error > tolerance and len(durations) < _ATTEMPTS:
        finish, engine = _played(network, phases, tolerance / 4 ** len(durations), record_links)
        durations.append(float(finish.max()))
        solves += engine.rate_changes
        error = last_difference(durations) if engine.used_windows else 0.0
    error = max(error, UNSEEN) if error else 0.0
    link_use = tuple(engine.link_use)
    return checked(network, phases, finish, rate_changes=solves, error_bound=error, link_use=link_use)


def _played(
    network: Network, phases: Sequence[Flows], tolerance: float, record_links: bool
) -> tuple[NDArray[np.float64], Engine]:
    """When each rank is done on SimPy's clock, (R,)."""
    env = simpy.Environment()
    engine = Engine(env, network, phases, tolerance=tolerance, record_links=record_links)
    opened = engine.open_all(phases)
    finish = np.zeros(network.topology.num_ranks)

    def rank_process(rank: int) -> Processes:
        announce(engine, opened, rank, at=0.0)
        yield from take_part(engine, opened, rank)
        finish[rank] = env.now

    for rank in range(network.topology.num_ranks):
        env.process(rank_process(rank))
    env.run()
    return finish, engine


def ready_times(network: Network, flows: Flows) -> NDArray[np.float64]:
    """When each message of a phase leaves its sender's software if all ranks start at 0, shape (F,)."""
    overhead = network.per_message * flows.messages
    total = np.cumsum(overhead)
    first = np.searchsorted(flows.source, flows.source, side="left")
    return network.per_exchange + total - (total - overhead)[first]


def _single_phase(network: Network, flows: Flows, tolerance: float, record_links: bool) -> ExchangeTime:
    """All messages posted at once: no clock is needed."""
    result = fluid_times(
        flows.routes.offsets,
        flows.routes.links,
        network.sized_all([flows])[0].size,
        network.capacity,
        share=flows.routes.share,
        ready=ready_times(network, flows),
        ceiling=flows.ceiling,
        incast_flows=network.topology.incast_flows,
        incast_efficiency=network.topology.incast_efficiency,
        tolerance=tolerance,
        record_links=record_links,
    )
    finish = finish_of_ranks(network, flows, sent=result.drained, arrived=result.drained + flows.latency)
    return checked(
        network,
        [flows],
        finish,
        rate_changes=result.solves,
        error_bound=result.error_bound,
        link_use=result.link_use,
    )


def finish_of_ranks(
    network: Network, flows: Flows, *, sent: NDArray[np.float64], arrived: NDArray[np.float64]
) -> NDArray[np.float64]:
    """When each rank has sent and received everything, (R,)."""
    finish = np.full(network.topology.num_ranks, network.per_exchange)
    np.maximum.at(finish, flows.source, sent)
    np.maximum.at(finish, flows.destination, arrived)
    return finish


def checked(
    network: Network,
    phases: Sequence[Flows],
    finish: NDArray[np.float64],
    *,
    rate_changes: int,
    error_bound: float = 0.0,
    link_use: tuple[LinkUse, ...] = (),
) -> ExchangeTime:
    """The result, held against the bound.

    Raises:
        SimulationError: If it is below.
    """
    bound, duration = lower_bound(network, phases), float(finish.max())
    if duration < bound * (1 - _ROUNDING - error_bound):
        raise SimulationError(f"an exchange took {duration} s, below its bound of {bound} s: please report this.")
    return ExchangeTime(
        duration=max(duration, bound) if error_bound else duration,
        finish=finish,
        bound=bound,
        num_flows=sum(len(flows) for flows in phases),
        rate_changes=rate_changes,
        error_bound=error_bound,
        link_use=link_use,
    )
