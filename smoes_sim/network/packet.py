"""Every packet by itself, on SimPy's clock: slow, small cases only, and the judge of the fluid and FIFO networks.

Each directed link is a port with an endless FIFO queue in front: a packet is served for ``bytes / capacity``, travels
for the link's latency and joins the next queue (store and forward, no loss, no back-pressure). The rules of injection
and window are those of :mod:`smoes_sim.network.fifo`, whose figures this module must reproduce by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy
from numpy.typing import NDArray

from smoes_sim.network.fifo import PACKET, FifoTimes, Injection, check_settings, way_back, whole_packets
from smoes_sim.network.flows import Flows

_ANSWER = 64.0
"""Bytes of an answer."""
Process = Generator[simpy.Event, Any, None]


def packet_times(
    flows: Flows,
    network_capacity: NDArray[np.float64],
    link_latency: NDArray[np.float64],
    *,
    ready: NDArray[np.float64],
    packet: float = PACKET,
    window: float = math.inf,
    injection: Injection = "fifo",
) -> FifoTimes:
    """Send every packet of every message; arguments as in :func:`~smoes_sim.network.fifo.fifo_times`.

    Returns:
        Times of the last byte; ``num_events`` counts the packets.

    Raises:
        ConfigError: If a size is not positive, or ``injection`` is unknown.

    Example:
        2 packets over two links, each packet s seconds a link: the last byte arrives after 3 s and the latencies.
    """
    check_settings(chunk=packet, window=window, packet=packet, injection=injection)
    env = simpy.Environment()
    ports = [_Port(env, *link) for link in zip(network_capacity.tolist(), link_latency.tolist(), strict=True)]
    messages = _messages(env, flows, ports, link_latency=link_latency)
    for message in messages:
        message.window, message.packet = whole_packets(window, packet=packet), packet
    senders: dict[tuple[int, int], _Sender] = {}
    for f in np.lexsort((ready, flows.source)).tolist():
        message = messages[f]
        if message.route:
            key = (int(flows.source[f]), int(flows.routes.links[flows.routes.offsets[f]]))
            if key not in senders:
                senders[key] = _Sender(env, take_turns=injection == "round_robin")
            message.sender = senders[key]
        _after(env, float(ready[f]), message.post)
    env.run()
    alone = ready + flows.size / flows.ceiling
    sent, arrived = (np.array([getattr(message, name) for message in messages]) for name in ("sent", "arrived"))
    sent[np.diff(flows.routes.offsets) == 0] = alone[np.diff(flows.routes.offsets) == 0]
    packets = sum(message.num_packets for message in messages)
    return FifoTimes(sent=sent, arrived=np.maximum(arrived, alone + flows.latency), num_events=packets)


def _messages(
    env: simpy.Environment, flows: Flows, ports: list[_Port], *, link_latency: NDArray[np.float64]
) -> list[_Message]:
    messages = []
    for f, (size, latency) in enumerate(zip(flows.size.tolist(), flows.latency.tolist(), strict=True)):
        links = flows.routes.of(f)
        beyond = max(latency - float(sum(link_latency[links])), 0.0)
        messages.append(_Message(env, size=size, route=[ports[link] for link in links], beyond=beyond, latency=latency))
    num_ranks = int(flows.destination.max(initial=0)) + int(flows.source.max(initial=0)) + 1
    there, back = flows.source * num_ranks + flows.destination, flows.destination * num_ranks + flows.source
    for f, other in enumerate(way_back(there, back, np.diff(flows.routes.offsets) > 0).tolist()):
        messages[f].back = messages[other] if other >= 0 else None
    return messages


def _after(env: simpy.Environment, delay: float, call: Callable[[], None]) -> None:
    event = env.timeout(delay)
    event.callbacks.append(lambda _: call())


class _Port:
    """One direction of a link: packets one behind the other."""

    def __init__(self, env: simpy.Environment, capacity: float, latency: float) -> None:
        self._env, self._capacity, self._latency = env, capacity, latency
        self._queue = simpy.Store(env)
        env.process(self._serve())

    def take(self, size: float, on_arrival: Callable[[], None]) -> simpy.Event:
        """Queue a packet; the event is its departure, the call its arrival at the other end."""
        gone = simpy.Event(self._env)
        self._queue.put((size, gone, on_arrival))
        return gone

    def _serve(self) -> Process:
        while True:
            size, gone, on_arrival = yield self._queue.get()
            yield self._env.timeout(size / self._capacity)
            gone.succeed()
            _after(self._env, self._latency, on_arrival)


def _travel(route: list[_Port], size: float, on_arrival: Callable[[], None]) -> simpy.Event:
    """Send a packet along a route; the event is its departure from the first port."""

    def go_on() -> None:
        _travel(route[1:], size, on_arrival)

    return route[0].take(size, go_on if len(route) > 1 else on_arrival)


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Packets of one message (or an answer) that wait at their sender."""

    route: list[_Port]
    packets: deque[float]
    on_arrival: Callable[[], None]
    on_departure: Callable[[], None] = _nothing


class _Sender:
    """A rank's queue for one port."""

    def __init__(self, env: simpy.Environment, *, take_turns: bool) -> None:
        self._take_turns = take_turns
        self.queue = simpy.Store(env)
        env.process(self._send())

    def _send(self) -> Process:
        while True:
            piece: _Piece = yield self.queue.get()
            while piece.packets:
                yield _travel(piece.route, piece.packets.popleft(), piece.on_arrival)
                piece.on_departure()
                if piece.packets and self._take_turns:
                    self.queue.put(piece)
                    break


class _Message:
    """A message, its two pieces (first window, rest) and the answer between them."""

    def __init__(self, env: simpy.Environment, *, size: float, route: list[_Port], beyond: float, latency: float) -> None:
        self._env, self._size, self.beyond, self._latency = env, size, beyond, latency
        self.route = route
        self.window, self.packet = math.inf, PACKET
        self.sender: _Sender | None = None
        self.back: _Message | None = None
        self.sent = self.arrived = 0.0
        self.num_packets = 0
        self._is_answered = False

    def post(self) -> None:
        """Queue what may leave before an answer."""
        self._is_answered = self._size <= self.window
        self._queue(min(self._size, self.window))

    def _queue(self, size: float) -> None:
        full, rest = divmod(size, self.packet)
        packets = deque([self.packet] * int(full) + [rest] * (rest > 0))
        self.num_packets += len(packets)
        if self.sender is not None:
            arrive, depart = self._on_arrival, self._on_departure
            self.sender.queue.put(_Piece(route=self.route, packets=packets, on_arrival=arrive, on_departure=depart))

    def _on_departure(self) -> None:
        self.sent = self._env.now

    def _on_arrival(self) -> None:
        self.arrived = self._env.now + self.beyond
        if not self._is_answered:
            self._is_answered = True
            _after(self._env, self.beyond, self._answer)

    def _answer(self) -> None:
        """The receiver answers on its own way to the sender, behind what it has queued there."""
        back = self.back
        if back is None or back.sender is None:
            _after(self._env, self._latency, self._send_rest)
            return

        def arrive() -> None:
            _after(self._env, back.beyond, self._send_rest)

        back.sender.queue.put(_Piece(route=back.route, packets=deque([_ANSWER]), on_arrival=arrive))

    def _send_rest(self) -> None:
        self._queue(self._size - self.window)
