"""One exchange: what each rank does in it, and how long it takes alone on the network."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from smoes_sim.errors import SimulationError
from smoes_sim.network.engine import Engine, Exchange
from smoes_sim.network.flows import Flows, Network, lower_bound

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
    """

    duration: float
    finish: NDArray[np.float64]
    bound: float
    num_flows: int
    rate_changes: int


def open_phases(engine: Engine, phases: Sequence[Flows]) -> list[Exchange]:
    """Announce the phases of one exchange."""
    return [engine.open(flows) for flows in phases]


def take_part(engine: Engine, phases: Sequence[Exchange], rank: int) -> Generator[simpy.Event, None, None]:
    """What one rank does in an exchange, as a SimPy process."""
    if engine.network.per_exchange > 0:
        yield engine.env.timeout(engine.network.per_exchange)
    for phase in phases:
        if phase.flows.after >= 0:
            before = phases[phase.flows.after]
            yield before.received[rank] & before.sent[rank] if phase.flows.after_sent else before.received[rank]
        first, last = np.searchsorted(phase.flows.source, [rank, rank + 1])
        engine.post(phase, np.arange(first, last))
    yield engine.env.all_of([event for phase in phases for event in (phase.sent[rank], phase.received[rank])])


def exchange_time(network: Network, phases: Sequence[Flows]) -> ExchangeTime:
    """Simulate one exchange that starts everywhere at once.

    Raises:
        SimulationError: If the answer is below the bound (a bug).

    Example:
        4 ranks on a star of 50 GB/s, 64 MiB a rank, 16 MiB a pair: 3 * 16777216 / 50e9 s = 1.006633 ms.
    """
    env = simpy.Environment()
    engine = Engine(env, network)
    opened = open_phases(engine, phases)
    finish = np.zeros(network.topology.num_ranks)

    def rank_process(rank: int) -> Generator[simpy.Event, None, None]:
        yield from take_part(engine, opened, rank)
        finish[rank] = env.now

    for rank in range(network.topology.num_ranks):
        env.process(rank_process(rank))
    env.run()
    bound = lower_bound(network, phases)
    duration = float(finish.max())
    if duration < bound * (1 - _ROUNDING):
        raise SimulationError(f"an exchange took {duration} s, below its bound of {bound} s: please report this.")
    return ExchangeTime(
        duration=duration,
        finish=finish,
        bound=bound,
        num_flows=sum(len(flows) for flows in phases),
        rate_changes=engine.rate_changes,
    )
