"""Simulation of every packet on SimPy's clock: slow, for small cases, and the reference of the fluid and FIFO models.

Each directed link is a port with an unlimited FIFO queue: a packet is served for ``bytes / capacity``, travels for the
link's latency and joins the next queue (store and forward, no loss, no back-pressure). The rules of phases, injection and
window are those of :mod:`smoes_sim.network.fifo.exchange`, whose results this module must reproduce.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import simpy

from smoes_sim.errors import ConfigError, SimulationError
from smoes_sim.network.exchange import ExchangeTime
from smoes_sim.network.fifo.exchange import (
    PACKET,
    TCP_WINDOW,
    Injection,
    MessageTimes,
    check_routes,
    check_settings,
    exchange_of,
    pieces,
    whole_packets,
)
from smoes_sim.network.fifo.kernel import ANSWER_SIZE
from smoes_sim.network.flows import Flows, Network

_MOST_HOPS = 2_000_000
"""Largest number of packets times links that is simulated: half a minute."""
_ROUNDING = 1e-9
Process = Generator[simpy.Event, Any, None]


def packet_exchange_time(
    network: Network,
    phases: Sequence[Flows],
    *,
    packet: float = PACKET,
    window: float = TCP_WINDOW,
    injection: Injection = "fifo",
) -> ExchangeTime:
    """Simulate one exchange that all ranks enter at the same time, packet by packet.

    Arguments as in :func:`~smoes_sim.network.fifo.exchange.fifo_times`; ``rate_changes`` counts the packets.

    Raises:
        ConfigError: If a size is not positive, ``injection`` is unknown, or the case is too large.
        SimulationError: If the time is below the bound or bytes are lost, which is a bug.

    Example:
        4 ranks on a star of 50 GB/s, 16 MiB a pair, shifted order: 3 * 16777216 / 50e9 s and the time of one packet.
    """
    phases = [network.sized(flows) for flows in phases]
    times = packet_times(network, phases, packet=packet, window=window, injection=injection)
    return exchange_of(network, phases, times)


def packet_times(
    network: Network,
    phases: Sequence[Flows],
    *,
    packet: float = PACKET,
    window: float = TCP_WINDOW,
    injection: Injection = "fifo",
) -> MessageTimes:
    """Send every packet of every message; arguments as in :func:`~smoes_sim.network.fifo.exchange.fifo_times`.

    Returns:
        Times of the last byte; ``num_events`` counts the packets.

    Raises:
        ConfigError: If a size is not positive, ``injection`` is unknown, or the case is too large.
        SimulationError: If bytes are lost, which is a bug.

    Example:
        2 packets over two links, s seconds per packet and link: the last byte arrives after 3 s plus the latencies.
    """
    check_routes(network, phases)
    check_settings(chunk=packet, window=window, packet=packet, injection=injection)
    if (hops := pieces(phases, packet)) > _MOST_HOPS:
        raise ConfigError(
            f"fidelity packet: {hops:.1e} packets would cross links, at most {_MOST_HOPS:.0e} are simulated. "
            "Use fidelity fifo, which serves whole chunks, or fewer bytes or ranks."
        )
    sending = _Sending(network, phases, packet=packet, window=window, injection=injection)
    sending.env.run()
    messages = [message for phase in sending.messages for message in phase]
    size, received = (np.array([getattr(message, name) for message in messages]) for name in ("size", "received"))
    if not np.allclose(size, received, rtol=_ROUNDING, atol=0.0):
        raise SimulationError("bytes were lost between ports: please report this.")
    sent, arrived = (np.array([getattr(message, name) for message in messages]) for name in ("sent", "arrived"))
    return MessageTimes(sent=sent, arrived=arrived, num_events=sum(message.num_packets for message in messages))


class _Sending:
    """An exchange in progress."""

    def __init__(
        self, network: Network, phases: Sequence[Flows], *, packet: float, window: float, injection: Injection
    ) -> None:
        self.env = simpy.Environment()
        self._network, self._phases = network, phases
        self._take_turns = injection == "round_robin"
        self._senders: dict[tuple[int, int], _Sender] = {}
        links = zip(network.capacity.tolist(), network.topology.link_latency.tolist(), strict=True)
        self._ports = [_Port(self.env, *link) for link in links]
        window = whole_packets(window, packet=packet)
        self.messages = [self._open(flows, packet=packet, window=window) for flows in phases]
        for rank in range(network.topology.num_ranks):
            self.env.process(self._run_rank(rank))

    def _open(self, flows: Flows, *, packet: float, window: float) -> list[_Message]:
        result: list[_Message] = []
        by_pair: dict[tuple[int, int], _Message] = {}
        columns = (flows.source, flows.destination, flows.size, flows.latency, flows.ceiling)
        for f, (source, destination, size, latency, ceiling) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            links = flows.routes.of(f)
            beyond = latency - float(self._network.topology.link_latency[links].sum())
            message = _Message(
                self.env,
                size=size,
                packet=packet,
                window=window,
                latency=latency,
                beyond=beyond if beyond > _ROUNDING * latency else 0.0,
                alone=size / ceiling,
                route=[self._ports[link] for link in links],
                sender=self._sender(source, links),
            )
            result.append(message)
            if len(links):
                by_pair.setdefault((source, destination), message)
        for message, source, destination in zip(result, flows.source.tolist(), flows.destination.tolist(), strict=True):
            message.back = by_pair.get((destination, source))
        return result

    def _sender(self, rank: int, links: Sequence[int]) -> _Sender | None:
        if not len(links):
            return None
        key = rank, int(links[0])
        if key not in self._senders:
            self._senders[key] = _Sender(self.env, take_turns=self._take_turns)
        return self._senders[key]

    def _run_rank(self, rank: int) -> Process:
        """Process of one rank, as in :func:`~smoes_sim.network.exchange.finish_exchange`."""
        yield self.env.timeout(self._network.per_exchange)
        for flows, messages in zip(self._phases, self.messages, strict=True):
            if flows.after >= 0:
                before, earlier = self._phases[flows.after], self.messages[flows.after]
                waits = [earlier[f].is_received for f in np.flatnonzero(before.destination == rank)]
                if flows.after_sent:
                    waits += [earlier[f].is_sent for f in np.flatnonzero(before.source == rank)]
                if not all(event.triggered for event in waits):  # else it posts now, in order with the phases before
                    yield self.env.all_of(waits)
            for f in np.flatnonzero(flows.source == rank):
                overhead = self._network.per_message * float(flows.messages[f])
                if overhead > 0:
                    yield self.env.timeout(overhead)
                messages[f].post()


class _Port:
    """One direction of a link: packets one after the other."""

    def __init__(self, env: simpy.Environment, capacity: float, latency: float) -> None:
        self._env, self._capacity, self._latency = env, capacity, latency
        self._queue = simpy.Store(env)
        env.process(self._serve())

    def take(self, size: float, on_arrival: Callable[[], None]) -> simpy.Event:
        """Queue a packet; the event is its departure, ``on_arrival`` is called when it arrives at the other end."""
        gone = simpy.Event(self._env)
        self._queue.put((size, gone, on_arrival))
        return gone

    def _serve(self) -> Process:
        while True:
            size, gone, on_arrival = yield self._queue.get()
            yield self._env.timeout(size / self._capacity)
            gone.succeed()
            _after(self._env, self._latency, on_arrival)


def _after(env: simpy.Environment, delay: float, call: Callable[[], None]) -> None:
    event = env.timeout(delay)
    event.callbacks.append(lambda _: call())


def _travel(route: list[_Port], size: float, on_arrival: Callable[[], None]) -> simpy.Event:
    """Send a packet along a route; returns the event of its departure from the first port."""

    def go_on() -> None:
        _travel(route[1:], size, on_arrival)

    return route[0].take(size, go_on if len(route) > 1 else on_arrival)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Packets of a message, or an answer, that wait at their sender."""

    route: list[_Port]
    packets: deque[float]
    on_arrival: Callable[[float], None]
    on_departure: Callable[[], None]


