"""Flows in flight: the bytes left of each, and what happens until the max-min rates are recomputed.

The fluid model is ``d remaining[f] / dt = -rate[f]`` with rates max-min fair among the flows that are ready. The next event
ends either an interval of constant rates, in which no flow ends or becomes ready (exact), or a *window*: an interval in
which many flows end. In a window a flow that ends is charged its exact average use, a flow that becomes ready shares the
links for the rest of it, and all others share what is left; every byte is carried exactly once. If bottlenecks stay the same
inside a window, the bytes of each surviving flow are exact, so the error comes from flows whose bottleneck changes, and it
falls with the width of the window. Independent of SimPy and of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smoes_sim.network.fluid.problem import Block, Links, Mask, usable_routes
from smoes_sim.network.fluid.waterfill import ONE, ArrayWaterfill, CompactRoutes, CompiledWaterfill, Ids, Longs, Reals

_SAME_INSTANT = 1e-12
"""Times closer than this, relative to the clock, count as equal."""
_LATE = 1e-6
"""A flow that becomes ready in the last millionth of a window waits for the next window."""
_FEWEST = 64
"""Number of flows that may always end in one window."""
_NARROWINGS = 4
"""Widths tried for a window; each is the time after which the allowed number of flows has ended."""
_ENDED_SHARE = 0.15
"""Routes are compacted when this share of the known flows has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextEvent:
    """The end of the next interval of constant rates, or of the next window, if no other flow is added or becomes ready.

    Attributes:
        end: Time of the event, seconds.
        width: Seconds from the clock to the end, without the rounding of a difference of two clocks.
        ids: Flows that end by then.
        times: Seconds when they end.
        is_window: Whether rates are averages over the whole interval, so that it cannot be cut short.
        places: Positions of the flows that end among the flows in flight.
        rate: Rates of the flows in flight, B/s.
    """

    end: float
    width: float
    ids: Longs
    times: Reals
    is_window: bool
    places: Longs
    rate: Reals


