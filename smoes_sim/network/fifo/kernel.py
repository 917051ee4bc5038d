"""The event loop of the FIFO model: written once, run as plain Python on objects or compiled by numba on records.

numba is imported by :func:`compiled_run` only; both ways give the same numbers, bit by bit. Rows of a table are structured
records when compiled and plain objects otherwise, so that ``work.links[3].free`` works for both.

A *queue* belongs to a sender and the first shared link of its messages; its *entries* are ``3 * f`` (the first window of
message ``f``), ``3 * f + 1`` (its rest) and ``3 * f + 2`` (the receiver's answer to its first window). A *gate* belongs
to a phase and a rank (``phase * R + rank``); a rank walks through its gates in order and posts what is behind each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from heapq import heappop, heappush
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Records = Any
"""Structured records when compiled, a list of objects when plain."""
Events = list[tuple[float, int, int, int, float]]
"""A heap of (time, kind, id, place in a route, bytes); events at one time are ordered by kind, then by id."""

SENT, ARRIVED, ENTER, POST, TURN, CHUNK, ANSWER, PASS, REST = range(9)
ANSWER_SIZE = 64.0
"""Bytes of an answer; with 0 bytes, answers that wait for one port would leave at the same time, in no order."""

_INT, _REAL = np.int64, np.float64
MESSAGE = np.dtype(
    [
        ("gate", _INT),  # of its sender
        ("goal", _INT),  # gate of its receiver in the same phase
        ("first", _INT),  # its route is route[first:end]
        ("end", _INT),
        ("queue", _INT),  # in which it is sent; -1 where its route has no shared link
        ("back", _INT),  # a message whose route the answer takes; -1 where there is none
        ("overhead", _REAL),  # seconds that its sender spends before it is posted
        ("size", _REAL),
        ("alone", _REAL),  # seconds that it takes at its own ceiling
        ("latency", _REAL),  # of the whole route
        ("beyond", _REAL),  # latency of the route outside its shared links
        ("posted", _REAL),
        ("received", _REAL),  # bytes at its receiver
        ("sent", _REAL),  # when the last byte left the sender's port
        ("arrived", _REAL),  # when the last byte was at the receiver
        ("in_flight", _INT),  # chunks between sender and receiver
    ],
    align=True,
)
LINK = np.dtype([("capacity", _REAL), ("latency", _REAL), ("free", _REAL)])  # free: done with everything accepted
ENTRY = np.dtype([("left", _REAL), ("behind", _INT)])  # bytes not yet sent; the entry that follows in the queue
QUEUE = np.dtype([("head", _INT), ("tail", _INT), ("busy", _INT)])  # busy: the port has a chunk of it, or will look
GATE = np.dtype([("first", _INT), ("end", _INT), ("to_send", _INT), ("to_receive", _INT)])  # messages behind; still open
PHASE = np.dtype([("after", _INT), ("after_sent", _INT), ("awaited", _INT)])  # as in Flows; awaited by another phase
RANK = np.dtype([("phase", _INT), ("message", _INT), ("posting", _INT)])  # next gate, next message in it, overhead runs


class Work(NamedTuple):
    """All tables of the loop; F messages, those of a gate together and in posting order.

    Attributes:
        messages: ``MESSAGE``, shape (F,).
        entries: ``ENTRY``, shape (3F,).
        route: Link ids of all routes, one after the other.
        links: ``LINK``, shape (H,).
        queues: ``QUEUE``, shape (Q,).
        gates: ``GATE``, shape (P R,).
        phases: ``PHASE``, shape (P,).
        ranks: ``RANK``, shape (R,).
        start: Seconds when all ranks enter.
        chunk: Bytes that are served together.
        window: Bytes of a message that leave before the receiver has answered.
        packet: Bytes after which a chunk is forwarded.
        take_turns: 1 for round-robin injection.
    """

    messages: Records
    entries: Records
    route: Records
    links: Records
    queues: Records
    gates: Records
    phases: Records
    ranks: Records
    start: float
    chunk: float
    window: float
    packet: float
    take_turns: int

    def plain(self) -> Work:
        """The same tables as lists of objects."""
        tables: dict[str, Any] = {
            name: _objects(value) for name, value in self._asdict().items() if isinstance(value, np.ndarray)
        }
        return self._replace(**tables)


def _objects(table: NDArray[Any]) -> list[Any]:
    if table.dtype.names is None:
        return table.tolist()
    return [SimpleNamespace(**dict(zip(table.dtype.names, row, strict=True))) for row in table.tolist()]


def _enter(events: Events, work: Work, number: int, now: float) -> None:
    """Let a rank pass its open gates and post the messages behind them, each after its overhead."""
    rank = work.ranks[number]
    if rank.posting == 1:
        return
    while rank.phase < len(work.phases):
        gate = work.gates[rank.phase * len(work.ranks) + number]
        if rank.message < 0:
            phase = work.phases[rank.phase]
            if phase.after >= 0:
                before = work.gates[phase.after * len(work.ranks) + number]
                if before.to_receive > 0 or (phase.after_sent == 1 and before.to_send > 0):
                    return
            rank.message = gate.first
        while rank.message < gate.end:
            overhead = work.messages[rank.message].overhead
            if overhead > 0.0:
                rank.posting = 1
                heappush(events, (now + overhead, POST, number, 0, 0.0))
                return
            _post(events, work, rank.message, now)
            rank.message += 1
        rank.phase += 1
        rank.message = -1


def _end_overhead(events: Events, work: Work, number: int, now: float) -> None:
    """Post a message after its overhead."""
    rank = work.ranks[number]
    _post(events, work, rank.message, now)
    rank.message += 1
    rank.posting = 0
    _enter(events, work, number, now)


def _post(events: Events, work: Work, number: int, now: float) -> None:
    """Put a message into its sender's queue."""
    message = work.messages[number]
    message.posted = now
    if message.queue >= 0:
        _join(events, work, message.queue, 3 * number, now)
        return
    message.sent = now + message.alone
    message.received = message.size
    message.arrived = message.sent + message.beyond
    if work.phases[message.gate // len(work.ranks)].awaited == 1:
        heappush(events, (message.sent, SENT, number, 0, 0.0))
        heappush(events, (message.arrived, ARRIVED, number, 0, 0.0))


def _join(events: Events, work: Work, number: int, entry: int, now: float) -> None:
    """Append an entry to a queue and wake an idle sender."""
    queue = work.queues[number]
    work.entries[entry].behind = -1
    if queue.head < 0:
        queue.head = entry
    else:
        work.entries[queue.tail].behind = entry
    queue.tail = entry
    if queue.busy == 0:
        queue.busy = 1
        heappush(events, (now, TURN, number, 0, 0.0))


def _turn(events: Events, work: Work, number: int, now: float) -> None:
    """Give the next chunk or answer of a queue to its port; the next turn comes when it has left."""
    queue = work.queues[number]
    head = queue.head
    if head < 0:
        queue.busy = 0
        return
    entry = work.entries[head]
    queue.head = entry.behind
    if head % 3 == 2:
        back = work.messages[work.messages[head // 3].back]
        heappush(events, (_pass_answer(events, work, head // 3, back.first, now), TURN, number, 0, 0.0))
        return
    amount = min(entry.left, work.chunk)
    entry.left -= amount
    if entry.left > 0.0:
        if work.take_turns == 1 and queue.head >= 0:
            work.entries[queue.tail].behind = head
            entry.behind = -1
            queue.tail = head
        else:
            queue.head = head
    message = work.messages[head // 3]
    message.in_flight += 1
    message.sent = _serve(events, work, head // 3, message.first, amount, now)
    heappush(events, (message.sent, TURN, number, 0, 0.0))
    if work.phases[message.gate // len(work.ranks)].awaited == 1 and _left(work, head // 3) == 0.0:
        heappush(events, (message.sent, SENT, head // 3, 0, 0.0))


def _left(work: Work, number: int) -> float:
    """Bytes of a message that have not left its sender."""
    total: float = work.entries[3 * number].left + work.entries[3 * number + 1].left
    return total


def _serve(events: Events, work: Work, number: int, place: int, amount: float, now: float) -> float:
    """Serve a chunk on a link after everything that the link accepted before; returns the end of its service.

    The next link may start when the first packet has arrived, but not so early that it would have to pause: a chunk is
    served in one piece.
    """
    message = work.messages[number]
    link = work.links[work.route[place]]
    start = max(now, link.free)
    end: float = start + amount / link.capacity
    link.free = end
    first = min(work.packet, amount)
    head = start + first / link.capacity + link.latency
    tail = end + link.latency
    if place + 1 == message.end:
        _deliver(events, work, number, amount, head, tail)
    else:
        ready = max(head, tail - (amount - first) / work.links[work.route[place + 1]].capacity)
        heappush(events, (ready, CHUNK, number, place + 1, amount))
    return end


def _deliver(events: Events, work: Work, number: int, amount: float, head: float, tail: float) -> None:
    """Deliver a chunk to its receiver, which answers the first packet of a message that waits for an answer."""
    message = work.messages[number]
    if message.received == 0.0 and message.size > work.window:
        if message.back >= 0:
            heappush(events, (head + message.beyond, ANSWER, number, 0, 0.0))
        else:
            heappush(events, (head + message.beyond + message.latency, REST, number, 0, 0.0))
    message.received += amount
    message.in_flight -= 1
    message.arrived = max(tail + message.beyond, message.posted + message.alone + message.latency)
    if message.in_flight == 0 and work.phases[message.gate // len(work.ranks)].awaited == 1 and _left(work, number) == 0.0:
        heappush(events, (message.arrived, ARRIVED, number, 0, 0.0))


def _pass_answer(events: Events, work: Work, number: int, place: int, now: float) -> float:
    """Serve an answer on a link after everything that the link accepted before; returns the end of its service."""
    link = work.links[work.route[place]]
    end: float = max(now, link.free) + ANSWER_SIZE / link.capacity
    link.free = end
    back = work.messages[work.messages[number].back]
    if place + 1 < back.end:
        heappush(events, (end + link.latency, PASS, number, place + 1, 0.0))
    else:
        heappush(events, (end + link.latency + back.beyond, REST, number, 0, 0.0))
    return end


def _pass_gate(events: Events, work: Work, number: int, kind: int, now: float) -> None:
    """Count a message as sent or received at its gate; the rank may continue if it was the last one."""
    message = work.messages[number]
    if kind == SENT:
        gate = message.gate
        work.gates[gate].to_send -= 1
    else:
        gate = message.goal
        work.gates[gate].to_receive -= 1
    _enter(events, work, gate % len(work.ranks), now)


def run(work: Work) -> int:
    """Process all events; returns their number."""
    events = [(work.start, ENTER, rank, 0, 0.0) for rank in range(len(work.ranks))]
    count = 0
    while len(events) > 0:
        now, kind, number, place, amount = heappop(events)
        count += 1
        if kind == TURN:
            _turn(events, work, number, now)
        elif kind == CHUNK:
            _serve(events, work, number, place, amount, now)
        elif kind == ANSWER:
            _join(events, work, work.messages[work.messages[number].back].queue, 3 * number + 2, now)
        elif kind == PASS:
            _pass_answer(events, work, number, place, now)
        elif kind == REST:
            _join(events, work, work.messages[number].queue, 3 * number + 1, now)
        elif kind == ENTER:
            _enter(events, work, number, now)
        elif kind == POST:
            _end_overhead(events, work, number, now)
        else:
            _pass_gate(events, work, number, kind, now)
    return count


@cache
def compiled_run() -> Callable[[Work], int]:
    """The loop compiled by numba; the first call on a machine takes seconds, later ones read numba's cache on disk.

    numba's public way, a decorator, would replace the functions of this module and import numba with it. So each function is
    copied with the globals of a new module, in which the functions that it calls are the compiled ones.
    """
    import numba  # noqa: PLC0415 (a second to import, and only large exchanges need it)

    names = dict(globals())
    for function in (_join, _post, _enter, _end_overhead, _left, _deliver, _serve, _pass_answer, _turn, _pass_gate, run):
        options: dict[str, Any] = {"cache": True, "error_model": "numpy", "no_cfunc_wrapper": True}
        options["no_cpython_wrapper"] = function is not run  # a third of the time to compile
        plain = FunctionType(function.__code__, names)
        try:
            names[function.__name__] = numba.njit(**options)(plain)
        except RuntimeError:  # numba finds no place where it may write a cache
            names[function.__name__] = numba.njit(**options | {"cache": False})(plain)
    loop: Callable[[Work], int] = names["run"]
    return loop
