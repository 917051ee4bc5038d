"""The fluid network on SimPy's clock: one process shares the bandwidth of every flow in flight.

A message is posted by its sender, waits for the sender's overhead (messages of a sender one after the other) and, where
there is a rendezvous, until its receiver expects it, drains at its max-min fair rate, and arrives after the latency of its
route. There is no process per flow: the engine wakes at the
end of each :class:`~smoes_sim.network.fluid.active_flows.NextEvent`; stale wake-ups are recognised by a generation number.

With few flows, or tolerance 0, every change is followed as it happens. With many a plan is a window in which many
messages end, at moments known when it begins. A post may be announced ahead of time, as a rank knows when its computation
will be over; one that comes as a surprise inside a window waits for its end (``lateness``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import EventPriority

from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.fluid.active_flows import ActiveFlows, Block, Links, NextEvent
from smoes_sim.network.fluid.solve import LinkUse
from smoes_sim.network.fluid.waterfill import ONE, backend

_AFTER_ALL_POSTS = EventPriority(2)
"""SimPy priority of the engine: after everything else that happens at the same moment."""
_SAME_INSTANT = 1e-12
"""Moments closer than this, relative to the clock, are one moment: sums of floats differ in the last digits."""
_SMALL = 500
"""Up to this many messages in a phase arrays are quick enough that nothing is compiled."""
_WIDTH, _WIDEST = 2.0, 0.2
"""Windows are 2 sqrt(tolerance) of the least time that what is in flight needs: a pass of 64 ranks then differs from the
exact solution by less than the tolerance (docs/accuracy/performance.md)."""
_ENDED = 0.1
"""Share of what is running that may end in a window: ranks wait for single messages."""
_FEW = 256
"""Messages in flight up to which every change is followed, when windows are allowed."""


class Exchange:
    """Flows that belong together, and the events of their ends at each rank.

    Attributes:
        flying: Messages that cross links which flows share, in order.
        first: Id of the first of these in the engine's flight; -1 before any is posted.
        bytes_sent: Bytes that each rank sends, shape (R,).
        sent: Triggered when the last byte of a rank's messages has left, one event per rank.
        received: Triggered when the last byte for a rank is there.
        arrival: Seconds when each message is there, shape (F,); nan until that is known.
        ready: Seconds when each message leaves its sender's software, shape (F,); infinite until it is posted.
        free: Seconds when the connection of each message has sent what goes before it, shape (F,); infinite until then.
        follower: The messages that go behind these on the same connections.
        expected: Seconds from which each rank is ready for its messages, shape (R,); infinite until it says so.
    """

    def __init__(self, env: simpy.Environment, flows: Flows, num_ranks: int) -> None:
        self.flows = flows
        self.flying = np.flatnonzero(np.diff(flows.routes.offsets))
        self.first = -1
        self.bytes_sent = np.zeros(num_ranks)
        self.arrival = np.full(len(flows), np.nan)
        self.ready = np.full(len(flows), np.inf)
        self.free = np.full(len(flows), 0.0 if flows.behind < 0 else np.inf)
        self.follower: Exchange | None = None
        self.expected = np.full(num_ranks, 0.0 if flows.rendezvous == "none" else np.inf)
        self.sent = [simpy.Event(env) for _ in range(num_ranks)]
        self.received = [simpy.Event(env) for _ in range(num_ranks)]
        self._env = env
        self._sides = []
        for ranks, events in ((flows.source, self.sent), (flows.destination, self.received)):
            left = np.bincount(ranks, minlength=num_ranks)
            self._sides.append((ranks, left, np.zeros(num_ranks), events))
            for rank in np.flatnonzero(left == 0):
                events[rank].succeed()

    def end(self, flows: NDArray[np.int64], drained: NDArray[np.float64]) -> None:
        """Messages drain at some moments, now or later; trigger the events of ranks that then have no more."""
        self.arrival[flows] = drained + self.flows.latency[flows]
        for (ranks, left, last, events), times in zip(self._sides, (drained, self.arrival[flows]), strict=True):
            ended = ranks[flows]
            np.subtract.at(left, ended, 1)
            np.maximum.at(last, ended, times)
            for rank in np.unique(ended[left[ended] == 0]):
                _trigger(self._env, events[rank], float(last[rank]))


def _trigger(env: simpy.Environment, event: simpy.Event, moment: float) -> None:
    event._ok = True
    event._value = None
    env.schedule(event, delay=max(moment - env.now, 0.0))


class Engine:
    """Shares a network between all flows in flight.

    Args:
        env: The clock.
        network: Capacities, routes and constants.
        phases: What may be posted; says how large the problem is.
        tolerance: Relative error aimed at; 0 follows every change.
        record_links: Keep the use of every link over time in ``link_use``.

    Attributes:
        lateness: Longest wait of a message for the end of a window, seconds.
        used_windows: Whether not every change was followed.
    """

    def __init__(
        self,
        env: simpy.Environment,
        network: Network,
        phases: Sequence[Flows] = (),
        *,
        tolerance: float = 0.0,
        record_links: bool = False,
    ) -> None:
        self.env = env
        self.network = network
        self.lateness = 0.0
        self.used_windows = False
        self.link_use: list[LinkUse] = []
        largest = max((len(flows) for flows in phases), default=0)
        self._flight = ActiveFlows(
            _links(network),
            backend(compiled=largest > _SMALL),
            window=min(_WIDEST, _WIDTH * math.sqrt(tolerance)),
            exact_below=_FEW,
            most_ended=_ENDED,
            prune=not record_links,
        )
        self._record_links = record_links
        self._exchanges: list[Exchange] = []
        self._firsts: list[int] = []
        self._sender_free = np.zeros(network.topology.num_ranks)
        self._plan: NextEvent | None = None
        self._generation = 0
        self._wakes_at = math.inf

    @property
    def rate_changes(self) -> int:
        """How often rates were shared anew."""
        return self._flight.solves

    def open_all(self, phases: Sequence[Flows]) -> list[Exchange]:
        """The phases of an exchange, of which nothing moves until messages are posted; two for one if senders buffer."""
        cut, sized = (self.network.buffered(flows) for flows in (phases, self.network.sized_all(phases)))
        opened = [self._open(flows, longer) for flows, longer in zip(cut, sized, strict=True)]
        for exchange in opened:
            if exchange.flows.behind >= 0:
                opened[exchange.flows.behind].follower = exchange
        return opened

    def _open(self, flows: Flows, sized: Flows) -> Exchange:
        """One phase, with the bytes that are sent and those that its messages are as long as."""
        exchange = Exchange(self.env, sized, self.network.topology.num_ranks)
        np.add.at(exchange.bytes_sent, flows.source, flows.size)
        return exchange

    def post(self, exchange: Exchange, rank: int, *, at: float | None = None) -> None:
        """Post all messages of a rank, in their order, now or at a later moment that is already known.

        The sender pays ``per_message`` for one after the other.
        """
        first, last = np.searchsorted(exchange.flows.source, [rank, rank + 1])
        if first == last:
            return
        begin = max(float(self._sender_free[rank]), self.env.now if at is None else at)
        ready = begin + np.cumsum(self.network.per_message * exchange.flows.messages[first:last])
        self._sender_free[rank] = ready[-1]
        exchange.ready[first:last] = ready
        self._meet(exchange, np.arange(first, last))

    def expect(self, exchange: Exchange, rank: int, *, at: float | None = None) -> None:
        """A rank makes ready for its messages of an exchange with a rendezvous, now or from a later, known moment on.

        It pays ``per_receive`` for one after the other, and is ready for all of them after the last.
        """
        mine = np.flatnonzero(exchange.flows.destination == rank)
        ready = self.env.now if at is None else at
        if self.network.per_receive and len(mine):
            begin = max(float(self._sender_free[rank]), ready)
            ready = begin + self.network.per_receive * float(exchange.flows.messages[mine].sum())
            self._sender_free[rank] = ready
        exchange.expected[rank] = ready
        self._meet(exchange, mine)

    def _meet(self, exchange: Exchange, flows: NDArray[np.int64]) -> None:
        """Send off those messages that are posted, expected and next on their connection; what comes last calls this."""
        posted = np.maximum(exchange.ready[flows], exchange.free[flows])
        ready = np.maximum(posted, exchange.expected[exchange.flows.destination[flows]])
        known = np.isfinite(ready)
        flows, ready = flows[known], ready[known]
        sharing = np.diff(exchange.flows.routes.offsets)[flows] > 0
        if not sharing.all():
            alone = flows[~sharing]
            self._tell(exchange, alone, ready[~sharing] + exchange.flows.size[alone] / exchange.flows.ceiling[alone])
            flows, ready = flows[sharing], ready[sharing]
        if len(flows):
            self._take_off(exchange, flows, ready)

    def _take_off(self, exchange: Exchange, flows: NDArray[np.int64], ready: NDArray[np.float64]) -> None:
        """Tell the flight when messages are ready, and wake for them unless a window is under way."""
        if exchange.first < 0:
            exchange.first = self._flight.announce(_block(exchange.flows, exchange.flying))
            self._exchanges.append(exchange)
            self._firsts.append(exchange.first)
        self._flight.ready[exchange.first + np.searchsorted(exchange.flying, flows)] = ready
        earliest = max(float(ready.min()), self.env.now)
        if self._plan is not None and self._plan.is_window:
            self.lateness = max(self.lateness, self._plan.end - earliest)
        else:
            self._wake(earliest)

    def _wake(self, moment: float) -> None:
        """Wake at a moment, unless that happens earlier anyway."""
        if moment >= self._wakes_at:
            return
        self._generation += 1
        self._wakes_at = moment
        _WakeUp(self, generation=self._generation, delay=max(moment - self.env.now, 0.0))

    def on_wake_up(self, generation: int) -> None:
        """Answer the newest wake-up; older ones are stale."""
        if generation == self._generation:
            self._wakes_at = math.inf
            self._update()

    def _update(self) -> None:
        """Bring every flow to the present, and plan on."""
        flight, plan = self._flight, self._plan
        if plan is not None and not plan.is_window:
            is_over = self.env.now >= plan.end * (1 - _SAME_INSTANT)
            flight.follow(plan, plan.end if is_over else self.env.now)
            if is_over:
                self._end(plan)
        flight.clock = max(flight.clock, self.env.now)
        self._plan = plan = flight.plan()
        if self._record_links:
            rate = np.zeros(len(self.network.capacity)) if plan is None else flight.loads(plan.rate)
            self.link_use.append((flight.clock, rate / self.network.capacity))
        if plan is None:
            return
        if plan.is_window:
            self.used_windows = True
            self._end(plan)
            flight.follow(plan, plan.end)
        self._wake(plan.end)

    def _end(self, plan: NextEvent) -> None:
        """Tell exchanges which of their messages a plan ends."""
        owner = np.searchsorted(self._firsts, plan.ids, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            exchange = self._exchanges[number]
            self._tell(exchange, exchange.flying[plan.ids[mine] - exchange.first], plan.times[mine])

    def _tell(self, exchange: Exchange, flows: NDArray[np.int64], drained: NDArray[np.float64]) -> None:
        """Messages drain at some moments; what goes behind them may then begin."""
        exchange.end(flows, drained)
        if exchange.follower is not None:
            exchange.follower.free[flows] = drained
            self._meet(exchange.follower, flows)


def _block(flows: Flows, flying: NDArray[np.int64]) -> Block:
    """The messages of an exchange that cross shared links."""
    offsets = np.concatenate([[0], np.cumsum(np.diff(flows.routes.offsets)[flying])])
    weight = ONE if flows.routes.share is None else flows.routes.share
    size, ceiling = flows.size[flying], flows.ceiling[flying]
    return Block(offsets=offsets, links=flows.routes.links, weight=weight, size=size, ceiling=ceiling)


def _links(network: Network) -> Links:
    topology = network.topology
    return Links(
        capacity=network.capacity,
        incast_flows=topology.incast_flows,
        incast_efficiency=topology.incast_efficiency,
    )


class _WakeUp(simpy.Event):
    """Calls the engine after a delay, behind everything else that happens at that moment."""

    def __init__(self, engine: Engine, *, generation: int, delay: float) -> None:
        super().__init__(engine.env)
        self._ok = True
        self._value = None
        self.callbacks.append(lambda _: engine.on_wake_up(generation))
        engine.env.schedule(self, priority=_AFTER_ALL_POSTS, delay=delay)
