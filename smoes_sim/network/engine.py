"""The fluid network on SimPy's clock: one process shares the bandwidth of every flow in flight.

A message is posted by its sender, waits for the sender's overhead (messages of a sender one after the other), drains
at its max-min fair rate, and arrives after the latency of its route. Rates change whenever a flow starts or drains.
There is no process per flow: a single wake-up per change, and stale wake-ups are told by a generation number.
"""

from __future__ import annotations

import heapq

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import EventPriority

from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.sharing import max_min_rates

_SAME_INSTANT = 1e-12
"""Moments closer than this, relative to the clock, are one moment: sums of floats differ in the last digits."""
_AFTER_ALL_POSTS = EventPriority(2)
"""SimPy priority of a rate change: after everything else that happens at the same moment."""


LinkUse = tuple[float, NDArray[np.float64]]
"""From a moment on (seconds), the share of each link's capacity in use, shape (H,)."""


class Exchange:
    """Flows that belong together, and the events of their ends at each rank."""

    def __init__(self, env: simpy.Environment, flows: Flows, num_ranks: int) -> None:
        self.flows = flows
        self.number = -1
        self.arrival = np.full(len(flows), np.nan)
        self._left_to_send = np.bincount(flows.source, minlength=num_ranks)
        self._left_to_receive = np.bincount(flows.destination, minlength=num_ranks)
        self.sent = [simpy.Event(env) for _ in range(num_ranks)]
        self.received = [simpy.Event(env) for _ in range(num_ranks)]
        for events, left in ((self.sent, self._left_to_send), (self.received, self._left_to_receive)):
            for rank in np.flatnonzero(left == 0):
                events[rank].succeed()

    def on_drained(self, flows: NDArray[np.int64]) -> None:
        """Count flows that left their sender."""
        _count_down(self._left_to_send, self.flows.source[flows], self.sent)

    def on_arrived(self, flows: NDArray[np.int64], now: float) -> None:
        """Count flows that reached their receiver."""
        self.arrival[flows] = now
        _count_down(self._left_to_receive, self.flows.destination[flows], self.received)


def _count_down(left: NDArray[np.int64], ranks: NDArray[np.int64], events: list[simpy.Event]) -> None:
    np.subtract.at(left, ranks, 1)
    for rank in np.unique(ranks):
        if left[rank] == 0:
            events[rank].succeed()


