"""The exact max-min solution of a whole pass, compiled by numba: exchanges one after the other, whose messages may overlap.

A rank enters an exchange some work after it has left the one before. It has left when all its messages are gone and all that
it receives has arrived. So at most one message from one rank to another is in flight at a time, whatever the exchange, and
routes belong to pairs. All functions are here (:mod:`smoes_sim.jit`). Shapes: K exchanges, R ranks, F messages of all
exchanges, P pairs of ranks, H links in use, N sum of the lengths of the pairs' routes. Rank r in exchange k is the *node*
``k R + r``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.jit import Ids, Longs, Reals, jit

BEFORE, MEANWHILE, OVERHEAD, ENTERED, POSTED, LATEST, LEFT = range(7)
"""Rows of a table of nodes, seconds: work before the entry, work during the exchange, overhead of the entry; the entry, the
first post, the last end so far, and the moment when the rank has left and finished its work."""
QUEUED, BYTES, ALONE, LATENCY = range(4)
"""Rows of a table of messages: the sender's overheads up to it, s; its bytes; seconds that it takes where it shares no link,
else negative; its latency, s."""
SENDER, RECEIVER, PAIR, WAITS = range(4)
"""Rows of a table of messages: nodes that send and receive it, its pair, and whether it waits for the receiver's entry."""
_SAME_INSTANT = 1e-12
"""Times closer than this, relative to the clock, count as equal."""
_TIE = 1e-14
"""Links whose shares differ by less than this, relatively, fill together."""
_SLACK = 1e-9
"""Rates below the level up to which nothing changes by less than this, relatively, are computed again."""

Table = NDArray[np.float64]
Ends = NDArray[np.int64]


