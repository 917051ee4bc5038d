"""The loops of water-filling, compiled by numba; imported only when a problem is large enough.

Importing this module compiles for some seconds once, or loads the cache on disk (see ``network.compilation``). Every
function has a counterpart in ``waterfill`` written with arrays only. Shapes: F flows in flight, H links in use, N sum of
route lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., object])
Reals = NDArray[np.float64]
Longs = NDArray[np.int64]
Ids = NDArray[np.int32]

_STALE = 1e-14
"""A link whose share rose by more than this, relatively, since it was queued is queued again."""
_PASSES = 6
"""Sweeps that settle flows below their fair share before the queue starts; a sweep with few hits is the last."""


def _jit(signature: str) -> Callable[[_Function], _Function]:
    """Compile a function, from the cache on disk if there is a place for one."""

    def compiled(function: _Function) -> _Function:
        try:
            result = numba.njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except RuntimeError:  # numba finds no directory that it may write to
            result = numba.njit(signature, nogil=True, error_model="numpy")(function)
        return cast(_Function, result)

    return compiled


@_jit("(i8[::1], i4[::1], f8[::1], i8[::1], i8)")
def select(offsets: Longs, links: Ids, weight: Reals, flows: Longs, num_links: int) -> tuple[Longs, Ids, Reals, Longs]:
    """Routes of some flows over links renumbered 0, 1, ... in order of appearance; the last array has the old ids."""
    start = np.zeros(len(flows) + 1, np.int64)
    for i in range(len(flows)):
        start[i + 1] = start[i] + offsets[flows[i] + 1] - offsets[flows[i]]
    is_weighted = len(weight) > 1
    local = np.empty(start[-1], np.int32)
    heavy = np.empty(start[-1] if is_weighted else 1, np.float64)
    if len(weight) == 1:
        heavy[0] = weight[0]  # an assignment of slices would take seconds to compile
    new = np.full(num_links, -1, np.int32)
    old = np.empty(num_links, np.int64)
    count, at = 0, 0
    for i in range(len(flows)):
        for edge in range(offsets[flows[i]], offsets[flows[i] + 1]):
            link = links[edge]
            if new[link] < 0:
                new[link] = count
                old[count] = link
                count += 1
            local[at] = new[link]
            if is_weighted:
                heavy[at] = weight[edge]
            at += 1
    return start, local, heavy, old[:count].copy()


@_jit("(i8[::1], i4[::1], i8)")
def transpose(start: Longs, local: Ids, num_links: int) -> tuple[Longs, Ids]:
    """Flows of each link: offsets, shape (H + 1,), and flow ids, shape (N,)."""
    first = np.zeros(num_links + 1, np.int64)
    for link in local:
        first[link + 1] += 1
    for link in range(num_links):
        first[link + 1] += first[link]
    cursor = first[:-1].copy()
    members = np.empty(len(local), np.int32)
    for flow in range(len(start) - 1):
        for edge in range(start[flow], start[flow + 1]):
            link = local[edge]
            members[cursor[link]] = flow
            cursor[link] += 1
    return first, members


@_jit("(f8[::1], i8[::1], i8, i8)")
def _sift(keys: Reals, owner: Longs, at: int, size: int) -> None:
    """Let an entry of the queue sink below smaller ones."""
    key, link = keys[at], owner[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] < keys[child]:
            child += 1
        if keys[child] >= key:
            break
        keys[at], owner[at] = keys[child], owner[child]
        at = child
    keys[at], owner[at] = key, link


@_jit("(i8, f8, f8, i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1])")
def _freeze(
    flow: int, value: float, share: float, start: Longs, local: Ids, weight: Reals,
    rate: Reals, residual: Reals, count: Reals, left: Longs,
) -> None:  # fmt: skip
    """Give a flow its rate and take that from its links."""
    rate[flow] = value
    step = 1 if len(weight) > 1 else 0
    for edge in range(start[flow], start[flow + 1]):
        link = local[edge]
        heavy = weight[edge * step]
        residual[link] -= heavy * value
        count[link] -= heavy * share
        left[link] -= 1


@_jit("(i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1], f8[::1])")
def _settle(
    start: Longs, local: Ids, weight: Reals, part: Reals,
    rate: Reals, residual: Reals, count: Reals, left: Longs, share: Reals,
) -> None:  # fmt: skip
    """Freeze flows whose own limit is below the share that each of their links guarantees."""
    step = 1 if len(part) > 1 else 0
    for _ in range(_PASSES):
        for link in range(len(share)):
            share[link] = residual[link] / count[link] if left[link] > 0 else np.inf
        hits, open_flows = 0, 0
        for flow in range(len(rate)):
            if rate[flow] >= 0.0:
                continue
            open_flows += 1
            bound = -rate[flow] / part[flow * step]
            is_below = True
            for edge in range(start[flow], start[flow + 1]):
                if bound > share[local[edge]]:
                    is_below = False
                    break
            if is_below:
                _freeze(flow, -rate[flow], part[flow * step], start, local, weight, rate, residual, count, left)
                hits += 1
        if hits * 32 <= open_flows:
            break


@_jit("(i8, i8[::1], i4[::1], i8[::1], f8[::1])")
def _drop(link: int, first: Longs, members: Ids, last: Longs, rate: Reals) -> None:
    """Move flows of a link that are frozen behind ``last``; without branches, so that reads of memory overlap."""
    kept = first[link]
    for at in range(first[link], last[link]):
        flow = members[at]
        members[at] = members[kept]
        members[kept] = flow
        kept += 1 if rate[flow] < 0.0 else 0
    last[link] = kept


@_jit("(i8, i8[::1], i4[::1], i8[::1], i4[::1], i8[::1], i8[::1])")
def _fetch(link: int, start: Longs, local: Ids, first: Longs, members: Ids, last: Longs, ahead: Longs) -> None:
    """Prefetch the routes of a link's flows into the cache, without branches, so that reads of memory overlap."""
    begin = first[link]
    for at in range(begin, last[link]):
        ahead[at - begin] = start[members[at]]
    for at in range(last[link] - begin):
        ahead[at] = local[ahead[at]]


