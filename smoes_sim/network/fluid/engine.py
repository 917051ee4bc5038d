"""The fluid network on SimPy's clock: one process shares the bandwidth among all flows in flight.

A message is posted by its sender and waits for the sender's overhead (messages of a sender one after the other) and, with
rendezvous, until its receiver has posted the receive. It then drains at its max-min fair rate and arrives after the latency
of its route. There is no process per flow: the engine wakes at the end of each
:class:`~smoes_sim.network.fluid.active_flows.NextEvent`; stale wake-ups are recognised by a generation number.

With few flows, or tolerance 0, every rate change is followed as it happens. With many flows the next event is a window in
which many messages end, at times that are known when it begins. A send may be posted ahead of time, because a rank knows
when its computation will end; a send that is posted inside a window waits for the end of the window (``lateness``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import simpy
from numpy.typing import NDArray
from simpy.events import EventPriority

from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.fluid.active_flows import ActiveFlows, NextEvent
from smoes_sim.network.fluid.problem import Block, Links
from smoes_sim.network.fluid.solve import LinkUse
from smoes_sim.network.fluid.waterfill import ONE, backend

_AFTER_ALL_POSTS = EventPriority(2)
"""SimPy priority of the engine: after everything else at the same time."""
_SAME_INSTANT = 1e-12
"""Times closer than this, relative to the clock, count as equal: sums of floats differ in the last digits."""
_WIDTH, _WIDEST = 2.0, 0.2
"""Width of a window: 2 sqrt(tolerance) of the least time that the flows in flight need. A pass of 64 ranks then differs from
the exact solution by less than the tolerance (docs/accuracy/performance.md)."""
_ENDED = 0.1
"""Share of the running flows that may end in a window; more would be too coarse, because ranks wait for single messages."""
_FEW = 256
"""Messages in flight up to which every rate change is followed even if windows are allowed."""


class ActivePhase:
    """The flows of one phase of an exchange on the network, and SimPy events of their ends at each rank.

    Attributes:
        on_links: Messages that cross shared links, in order.
        first_id: Id of the first of these among the engine's active flows; -1 before any is posted.
        bytes_sent: Bytes that each rank sends, shape (R,).
        sent: Triggered when the last byte of a rank's messages has left, one event per rank.
        received: Triggered when the last byte for a rank has arrived.
        arrival: Seconds when each message has arrived, shape (F,); nan until that is known.
        ready: Seconds when each message leaves its sender's software, shape (F,); infinite until it is posted.
        connection_free: Seconds when the connection of each message has sent what goes before it, shape (F,); infinite
            until that is known.
        follower: The phase whose messages follow these on the same connections.
        receive_posted: Seconds when each rank has posted its receives, shape (R,); infinite until it has.
    """

    def __init__(self, env: simpy.Environment, flows: Flows, num_ranks: int) -> None:
        self.flows = flows
        self.on_links = np.flatnonzero(np.diff(flows.routes.offsets))
        self.first_id = -1
        self.bytes_sent = np.zeros(num_ranks)
        self.arrival = np.full(len(flows), np.nan)
        self.ready = np.full(len(flows), np.inf)
        self.connection_free = np.full(len(flows), 0.0 if flows.behind < 0 else np.inf)
        self.follower: ActivePhase | None = None
        self.receive_posted = np.full(num_ranks, 0.0 if flows.rendezvous == "none" else np.inf)
        self.sent = [simpy.Event(env) for _ in range(num_ranks)]
        self.received = [simpy.Event(env) for _ in range(num_ranks)]
        self._env = env
        self._sides = []
        for ranks, events in ((flows.source, self.sent), (flows.destination, self.received)):
            left = np.bincount(ranks, minlength=num_ranks)
            self._sides.append((ranks, left, np.zeros(num_ranks), events))
            for rank in np.flatnonzero(left == 0):
                events[rank].succeed()

    def record_ends(self, flows: NDArray[np.int64], drained: NDArray[np.float64]) -> None:
        """Record when messages drain, now or later; schedule the events of ranks whose last message that is."""
        self.arrival[flows] = drained + self.flows.latency[flows]
        for (ranks, left, last, events), times in zip(self._sides, (drained, self.arrival[flows]), strict=True):
            ended = ranks[flows]
            np.subtract.at(left, ended, 1)
            np.maximum.at(last, ended, times)
            for rank in np.unique(ended[left[ended] == 0]):
                _trigger(self._env, events[rank], float(last[rank]))


def _trigger(env: simpy.Environment, event: simpy.Event, moment: float) -> None:
    """Trigger an event at a moment that is already known.

    ``event.succeed()`` schedules an event for now only, and a ``Timeout`` that calls it would be a second event in SimPy's
    queue per rank and phase. SimPy's own ``Timeout`` sets the same two fields.
    """
    event._ok = True
    event._value = None
    env.schedule(event, delay=max(moment - env.now, 0.0))


class Engine:
    """Shares a network among all flows in flight.

    Args:
        env: The clock.
        network: Capacities, routes and constants.
        phases: All phases that may be opened; the largest decides whether compiled code is used.
        tolerance: Relative error to aim at; 0 follows every rate change.
        record_links: Record the use of every link over time in ``link_use``.

    Attributes:
        lateness: Longest wait of a message for the end of a window, seconds.
        used_windows: Whether some rate changes were merged into windows.
        link_use: Share of capacity in use from each rate change on; empty unless recorded.
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
        self._active = ActiveFlows(
            _links(network),
            backend(max((len(flows) for flows in phases), default=0)),
            window=min(_WIDEST, _WIDTH * math.sqrt(tolerance)),
            exact_below=_FEW,
            most_ended=_ENDED,
            prune=not record_links,
        )
        self._record_links = record_links
        self._phases: list[ActivePhase] = []
        self._first_ids: list[int] = []
        self._software_free = np.zeros(network.topology.num_ranks)
        self._next: NextEvent | None = None
        self._generation = 0
        self._wakes_at = math.inf

    @property
    def rate_changes(self) -> int:
        """Number of times that the max-min rates were recomputed."""
        return self._active.solves

    def open_all(self, phases: Sequence[Flows]) -> list[ActivePhase]:
        """Phases of an exchange with none of their messages posted; two for each where sends are buffered."""
        cut, sized = (self.network.buffered(flows) for flows in (phases, self.network.sized_all(phases)))
        opened = [self._open(flows, longer) for flows, longer in zip(cut, sized, strict=True)]
        for phase in opened:
            if phase.flows.behind >= 0:
                opened[phase.flows.behind].follower = phase
        return opened

    def _open(self, flows: Flows, sized: Flows) -> ActivePhase:
        """One phase: ``flows`` has the bytes that are sent, ``sized`` the bytes that take as long on the links."""
        phase = ActivePhase(self.env, sized, self.network.topology.num_ranks)
        np.add.at(phase.bytes_sent, flows.source, flows.size)
        return phase

    def post_sends(self, phase: ActivePhase, rank: int, *, at: float | None = None) -> None:
        """Post all messages of a rank in their order, now or at a later time that is already known.

        The sender pays ``per_message`` for each, one after the other.
        """
        first, last = np.searchsorted(phase.flows.source, [rank, rank + 1])
        if first == last:
            return
        begin = max(float(self._software_free[rank]), self.env.now if at is None else at)
        ready = begin + np.cumsum(self.network.per_message * phase.flows.messages[first:last])
        self._software_free[rank] = ready[-1]
        phase.ready[first:last] = ready
        self._release(phase, np.arange(first, last))

    def post_receives(self, phase: ActivePhase, rank: int, *, at: float | None = None) -> None:
        """Post all receives of a rank in a phase with rendezvous, now or at a later time that is already known.

        The rank pays ``per_receive`` for each, one after the other; senders may start after the last one.
        """
        mine = np.flatnonzero(phase.flows.destination == rank)
        posted = self.env.now if at is None else at
        if self.network.per_receive and len(mine):
            begin = max(float(self._software_free[rank]), posted)
            posted = begin + self.network.per_receive * float(phase.flows.messages[mine].sum())
            self._software_free[rank] = posted
        phase.receive_posted[rank] = posted
        self._release(phase, mine)

    def _release(self, phase: ActivePhase, flows: NDArray[np.int64]) -> None:
        """Start those of ``flows`` that are posted, whose receive is posted and whose connection is free.

        Called whenever one of the three becomes known.
        """
        posted = np.maximum(phase.ready[flows], phase.connection_free[flows])
        ready = np.maximum(posted, phase.receive_posted[phase.flows.destination[flows]])
        known = np.isfinite(ready)
        flows, ready = flows[known], ready[known]
        sharing = np.diff(phase.flows.routes.offsets)[flows] > 0
        if not sharing.all():
            alone = flows[~sharing]
            self._complete(phase, alone, ready[~sharing] + phase.flows.size[alone] / phase.flows.ceiling[alone])
            flows, ready = flows[sharing], ready[sharing]
        if len(flows):
            self._activate(phase, flows, ready)

    def _activate(self, phase: ActivePhase, flows: NDArray[np.int64], ready: NDArray[np.float64]) -> None:
        """Hand messages to the active flows with their ready times; wake up for them unless a window is in progress."""
        if phase.first_id < 0:
            phase.first_id = self._active.add(_block(phase.flows, phase.on_links))
            self._phases.append(phase)
            self._first_ids.append(phase.first_id)
        self._active.ready[phase.first_id + np.searchsorted(phase.on_links, flows)] = ready
        earliest = max(float(ready.min()), self.env.now)
        if self._next is not None and self._next.is_window:
            self.lateness = max(self.lateness, self._next.end - earliest)
        else:
            self._wake(earliest)

    def _wake(self, moment: float) -> None:
        """Wake up at ``moment`` unless a wake-up before it is scheduled already."""
        if moment >= self._wakes_at:
            return
        self._generation += 1
        self._wakes_at = moment
        _WakeUp(self, generation=self._generation, delay=max(moment - self.env.now, 0.0))

    def on_wake_up(self, generation: int) -> None:
        """Handle the newest wake-up; ignore older ones."""
        if generation == self._generation:
            self._wakes_at = math.inf
            self._update()

    def _update(self) -> None:
        """Advance all flows to the present and find the next event."""
        active, event = self._active, self._next
        if event is not None and not event.is_window:
            is_over = self.env.now >= event.end * (1 - _SAME_INSTANT)
            active.advance(event, event.end if is_over else self.env.now)
            if is_over:
                self._complete_all(event)
        active.clock = max(active.clock, self.env.now)
        self._next = event = active.next_event()
        if self._record_links:
            rate = np.zeros(len(self.network.capacity)) if event is None else active.loads(event.rate)
            self.link_use.append((active.clock, rate / self.network.capacity))
        if event is None:
            return
        if event.is_window:
            self.used_windows = True
            self._complete_all(event)
            active.advance(event, event.end)
        self._wake(event.end)

    def _complete_all(self, event: NextEvent) -> None:
        """Complete the messages that end with an event, phase by phase."""
        owner = np.searchsorted(self._first_ids, event.ids, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            phase = self._phases[number]
            self._complete(phase, phase.on_links[event.ids[mine] - phase.first_id], event.times[mine])

    def _complete(self, phase: ActivePhase, flows: NDArray[np.int64], drained: NDArray[np.float64]) -> None:
        """Record when messages drain, and release those that follow on the same connections."""
        phase.record_ends(flows, drained)
        if phase.follower is not None:
            phase.follower.connection_free[flows] = drained
            self._release(phase.follower, flows)


def _block(flows: Flows, on_links: NDArray[np.int64]) -> Block:
    """The messages of a phase that cross shared links."""
    offsets = np.concatenate([[0], np.cumsum(np.diff(flows.routes.offsets)[on_links])])
    weight = ONE if flows.routes.share is None else flows.routes.share
    size, ceiling = flows.size[on_links], flows.ceiling[on_links]
    return Block(offsets=offsets, links=flows.routes.links, weight=weight, size=size, ceiling=ceiling)


def _links(network: Network) -> Links:
    topology = network.topology
    return Links(
        capacity=network.capacity,
        incast_flows=topology.incast_flows,
        incast_efficiency=topology.incast_efficiency,
    )


class _WakeUp(simpy.Event):
    """Calls the engine after a delay, after everything else at that time.

    SimPy's ``Timeout`` takes no priority, so this event is scheduled by hand, with the two fields that ``Timeout`` sets.
    """

    def __init__(self, engine: Engine, *, generation: int, delay: float) -> None:
        super().__init__(engine.env)
        self._ok = True
        self._value = None
        self.callbacks.append(lambda _: engine.on_wake_up(generation))
        engine.env.schedule(self, priority=_AFTER_ALL_POSTS, delay=delay)
