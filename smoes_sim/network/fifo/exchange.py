"""Time an exchange through FIFO ports: the model in which the order of messages matters.

Every directed link is a first-in-first-out server, and a message passes it in chunks. Two settings of the sender decide
the cost of an order. *Injection*: with ``fifo`` a port sends the messages of a rank one after the other, so that ranks that
post to 0, 1, 2, ... all send to the same receiver while other receivers are idle; with ``round_robin`` the messages take
turns, and no order is bad. *Window*: the bytes of a message that may leave before its receiver has answered. The answer
waits in the receiver's port behind data, and the rest of the message joins the sender's queue when the answer arrives. See
``docs/explanation/models.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, SimulationError
from smoes_sim.network.exchange import ExchangeTime
from smoes_sim.network.fifo.kernel import ENTRY, GATE, LINK, MESSAGE, PHASE, QUEUE, RANK, Work, compiled_run, run
from smoes_sim.network.flows import Flows, Network, lower_bound

Injection = Literal["fifo", "round_robin"]

TCP_WINDOW = 65535.0
"""Bytes that TCP sends before the first answer: the window of a SYN-ACK has 16 bits and is never scaled (RFC 7323, 2.2)."""
PACKET = 8940.0
"""Default bytes of a packet: an Ethernet jumbo frame without its headers."""

_ROUNDING = 1e-9
_MAX_CHUNKS = 4_000_000
"""Largest number of chunks times links for which the default chunk is one packet: a few seconds."""
_MOST_CHUNKS = 200_000_000
"""Largest number of chunks times links that is simulated: minutes."""
_PLAIN_EVENTS = 150_000
"""Up to this number of events an exchange runs as plain Python, within half a second: compiling would take longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTimes:
    """Times of F messages of all phases, one phase after the other.

    Attributes:
        sent: Seconds when the last byte left the sender's first shared link, shape (F,).
        arrived: Seconds when the last byte arrived at the receiver, shape (F,).
        num_events: Number of simulated events.
    """

    sent: NDArray[np.float64]
    arrived: NDArray[np.float64]
    num_events: int


def fifo_exchange_time(
    network: Network,
    phases: Sequence[Flows],
    *,
    chunk: float | None = None,
    window: float = TCP_WINDOW,
    injection: Injection = "fifo",
    packet: float = PACKET,
    compiled: bool | None = None,
) -> ExchangeTime:
    """Simulate one exchange that all ranks enter at the same time, with FIFO ports.

    Arguments as in :func:`fifo_times`, errors too, and:

    Raises:
        SimulationError: If the time is below the bound or bytes are lost, which is a bug.

    Example:
        4 ranks on a star of 50 GB/s, 16 MiB a pair, shifted order: 3 * 16777216 / 50e9 s and the time of one packet.
    """
    phases = [network.sized(flows) for flows in phases]
    times = fifo_times(network, phases, chunk=chunk, window=window, injection=injection, packet=packet, compiled=compiled)
    return exchange_of(network, phases, times)


def fifo_times(
    network: Network,
    phases: Sequence[Flows],
    *,
    chunk: float | None = None,
    window: float = TCP_WINDOW,
    injection: Injection = "fifo",
    packet: float = PACKET,
    compiled: bool | None = None,
) -> MessageTimes:
    """Times of the messages of an exchange through FIFO ports.

    Per link ``end = max(arrival, free) + chunk / capacity``, then its latency. The next link starts a chunk when its first
    packet has arrived (packets are stored and forwarded, chunks cut through), but not before it can serve the chunk without
    a gap. Buffers are unlimited (no loss, no back-pressure into other ports). An answer takes 64 bytes. Ties are ordered by
    kind of event, then by message (sender, then posting order). All ranks enter after ``network.per_exchange``; each takes
    the phases in order, waits for the phase that a phase comes after, and spends ``network.per_message`` on every message.

    Args:
        network: Capacities and constants.
        phases: Messages; those of a sender in posting order.
        chunk: Bytes served together; under ``round_robin`` also the length of a turn. Default: one packet, or more packets
            where that would be millions of events.
        window: Bytes of a message that may leave before its receiver has answered, in whole packets; infinite for a
            transport that never waits.
        injection: Whether a sender's port serves its messages one after the other or in turns.
        packet: Bytes after which a switch forwards.
        compiled: Whether to use numba or plain Python, which give the same numbers. Default: by the size of the case.

    Raises:
        ConfigError: If a size is not positive, a chunk too small for the bytes, ``injection`` is unknown, or routes are
            split.
        SimulationError: If bytes are lost, which is a bug.

    Example:
        1 MB over two links of 1 GB/s and 1 us each, packets of 1 kB: 1 ms + 1 us of a packet + 2 us.
    """
    check_routes(network, phases)
    check_settings(chunk=packet if chunk is None else chunk, window=window, packet=packet, injection=injection)
    work = _work(
        network,
        phases,
        chunk=_chunk(phases, chunk, packet=packet),
        window=whole_packets(window, packet=packet),
        packet=float(packet),
        take_turns=int(injection == "round_robin"),
    )
    return _play(work, compiled=compiled)


