"""Large exchanges on SimPy's clock: each is shared out at once, when all its messages are posted.

The engine that shares bandwidth anew at every change is exact and needs a sharing per change; a pass of 48 layers over 256
ranks has six million messages. Here an exchange waits until its last rank has posted, then all its finish times are
computed together, from the moments at which each message was really ready. What is in flight by then is computed again
with it, so that exchanges that overlap share the links. Two things are given up, both measured: finish times come from
windows (``error_bound``), and a rank that could have been done before the last one posted is done then
(``lateness``: 0 where everybody hears from everybody, as in an all-to-all).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from smoes_sim.network.engine import Exchange, LinkUse
from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.fluid import fluid_times
from smoes_sim.topology import Routes


@dataclass(slots=True, kw_only=True)
class _InFlight:
    """An exchange, when its messages were ready, when they drained, and which answer is the newest."""

    exchange: Exchange
    ready: NDArray[np.float64]
    unposted: int
    drained: NDArray[np.float64]
    generation: int = 0


class BatchEngine:
    """Shares a network between exchanges, each computed when its last message is posted.

    Args:
        env: The clock.
        network: Capacities, routes and constants.
        tolerance: Relative error aimed at in the end of each exchange; 0 is exact.
    """

    def __init__(self, env: simpy.Environment, network: Network, *, tolerance: float) -> None:
        self.env = env
        self.network = network
        self.rate_changes = 0
        self.error_bound = 0.0
        self.lateness = 0.0
        self.link_use: list[LinkUse] = []
        self._tolerance = tolerance
        self._exchanges: dict[int, _InFlight] = {}
        self._opened = 0
        self._sender_free = np.zeros(network.topology.num_ranks)

    def open(self, flows: Flows) -> Exchange:
        """Announce an exchange; nothing moves until its messages are posted."""
        exchange = Exchange(self.env, flows, self.network.topology.num_ranks)
        exchange.number = self._opened
        self._opened += 1
        nothing = np.full(len(flows), np.nan)
        if len(flows):
            self._exchanges[exchange.number] = _InFlight(
                exchange=exchange, ready=nothing, unposted=len(flows), drained=nothing.copy()
            )
        return exchange

    def post(self, exchange: Exchange, flows: NDArray[np.int64]) -> None:
        """Post the messages of one sender now, in this order; it pays ``per_message`` for one after the other."""
        if not len(flows):
            return
        entry = self._exchanges[exchange.number]
        rank = exchange.flows.source[flows[0]]
        overhead = self.network.per_message * exchange.flows.messages[flows]
        entry.ready[flows] = max(float(self._sender_free[rank]), self.env.now) + np.cumsum(overhead)
        self._sender_free[rank] = entry.ready[flows[-1]]
        entry.unposted -= len(flows)
        if entry.unposted == 0:
            self._share(entry)

    def _share(self, newest: _InFlight) -> None:
        """Finish times of the newest exchange and of all that it meets."""
        start = float(newest.ready.min())
        together = [
            entry
            for entry in self._exchanges.values()
            if entry is newest or (entry.unposted == 0 and entry.drained.max() > start)
        ]
        first = min(float(entry.ready.min()) for entry in together)
        flows = [entry.exchange.flows for entry in together]
        routes = concatenate([part.routes for part in flows])
        result = fluid_times(
            routes.offsets,
            routes.links,
            np.concatenate([part.size for part in flows]),
            self.network.capacity,
            ready=np.concatenate([entry.ready for entry in together]) - first,
            ceiling=np.concatenate([part.ceiling for part in flows]),
            tolerance=self._tolerance,
        )
        self.rate_changes += result.solves
        self.error_bound = max(self.error_bound, result.error_bound)
        drained = np.split(first + result.drained, np.cumsum([len(part) for part in flows])[:-1])
        for entry, times in zip(together, drained, strict=True):
            self._announce(entry, times)

    def _announce(self, entry: _InFlight, drained: NDArray[np.float64]) -> None:
        """Set the moments at which each rank has sent and received everything; older ones are void."""
        entry.drained = drained
        entry.generation += 1
        exchange, num_ranks = entry.exchange, self.network.topology.num_ranks
        exchange.arrival = drained + exchange.flows.latency
        for ranks, times, events in (
            (exchange.flows.source, drained, exchange.sent),
            (exchange.flows.destination, exchange.arrival, exchange.received),
        ):
            last = np.full(num_ranks, -np.inf)
            np.maximum.at(last, ranks, times)
            open_ranks = np.array([rank for rank in np.flatnonzero(np.isfinite(last)) if not events[rank].triggered])
            if not len(open_ranks):
                continue
            if events is exchange.received:
                self.lateness = max(self.lateness, self.env.now - float(last[open_ranks].min()))
            for moment in np.unique(last[open_ranks]):
                done = [events[rank] for rank in open_ranks[last[open_ranks] == moment]]
                _Announcement(self.env, entry, done, delay=max(float(moment) - self.env.now, 0.0))


class _Announcement(simpy.Event):
    """Triggers events at a moment, unless a newer answer has come in between."""

    def __init__(self, env: simpy.Environment, entry: _InFlight, events: list[simpy.Event], *, delay: float) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self._entry, self._events, self._generation = entry, events, entry.generation
        self.callbacks.append(self._announce)
        env.schedule(self, delay=delay)

    def _announce(self, _: simpy.Event) -> None:
        if self._entry.generation == self._generation:
            for event in self._events:
                event.succeed()


def concatenate(routes: list[Routes]) -> Routes:
    """Routes one after the other."""
    lengths = np.concatenate([np.diff(part.offsets) for part in routes])
    return Routes(offsets=np.concatenate([[0], np.cumsum(lengths)]), links=np.concatenate([part.links for part in routes]))
