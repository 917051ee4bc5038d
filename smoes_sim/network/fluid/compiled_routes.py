"""Loops over routes, compiled by numba: selection, transposition, sums over links, links that can be left out.

Called only when a problem is large enough. Every function has a counterpart in ``waterfill`` written with arrays only.
Shapes: F flows in flight, H links in use, N sum of route lengths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.jit import Ids, Longs, Reals, jit


@jit("(i8[::1], i4[::1], f8[::1], i8[::1], i8)")
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


@jit("(i8[::1], i4[::1], i8)")
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


@jit("(i8[::1], i4[::1], f8[::1], f8[::1], i8)")
def loads(start: Longs, local: Ids, weight: Reals, value: Reals, num_links: int) -> Reals:
    """Sum over flows of a value (bytes, or a rate) on each link, shape (H,)."""
    total = np.zeros(num_links)
    step = 1 if len(weight) > 1 else 0
    for flow in range(len(value)):
        if value[flow] > 0.0:
            for edge in range(start[flow], start[flow + 1]):
                total[local[edge]] += weight[edge * step] * value[flow]
    return total


@jit("(i8[::1], i4[::1], f8[::1], i8)")
def peaks(start: Longs, local: Ids, value: Reals, num_links: int) -> Reals:
    """Largest value of any flow on each link, shape (H,)."""
    top = np.zeros(num_links)
    for flow in range(len(value)):
        for edge in range(start[flow], start[flow + 1]):
            top[local[edge]] = max(top[local[edge]], value[flow])
    return top


@jit("(i8[::1], i4[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1], f8[::1])")
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


@jit("(i8[::1], i4[::1], i8[::1], i4[::1], f8[::1])")
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


@jit("(i8[::1], i8[::1], f8[::1], f8[::1], f8[::1])")
def served(order: Longs, link: Longs, full: Reals, share: Reals, shares: Reals) -> Reals:
    """Sum of share * min(full, full[e]) over the flows of the link of each flow; ``order`` sorts ``full``."""
    result, passed, left = np.empty(len(order)), np.zeros(len(shares)), shares.copy()
    step = 1 if len(share) > 1 else 0
    for flow in order:
        here, most = link[flow], full[flow]
        passed[here] += share[flow * step] * most
        left[here] -= share[flow * step]
        result[flow] = passed[here] + most * left[here]
    return result


@jit("(i8[::1], i4[::1], f8[::1], i8[::1], f8[::1], f8[::1], f8[::1])")
def slowest_on_links(
    start: Longs, links: Ids, weight: Reals, order: Longs, capacity: Reals, most: Reals, efficiency: Reals
) -> Reals:  # fmt: skip
    """Seconds per byte on the slowest link of each flow in ``order``, shared by it and all flows before it, shape (F,)."""
    result, total = np.zeros(len(order)), np.zeros(len(capacity))
    step = 1 if len(weight) > 1 else 0
    for at in range(len(order)):
        for edge in range(start[order[at]], start[order[at] + 1]):
            link = links[edge]
            total[link] += weight[edge * step]
            rate = capacity[link] * (efficiency[link] if total[link] > most[link] else 1.0)
            result[at] = max(result[at], total[link] / rate)
    return result
