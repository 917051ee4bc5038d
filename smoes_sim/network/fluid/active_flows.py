"""Flows in flight: what remains of each, and what happens until rates are shared anew.

The fluid model is ``d remaining[f] / dt = -rate[f]`` with rates max-min fair among the flows that are ready. A *plan* is
either an interval of constant rates, up to the next moment at which a flow ends or becomes ready (exact), or a *window*:
a stretch of time in which many flows end. In a window a flow that ends is charged its exact average use, one that becomes
ready takes part for the rest of it, every other shares what is left; no byte is lost or carried twice. With bottlenecks
that stay the same inside a window the bytes of each survivor are exact, so the error comes from flows that change
bottleneck and falls with the window. Knows neither SimPy nor ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.fluid.waterfill import ONE, ArrayWaterfill, Ids, Longs, Reals

Mask = NDArray[np.bool_]
_SAME_INSTANT = 1e-12
"""Events closer than this, relative to the clock, happen together."""
_LATE = 1e-6
"""A flow that becomes ready in the last millionth of a window waits for the next one."""
_FEWEST = 64
"""Flows that may always end in one window."""
_NARROWINGS = 4
"""Widths tried for a window, each the time after which as much as is allowed has ended."""
_DEAD = 0.15
"""Routes are packed anew when this share of the known flows has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What the links can carry.

    Attributes:
        capacity: B/s, shape (H,), > 0.
        incast_flows: Flows on a link above which it delivers less, shape (H,); infinite where it never does.
        incast_efficiency: The share of its capacity that it then delivers, shape (H,).
    """

    capacity: Reals
    incast_flows: Reals
    incast_efficiency: Reals

    @classmethod
    def without_incast(cls, capacity: Reals) -> Links:
        """Links that deliver all they can, however many flows they carry."""
        return cls(
            capacity=capacity,
            incast_flows=np.full(len(capacity), np.inf),
            incast_efficiency=np.ones(len(capacity)),
        )

    def some(self, links: Longs) -> Links:
        """The same of some links, in their order."""
        return Links(
            capacity=self.capacity[links],
            incast_flows=self.incast_flows[links],
            incast_efficiency=self.incast_efficiency[links],
        )

    @property
    def is_limited(self) -> Mask:
        """Where incast can lower the capacity, shape (H,)."""
        return np.isfinite(self.incast_flows) & (self.incast_efficiency < 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Flows that are announced together.

    Attributes:
        offsets: Flow ``f`` crosses ``links[offsets[f]:offsets[f + 1]]``, at least one link, shape (F + 1,).
        links: Link ids.
        weight: Share of the flow that crosses each entry, shape (N,), or (1,) for all.
        size: Bytes, shape (F,), > 0.
        ceiling: B/s that each flow cannot exceed by itself, shape (F,).
    """

    offsets: Longs
    links: Ids
    weight: Reals
    size: Reals
    ceiling: Reals