@jit("(f8[::1], i8[::1], i8, f8, i8)")
def _push(times: Reals, flows: Longs, size: int, moment: float, flow: int) -> None:
    """Add a message to a heap of ``size`` messages by the moment when they are ready."""
    at = size
    while at > 0 and times[(at - 1) // 2] > moment:
        times[at], flows[at] = times[(at - 1) // 2], flows[(at - 1) // 2]
        at = (at - 1) // 2
    times[at], flows[at] = moment, flow


@jit("(f8[::1], i8[::1], i8)")
def _pop(times: Reals, flows: Longs, size: int) -> None:
    """Remove the first message of a heap, of which ``size`` remain."""
    moment, flow, at = times[size], flows[size], 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and times[child + 1] < times[child]:
            child += 1
        if times[child] >= moment:
            break
        times[at], flows[at] = times[child], flows[child]
        at = child
    times[at], flows[at] = moment, flow


@jit("(i8, f8, i8, f8[:, ::1], i8[::1], i8[::1], i8)")
def _count(node: int, moment: float, num_ranks: int, nodes: Table, waiting: Longs, stack: Longs, num: int) -> int:
    """One thing less that a node waits for; after the last one its rank's next node is stacked. Returns the stack's size."""
    nodes[LATEST, node] = max(nodes[LATEST, node], moment)
    waiting[node] -= 1
    after = node + num_ranks
    if waiting[node] == 0:
        nodes[LEFT, node] = max(nodes[LATEST, node], nodes[ENTERED, node] + nodes[MEANWHILE, node])
        if after < len(waiting):
            nodes[ENTERED, after] = nodes[LEFT, node] + nodes[BEFORE, after]
            stack[num] = after
            num += 1
    return num


@jit("(i8, i8, i8, f8[:, ::1], i8[::1], f8[:, ::1], i8[:, ::1], i8[::1], i8[::1], i8[::1], i8[::1], f8[::1], i8[::1])")
def _enter(
    num: int, size: int, num_ranks: int, nodes: Table, waiting: Longs, messages: Table, ends: Ends,
    sent: Longs, received: Longs, inbound: Longs, stack: Longs, times: Reals, flows: Longs,
) -> int:  # fmt: skip
    """Enter ``num`` stacked nodes, and those that follow without a shared link in between; returns the heap's size."""
    while num > 0:
        num -= 1
        node = stack[num]
        nodes[POSTED, node] = nodes[ENTERED, node] + nodes[OVERHEAD, node]
        num_sent = sent[node + 1] - sent[node]
        for at in range(num_sent + received[node + 1] - received[node]):
            flow = sent[node] + at if at < num_sent else inbound[received[node] + at - num_sent]
            sender, receiver = ends[SENDER, flow], ends[RECEIVER, flow]
            ready = nodes[POSTED, sender] + messages[QUEUED, flow]
            if ends[WAITS, flow] > 0:
                ready = max(ready, nodes[POSTED, receiver])
            if ready == np.inf:
                continue
            if messages[ALONE, flow] < 0.0:
                _push(times, flows, size, ready, flow)
                size += 1
                continue
            drained = ready + messages[ALONE, flow]
            num = _count(sender, drained, num_ranks, nodes, waiting, stack, num)
            num = _count(receiver, drained + messages[LATENCY, flow], num_ranks, nodes, waiting, stack, num)
        num = _count(node, nodes[POSTED, node], num_ranks, nodes, waiting, stack, num)
    return size


@jit("(i8, i8[::1], i4[::1], i8[::1], i4[::1], i8[::1])")
def _join(pair: int, start: Longs, local: Ids, first: Longs, members: Ids, stop: Longs) -> None:
    """Put a pair on the lists of its links, which end at ``stop``."""
    for edge in range(start[pair], start[pair + 1]):
        members[stop[local[edge]]] = pair
        stop[local[edge]] += 1


@jit("(i8, i8[::1], i4[::1], i8[::1], i4[::1], i8[::1])")
def _leave(pair: int, start: Longs, local: Ids, first: Longs, members: Ids, stop: Longs) -> None:
    """Take a pair off the lists of its links."""
    for edge in range(start[pair], start[pair + 1]):
        link = local[edge]
        at = first[link]
        while members[at] != pair:
            at += 1
        stop[link] -= 1
        members[at] = members[stop[link]]


@jit(
    "(i8[::1], i8, f8, i8[::1], i4[::1], f8[::1], f8[::1], i8[::1], i4[::1], i8[::1],"
    " f8[::1], f8[::1], f8[::1], i8[::1], i8[::1])"
)
def _fill(
    running: Longs, num: int, floor: float, start: Longs, local: Ids, weight: Reals, capacity: Reals,
    first: Longs, members: Ids, stop: Longs, rate: Reals, residual: Reals, count: Reals, left: Longs, used: Longs,
) -> None:  # fmt: skip
    """Max-min rates of the running pairs whose rate is at least ``floor`` or 0; the others keep theirs.

    All links are looked at for the smallest share, because there are few; links with equal shares fill together.
    """
    for link in range(len(capacity)):
        residual[link], count[link], left[link] = capacity[link], 0.0, 0
    num_open = 0
    for at in range(num):
        pair = running[at]
        is_open = rate[pair] == 0.0 or rate[pair] >= floor
        if is_open:
            rate[pair] = -1.0
            num_open += 1
        for edge in range(start[pair], start[pair + 1]):
            if is_open:
                count[local[edge]] += weight[edge]
                left[local[edge]] += 1
            else:
                residual[local[edge]] -= weight[edge] * rate[pair]
    num_used = 0
    for link in range(len(capacity)):
        if left[link] > 0:
            used[num_used] = link
            num_used += 1
    level = 0.0
    while num_open > 0:
        least, kept = np.inf, 0
        for at in range(num_used):
            link = used[at]
            if left[link] > 0:
                used[kept] = link
                kept += 1
                least = min(least, residual[link] / count[link])
        num_used = kept
        level = max(level, least)
        for at in range(num_used):
            link = used[at]
            if left[link] == 0 or residual[link] > level * (1 + _TIE) * count[link]:
                continue
            for place in range(first[link], stop[link]):
                pair = members[place]
                if rate[pair] >= 0.0:
                    continue
                rate[pair] = level
                num_open -= 1
                for edge in range(start[pair], start[pair + 1]):
                    residual[local[edge]] -= weight[edge] * level
                    count[local[edge]] -= weight[edge]
                    left[local[edge]] -= 1


@jit("(i8[::1], i8, i8, i8[::1], i4[::1], f8[::1], f8[::1], f8[::1])")
def _least_share(
    running: Longs, old: int, num: int, start: Longs, local: Ids, weight: Reals, capacity: Reals, count: Reals
) -> float:  # fmt: skip
    """Least equal share of a link on the routes of pairs ``running[old:num]``: levels below it are as without them."""
    for link in range(len(count)):
        count[link] = 0.0
    for at in range(num):
        for edge in range(start[running[at]], start[running[at] + 1]):
            count[local[edge]] += weight[edge]
    least = np.inf
    for at in range(old, num):
        for edge in range(start[running[at]], start[running[at] + 1]):
            least = min(least, capacity[local[edge]] / count[local[edge]])
    return least


@jit(
    "(i8, f8[:, ::1], f8[:, ::1], i8[:, ::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i4[::1], f8[::1], i8[::1],"
    " f8[::1])"
)
def run_pass(
    num_ranks: int, nodes: Table, messages: Table, ends: Ends, waiting: Longs, sent: Longs, received: Longs, inbound: Longs,
    start: Longs, local: Ids, weight: Reals, first: Longs, capacity: Reals,
) -> int:  # fmt: skip
    """Follow every rate change until all ranks have left all exchanges; returns the number of changes.

    Args:
        num_ranks: Number of ranks.
        nodes: Rows BEFORE, MEANWHILE and OVERHEAD are read, the others written; (7, K R).
        messages: Sorted by node of the sender, (4, F).
        ends: Their ends, (4, F).
        waiting: Number of messages that each node sends and receives, and one, (K R,); 0 at the end.
        sent: Node n sends messages ``sent[n]`` to ``sent[n + 1]``, (K R + 1,).
        received: Bounds of each node in ``inbound``, (K R + 1,).
        inbound: Messages that wait for the entry of their receiver.
        start: Pair p crosses ``local[start[p]:start[p + 1]]``, (P + 1,).
        local: Links, (N,).
        weight: Share of a message on each of them, (N,).
        first: Room for the pairs of each link in a list, (H + 1,).
        capacity: B/s, (H,).
    """
    num_nodes, num_flows, num_pairs, num_links = len(waiting), messages.shape[1], len(start) - 1, len(capacity)
    times, flows, stack = np.empty(num_flows), np.empty(num_flows, np.int64), np.empty(num_nodes, np.int64)
    flow_of, running = np.empty(num_pairs, np.int64), np.empty(num_pairs, np.int64)
    remaining, rate, end = np.zeros(num_pairs), np.zeros(num_pairs), np.zeros(num_pairs)
    residual, count = np.empty(num_links), np.empty(num_links)
    left, used = np.empty(num_links, np.int64), np.empty(num_links, np.int64)
    members, stop = np.empty(len(local), np.int32), first[:-1].copy()
    for node in range(num_nodes):
        nodes[POSTED, node], nodes[LATEST, node] = np.inf, 0.0
    for node in range(min(num_ranks, num_nodes)):
        nodes[ENTERED, node], stack[node] = nodes[BEFORE, node], node
    size = _enter(
        min(num_ranks, num_nodes),
        0,
        num_ranks,
        nodes,
        waiting,
        messages,
        ends,
        sent,
        received,
        inbound,
        stack,
        times,
        flows,
    )
    clock, num, changes, floor = 0.0, 0, 0, np.inf
    while True:
        old = num
        while size > 0 and times[0] <= clock * (1 + _SAME_INSTANT):
            flow = flows[0]
            size -= 1
            _pop(times, flows, size)
            pair = ends[PAIR, flow]
            flow_of[pair], remaining[pair], rate[pair], running[num] = flow, messages[BYTES, flow], 0.0, pair
            num += 1
            _join(pair, start, local, first, members, stop)
        if num == 0:
            if size == 0:
                break
            clock = times[0]
            continue
        if num > old:
            floor = min(floor, _least_share(running, old, num, start, local, weight, capacity, count))
        _fill(
            running,
            num,
            floor * (1 - _SLACK),
            start,
            local,
            weight,
            capacity,
            first,
            members,
            stop,
            rate,
            residual,
            count,
            left,
            used,
        )
        changes += 1
        moment = times[0] if size > 0 else np.inf
        for at in range(num):
            pair = running[at]
            end[pair] = clock + max(remaining[pair], 0.0) / rate[pair]
            moment = min(moment, end[pair])
        width, clock, kept, floor, ended = moment - clock, moment, 0, np.inf, 0
        for at in range(num):
            pair = running[at]
            if end[pair] > clock * (1 + _SAME_INSTANT):
                remaining[pair] -= rate[pair] * width
                running[kept] = pair
                kept += 1
                continue
            floor = min(floor, rate[pair])
            _leave(pair, start, local, first, members, stop)
            flow = flow_of[pair]
            ended = _count(ends[SENDER, flow], end[pair], num_ranks, nodes, waiting, stack, ended)
            arrival = end[pair] + messages[LATENCY, flow]
            ended = _count(ends[RECEIVER, flow], arrival, num_ranks, nodes, waiting, stack, ended)
        num = kept
        size = _enter(ended, size, num_ranks, nodes, waiting, messages, ends, sent, received, inbound, stack, times, flows)
    return changes
