"""Water-filling and the events of the exact solution, compiled by numba; called only when a problem is large enough.

Functions that call each other stay in one module (:mod:`smoes_sim.jit`). ``fill`` has a counterpart in ``waterfill`` written
with arrays only. Shapes: F flows in flight, H links in use, N sum of route lengths.
"""

from __future__ import annotations

import numpy as np

from smoes_sim.jit import Ids, Longs, Reals, jit

_STALE = 1e-14
"""A link whose share rose by more than this, relatively, since it was queued is queued again."""
_PASSES = 6
"""Sweeps that settle flows below their fair share before the queue starts; a sweep with few hits is the last."""
_SAME_INSTANT = 1e-12
"""Times closer than this, relative to the clock, count as equal."""
_SLACK = 1e-9
"""Rates below the level up to which nothing changes by less than this, relatively, are computed again."""


@jit("(f8[::1], i8[::1], i8, i8)")
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


@jit("(i8, f8, f8, i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1])")
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


@jit("(i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1], f8[::1])")
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


@jit("(i8, i8[::1], i4[::1], i8[::1], f8[::1])")
def _drop(link: int, first: Longs, members: Ids, last: Longs, rate: Reals) -> None:
    """Move flows of a link that are frozen behind ``last``; without branches, so that reads of memory overlap."""
    kept = first[link]
    for at in range(first[link], last[link]):
        flow = members[at]
        members[at] = members[kept]
        members[kept] = flow
        kept += 1 if rate[flow] < 0.0 else 0
    last[link] = kept


@jit("(i8, i8[::1], i4[::1], i8[::1], i4[::1], i8[::1], i8[::1])")
def _fetch(link: int, start: Longs, local: Ids, first: Longs, members: Ids, last: Longs, ahead: Longs) -> None:
    """Prefetch the routes of a link's flows into the cache, without branches, so that reads of memory overlap."""
    begin = first[link]
    for at in range(begin, last[link]):
        ahead[at - begin] = start[members[at]]
    for at in range(last[link] - begin):
        ahead[at] = local[ahead[at]]


@jit("(i8, f8, i8[::1], i4[::1], i8[::1], i4[::1], i8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1])")
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


@jit("(i8[::1], i4[::1], i8[::1], i4[::1], i8[::1], f8[::1], f8[::1], b1, f8, f8[::1], f8[::1], f8[::1], i8[::1], f8[::1])")
def _pour(
    start: Longs, local: Ids, first: Longs, members: Ids, last: Longs, weight: Reals, part: Reals, is_limited: bool,
    floor: float, rate: Reals, residual: Reals, count: Reals, left: Longs, level: Reals,
) -> None:  # fmt: skip
    """Freeze all open flows, whose rate holds the negative of their limit; levels lie above ``floor``.

    Links wait in a heap by a lower bound of their level, which only rises; the first that is up to date fills.
    """
    num_links, part_step, heavy_step = len(residual), (1 if len(part) > 1 else 0), (1 if len(weight) > 1 else 0)
    if is_limited:
        _settle(start, local, weight, part, rate, residual, count, left, level)
    keys, owner, size, most = np.empty(num_links), np.empty(num_links, np.int64), 0, 0
    for link in range(num_links):
        level[link] = np.inf
        if left[link] > 0:
            most = max(most, last[link] - first[link])
            keys[size], owner[size] = max(residual[link] / count[link], floor), link
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
                    rate[flow] = value  # as _freeze does; a call for each flow takes a tenth of the time
                    for edge in range(start[flow], start[flow + 1]):
                        near, heavy = local[edge], weight[edge * heavy_step]
                        residual[near] -= heavy * value
                        count[near] -= heavy * share
                        left[near] -= 1
        size -= 1
        keys[0], owner[0] = keys[size], owner[size]
        _sift(keys, owner, 0, size)