def exchange_of(network: Network, phases: Sequence[Flows], times: MessageTimes) -> ExchangeTime:
    """Times of an exchange from those of its messages.

    Raises:
        SimulationError: If the time is below the bound, which is a bug.
    """
    finish = np.full(network.topology.num_ranks, network.per_exchange)
    np.maximum.at(finish, _joined([flows.source for flows in phases]), times.sent)
    np.maximum.at(finish, _joined([flows.destination for flows in phases]), times.arrived)
    bound, duration = lower_bound(network, phases), float(finish.max())
    if duration < bound * (1 - _ROUNDING):
        raise SimulationError(f"an exchange took {duration} s, below its bound of {bound} s: please report this.")
    return ExchangeTime(
        duration=duration, finish=finish, bound=bound, num_flows=len(times.sent), rate_changes=times.num_events
    )


def check_routes(network: Network, phases: Sequence[Flows]) -> None:
    """Check that routes and links are such that ports with queues can model them.

    Raises:
        ConfigError: If messages are split over routes, or links limit incast.
    """
    topology = network.topology
    limited = np.isfinite(topology.incast_flows) & (topology.incast_efficiency < 1)
    for what, is_there in (
        ("routing: split", any(flows.routes.share is not None for flows in phases)),
        ("incast", bool(limited.any())),
    ):
        if is_there:
            raise ConfigError(
                f"{what} in the topology needs fidelity fluid: fifo and packet send a message along one route through "
                "endless queues. Use --fidelity fluid, or take it out of the topology."
            )


def check_settings(*, chunk: float, window: float, packet: float, injection: str) -> None:
    """Check that sizes are positive and the injection is known.

    Raises:
        ConfigError: If a size is not positive, or ``injection`` is unknown.
    """
    for name, value in (("chunk", chunk), ("window", window), ("packet", packet)):
        if not value > 0:
            raise ConfigError(f"{name} = {value} bytes: must be more than 0. Leave it out for the default.")
    if injection not in {"fifo", "round_robin"}:
        raise ConfigError(f'injection = "{injection}" is unknown. Use "fifo" or "round_robin".')


def whole_packets(window: float, *, packet: float) -> float:
    """Window of whole packets, at least one, in bytes."""
    return math.inf if math.isinf(window) else max(window // packet, 1.0) * packet


def pieces(phases: Sequence[Flows], size: float) -> float:
    """Number of pieces of ``size`` bytes times links that they cross."""
    return sum(float(np.ceil(flows.size / size) @ np.diff(flows.routes.offsets)) for flows in phases)


def _chunk(phases: Sequence[Flows], chunk: float | None, *, packet: float) -> float:
    if chunk is None:
        on_links = sum(float(flows.size @ np.diff(flows.routes.offsets)) for flows in phases)
        return float(packet * max(1, math.ceil(on_links / packet / _MAX_CHUNKS)))
    if (count := pieces(phases, chunk)) > _MOST_CHUNKS:
        raise ConfigError(
            f"chunk = {chunk} bytes: links would serve {count:.1e} chunks, at most {_MOST_CHUNKS:.0e} are simulated. "
            "Make it larger, or leave it out."
        )
    return float(chunk)


def _joined(columns: Sequence[NDArray[Any]], dtype: type = np.int64) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=dtype), *columns]).astype(dtype, copy=False)