class _Sender:
    """A rank's queue for one port."""

    def __init__(self, env: simpy.Environment, *, take_turns: bool) -> None:
        self._take_turns = take_turns
        self.queue = simpy.Store(env)
        env.process(self._send())

    def _send(self) -> Process:
        """Send packets; with round-robin a message rejoins the queue as soon as one of its packets starts."""
        while True:
            piece: _Piece = yield self.queue.get()
            while piece.packets:
                size = piece.packets.popleft()
                gone = _travel(piece.route, size, partial(piece.on_arrival, size))
                has_more = bool(piece.packets)
                if has_more and self._take_turns:
                    self.queue.put(piece)
                yield gone
                piece.on_departure()
                if not has_more or self._take_turns:
                    break


class _Message:
    """A message with its two pieces (first window and rest) and the answer between them."""

    def __init__(
        self,
        env: simpy.Environment,
        *,
        size: float,
        packet: float,
        window: float,
        latency: float,
        beyond: float,
        alone: float,
        route: list[_Port],
        sender: _Sender | None,
    ) -> None:
        self._env, self.size = env, size
        self._latency, self._beyond, self._alone = latency, beyond, alone
        self._route, self._sender = route, sender
        self._first, self._rest = _cut(min(size, window), packet), _cut(max(size - window, 0.0), packet)
        self.num_packets = len(self._first) + len(self._rest)
        self._to_send = self._to_receive = self.num_packets
        self._is_answered = not self._rest
        self._posted = self.sent = self.arrived = self.received = 0.0
        self.back: _Message | None = None
        self.is_sent, self.is_received = env.event(), env.event()

    def post(self) -> None:
        """Queue the packets that may leave before an answer."""
        self._posted = self._env.now
        if self._sender is not None:
            self._queue(self._sender, self._first)
            return
        self.received = self.size
        self.sent = self._posted + self._alone
        self.arrived = self.sent + self._beyond
        _after(self._env, self._alone, partial(_happen, self.is_sent))
        _after(self._env, self._alone + self._beyond, partial(_happen, self.is_received))

    def _queue(self, sender: _Sender, packets: deque[float]) -> None:
        piece = _Piece(route=self._route, packets=packets, on_arrival=self._on_arrival, on_departure=self._on_departure)
        sender.queue.put(piece)

    def _on_departure(self) -> None:
        self.sent = self._env.now
        self._to_send -= 1
        if self._to_send == 0:
            self.is_sent.succeed()

    def _on_arrival(self, size: float) -> None:
        alone = self._posted + self._alone + self._latency
        self.arrived = max(self._env.now + self._beyond, alone)
        self.received += size
        self._to_receive -= 1
        if self._to_receive == 0:
            _after(self._env, self.arrived - self._env.now, partial(_happen, self.is_received))
        if not self._is_answered:
            self._is_answered = True
            _after(self._env, self._beyond, self._answer)

    def _answer(self) -> None:
        """Queue the receiver's answer on its route to the sender, behind what it has queued there."""
        back = self.back
        if back is None or back._sender is None:
            _after(self._env, self._latency, self._send_rest)
            return

        def arrive(_: float) -> None:
            _after(self._env, back._beyond, self._send_rest)

        piece = _Piece(route=back._route, packets=deque([ANSWER_SIZE]), on_arrival=arrive, on_departure=_nothing)
        back._sender.queue.put(piece)

    def _send_rest(self) -> None:
        if self._sender is not None:
            self._queue(self._sender, self._rest)


def _cut(size: float, packet: float) -> deque[float]:
    """Packets of some bytes, all of full size except the last one."""
    full, rest = divmod(size, packet)
    return deque([packet] * int(full) + [rest] * (rest > 0))


def _happen(event: simpy.Event) -> None:
    event.succeed()


def _nothing() -> None:
    pass
