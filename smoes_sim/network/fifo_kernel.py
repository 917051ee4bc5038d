"""The event loop of the FIFO network: written once, run as plain Python on lists or compiled by numba on arrays.

Nothing is imported from numba before :func:`compiled_run` is called; both ways give the same numbers, bit by bit.

A *queue* belongs to a sender and the first shared link of its messages; its *entries* are ``3 * f`` (the first window of
message ``f``), ``3 * f + 1`` (its rest) and ``3 * f + 2`` (the receiver's answer to its first window). A *gate* belongs
to a phase and a rank (``phase * R + rank``); the messages behind it are posted when it opens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from heapq import heappop, heappush
from types import FunctionType
from typing import Any, NamedTuple

Column = Any
"""An array when compiled, a list when plain."""
Events = list[tuple[float, int, int, int, float]]
"""A heap of (time, kind, id, step, bytes): what happens at one time happens in the order of kind, then of id."""

GATE, POST, TURN, CHUNK, ANSWER = range(5)
_ANSWER = 64.0
"""Bytes of an answer: with none at all, answers that wait for one port would leave at one instant, in no order."""


class Work(NamedTuple):
    """Everything the loop reads and writes; F messages in the order of their gates.

    Attributes:
        offsets: Route of message ``f`` is ``links[offsets[f]:offsets[f + 1]]``, shape (F + 1,).
        links: Link ids.
        capacity: B/s of each link, shape (H,).
        latency: Seconds of each link, shape (H,).
        size: Bytes of each message, shape (F,).
        beyond: Latency of a route outside its shared links, shape (F,).
        alone: Seconds that a message takes at its own ceiling, shape (F,).
        back: A message whose route the answer to ``f`` takes, -1 where there is none, shape (F,).
        route_latency: Latency of the whole route, shape (F,).
        queue: Queue in which ``f`` is sent, -1 where its route has no shared link, shape (F,).
        delay: Seconds from the opening of its gate until ``f`` is posted, not decreasing within a gate, shape (F,).
        gate: The gate of ``f``, shape (F,).
        receiver_gate: The gate that waits for ``f`` to arrive (the sender's is ``gate + ranks``), shape (F,).
        gate_start: Messages of gate ``g`` are ``gate_start[g]`` to ``gate_start[g + 1]``, shape (G + 1,).
        waits: Messages and gates that gate ``g`` still waits for, shape (G,).
        opened: When each gate opened, shape (G,).
        free: When each link is done with everything accepted so far, shape (H,).
        head: First entry of each queue, -1 when empty, shape (Q,).
        tail: Last entry, shape (Q,).
        busy: 1 while the sender holds the turn of a queue, shape (Q,).
        follows: The entry behind each entry, shape (3F,).
        left: Bytes of each entry not yet sent, shape (3F,).
        in_flight: Chunks of each message between its sender and its receiver, shape (F,).
        received: Bytes of each message at its receiver, shape (F,).
        posted: When the message joined its queue, shape (F,).
        sent: When the last byte left the sender's port, shape (F,).
        arrived: When the last byte was at the receiver, shape (F,).
        ranks: R.
        chunk: Bytes that are served together.
        window: Bytes of a message that leave before the receiver has answered.
        packet: Bytes after which a chunk is forwarded.
        take_turns: 1 for round-robin injection.
    """

    offsets: Column
    links: Column
    capacity: Column
    latency: Column
    size: Column
    beyond: Column
    alone: Column
    back: Column
    route_latency: Column
    queue: Column
    delay: Column
    gate: Column
    receiver_gate: Column
    gate_start: Column
    waits: Column
    opened: Column
    free: Column
    head: Column
    tail: Column
    busy: Column
    follows: Column
    left: Column
    in_flight: Column
    received: Column
    posted: Column
    sent: Column
    arrived: Column
    ranks: int
    chunk: float
    window: float
    packet: float
    take_turns: int


def _join(events: Events, work: Work, queue: int, entry: int, now: float) -> None:
    """Put an entry at the end of a queue and wake an idle sender."""
    work.follows[entry] = -1
    if work.head[queue] < 0:
        work.head[queue] = entry
    else:
        work.follows[work.tail[queue]] = entry
    work.tail[queue] = entry
    if work.busy[queue] == 0:
        work.busy[queue] = 1
        heappush(events, (now, TURN, queue, 0, 0.0))


def _open(events: Events, work: Work, gate: int, now: float) -> None:
    """Something that a gate waited for is done; if it was the last, post what is behind and tell the next phase."""
    while gate < len(work.waits):
        work.waits[gate] -= 1
        if work.waits[gate] > 0:
            return
        work.opened[gate] = now
        first = work.gate_start[gate]
        if first < work.gate_start[gate + 1]:
            heappush(events, (now + work.delay[first], POST, first, 0, 0.0))
        gate += work.ranks


def _post(events: Events, work: Work, message: int, now: float) -> None:
    """The sender hands a message to its queue; the next one follows after its own overhead."""
    gate = work.gate[message]
    if message + 1 < work.gate_start[gate + 1]:
        heappush(events, (work.opened[gate] + work.delay[message + 1], POST, message + 1, 0, 0.0))
    work.posted[message] = now
    if work.queue[message] >= 0:
        _join(events, work, work.queue[message], 3 * message, now)
        return
    work.sent[message] = now + work.alone[message]
    work.received[message] = work.size[message]
    work.arrived[message] = work.sent[message] + work.beyond[message]
    _tell_gates(events, work, message)


def _tell_gates(events: Events, work: Work, message: int) -> None:
    """A message without shared links is over: both of its ranks may go on."""
    if work.receiver_gate[message] < len(work.waits):
        heappush(events, (work.sent[message], GATE, work.gate[message] + work.ranks, 0, 0.0))
        heappush(events, (work.arrived[message], GATE, work.receiver_gate[message], 0, 0.0))


def _turn(events: Events, work: Work, queue: int, now: float) -> None:
    """A sender gives the next chunk (or answer) of a queue to its port, and comes back when it has left."""
    entry = work.head[queue]
    if entry < 0:
        work.busy[queue] = 0
        return
    message, part = entry // 3, entry % 3
    work.head[queue] = work.follows[entry]
    if part == 2:
        heappush(events, (_pass_answer(events, work, message, 0, now), TURN, queue, 0, 0.0))
        return
    amount = min(work.left[entry], work.chunk)
    work.left[entry] -= amount
    if work.left[entry] > 0.0:
        if work.take_turns == 1 and work.head[queue] >= 0:
            work.follows[work.tail[queue]] = entry
            work.follows[entry] = -1
            work.tail[queue] = entry
        else:
            work.head[queue] = entry
    work.in_flight[message] += 1
    work.sent[message] = _serve(events, work, message, 0, amount, now)
    heappush(events, (work.sent[message], TURN, queue, 0, 0.0))
    is_last = work.left[3 * message] == 0.0 and work.left[3 * message + 1] == 0.0
    if is_last and work.receiver_gate[message] < len(work.waits):
        heappush(events, (work.sent[message], GATE, work.gate[message] + work.ranks, 0, 0.0))


def _serve(events: Events, work: Work, message: int, step: int, amount: float, now: float) -> float:
    """A link takes a chunk behind everything it accepted before; the end of its service.

    The next link may start when the first packet is there, but not so early that it would run dry: a chunk is served
    in one piece.
    """
    place = work.offsets[message] + step
    link = work.links[place]
    capacity = work.capacity[link]
    start = max(now, work.free[link])
    end: float = start + amount / capacity
    work.free[link] = end
    first = min(work.packet, amount)
    head = start + first / capacity + work.latency[link]
    tail = end + work.latency[link]
    if place + 1 == work.offsets[message + 1]:
        _deliver(events, work, message, amount, head, tail)
    else:
        ready = max(head, tail - (amount - first) / work.capacity[work.links[place + 1]])
        heappush(events, (ready, CHUNK, message, step + 1, amount))
    return end


def _deliver(events: Events, work: Work, message: int, amount: float, head: float, tail: float) -> None:
    """A chunk reaches its receiver, which answers the first packet of a message that waits for it."""
    if work.received[message] == 0.0 and work.size[message] > work.window:
        if work.back[message] >= 0:
            heappush(events, (head + work.beyond[message], ANSWER, message, 0, 0.0))
        else:
            answered = head + work.beyond[message] + work.route_latency[message]
            heappush(events, (answered, ANSWER, message, -1, 0.0))
    work.received[message] += amount
    work.in_flight[message] -= 1
    alone = work.posted[message] + work.alone[message] + work.route_latency[message]
    work.arrived[message] = max(tail + work.beyond[message], alone)
    if work.in_flight[message] > 0 or work.left[3 * message] > 0.0 or work.left[3 * message + 1] > 0.0:
        return
    if work.receiver_gate[message] < len(work.waits):
        heappush(events, (work.arrived[message], GATE, work.receiver_gate[message], 0, 0.0))


def _pass_answer(events: Events, work: Work, message: int, step: int, now: float) -> float:
    """A link takes an answer behind all it accepted before; the end of its service."""
    link = work.links[work.offsets[work.back[message]] + step]
    end: float = max(now, work.free[link]) + _ANSWER / work.capacity[link]
    work.free[link] = end
    heappush(events, (end + work.latency[link], ANSWER, message, step + 1, 0.0))
    return end


def _answer(events: Events, work: Work, message: int, step: int, now: float) -> None:
    """An answer waits its turn behind data; back at the sender it frees the rest of the message."""
    back = work.back[message]
    if step == 0:
        _join(events, work, work.queue[back], 3 * message + 2, now)
        return
    if step > 0:
        place = work.offsets[back] + step
        if place < work.offsets[back + 1]:
            _pass_answer(events, work, message, step, now)
            return
        if work.beyond[back] > 0.0:
            heappush(events, (now + work.beyond[back], ANSWER, message, -1, 0.0))
            return
    _join(events, work, work.queue[message], 3 * message + 1, now)


def run(work: Work) -> int:
    """Play all events; returns how many there were."""
    events = [(0.0, GATE, rank, 0, 0.0) for rank in range(min(work.ranks, len(work.waits)))]
    count = 0
    while len(events) > 0:
        now, kind, number, step, amount = heappop(events)
        count += 1
        if kind == TURN:
            _turn(events, work, number, now)
        elif kind == CHUNK:
            _serve(events, work, number, step, amount, now)
        elif kind == ANSWER:
            _answer(events, work, number, step, now)
        elif kind == POST:
            _post(events, work, number, now)
        else:
            _open(events, work, number, now)
    return count


@cache
def compiled_run() -> Callable[[Work], int]:
    """The same loop compiled; the first call on a machine takes seconds, later ones read numba's cache on disk."""
    import numba  # noqa: PLC0415 (a second to import, and only large exchanges need it)

    names = dict(globals())
    for function in (_join, _open, _tell_gates, _post, _deliver, _serve, _pass_answer, _turn, _answer, run):
        names[function.__name__] = numba.njit(cache=True)(FunctionType(function.__code__, names))
    loop: Callable[[Work], int] = names["run"]
    return loop