@dataclass(frozen=True, slots=True, kw_only=True)
class NextEvent:
    """What happens next if nothing else becomes known.

    Attributes:
        end: Seconds.
        ids: Flows that end by then.
        times: When they do, seconds.
        is_window: Whether rates are averages over the whole plan, so that it cannot be cut short.
        width: Seconds from its start to its end, not rounded as the difference of two clocks is.
        places: Where the flows that end stand among those in flight.
        rate: B/s of those in flight.
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
        window: Width of a window as a share of the least time that what is in flight still needs; 0 is exact.
        exact_below: Flows in flight up to which every change is followed exactly whatever the window.
        most_ended: Share of what is running that may end in one window. Only the last ones decide the makespan, so 1 is
            enough for that; when each flow ends matters to whoever waits for it.
        prune: Leave out links that can never be a bottleneck.

    Attributes:
        ready: When each flow ever announced may start, infinite while nobody knows.
        clock: Seconds.
        solves: How often rates were shared anew.
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
        self._alive = 0
        self._has_incast = False
        self._new: list[tuple[int, Block]] = []

    def announce(self, block: Block) -> int:
        """Make flows known; they wait for a ``ready`` time. Returns the id of the first one."""
        first = len(self.ready)
        self.ready = np.concatenate([self.ready, np.full(len(block.size), np.inf)])
        self._new.append((first, block))
        return first

    def plan(self) -> NextEvent | None:
        """The next interval or window from the clock on; None if no known flow has a ready time."""
        self._take_in()
        ready = self.ready[self._ids]
        live = self._remaining > 0
        waiting = ready[live & (ready > self.clock * (1 + _SAME_INSTANT))]
        then = float(waiting.min(initial=np.inf))
        running = self._alive - len(waiting)
        if not running:
            return None if then == np.inf else self._idle_until(then)
        ready_now = live & (ready <= self.clock * (1 + _SAME_INSTANT))
        if self._window == 0 or running <= self._exact_below:
            return self._interval(ready_now, then)
        return self._windowed(ready, ready_now, then)

    def follow(self, plan: NextEvent, until: float) -> None:
        """Bring all flows to a moment of a plan, its end for a window."""
        is_over = until >= plan.end
        self._remaining -= plan.rate * (plan.width if is_over else until - self.clock)
        if is_over:
            self._remaining[plan.places] = 0.0
            self._alive -= len(plan.places)
        self._rate = plan.rate
        self.clock = until

    def loads(self, rate: Reals) -> Reals:
        """B/s on every link under some rates of the known flows, shape (H,)."""
        weights = np.repeat(rate, np.diff(self._offsets)) * self._weight
        return np.bincount(self._entries, weights=weights, minlength=len(self._links.capacity)).astype(np.float64)

    def _idle_until(self, moment: float) -> NextEvent:
        nothing, rate = np.empty(0, np.int64), np.zeros(len(self._ids))
        width = moment - self.clock
        return NextEvent(end=moment, width=width, ids=nothing, times=np.empty(0), is_window=False, places=nothing, rate=rate)

    def _interval(self, ready_now: Mask, then: float) -> NextEvent:
        """Constant rates until a flow ends or the next is ready."""
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
        """A window, narrowed while more ends in it than is allowed."""
        running = int(np.count_nonzero(ready_now))
        most = max(self._most_ended * running, _FEWEST)
        width = min(self._window * self._least_time(ready_now), self._foreseen(ready_now, most))
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

    def _foreseen(self, ready_now: Mask, most: float) -> float:
        """Seconds until as much has ended as is allowed, if rates stay as they were last; infinite if less is running."""
        known = ready_now & (self._rate > 0)
        if 2 * np.count_nonzero(known) < np.count_nonzero(ready_now):
            self._rate, _ = self._fill(np.where(ready_now, self._ceiling, 0.0), ONE)
            known = ready_now
        if np.count_nonzero(known) <= most:
            return np.inf
        left = self._remaining[known] / self._rate[known]
        return float(np.partition(left, int(most))[int(most)])

    def _in_window(self, ready: Reals, ready_now: Mask, width: float) -> tuple[Reals, Reals, Reals]:
        """What flows can use at most in a window, and the part of it in which flows and links take part."""
        share = np.clip((self.clock + width - ready) / width, 0.0, 1.0)
        joins = (self._remaining > 0) & ((share > _LATE) | ready_now)
        if not (joins & ~ready_now).any():
            return np.where(ready_now, np.minimum(self._ceiling, self._remaining / width), 0.0), ONE, ONE
        part = np.where(ready_now, 1.0, np.maximum(share, _LATE))
        limit = np.where(joins, np.minimum(self._ceiling * part, self._remaining / width), 0.0)
        return limit, part, self._tool.peaks(self._routes, np.where(joins, part, 0.0))

    def _times_in_window(self, ended: Longs, rate: Reals, level: Reals, part: Reals, width: float) -> Reals:
        """Seconds from the start of a window to the end of flows, by processor sharing on the link that holds one back.

        A flow that leaves ``x`` bytes in a full window (``remaining / part``) ends when its link has served every flow
        that it holds back up to ``x``: ``T(x) = sum over them of part * min(x_g, x) / what others leave of the link``. A
        link that does not fill runs dry when its largest flow ends, at ``width * load / capacity``; the level that says
        so is ``largest * capacity / load``. Who joins late is served from then on.
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
        order = np.lexsort((full, link))
        share = np.broadcast_to(own * weight, len(ended))
        served = np.empty(len(ended))
        served[order] = _served(link[order], full[order], share[order], shares) / left_for_them[link[order]]
        alone = self._remaining[ended] / self._ceiling[ended]
        after = (1 - own) * width + np.maximum(own * served, alone)
        return np.minimum(after, width)

    def _least_time(self, ready_now: Mask) -> float:
        """Seconds that what is running needs at least."""
        remaining = np.where(ready_now, self._remaining, 0.0)
        load = self._tool.loads(self._routes, remaining)
        return float(max((load / self._local.capacity).max(), (remaining / self._ceiling).max()))

    def _fill(self, limit: Reals, part: Reals, open_for: Reals = ONE) -> tuple[Reals, Reals]:
        """Max-min rates, links being of use for a share of the time, and the level of each link."""
        self.solves += 1
        capacity = self._local.capacity * np.maximum(open_for, _LATE)
        if self._has_incast:
            count = self._tool.loads(self._routes, (limit > 0).astype(np.float64))
            crowded = count > self._local.incast_flows * (1 + _SAME_INSTANT)
            capacity = np.where(crowded, capacity * self._local.incast_efficiency, capacity)
        self._capacity = capacity
        return self._tool.fill(self._routes, capacity, limit, part)

    def _take_in(self) -> None:
        """Pack what is known if blocks were announced or enough has ended."""
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
            self._alive = len(self._ids)
            self._new = []
            self._compile()
        elif self._alive < (1 - _DEAD) * len(self._ids):
            self._keep(np.flatnonzero(self._remaining > 0))
            self._compile()

    def _keep(self, kept: Longs) -> None:
        """Forget flows that ended."""
        if len(kept) < len(self._ids):
            routes = self._tool.select(self._offsets, self._entries, self._weight, kept, len(self._links.capacity))
            self._offsets, self._weight = routes.start, routes.weight
            self._entries = routes.links[routes.local].astype(np.int32)
            self._ids, self._remaining = self._ids[kept], self._remaining[kept]
            self._ceiling, self._rate = self._ceiling[kept], self._rate[kept]

    def _compile(self) -> None:
        """Routes over the links that are used and can be a bottleneck."""
        everything = np.arange(len(self._ids))
        num_links = len(self._links.capacity)
        routes = self._tool.select(self._offsets, self._entries, self._weight, everything, num_links)
        if self._prune:
            local = self._links.some(routes.links)
            gone = self._tool.redundant(routes, local.capacity) & (~local.is_limited)
            if gone.any():
                kept = ~gone[routes.local]
                offsets = np.concatenate([[0], np.cumsum(kept)])[routes.start]
                entries = routes.links[routes.local[kept]].astype(np.int32)
                weight = routes.weight[kept] if len(routes.weight) > 1 else routes.weight
                routes = self._tool.select(offsets, entries, weight, everything, num_links)
        self._routes = routes
        self._local = self._links.some(routes.links)
        self._capacity = self._local.capacity
        self._has_incast = bool(self._local.is_limited.any())


def _served(link: Longs, full: Reals, share: Reals, shares: Reals) -> Reals:
    """Bytes that a link serves until all its flows have ``full[e]``: sum of share * min(full, full[e]), for each ``e``.

    ``link`` and ``full`` are in ascending order, ``shares`` is the sum over all flows of each link, those that do not end
    included.
    """
    bytes_before, shares_before = np.cumsum(share * full), np.cumsum(share)
    first = np.searchsorted(link, link, side="left")
    own = bytes_before - (bytes_before - share * full)[first]
    passed = shares_before - (shares_before - share)[first]
    return own + full * (shares[link] - passed)


def _joined(weights: list[tuple[Reals, int]]) -> Reals:
    """Weights of several lists of entries, one for all where every one is 1."""
    if all(len(weight) == 1 and weight[0] == 1.0 for weight, _ in weights):
        return ONE
    return np.concatenate([np.broadcast_to(weight, count) for weight, count in weights])
