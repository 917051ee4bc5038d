"""Max-min fair rates for many flows with limits of their own: compact routes, water-filling, sums over links.

Two implementations of the same four sums: arrays only (here) and loops compiled by numba (``compiled``), which
``backend`` imports when asked. Shapes: F flows in flight, H links they use, N sum of route lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Longs = NDArray[np.int64]
Ids = NDArray[np.int32]

ONE = np.ones(1)
"""A weight or part of one for every flow: arrays of length one stand for all."""
_TIE = 1e-12
"""Levels closer than this, relatively, fill together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Routes of F flows over links 0..H-1, with the number of real flows that each entry stands for.

    Attributes:
        start: Flow ``f`` crosses ``local[start[f]:start[f + 1]]``, shape (F + 1,); every flow crosses a link.
        local: Link of each entry, shape (N,).
        weight: How often the flow's rate counts on that link, shape (N,), or (1,) for all.
        links: Id of each link outside, shape (H,).
        first: Flows of link ``h`` are ``members[first[h]:first[h + 1]]``, shape (H + 1,); empty if not compiled.
        members: Flow ids, shape (N,), in any order.
    """

    start: Longs
    local: Ids
    weight: Reals
    links: Longs
    first: Longs
    members: Ids


class ArrayWaterfill:
    """Water-filling with NumPy alone; for small problems and where numba is missing."""

    def select(self, offsets: Longs, links: Ids, weight: Reals, flows: Longs, num_links: int) -> Routes:
        """Routes of some of the flows, over the links that these use."""
        length = np.diff(offsets)[flows]
        start = np.concatenate([[0], np.cumsum(length)])
        entry = np.arange(start[-1]) + np.repeat(offsets[flows] - start[:-1], length)
        old, new = np.unique(links[entry], return_inverse=True)
        heavy = weight[entry] if len(weight) > 1 else weight
        none = np.empty(0, np.int64)
        return Routes(
            start=start,
            local=new.astype(np.int32),
            weight=heavy,
            links=old.astype(np.int64),
            first=none,
            members=none.astype(np.int32),
        )

    def fill(self, routes: Routes, capacity: Reals, limit: Reals, part: Reals) -> tuple[Reals, Reals]:
        """Max-min fair rates under limits, and the level of each link.

        Flow ``f`` gets ``min(limit[f], part[f] * min over its links of level)``; a link's level is where the sum of
        ``weight * rate`` meets its capacity, infinite where it never does. Flows with limit 0 do not take part.

        Args:
            routes: Who crosses what.
            capacity: B/s, shape (H,), > 0.
            limit: B/s, shape (F,), >= 0.
            part: Share of a level that a flow gets, shape (F,) or (1,), > 0.

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

    def loads(self, routes: Routes, value: Reals) -> Reals:
        """Sum over flows of ``weight * value`` on each link, shape (H,)."""
        values = np.repeat(value, np.diff(routes.start)) * routes.weight
        return np.bincount(routes.local, weights=values, minlength=len(routes.links)).astype(np.float64)

    def peaks(self, routes: Routes, value: Reals) -> Reals:
        """Largest value of any flow on each link, shape (H,)."""
        top = np.zeros(len(routes.links))
        np.maximum.at(top, routes.local, np.repeat(value, np.diff(routes.start)))
        return top

    def held_back(self, routes: Routes, level: Reals, rate: Reals, part: Reals) -> tuple[Longs, Reals, Reals]:
        """Which link holds each flow back: the one with the smallest level on its route, the first of equal ones.

        Returns:
            Entry of each route, shape (F,), and per link the sums of ``weight * rate`` and ``weight * part`` of the
            running flows that it holds back, shape (H,) each.
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

    def redundant(self, routes: Routes, capacity: Reals) -> NDArray[np.bool_]:
        """Links that can be left out; none are looked for, as this saves time only on large problems."""
        return np.zeros(len(capacity), dtype=bool)


class CompiledWaterfill(ArrayWaterfill):
    """Water-filling with compiled loops; every method as in ``ArrayWaterfill``, in another order of additions."""

    def __init__(self) -> None:
        from smoes_sim.network.fluid import compiled  # noqa: PLC0415 - it compiles or loads a cache, so only when needed

        self._loops = compiled

    def select(self, offsets: Longs, links: Ids, weight: Reals, flows: Longs, num_links: int) -> Routes:
        """Routes of some of the flows, over the links that these use."""
        start, local, heavy, old = self._loops.select(offsets, links, weight, flows, num_links)
        first, members = self._loops.transpose(start, local, len(old))
        return Routes(start=start, local=local, weight=heavy, links=old, first=first, members=members)

    def fill(self, routes: Routes, capacity: Reals, limit: Reals, part: Reals) -> tuple[Reals, Reals]:
        """Max-min fair rates under limits, and the level of each link."""
        rate, level = np.empty(len(limit)), np.empty(len(capacity))
        self._loops.fill(
            routes.start, routes.local, routes.first, routes.members, routes.weight, capacity, limit, part, rate, level
        )
        return rate, level

    def loads(self, routes: Routes, value: Reals) -> Reals:
        """Sum over flows of ``weight * value`` on each link, shape (H,)."""
        return self._loops.loads(routes.start, routes.local, routes.weight, value, len(routes.links))

    def peaks(self, routes: Routes, value: Reals) -> Reals:
        """Largest value of any flow on each link, shape (H,)."""
        return self._loops.peaks(routes.start, routes.local, value, len(routes.links))

    def held_back(self, routes: Routes, level: Reals, rate: Reals, part: Reals) -> tuple[Longs, Reals, Reals]:
        """Which link holds each flow back, and how much each link holds back."""
        held, shares = np.zeros(len(routes.links)), np.zeros(len(routes.links))
        entry = self._loops.held_back(routes.start, routes.local, routes.weight, level, rate, part, held, shares)
        return entry, held, shares

    def redundant(self, routes: Routes, capacity: Reals) -> NDArray[np.bool_]:
        """Links whose neighbours on every route are together no wider, so that they never fill first."""
        if len(routes.weight) > 1:
            return np.zeros(len(capacity), dtype=bool)
        return self._loops.redundant(routes.start, routes.local, routes.first, routes.members, capacity)


def backend(*, compiled: bool) -> ArrayWaterfill:
    """Compiled loops if they are wanted and numba is installed, arrays otherwise."""
    return CompiledWaterfill() if compiled and find_spec("numba") is not None else ArrayWaterfill()