class ActiveFlows:
    """The flows in flight on some links, and a clock.

    Args:
        links: Capacities.
        tool: Water-filling.
        window: Width of a window as a share of the least time that the flows in flight still need; 0 is exact.
        exact_below: Number of flows in flight up to which every rate change is followed exactly, whatever ``window`` is.
        most_ended: Largest share of the running flows that may end in one window. For the makespan alone 1 is enough,
            because only the last flows decide it; a smaller share is needed where something waits for single flows.
        prune: Whether to leave out links that can never be a bottleneck.

    Attributes:
        ready: Seconds when each flow that was added may start; infinite until that is known.
        clock: Seconds.
        solves: Number of times that the max-min rates were recomputed.
    """

    def __init__(
        self,
        links: Links,
        tool: ArrayWaterfill,
        *,
        window: float,
        exact_below: int,
        most_ended: float = 1.0,
        prune: bool = True,
    ) -> None:
        self._links, self._tool, self._window, self._exact_below = links, tool, window, exact_below
        self._most_ended, self._prune = most_ended, prune
        self.ready: Reals = np.empty(0)
        self.clock = 0.0
        self.solves = 0
        self._ids: Longs = np.empty(0, np.int64)
        self._remaining: Reals = np.empty(0)
        self._ceiling: Reals = np.empty(0)
        self._rate: Reals = np.empty(0)
        self._offsets: Longs = np.zeros(1, np.int64)
        self._entries: Ids = np.empty(0, np.int32)
        self._weight: Reals = ONE
        self._num_active = 0
        self._has_incast = False
        self._new: list[tuple[int, Block]] = []
        self._given: CompactRoutes | None = None

    def add(self, block: Block, *, routes: CompactRoutes | None = None, rate: Reals | None = None) -> int:
        """Add flows, which wait for a ``ready`` time; returns the id of the first one.

        Args:
            block: Flows.
            routes: What :func:`usable_routes` makes of the block, if it is known and these are the first flows.
            rate: Their max-min rates while all run, B/s, shape (F,), if they are known and these are the first flows.
        """
        first = len(self.ready)
        self._given = None if first else routes
        self._rate = self._rate if first or rate is None else rate
        self.ready = np.concatenate([self.ready, np.full(len(block.size), np.inf)])
        self._new.append((first, block))
        return first

    def next_event(self) -> NextEvent | None:
        """The next event after the clock; None if no flow in flight has a ready time."""
        self._merge_new()
        ready = self.ready[self._ids]
        live = self._remaining > 0
        waiting = ready[live & (ready > self.clock * (1 + _SAME_INSTANT))]
        then = float(waiting.min(initial=np.inf))
        running = self._num_active - len(waiting)
        if not running:
            return None if then == np.inf else self._idle_until(then)
        ready_now = live & (ready <= self.clock * (1 + _SAME_INSTANT))
        if self._window == 0 or running <= self._exact_below:
            return self._interval(ready_now, then)
        return self._windowed(ready, ready_now, then)

    def advance(self, event: NextEvent, until: float) -> None:
        """Advance all flows to ``until``, which is at most the end of the event, and exactly its end for a window."""
        is_over = until >= event.end
        self._remaining -= event.rate * (event.width if is_over else until - self.clock)
        if is_over:
            self._remaining[event.places] = 0.0
            self._num_active -= len(event.places)
        self._rate = event.rate
        self.clock = until

    def follow(self) -> tuple[Longs, Reals]:
        """Follow every rate change in one compiled loop, while no more flows run than are always followed exactly.

        Nothing happens without compiled code, or where links deliver less under many flows. No flow may be added meanwhile.

        Returns:
            Ids of the flows that ended, and seconds when they did.
        """
        self._merge_new()
        running = np.count_nonzero((self._remaining > 0) & (self.ready[self._ids] <= self.clock * (1 + _SAME_INSTANT)))
        most = len(self._ids) if self._window == 0 else self._exact_below
        if not isinstance(self._tool, CompiledWaterfill) or self._has_incast or running > most:
            return np.empty(0, np.int64), np.empty(0)
        followed = self._tool.follow(
            self._routes,
            self._local.capacity,
            self._remaining,
            ready=self.ready[self._ids],
            ceiling=self._ceiling,
            clock=self.clock,
            most=most,
        )
        places = np.flatnonzero(~np.isnan(followed.drained))
        self._remaining, self.clock = followed.remaining, followed.clock
        self._num_active -= len(places)
        self.solves += followed.changes
        return self._ids[places], followed.drained[places]

    def loads(self, rate: Reals) -> Reals:
        """B/s on every link for given rates of the flows in flight, shape (H,)."""
        weights = np.repeat(rate, np.diff(self._offsets)) * self._weight
        return np.bincount(self._entries, weights=weights, minlength=len(self._links.capacity)).astype(np.float64)

    def _idle_until(self, moment: float) -> NextEvent:
        nothing, rate = np.empty(0, np.int64), np.zeros(len(self._ids))
        width = moment - self.clock
        return NextEvent(end=moment, width=width, ids=nothing, times=np.empty(0), is_window=False, places=nothing, rate=rate)

    def _interval(self, ready_now: Mask, then: float) -> NextEvent:
        """An interval of constant rates, until a flow ends or the next one is ready at ``then``."""
        rate, _ = self._fill(np.where(ready_now, self._ceiling, 0.0), ONE)
        left = np.divide(self._remaining, rate, out=np.full(len(rate), np.inf), where=rate > 0)
        step = float(left.min())
        end = self.clock + step
        if then < end:
            step, end = max(then - self.clock, 0.0), then
        places = np.flatnonzero(left <= step + _SAME_INSTANT * end)
        times = self.clock + left[places]
        return NextEvent(end=end, width=step, ids=self._ids[places], times=times, is_window=False, places=places, rate=rate)

    def _windowed(self, ready: Reals, ready_now: Mask, then: float) -> NextEvent:
        """A window, narrowed while more flows end in it than allowed."""
        running = int(np.count_nonzero(ready_now))
        most = max(self._most_ended * running, _FEWEST)
        width = min(self._window * self._least_time(ready_now), self._time_until_ended(ready_now, most))
        for attempt in range(_NARROWINGS):
            limit, part, open_for = self._in_window(ready, ready_now, width)
            rate, level = self._fill(limit, part, open_for)
            places = np.flatnonzero((rate * width >= self._remaining * (1 - _SAME_INSTANT)) & (rate > 0))
            if not len(places) and part is ONE:
                return self._interval(ready_now, then)
            if attempt == _NARROWINGS - 1 or len(places) <= 2 * most:
                break
            after = self._times_in_window(places, rate, level, part, width)
            width = float(np.partition(after, int(most))[int(most)])
        after = self._times_in_window(places, rate, level, part, width)
        return NextEvent(
            end=self.clock + width,
            width=width,
            ids=self._ids[places],
            times=self.clock + after,
            is_window=True,
            places=places,
            rate=rate,
        )

    def _time_until_ended(self, ready_now: Mask, most: float) -> float:
        """Seconds until ``most`` flows have ended if rates stay as they were last; infinite if fewer are running."""
        known = ready_now & (self._rate > 0)
        if 2 * np.count_nonzero(known) < np.count_nonzero(ready_now):
            self._rate, _ = self._fill(np.where(ready_now, self._ceiling, 0.0), ONE)
            known = ready_now
        if np.count_nonzero(known) <= most:
            return np.inf
        left = self._remaining[known] / self._rate[known]
        return float(np.partition(left, int(most))[int(most)])

    def _in_window(self, ready: Reals, ready_now: Mask, width: float) -> tuple[Reals, Reals, Reals]:
        """Largest mean rate of each flow in a window, B/s; share of the window in which flows and links are active."""
        share = np.clip((self.clock + width - ready) / width, 0.0, 1.0)
        joins = (self._remaining > 0) & ((share > _LATE) | ready_now)
        if not (joins & ~ready_now).any():
            return np.where(ready_now, np.minimum(self._ceiling, self._remaining / width), 0.0), ONE, ONE
        part = np.where(ready_now, 1.0, np.maximum(share, _LATE))
        limit = np.where(joins, np.minimum(self._ceiling * part, self._remaining / width), 0.0)
        return limit, part, self._tool.peaks(self._routes, np.where(joins, part, 0.0))

    def _times_in_window(self, ended: Longs, rate: Reals, level: Reals, part: Reals, width: float) -> Reals:
        """Seconds from the start of a window to the end of flows, by processor sharing on the bottleneck of each.

        A flow that would send ``x`` bytes in a full window (``remaining / part``) ends when its bottleneck has served up to
        ``x`` bytes of every flow whose bottleneck it is: ``T(x) = sum over these of part * min(x_g, x) / capacity that the
        other flows leave``. A link that does not fill is idle after its largest flow ends, at ``width * load / capacity``;
        the level that gives this is ``largest * capacity / load``. A flow that joins late is served from then on.
        """
        load = self._tool.loads(self._routes, rate)
        top = self._tool.peaks(self._routes, rate / part)
        dry = np.divide(top * self._capacity, load, out=np.full(len(load), np.inf), where=load > 0)
        entry, held, shares = self._tool.held_back(self._routes, np.minimum(level, dry), rate, part)
        entry, own = entry[ended], part[ended] if len(part) > 1 else part
        link = self._routes.local[entry].astype(np.int64)
        weight = self._routes.weight[entry] if len(self._routes.weight) > 1 else ONE
        left_for_them = np.maximum(self._capacity - (load - held), held)
        full = self._remaining[ended] / own
        served = self._tool.served(link, full, own * weight, shares) / left_for_them[link]
        alone = self._remaining[ended] / self._ceiling[ended]
        after = (1 - own) * width + np.maximum(own * served, alone)
        return np.minimum(after, width)

    def _least_time(self, ready_now: Mask) -> float:
        """Least time that the running flows need, seconds."""
        remaining = np.where(ready_now, self._remaining, 0.0)
        load = self._tool.loads(self._routes, remaining)
        return float(max((load / self._local.capacity).max(), (remaining / self._ceiling).max()))

    def _fill(self, limit: Reals, part: Reals, open_for: Reals = ONE) -> tuple[Reals, Reals]:
        """Max-min rates and the level of each link, B/s; ``open_for`` is the share of the time in which a link is used."""
        self.solves += 1
        capacity = self._local.capacity * np.maximum(open_for, _LATE)
        if self._has_incast:
            count = self._tool.loads(self._routes, (limit > 0).astype(np.float64))
            crowded = count > self._local.incast_flows * (1 + _SAME_INSTANT)
            capacity = np.where(crowded, capacity * self._local.incast_efficiency, capacity)
        self._capacity = capacity
        return self._tool.fill(self._routes, capacity, limit, part)

    def _merge_new(self) -> None:
        """Merge blocks that were added; compact the routes if enough flows have ended."""
        if self._new:
            self._keep(np.flatnonzero(self._remaining > 0))
            lengths = [np.diff(self._offsets), *(np.diff(block.offsets) for _, block in self._new)]
            weights = [(self._weight, len(self._entries)), *((block.weight, len(block.links)) for _, block in self._new)]
            self._weight = _joined(weights)
            self._offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
            self._entries = np.concatenate([self._entries, *(block.links for _, block in self._new)])
            ids = [first + np.arange(len(block.size)) for first, block in self._new]
            self._ids = np.concatenate([self._ids, *ids])
            self._remaining = np.concatenate([self._remaining, *(block.size for _, block in self._new)])
            self._ceiling = np.concatenate([self._ceiling, *(block.ceiling for _, block in self._new)])
            self._rate = np.concatenate([self._rate, np.zeros(len(self._ids) - len(self._rate))])
            self._num_active = len(self._ids)
            self._new = []
            self._compile()
        elif self._num_active < (1 - _ENDED_SHARE) * len(self._ids):
            self._keep(np.flatnonzero(self._remaining > 0))
            self._compile()

    def _keep(self, kept: Longs) -> None:
        """Keep the flows at some positions only."""
        if len(kept) < len(self._ids):
            routes = self._tool.select(self._offsets, self._entries, self._weight, kept, len(self._links.capacity))
            self._offsets, self._weight = routes.start, routes.weight
            self._entries = routes.links[routes.local].astype(np.int32)
            self._ids, self._remaining = self._ids[kept], self._remaining[kept]
            self._ceiling, self._rate = self._ceiling[kept], self._rate[kept]

    def _compile(self) -> None:
        """Build the routes over the links that are in use and can be a bottleneck."""
        given, self._given = self._given, None
        self._routes = given or usable_routes(
            self._tool, self._offsets, self._entries, self._weight, self._links, prune=self._prune
        )
        self._local = self._links.some(self._routes.links)
        self._capacity = self._local.capacity
        self._has_incast = bool(self._local.is_limited.any())


def _joined(weights: list[tuple[Reals, int]]) -> Reals:
    """Concatenated weights of several lists of entries; shape (1,) where every weight is 1."""
    if all(len(weight) == 1 and weight[0] == 1.0 for weight, _ in weights):
        return ONE
    return np.concatenate([np.broadcast_to(weight, count) for weight, count in weights])