@_jit("(i8, f8, i8[::1], i4[::1], i8[::1], i4[::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1])")
def _sweep(
    link: int, level: float, start: Longs, local: Ids, first: Longs, members: Ids, last: Longs, weight: Reals,
    part: Reals, rate: Reals, residual: Reals, count: Reals, left: Longs,
) -> None:  # fmt: skip
    """Freeze flows of one link whose limit lies below the level."""
    step = 1 if len(part) > 1 else 0
    for at in range(first[link], last[link]):
        flow = members[at]
        if rate[flow] < 0.0 and -rate[flow] <= level * part[flow * step]:
            _freeze(flow, -rate[flow], part[flow * step], start, local, weight, rate, residual, count, left)


@_jit("(i8[::1], i4[::1], i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
def fill(
    start: Longs, local: Ids, first: Longs, members: Ids, weight: Reals,
    capacity: Reals, limit: Reals, part: Reals, rate: Reals, level: Reals,
) -> None:  # fmt: skip
    """Max-min rates into ``rate`` and the level at which each link fills into ``level`` (inf where it does not).

    Links wait in a heap by a lower bound of their level, which only rises; the first that is up to date fills. Until a
    flow is frozen, its rate holds the negative of its limit: one array for both keeps random reads of memory few.
    """
    num_links = len(capacity)
    heavy_step, part_step = (1 if len(weight) > 1 else 0), (1 if len(part) > 1 else 0)
    residual, count, left = capacity.copy(), np.zeros(num_links), np.zeros(num_links, np.int64)
    is_limited = False
    for flow in range(len(rate)):
        rate[flow] = 0.0
        if limit[flow] > 0.0:
            rate[flow] = -limit[flow]
            is_limited |= limit[flow] < np.inf
            for edge in range(start[flow], start[flow + 1]):
                count[local[edge]] += weight[edge * heavy_step] * part[flow * part_step]
                left[local[edge]] += 1
    if is_limited:
        _settle(start, local, weight, part, rate, residual, count, left, level)
    last = first[1:].copy()
    keys, owner, size, most = np.empty(num_links), np.empty(num_links, np.int64), 0, 0
    for link in range(num_links):
        level[link] = np.inf
        most = max(most, first[link + 1] - first[link])
        if left[link] > 0:
            keys[size], owner[size] = max(residual[link] / count[link], 0.0), link
            size += 1
    ahead = np.empty(most, np.int64)
    for at in range(size // 2 - 1, -1, -1):
        _sift(keys, owner, at, size)
    while size:
        link, key = owner[0], keys[0]
        fresh = key
        if left[link] > 0 and residual[link] <= key * (1 + _STALE) * count[link]:
            _drop(link, first, members, last, rate)
            if is_limited:
                _sweep(link, key, start, local, first, members, last, weight, part, rate, residual, count, left)
        if left[link] > 0:
            if count[link] > 0.0:
                fresh = max(residual[link] / count[link], key)
            if fresh > key * (1 + _STALE):
                keys[0] = fresh
                _sift(keys, owner, 0, size)
                continue
            level[link] = fresh
            _fetch(link, start, local, first, members, last, ahead)
            for at in range(first[link], last[link]):
                flow = members[at]
                if rate[flow] < 0.0:
                    share = part[flow * part_step]
                    value = min(fresh * share, -rate[flow])
                    _freeze(flow, value, share, start, local, weight, rate, residual, count, left)
        size -= 1
        keys[0], owner[0] = keys[size], owner[size]
        _sift(keys, owner, 0, size)


@_jit("(i8[::1], i4[::1], f8[::1], f8[::1], i8)")
def loads(start: Longs, local: Ids, weight: Reals, value: Reals, num_links: int) -> Reals:
    """Sum over flows of a value (bytes, or a rate) on each link, shape (H,)."""
    total = np.zeros(num_links)
    step = 1 if len(weight) > 1 else 0
    for flow in range(len(value)):
        if value[flow] > 0.0:
            for edge in range(start[flow], start[flow + 1]):
                total[local[edge]] += weight[edge * step] * value[flow]
    return total


@_jit("(i8[::1], i4[::1], f8[::1], i8)")
def peaks(start: Longs, local: Ids, value: Reals, num_links: int) -> Reals:
    """Largest value of any flow on each link, shape (H,)."""
    top = np.zeros(num_links)
    for flow in range(len(value)):
        for edge in range(start[flow], start[flow + 1]):
            top[local[edge]] = max(top[local[edge]], value[flow])
    return top


@_jit("(i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
def held_back(
    start: Longs, local: Ids, weight: Reals, level: Reals, rate: Reals, part: Reals, held: Reals, shares: Reals
) -> Longs:  # fmt: skip
    """Entry of each route whose link has the smallest level; adds the rates and parts of running flows to those links."""
    result = np.empty(len(start) - 1, np.int64)
    heavy_step, part_step = (1 if len(weight) > 1 else 0), (1 if len(part) > 1 else 0)
    for flow in range(len(start) - 1):
        best = start[flow]
        for entry in range(start[flow] + 1, start[flow + 1]):
            if level[local[entry]] < level[local[best]]:
                best = entry
        result[flow] = best
        if rate[flow] > 0.0:
            heavy = weight[best * heavy_step]
            held[local[best]] += heavy * rate[flow]
            shares[local[best]] += heavy * part[flow * part_step]
    return result


@_jit("(i8[::1], i4[::1], i8[::1], i4[::1], f8[::1])")
def redundant(start: Longs, local: Ids, first: Longs, members: Ids, capacity: Reals) -> NDArray[np.bool_]:
    """Links that cannot be a bottleneck, as the links just before (or after) them on all their routes are narrower.

    A link goes only if the sum of the capacities of kept neighbours is at most its own, so the feasible rates stay.
    """
    gone = np.zeros(len(capacity), np.bool_)
    seen = np.full(len(capacity), -1, np.int64)
    for link in range(len(capacity)):
        for direction in (-1, 1):
            total, mark = 0.0, 2 * link + (direction > 0)
            for at in range(first[link], first[link + 1]):
                flow = members[at]
                if at > first[link] and members[at - 1] == flow:  # crosses it twice
                    total = np.inf
                    break
                here = start[flow]
                while local[here] != link:
                    here += 1
                here += direction
                while start[flow] <= here < start[flow + 1] and gone[local[here]]:
                    here += direction
                if not start[flow] <= here < start[flow + 1]:
                    total = np.inf
                    break
                near = local[here]
                if seen[near] != mark:
                    seen[near] = mark
                    total += capacity[near]
                if total > capacity[link]:
                    break
            if total <= capacity[link]:
                gone[link] = True
                break
    return gone
