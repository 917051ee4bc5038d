"""Max-min fair rates for many flows with their own limits: compact routes, water-filling, sums over links.

Two implementations of the same operations: NumPy arrays (here) and loops compiled by numba (``compiled``); ``backend``
chooses by the number of flows. Shapes: F flows in flight, H links they use, N sum of route lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.compilation import uses_compiled
from smoes_sim.network.fluid import compiled, compiled_routes

Reals = NDArray[np.float64]
Longs = NDArray[np.int64]
Ids = NDArray[np.int32]

ONE = np.ones(1)
"""Weight or part 1 for every flow: an array of length one holds for all."""
_TIE = 1e-12
"""Levels closer than this, relatively, fill together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactRoutes:
    """Routes of F flows over links renumbered 0..H-1, with the weight of the flow on each of its links.

    Attributes:
        start: Flow ``f`` crosses ``local[start[f]:start[f + 1]]``, shape (F + 1,); every flow crosses a link.
        local: Link of each entry, shape (N,).
        weight: How often the flow's rate counts on that link, shape (N,), or (1,) for all.
        links: Original id of each link, shape (H,).
        first: Flows of link ``h`` are ``members[first[h]:first[h + 1]]``, shape (H + 1,); empty if not compiled.
        members: Flow ids, shape (N,), in any order.
    """

    start: Longs
    local: Ids
    weight: Reals
    links: Longs
    first: Longs
    members: Ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What :meth:`CompiledWaterfill.follow` returns.

    Attributes:
        drained: Seconds when each flow ended, shape (F,); nan for those that did not.
        remaining: Bytes left, shape (F,).
        clock: Seconds up to which rate changes were followed.
        changes: Number of times that rates were recomputed.
    """

    drained: Reals
    remaining: Reals
    clock: float
    changes: int


class ArrayWaterfill:
    """Water-filling with NumPy alone, for small problems and where numba is not installed."""

    def select(self, offsets: Longs, links: Ids, weight: Reals, flows: Longs, num_links: int) -> CompactRoutes:
        """Routes of some flows over the links that they use, which are renumbered."""
        length = np.diff(offsets)[flows]
        start = np.concatenate([[0], np.cumsum(length)])
        entry = np.arange(start[-1]) + np.repeat(offsets[flows] - start[:-1], length)
        old, new = np.unique(links[entry], return_inverse=True)
        heavy = weight[entry] if len(weight) > 1 else weight
        none = np.empty(0, np.int64)
        return CompactRoutes(
            start=start,
            local=new.astype(np.int32),
            weight=heavy,
            links=old.astype(np.int64),
            first=none,
            members=none.astype(np.int32),
        )

    def fill(self, routes: CompactRoutes, capacity: Reals, limit: Reals, part: Reals) -> tuple[Reals, Reals]:
        """Max-min fair rates under limits, and the level of each link.

        Flow ``f`` gets ``min(limit[f], part[f] * min over its links of level)``; a link's level is where the sum of
        ``weight * rate`` meets its capacity, infinite where it never does. Flows with limit 0 are idle.

        Args:
            routes: Links of each flow.
            capacity: B/s, shape (H,), > 0.
            limit: B/s, shape (F,), >= 0.
            part: Share of the level that a flow gets, shape (F,) or (1,), > 0.

        Returns:
            Rates in B/s, shape (F,), and levels in B/s, shape (H,).

        Example:
            A link of 12 with flows limited to 2, inf, inf: rates 2, 5, 5 and level 5.
        """
        num_links, rate = len(capacity), np.zeros(len(limit))
        residual, level, floor = capacity.copy(), np.full(num_links, np.inf), 0.0
        live = limit > 0.0
        parts = np.broadcast_to(part, limit.shape)
        flow_of = np.repeat(np.arange(len(limit)), np.diff(routes.start))
        weights = np.broadcast_to(routes.weight, flow_of.shape)
        while live.any():
            on = live[flow_of]
            flow, link, heavy = flow_of[on], routes.local[on], weights[on]
            count = np.bincount(link, weights=heavy * parts[flow], minlength=num_links)
            share = np.divide(residual, count, out=np.full(num_links, np.inf), where=count > 0)
            floor = max(floor, 0.0 if share.min() < 0 else share.min())
            share = np.maximum(share, floor)
            bound = np.full(len(limit), np.inf)
            np.minimum.at(bound, flow, share[link])
            done = live & (limit <= bound * parts)
            if done.any():
                rate[done] = limit[done]
            else:
                lowest = np.full(num_links, np.inf)
                np.minimum.at(lowest, link, bound[flow])
                full = (count > 0) & (lowest >= share * (1 - _TIE))
                level[full] = share[full]
                done[flow[full[link]]] = True
                rate[done] = np.minimum(limit[done], (bound * parts)[done])
            taken = done[flow]
            residual -= np.bincount(link[taken], weights=(heavy * rate[flow])[taken], minlength=num_links)
            live &= ~done
        return rate, level

    def loads(self, routes: CompactRoutes, value: Reals) -> Reals:
        """Sum over flows of ``weight * value`` on each link, shape (H,)."""
        values = np.repeat(value, np.diff(routes.start)) * routes.weight
        return np.bincount(routes.local, weights=values, minlength=len(routes.links)).astype(np.float64)

    def peaks(self, routes: CompactRoutes, value: Reals) -> Reals:
        """Largest value of any flow on each link, shape (H,)."""
        top = np.zeros(len(routes.links))
        np.maximum.at(top, routes.local, np.repeat(value, np.diff(routes.start)))
        return top

    def held_back(self, routes: CompactRoutes, level: Reals, rate: Reals, part: Reals) -> tuple[Longs, Reals, Reals]:
        """Bottleneck of each flow: the link with the smallest level on its route, the first of equal ones.

        Returns:
            Entry of each route, shape (F,), and per link the sums of ``weight * rate`` and ``weight * part`` of the
            running flows whose bottleneck it is, shape (H,) each.
        """
        levels = level[routes.local]
        lowest = np.minimum.reduceat(levels, routes.start[:-1])
        entries = np.flatnonzero(levels == np.repeat(lowest, np.diff(routes.start)))
        entry: Longs = entries[np.searchsorted(entries, routes.start[:-1])]
        link, count = routes.local[entry], len(routes.links)
        weight = routes.weight[entry] if len(routes.weight) > 1 else routes.weight
        running = np.where(rate > 0, weight * part, 0.0)
        held = np.bincount(link, weights=weight * rate, minlength=count).astype(np.float64)
        return entry, held, np.bincount(link, weights=running, minlength=count).astype(np.float64)

    def served(self, link: Longs, full: Reals, share: Reals, shares: Reals) -> Reals:
        """Bytes that the link of each flow serves until each of its flows has had up to those of this one, shape (E,).

        That is the sum over the flows ``g`` of the link of ``share[g] * min(full[g], full[e])``.

        Args:
            link: Link of each flow, shape (E,).
            full: Bytes of each flow, shape (E,).
            share: Share of each flow in its link, shape (E,) or (1,).
            shares: Sum of the shares of all flows of each link, shape (H,); those that are not given have more bytes.
        """
        order = np.lexsort((full, link))
        link, full, share = link[order], full[order], np.broadcast_to(share, len(order))[order]
        bytes_before, shares_before = np.cumsum(share * full), np.cumsum(share)
        first = np.searchsorted(link, link, side="left")
        own = bytes_before - (bytes_before - share * full)[first]
        passed = shares_before - (shares_before - share)[first]
        result = np.empty(len(order))
        result[order] = own + full * (shares[link] - passed)
        return result

    def redundant(self, routes: CompactRoutes, capacity: Reals) -> NDArray[np.bool_]:
        """Whether each link can be left out, shape (H,); always False here, as the search pays on large problems only."""
        return np.zeros(len(capacity), dtype=bool)


class CompiledWaterfill(ArrayWaterfill):
    """Water-filling with compiled loops; every method as in ``ArrayWaterfill``, with another order of additions."""

    def select(self, offsets: Longs, links: Ids, weight: Reals, flows: Longs, num_links: int) -> CompactRoutes:
        """Routes of some flows over the links that they use, which are renumbered."""
        start, local, heavy, old = compiled_routes.select(offsets, links, weight, flows, num_links)
        first, members = compiled_routes.transpose(start, local, len(old))
        return CompactRoutes(start=start, local=local, weight=heavy, links=old, first=first, members=members)

    def fill(self, routes: CompactRoutes, capacity: Reals, limit: Reals, part: Reals) -> tuple[Reals, Reals]:
        """Max-min fair rates under limits, and the level of each link."""
        rate, level = np.empty(len(limit)), np.empty(len(capacity))
        compiled.fill(
            routes.start, routes.local, routes.first, routes.members, routes.weight, capacity, limit, part, rate, level
        )
        return rate, level

    def follow(
        self,
        routes: CompactRoutes,
        capacity: Reals,
        remaining: Reals,
        *,
        ready: Reals,
        ceiling: Reals,
        clock: float = 0.0,
        most: int | None = None,
    ) -> Followed:
        """Follow every rate change from ``clock`` on until all flows have ended, or more than ``most`` are running.

        Args:
            routes: Links of each flow.
            capacity: B/s, shape (H,), > 0; links that deliver less under many flows are not allowed.
            remaining: Bytes left of each flow, shape (F,); 0 or less of flows that have ended.
            ready: Seconds when each flow may start, shape (F,); infinite while that is unknown.
            ceiling: Largest rate of each flow on its own, B/s, shape (F,).
            clock: Seconds.
            most: Number of running flows above which to stop; default any number.
        """
        order = np.argsort(ready, kind="stable")
        order = order[(remaining[order] > 0) & (ready[order] < np.inf)]
        left, drained = remaining.copy(), np.full(len(remaining), np.nan)
        now, changes = compiled.follow(
            routes.start,
            routes.local,
            routes.first,
            routes.members.copy(),  # the order in which a loop leaves them would change the next sums in the last digit
            routes.weight,
            capacity,
            left,
            ready,
            ceiling,
            order,
            clock,
            len(order) if most is None else most,
            drained,
        )
        return Followed(drained=drained, remaining=left, clock=now, changes=changes)

    def loads(self, routes: CompactRoutes, value: Reals) -> Reals:
        """Sum over flows of ``weight * value`` on each link, shape (H,)."""
        return compiled_routes.loads(routes.start, routes.local, routes.weight, value, len(routes.links))

    def peaks(self, routes: CompactRoutes, value: Reals) -> Reals:
        """Largest value of any flow on each link, shape (H,)."""
        return compiled_routes.peaks(routes.start, routes.local, value, len(routes.links))

    def held_back(self, routes: CompactRoutes, level: Reals, rate: Reals, part: Reals) -> tuple[Longs, Reals, Reals]:
        """Bottleneck of each flow, and the rates and parts that each link holds back."""
        held, shares = np.zeros(len(routes.links)), np.zeros(len(routes.links))
        entry = compiled_routes.held_back(routes.start, routes.local, routes.weight, level, rate, part, held, shares)
        return entry, held, shares

    def served(self, link: Longs, full: Reals, share: Reals, shares: Reals) -> Reals:
        """Bytes that the link of each flow serves until each of its flows has had up to those of this one, shape (E,)."""
        return compiled_routes.served(np.argsort(full), link, full, share, shares)

    def redundant(self, routes: CompactRoutes, capacity: Reals) -> NDArray[np.bool_]:
        """Whether each link has neighbours on every route that are together no wider, so that it never fills first, (H,)."""
        if len(routes.weight) > 1:
            return np.zeros(len(capacity), dtype=bool)
        return compiled_routes.redundant(routes.start, routes.local, routes.first, routes.members, capacity)


def backend(num_flows: int, *, compiled: bool = True) -> ArrayWaterfill:
    """Compiled loops for many flows, where ``compiled`` allows them and numba is installed; arrays otherwise."""
    return CompiledWaterfill() if compiled and uses_compiled(num_flows) else ArrayWaterfill()


def max_min_rates(offsets: Longs, links: NDArray[np.integer], capacity: Reals, *, ceiling: Reals | None = None) -> Reals:
    """Rates of flows that share links max-min fairly, B/s, shape (F,).

    All rates rise together; a link that fills freezes its flows, and a flow that reaches its own ceiling freezes alone. In
    the end no flow can gain unless one of equal or lower rate loses. No packets, no order, no round trips.

    Args:
        offsets: Flow ``f`` crosses ``links[offsets[f]:offsets[f + 1]]``, shape (F + 1,).
        links: Link ids.
        capacity: B/s of every link, shape (H,), > 0.
        ceiling: Largest rate of each flow on its own, shape (F,); default infinite.

    Returns:
        Rates, shape (F,); infinite for a flow without links and ceiling.

    Example:
        Flows a and b share a link of 10 B/s, and b crosses a link of 4 B/s too: b gets 4 and a gets 6.

        >>> max_min_rates(np.array([0, 1, 3]), np.array([0, 0, 1]), np.array([10.0, 4.0])).tolist()
        [6.0, 4.0]
    """
    rates = np.full(len(offsets) - 1, np.inf) if ceiling is None else ceiling.astype(np.float64)
    sharing = np.flatnonzero(np.diff(offsets))
    if len(sharing):
        tool = ArrayWaterfill()
        routes = tool.select(offsets, links.astype(np.int32), ONE, sharing, len(capacity))
        rates[sharing], _ = tool.fill(routes, capacity[routes.links], rates[sharing], ONE)
    return rates