class Engine:
    """Shares a network between all flows in flight.

    Args:
        env: The clock.
        network: Capacities, routes and constants.
        record_links: Keep the utilisation of every link after each rate change in ``link_use``.
    """

    def __init__(self, env: simpy.Environment, network: Network, *, record_links: bool = False) -> None:
        self.env = env
        self.network = network
        self.rate_changes = 0
        self.error_bound = 0.0
        self.lateness = 0.0
        self.link_use: list[LinkUse] = []
        self._record_links = record_links
        self._exchanges: list[Exchange] = []
        self._sender_free = np.zeros(network.topology.num_ranks)
        self._waiting: list[tuple[float, int, int]] = []  # (ready, exchange, flow)
        self._travelling: list[tuple[float, int, int]] = []  # (arrival, exchange, flow)
        self._active = np.empty((0, 2), dtype=np.int64)  # (exchange, flow)
        self._remaining = np.empty(0)
        self._rate = np.empty(0)
        self._ceiling = np.empty(0)
        self._lengths = np.empty(0, dtype=np.int64)
        self._links = np.empty(0, dtype=np.int32)
        self._clock = 0.0
        self._generation = 0
        self._pending = False

    def open(self, flows: Flows) -> Exchange:
        """Announce an exchange; nothing moves until its messages are posted."""
        exchange = Exchange(self.env, flows, self.network.topology.num_ranks)
        exchange.number = len(self._exchanges)
        self._exchanges.append(exchange)
        return exchange

    def post(self, exchange: Exchange, flows: NDArray[np.int64]) -> None:
        """Post messages now, in this order; a sender pays ``per_message`` for one after the other."""
        overhead = self.network.per_message * exchange.flows.messages
        for flow in flows.tolist():
            rank = exchange.flows.source[flow]
            ready = max(float(self._sender_free[rank]), self.env.now) + float(overhead[flow])
            self._sender_free[rank] = ready
            heapq.heappush(self._waiting, (ready, exchange.number, flow))
        if len(flows) and not self._pending:
            self._pending = True
            self._wake(0.0)

    def _wake(self, delay: float) -> None:
        self._generation += 1
        _WakeUp(self, generation=self._generation, delay=delay)

    def on_wake_up(self, generation: int) -> None:
        """Answer the newest wake-up; older ones are stale."""
        if generation == self._generation:
            self._update()

    def _update(self) -> None:
        """Bring every flow to the present, change what changed, and set the next wake-up."""
        self._pending = False
        now = self.env.now
        due = now * (1 + _SAME_INSTANT)
        changed = self._drain(now - self._clock, due)
        self._clock = now
        arrived = _pop_due(self._travelling, due)
        for number, flows in arrived.items():
            self._exchanges[number].on_arrived(flows, now)
        started = _pop_due(self._waiting, due)
        for number, flows in started.items():
            self._start(number, flows)
        if changed or started:
            self._share()
        self._wake_at_next(now)

    def _drain(self, elapsed: float, due: float) -> bool:
        if not len(self._remaining):
            return False
        self._remaining -= self._rate * elapsed
        ends = self.env.now + self._remaining / self._rate
        done = ends <= due
        for number in np.unique(self._active[done, 0]):
            exchange = self._exchanges[number]
            flows = self._active[done & (self._active[:, 0] == number), 1]
            exchange.on_drained(flows)
            for flow in flows.tolist():
                heapq.heappush(self._travelling, (self.env.now + float(exchange.flows.latency[flow]), int(number), flow))
        if not done.any():
            return False
        self._links = self._links[np.repeat(~done, self._lengths)]
        self._active, self._remaining, self._rate = self._active[~done], self._remaining[~done], self._rate[~done]
        self._lengths, self._ceiling = self._lengths[~done], self._ceiling[~done]
        return True

    def _start(self, number: int, flows: NDArray[np.int64]) -> None:
        new = self._exchanges[number].flows
        entries = np.column_stack([np.full(len(flows), number), flows])
        routes = [new.routes.links[new.routes.offsets[flow] : new.routes.offsets[flow + 1]] for flow in flows]
        self._active = np.concatenate([self._active, entries])
        self._remaining = np.concatenate([self._remaining, new.size[flows]])
        self._links = np.concatenate([self._links, *routes])
        self._lengths = np.concatenate([self._lengths, [len(route) for route in routes]])
        self._ceiling = np.concatenate([self._ceiling, new.ceiling[flows]])

    def _share(self) -> None:
        """New max-min rates of everything in flight."""
        self.rate_changes += 1
        offsets = np.concatenate([[0], np.cumsum(self._lengths)])
        self._rate = max_min_rates(offsets, self._links, self.network.capacity, ceiling=self._ceiling)
        if self._record_links:
            load = np.bincount(
                self._links, weights=np.repeat(self._rate, self._lengths), minlength=len(self.network.capacity)
            )
            self.link_use.append((self.env.now, load / self.network.capacity))

    def _wake_at_next(self, now: float) -> None:
        moments = [queue[0][0] for queue in (self._waiting, self._travelling) if queue]
        if len(self._remaining):
            moments.append(now + float((self._remaining / self._rate).min()))
        if moments:
            self._wake(max(min(moments) - now, 0.0))


class _WakeUp(simpy.Event):
    """Calls the engine after a delay, behind everything else that happens at that moment."""

    def __init__(self, engine: Engine, *, generation: int, delay: float) -> None:
        super().__init__(engine.env)
        self._ok = True
        self._value = None
        self.callbacks.append(lambda _: engine.on_wake_up(generation))
        engine.env.schedule(self, priority=_AFTER_ALL_POSTS, delay=delay)


def _pop_due(queue: list[tuple[float, int, int]], due: float) -> dict[int, NDArray[np.int64]]:
    """Entries of a heap whose moment has come: flows by exchange, in order."""
    found: dict[int, list[int]] = {}
    while queue and queue[0][0] <= due:
        _, number, flow = heapq.heappop(queue)
        found.setdefault(number, []).append(flow)
    return {number: np.array(flows, dtype=np.int64) for number, flows in found.items()}