def _work(network: Network, phases: Sequence[Flows], **settings: Any) -> Work:
    """All tables of the event loop."""
    num_ranks, num_gates = network.topology.num_ranks, len(phases) * network.topology.num_ranks
    messages = _messages(network, phases)
    links = np.zeros(network.topology.num_links, LINK)
    links["capacity"], links["latency"] = network.capacity, network.topology.link_latency
    entries = np.zeros(3 * len(messages), ENTRY)
    entries["left"][0::3] = np.minimum(messages["size"], settings["window"])
    entries["left"][1::3] = messages["size"] - entries["left"][0::3]
    queues = np.zeros(int(messages["queue"].max(initial=-1)) + 1, QUEUE)
    queues["head"] = queues["tail"] = -1
    gates = np.zeros(num_gates, GATE)
    bounds = np.searchsorted(messages["gate"], np.arange(num_gates + 1))
    gates["first"], gates["end"] = bounds[:-1], bounds[1:]
    gates["to_send"] = np.diff(bounds)
    gates["to_receive"] = np.bincount(messages["goal"], minlength=num_gates)
    table = np.zeros(len(phases), PHASE)
    for row, flows in zip(table, phases, strict=True):
        row["after"], row["after_sent"] = flows.after, flows.after_sent
    table["awaited"][table["after"][table["after"] >= 0]] = 1
    ranks = np.zeros(num_ranks, RANK)
    ranks["message"] = -1
    return Work(
        messages=messages,
        entries=entries,
        route=_joined([flows.routes.links for flows in phases]),
        links=links,
        queues=queues,
        gates=gates,
        phases=table,
        ranks=ranks,
        start=float(network.per_exchange),
        **settings,
    )


def _messages(network: Network, phases: Sequence[Flows]) -> NDArray[Any]:
    """The messages of all phases, those of a phase by sender and then in posting order."""
    num_ranks = network.topology.num_ranks
    result = np.zeros(sum(len(flows) for flows in phases), MESSAGE)
    first = np.repeat(np.arange(len(phases)) * num_ranks, [len(flows) for flows in phases])
    source, destination = _joined([flows.source for flows in phases]), _joined([flows.destination for flows in phases])
    end = np.cumsum(_joined([np.diff(flows.routes.offsets) for flows in phases]))
    result["gate"], result["goal"] = first + source, first + destination
    result["first"][1:], result["end"] = end[:-1], end
    route = _joined([flows.routes.links for flows in phases])
    count = result["end"] - result["first"]
    result["queue"] = _queues(source, result["first"], count, route, num_links=network.topology.num_links)
    result["overhead"] = network.per_message * _joined([flows.messages for flows in phases], np.float64)
    result["size"] = _joined([flows.size for flows in phases], np.float64)
    result["alone"] = result["size"] / _joined([flows.ceiling for flows in phases], np.float64)
    result["latency"] = latency = _joined([flows.latency for flows in phases], np.float64)
    on_links = np.bincount(
        np.repeat(np.arange(len(count)), count), weights=network.topology.link_latency[route], minlength=len(count)
    )
    beyond = latency - on_links
    result["beyond"] = np.where(beyond > _ROUNDING * latency, beyond, 0.0)
    result["back"] = way_back(
        result["gate"] * num_ranks + destination, result["goal"] * num_ranks + source, result["queue"] >= 0
    )
    return result


def _queues(
    source: NDArray[np.int64],
    first: NDArray[np.int64],
    count: NDArray[np.int64],
    route: NDArray[np.int64],
    *,
    num_links: int,
) -> NDArray[np.int64]:
    """A queue per sender and first shared link, numbered in that order; -1 for messages without shared links, (F,)."""
    queue = np.full(len(source), -1)
    has = count > 0
    _, queue[has] = np.unique(source[has] * num_links + route[first[has]], return_inverse=True)
    return queue


def way_back(there: NDArray[np.int64], back: NDArray[np.int64], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the first usable message in the other direction for each message, -1 for none, shape (F,).

    ``there`` and ``back`` are the numbers of the pairs of ranks in the two directions.
    """
    candidates = np.flatnonzero(usable)
    keys, first = np.unique(there[candidates], return_index=True)
    if not len(keys):
        return np.full(len(there), -1)
    place = np.minimum(np.searchsorted(keys, back), len(keys) - 1)
    return np.where(keys[place] == back, candidates[first[place]], -1)


def _play(work: Work, *, compiled: bool | None) -> MessageTimes:
    """Run the event loop and check that all bytes have arrived."""
    if compiled is None:
        hops = work.messages["end"] - work.messages["first"] + 1
        expected = float(np.maximum(np.ceil(work.messages["size"] / work.chunk), 1) @ hops)
        compiled = expected > _PLAIN_EVENTS and find_spec("numba") is not None
    if compiled:
        events = compiled_run()(work)
        columns = [work.messages[name] for name in ("received", "sent", "arrived")]
    else:
        plain = work.plain()
        events = run(plain)
        columns = [
            np.array([getattr(message, name) for message in plain.messages], dtype=np.float64)
            for name in ("received", "sent", "arrived")
        ]
    received, sent, arrived = columns
    if not np.allclose(received, work.messages["size"], rtol=_ROUNDING, atol=0.0):
        raise SimulationError("bytes were lost between FIFO ports: please report this.")
    return MessageTimes(sent=sent, arrived=arrived, num_events=events)