@jit("(i8[::1], i4[::1], i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
def fill(
    start: Longs, local: Ids, first: Longs, members: Ids, weight: Reals,
    capacity: Reals, limit: Reals, part: Reals, rate: Reals, level: Reals,
) -> None:  # fmt: skip
    """Max-min rates into ``rate`` and the level at which each link fills into ``level`` (inf where it does not).

    Until a flow is frozen, its rate holds the negative of its limit: one array for both keeps random reads of memory few.
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
    last = first[1:].copy()
    _pour(start, local, first, members, last, weight, part, is_limited, 0.0, rate, residual, count, left, level)


@jit("(i8[::1], i8, i8, i8[::1], i4[::1], f8[::1], f8[::1], f8[::1])")
def _least_share(
    running: Longs, old: int, num: int, start: Longs, local: Ids, weight: Reals, capacity: Reals, count: Reals
) -> float:  # fmt: skip
    """Least equal share of a link on the routes of flows ``running[old:num]``: levels below it are as without them."""
    step = 1 if len(weight) > 1 else 0
    count[:] = 0.0
    for at in range(num):
        for edge in range(start[running[at]], start[running[at] + 1]):
            count[local[edge]] += weight[edge * step]
    least = np.inf
    for at in range(old, num):
        for edge in range(start[running[at]], start[running[at] + 1]):
            least = min(least, capacity[local[edge]] / count[local[edge]])
    return least


@jit(
    "(i8[::1], i8, f8, f8, i8[::1], i4[::1], f8[::1], f8[::1],"
    " f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1])"
)
def _reopen(
    running: Longs, num: int, floor: float, clock: float, start: Longs, local: Ids, weight: Reals, capacity: Reals,
    ceiling: Reals, rate: Reals, remaining: Reals, since: Reals, residual: Reals, count: Reals, left: Longs,
) -> bool:  # fmt: skip
    """Advance running flows with a rate of at least ``floor``, or none yet, to the clock and open them for water-filling.

    Takes the rates of the others from their links. Returns whether an open flow has a ceiling.
    """
    step = 1 if len(weight) > 1 else 0
    is_limited = False
    for link in range(len(capacity)):
        residual[link], count[link], left[link] = capacity[link], 0.0, 0
    for at in range(num):
        flow = running[at]
        if rate[flow] == 0.0 or rate[flow] >= floor:
            remaining[flow] -= rate[flow] * (clock - since[flow])
            since[flow] = clock
            rate[flow] = -ceiling[flow]
            is_limited |= ceiling[flow] < np.inf
            for edge in range(start[flow], start[flow + 1]):
                count[local[edge]] += weight[edge * step]
                left[local[edge]] += 1
        else:
            for edge in range(start[flow], start[flow + 1]):
                residual[local[edge]] -= weight[edge * step] * rate[flow]
    return is_limited


@jit("(i8, i8[::1], i4[::1], i8[::1], i4[::1], i8[::1])")
def _leave(flow: int, start: Longs, local: Ids, first: Longs, members: Ids, stop: Longs) -> None:
    """Take a flow off the lists of its links, which end at ``stop``."""
    for edge in range(start[flow], start[flow + 1]):
        link = local[edge]
        at = first[link]
        while members[at] != flow:
            at += 1
        stop[link] -= 1
        members[at], members[stop[link]] = members[stop[link]], members[at]


@jit("(i8[::1], i4[::1], i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], i8[::1], f8, i8, f8[::1])")
def follow(
    start: Longs, local: Ids, first: Longs, members: Ids, weight: Reals, capacity: Reals, remaining: Reals,
    ready: Reals, ceiling: Reals, order: Longs, clock: float, most: int, drained: Reals,
) -> tuple[float, int]:  # fmt: skip
    """Follow every rate change until all flows have ended or over ``most`` run; returns the clock and the number of changes.

    Writes the ends into ``drained`` and the bytes left into ``remaining``; ``order`` sorts the flows that have bytes by
    ``ready``. When flows end or start, only rates of at least the smallest rate that ended, or the least equal share of a
    link of a flow that starts, can change: up to that level water-filling runs as before.
    """
    num_flows, num_links = len(remaining), len(capacity)
    rate, since, end = np.zeros(num_flows), np.full(num_flows, clock), np.full(num_flows, np.inf)
    residual, count, level = np.empty(num_links), np.empty(num_links), np.empty(num_links)
    left, stop, part = np.empty(num_links, np.int64), first[1:].copy(), np.ones(1)
    running, num, at, changes, floor = np.empty(num_flows, np.int64), 0, 0, 0, np.inf
    while True:
        old = num
        while at < len(order) and ready[order[at]] <= clock * (1 + _SAME_INSTANT):
            running[num], since[order[at]] = order[at], clock
            at, num = at + 1, num + 1
        if num > most or (num == 0 and at == len(order)):
            break
        if num == 0:
            clock = ready[order[at]]
            continue
        if num > old:
            floor = min(floor, _least_share(running, old, num, start, local, weight, capacity, count))
        floor *= 1 - _SLACK
        is_limited = _reopen(
            running,
            num,
            floor,
            clock,
            start,
            local,
            weight,
            capacity,
            ceiling,
            rate,
            remaining,
            since,
            residual,
            count,
            left,
        )
        _pour(start, local, first, members, stop.copy(), weight, part, is_limited, floor, rate, residual, count, left, level)
        changes += 1
        moment = ready[order[at]] if at < len(order) else np.inf
        for i in range(num):
            flow = running[i]
            if since[flow] == clock:
                end[flow] = clock + max(remaining[flow], 0.0) / rate[flow]
            moment = min(moment, end[flow])
        clock, kept, floor = moment, 0, np.inf
        for i in range(num):
            flow = running[i]
            if end[flow] <= clock * (1 + _SAME_INSTANT):
                drained[flow], remaining[flow], floor = end[flow], 0.0, min(floor, rate[flow])
                rate[flow] = 0.0
                _leave(flow, start, local, first, members, stop)
            else:
                running[kept] = flow
                kept += 1
        num = kept
    for i in range(num):
        remaining[running[i]] -= rate[running[i]] * (clock - since[running[i]])
    return clock, changes
