"""One exchange: what each rank does in it, and its time alone on the network."""

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
from smoes_sim.network.fluid.engine import ActivePhase, Engine
from smoes_sim.network.fluid.solve import UNSEEN, LinkUse, fluid_times, last_difference

_ATTEMPTS = 5
"""Number of windows tried for an exchange of several phases, each half as wide as the one before."""
Processes = Generator[simpy.Event, None, None]
ROUNDING = 1e-9
"""Relative rounding error by which a time may lie below its bound: both are sums of floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeTime:
    """Times of an exchange that all ranks enter at the same time.

    Attributes:
        duration: Seconds until the last rank has finished.
        finish: Seconds until each rank has sent and received everything, shape (R,).
        bound: Lower bound of the duration, seconds; see ``lower_bound``.
        num_flows: Number of messages on the network.
        rate_changes: Number of times that the max-min rates were recomputed.
        error_bound: 0 if exact. Otherwise the largest relative difference to the durations with windows twice and four times
            as wide, and at least 1e-4. It is measured, not proven.
        link_use: Use of the links from each rate change on; empty unless recorded.
    """

    duration: float
    finish: NDArray[np.float64]
    bound: float
    num_flows: int
    rate_changes: int
    error_bound: float = 0.0
    link_use: tuple[LinkUse, ...] = ()


def enter_exchange(engine: Engine, phases: Sequence[ActivePhase], rank: int, *, at: float) -> None:
    """Enter an exchange at time ``at``, now or later: post the receives and the sends that wait for nothing."""
    entered = at + engine.network.per_exchange
    for phase in phases:
        if phase.flows.rendezvous == "entry":
            engine.post_receives(phase, rank, at=entered)
    for phase in itertools.takewhile(lambda phase: phase.flows.after < 0, phases):
        _post_phase(engine, phase, rank, at=entered)


def finish_exchange(engine: Engine, phases: Sequence[ActivePhase], rank: int) -> Processes:
    """SimPy process of a rank after :func:`enter_exchange`: post what waits for arrivals; ends with the last message."""
    if engine.network.per_exchange > 0:
        yield engine.env.timeout(engine.network.per_exchange)
    for phase in itertools.dropwhile(lambda phase: phase.flows.after < 0, phases):
        if phase.flows.after >= 0:
            before = phases[phase.flows.after]
            received, sent = before.received[rank], _sent(phases, before)[rank]
            yield received & sent if phase.flows.after_sent else received
        _post_phase(engine, phase, rank)
    ends = [event for phase in phases for event in (_sent(phases, phase)[rank], phase.received[rank])]
    yield engine.env.all_of(ends)


def _sent(phases: Sequence[ActivePhase], phase: ActivePhase) -> list[simpy.Event]:
    """Event of each rank when a phase counts as sent: with its last byte, or when the kernel has buffered the rest."""
    return phases[phase.flows.behind].sent if phase.flows.is_buffered else phase.sent


def _post_phase(engine: Engine, phase: ActivePhase, rank: int, *, at: float | None = None) -> None:
    """Post a rank's part of a phase: its receives, if they are posted per phase, and its sends."""
    if phase.flows.rendezvous == "phase":
        engine.post_receives(phase, rank, at=at)
    engine.post_sends(phase, rank, at=at)


def exchange_time(
    network: Network, phases: Sequence[Flows], *, tolerance: float = 0.0, record_links: bool = False
) -> ExchangeTime:
    """Time one exchange that all ranks enter at the same time, with links shared max-min fairly.

    Args:
        network: Capacities and constants.
        phases: Messages of each phase, from ``phases_of``.
        tolerance: Relative error of the duration to aim at where many messages are in flight; 0 is exact. Above 0 windows
            are halved until three successive durations agree within it (``ExchangeTime.error_bound``).
        record_links: Record the use of every link over time.

    Returns:
        Durations, the lower bound and the error of the solution.

    Raises:
        SimulationError: If the duration is below the bound, which is a bug.

    Example:
        Two ranks on 10 Gb/s links of 10 us, 1.25 MB each way: 1 ms on each link and 20 us on the way.

        >>> import numpy as np
        >>> from smoes_sim.network import Network, exchange_time, phases_of
        >>> from smoes_sim.topology import find_topology
        >>> network = Network.on(find_topology("two-orin-10gbe"))
        >>> phases = phases_of(network, [np.full((2, 2), 1.25e6)])
        >>> round(exchange_time(network, phases).duration * 1e3, 6)  # ms
        1.02
    """
    if len(phases) == 1 and not (network.send_buffer or network.per_receive):
        return _single_phase(network, phases[0], tolerance, record_links)
    durations: list[float] = []
    error, solves = math.inf, 0
    while error > tolerance and len(durations) < _ATTEMPTS:
        finish, engine = _simulate(network, phases, tolerance / 4 ** len(durations), record_links)
        durations.append(float(finish.max()))
        solves += engine.rate_changes
        error = last_difference(durations) if engine.used_windows else 0.0
    error = max(error, UNSEEN) if error else 0.0
    link_use = tuple(engine.link_use)
    return checked(network, phases, finish, rate_changes=solves, error_bound=error, link_use=link_use)


def _simulate(
    network: Network, phases: Sequence[Flows], tolerance: float, record_links: bool
) -> tuple[NDArray[np.float64], Engine]:
    """Finish time of each rank on SimPy's clock, seconds, (R,), and the engine."""
    env = simpy.Environment()
    engine = Engine(env, network, phases, tolerance=tolerance, record_links=record_links)
    opened = engine.open_all(phases)
    finish = np.zeros(network.topology.num_ranks)

    def rank_process(rank: int) -> Processes:
        enter_exchange(engine, opened, rank, at=0.0)
        yield from finish_exchange(engine, opened, rank)
        finish[rank] = env.now

    for rank in range(network.topology.num_ranks):
        env.process(rank_process(rank))
    env.run()
    return finish, engine


def ready_times(network: Network, flows: Flows) -> NDArray[np.float64]:
    """Seconds when each message of a phase leaves its sender's software if all ranks start at 0, shape (F,)."""
    return network.per_exchange + network.per_message * flows.queued


def _single_phase(network: Network, flows: Flows, tolerance: float, record_links: bool) -> ExchangeTime:
    """Time an exchange of one phase, all messages posted at once, without SimPy."""
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
    """Seconds until each rank has sent and received everything, shape (R,)."""
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
    """The result of an exchange, checked against the lower bound.

    Raises:
        SimulationError: If the duration is below the bound.
    """
    bound, duration = lower_bound(network, phases), float(finish.max())
    if duration < bound * (1 - ROUNDING - error_bound):
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
