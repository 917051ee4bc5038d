"""Messages through FIFO ports: the fidelity that sees in which order a library posts its messages.

Every directed link is a first-in-first-out server; a message goes through as chunks. Two things at the sender decide
what an order costs. *Injection*: with ``fifo`` a port sends the messages of a rank one behind the other, so that ranks
that post 0, 1, 2, ... all hit the same receiver while other receivers idle; with ``round_robin`` the messages take turns
and no order is bad. *Window*: what may leave of each message before its receiver has answered; the answer waits in the
receiver's own port behind data, and the rest joins the sender's queue when it is back. See ``docs/models.md``.
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
from smoes_sim.network.fifo_kernel import Work, compiled_run, run
from smoes_sim.network.flows import Flows, Network, lower_bound
from smoes_sim.topology import Routes

Injection = Literal["fifo", "round_robin"]

TCP_WINDOW = 65535.0
"""Bytes that TCP sends before the first acknowledgement: the window field of a SYN-ACK has 16 bits and no scale."""
PACKET = 8940.0
"""Bytes of a packet when nothing else is said: an Ethernet jumbo frame without its headers."""

_ROUNDING = 1e-9
_MAX_CHUNKS = 4_000_000
"""Chunks on links, in all, up to which a chunk is one packet when nothing else is said: a few seconds."""
_PLAIN_EVENTS = 150_000
"""Exchanges up to this many events run as plain Python, within half a second: compiling would take longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FifoTimes:
    """When messages were through.

    Attributes:
        sent: When the last byte left the sender's first shared link, seconds, shape (F,).
        arrived: When the last byte was at the receiver, seconds, shape (F,).
        num_events: Events played.
    """

    sent: NDArray[np.float64]
    arrived: NDArray[np.float64]
    num_events: int


def fifo_times(
    flows: Flows,
    network_capacity: NDArray[np.float64],
    link_latency: NDArray[np.float64],
    *,
    ready: NDArray[np.float64],
    chunk: float | None = None,
    window: float = math.inf,
    injection: Injection = "fifo",
    packet: float = PACKET,
    compiled: bool | None = None,
) -> FifoTimes:
    """Send messages through FIFO ports.

    Per link ``end = max(arrival, free) + chunk / capacity``, then its latency. The next link starts a chunk when its
    first packet is there (packets are stored and forwarded, chunks cut through), but not before it can serve it without
    a gap. Buffers are as large as needed (lossless, no back-pressure into other ports). An answer takes 64 bytes.
    Ties go by kind of event, then by message (sender, then posting order).

    Args:
        flows: Messages; those of a sender in posting order where ``ready`` is equal.
        network_capacity: B/s of every link, shape (H,).
        link_latency: Seconds of every link, shape (H,).
        ready: When each message is posted, seconds, shape (F,).
        chunk: Bytes served together; under ``round_robin`` also the length of a turn. One packet when left out, or more
            packets where that would be millions of events.
        window: Bytes of a message that may leave before its receiver has answered, in whole packets; infinite for a
            transport that never waits (RDMA write), ``TCP_WINDOW`` for TCP.
        injection: Whether a sender's port serves its messages one behind the other or in turns.
        packet: Bytes after which a switch forwards.
        compiled: Use numba or plain Python, which give the same numbers; by the size of the case when left out.

    Raises:
        ConfigError: If a size is not positive, or ``injection`` is unknown.

    Example:
        1 MB over two links of 1 GB/s and 1 us each, packets of 1 kB: 1 ms + 1 us of a packet + 2 us.
    """
    num_ranks = int(max(flows.source.max(initial=-1), flows.destination.max(initial=-1))) + 1
    order = np.lexsort((ready, flows.source))
    settings = _settings([flows], chunk=chunk, window=window, packet=packet, injection=injection)
    work = _work(
        [_take(flows, order)],
        capacity=network_capacity,
        link_latency=link_latency,
        delays=[ready[order]],
        num_ranks=num_ranks,
        settings=settings,
    )
    work, events = _play(work, compiled=compiled)
    sent, arrived = np.empty(len(flows)), np.empty(len(flows))
    sent[order], arrived[order] = work.sent, work.arrived
    return FifoTimes(sent=sent, arrived=arrived, num_events=events)


def fifo_exchange_time(
    network: Network,
    phases: Sequence[Flows],
    *,
    chunk: float | None = None,
    window: float = math.inf,
    injection: Injection = "fifo",
    packet: float = PACKET,
    compiled: bool | None = None,
) -> ExchangeTime:
    """Simulate one exchange that starts everywhere at once, as :func:`~smoes_sim.network.exchange_time` does by fluid.

    A rank enters a phase when all it sends and receives in the phase before is done; before each message it spends
    ``network.per_message``, before the first one ``network.per_exchange`` too. Arguments as in :func:`fifo_times`.

    Raises:
        ConfigError: If a size is not positive, or ``injection`` is unknown.
        SimulationError: If the answer is below the bound or bytes are lost (a bug).

    Example:
        4 ranks on a star of 50 GB/s, 16 MiB a pair, shifted order: 3 * 16777216 / 50e9 s and the time of one packet.
    """
    settings = _settings(phases, chunk=chunk, window=window, packet=packet, injection=injection)
    num_ranks = network.topology.num_ranks
    delays = [posting_delays(flows, per_message=network.per_message) for flows in phases]
    if delays:
        delays[0] = delays[0] + network.per_exchange
    work = _work(
        phases,
        capacity=network.capacity,
        link_latency=network.topology.link_latency,
        delays=delays,
        num_ranks=num_ranks,
        settings=settings,
    )
    work, events = _play(work, compiled=compiled)
    finish = np.full(num_ranks, network.per_exchange)
    np.maximum.at(finish, np.asarray(work.gate, dtype=np.int64) % num_ranks, np.asarray(work.sent))
    np.maximum.at(finish, np.asarray(work.receiver_gate, dtype=np.int64) % num_ranks, np.asarray(work.arrived))
    bound, duration = lower_bound(network, phases), float(finish.max())
    if duration < bound * (1 - _ROUNDING):
        raise SimulationError(f"an exchange took {duration} s, below its bound of {bound} s: please report this.")
    num_flows = sum(len(flows) for flows in phases)
    return ExchangeTime(duration=duration, finish=finish, bound=bound, num_flows=num_flows, rate_changes=events)


def posting_delays(flows: Flows, *, per_message: float) -> NDArray[np.float64]:
    """Seconds from the moment a sender begins until each message is posted: its overheads one after the other, (F,).

    The messages of one sender stand together, in the order in which it posts them.
    """
    number = np.arange(len(flows))
    is_first = np.diff(flows.source, prepend=-1) != 0
    first = np.maximum.accumulate(np.where(is_first, number, 0))
    return (number - first + 1).astype(np.float64) * per_message


def _settings(
    phases: Sequence[Flows], *, chunk: float | None, window: float, packet: float, injection: str
) -> dict[str, Any]:
    check_settings(chunk=packet if chunk is None else chunk, window=window, packet=packet, injection=injection)
    if chunk is None:
        on_links = sum(float(flows.size @ np.diff(flows.routes.offsets)) for flows in phases)
        chunk = packet * max(1, math.ceil(on_links / packet / _MAX_CHUNKS))
    return {
        "chunk": float(chunk),
        "window": whole_packets(window, packet=packet),
        "packet": float(packet),
        "take_turns": int(injection == "round_robin"),
    }


def check_settings(*, chunk: float, window: float, packet: float, injection: str) -> None:
    """Refuse settings without a meaning.

    Raises:
        ConfigError: If a size is not positive, or ``injection`` is unknown.
    """
    for name, value in (("chunk", chunk), ("window", window), ("packet", packet)):
        if not value > 0:
            raise ConfigError(f"{name} = {value} bytes: must be more than 0. Leave it out for the usual value.")
    if injection not in {"fifo", "round_robin"}:
        raise ConfigError(f'injection = "{injection}" is unknown. Use "fifo" or "round_robin".')


def whole_packets(window: float, *, packet: float) -> float:
    """A window as a sender uses it: whole packets, at least one."""
    return math.inf if math.isinf(window) else max(window // packet, 1.0) * packet


def _take(flows: Flows, order: NDArray[np.int64]) -> Flows:
    """The same flows in another order."""
    count = np.diff(flows.routes.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(count)])
    place = np.arange(offsets[-1]) + np.repeat(flows.routes.offsets[order] - offsets[:-1], count)
    return Flows(
        source=flows.source[order],
        destination=flows.destination[order],
        size=flows.size[order],
        routes=Routes(offsets=offsets, links=flows.routes.links[place]),
        ceiling=flows.ceiling[order],
        latency=flows.latency[order],
    )


def _work(
    phases: Sequence[Flows],
    *,
    capacity: NDArray[np.float64],
    link_latency: NDArray[np.float64],
    delays: Sequence[NDArray[np.float64]],
    num_ranks: int,
    settings: dict[str, Any],
) -> Work:
    """All columns of the event loop, as arrays."""
    source, destination = _joined([flows.source for flows in phases]), _joined([flows.destination for flows in phases])
    phase = np.repeat(np.arange(len(phases)), [len(flows) for flows in phases])
    count = _joined([np.diff(flows.routes.offsets) for flows in phases])
    offsets, links = np.concatenate([[0], np.cumsum(count)]), _joined([flows.routes.links for flows in phases])
    size = _joined([flows.size for flows in phases], np.float64)
    route_latency = _joined([flows.latency for flows in phases], np.float64)
    on_links = np.bincount(np.repeat(np.arange(len(size)), count), weights=link_latency[links], minlength=len(size))
    beyond = np.maximum(route_latency - on_links, 0.0)
    beyond[beyond < _ROUNDING * route_latency] = 0.0
    gate, receiver_gate = phase * num_ranks + source, (phase + 1) * num_ranks + destination
    num_gates, num_messages = len(phases) * num_ranks, len(size)
    queue, num_queues = _queues(source, offsets, links, num_links=len(capacity))
    left = np.zeros((num_messages, 3))
    left[:, 0] = np.minimum(size, settings["window"])
    left[:, 1] = size - left[:, 0]
    return Work(
        offsets=offsets,
        links=links,
        capacity=capacity.astype(np.float64),
        latency=link_latency.astype(np.float64),
        size=size,
        beyond=beyond,
        alone=size / _joined([flows.ceiling for flows in phases], np.float64),
        back=way_back(gate * num_ranks + destination, (receiver_gate - num_ranks) * num_ranks + source, queue >= 0),
        route_latency=route_latency,
        queue=queue,
        delay=_joined(delays, np.float64),
        gate=gate,
        receiver_gate=receiver_gate,
        gate_start=np.searchsorted(gate, np.arange(num_gates + 1)),
        waits=_waits(gate + num_ranks, receiver_gate, num_ranks, num_gates),
        opened=np.zeros(num_gates),
        free=np.zeros(len(capacity)),
        head=np.full(num_queues, -1),
        tail=np.full(num_queues, -1),
        busy=np.zeros(num_queues, dtype=np.int64),
        follows=np.full(3 * num_messages, -1),
        left=left.ravel(),
        in_flight=np.zeros(num_messages, dtype=np.int64),
        received=np.zeros(num_messages),
        posted=np.zeros(num_messages),
        sent=np.zeros(num_messages),
        arrived=np.zeros(num_messages),
        ranks=num_ranks,
        **settings,
    )


def _joined(columns: Sequence[NDArray[Any]], dtype: type = np.int64) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype=dtype), *columns]).astype(dtype, copy=False)


def _waits(
    sender_gate: NDArray[np.int64], receiver_gate: NDArray[np.int64], num_ranks: int, num_gates: int
) -> NDArray[np.int64]:
    """What each gate waits for: the start or the gate before it, and every message of its rank in the phase before."""
    both = np.concatenate([sender_gate, receiver_gate])
    counted: NDArray[np.int64] = 1 + np.bincount(both, minlength=num_gates + num_ranks)[:num_gates]
    return counted


def _queues(
    source: NDArray[np.int64], offsets: NDArray[np.int64], links: NDArray[np.int64], *, num_links: int
) -> tuple[NDArray[np.int64], int]:
    """A queue per sender and first shared link, numbered in that order; -1 for messages without shared links."""
    queue = np.full(len(source), -1)
    has = np.diff(offsets) > 0
    keys, queue[has] = np.unique(source[has] * num_links + links[offsets[:-1][has]], return_inverse=True)
    return queue, len(keys)


def way_back(there: NDArray[np.int64], back: NDArray[np.int64], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each message the first usable one the other way (``there`` and ``back`` name the pairs), -1 if none, (F,)."""
    candidates = np.flatnonzero(usable)
    keys, first = np.unique(there[candidates], return_index=True)
    if not len(keys):
        return np.full(len(there), -1)
    place = np.minimum(np.searchsorted(keys, back), len(keys) - 1)
    return np.where(keys[place] == back, candidates[first[place]], -1)


def _play(work: Work, *, compiled: bool | None) -> tuple[Work, int]:
    """Run the event loop and check that every byte arrived."""
    if compiled is None:
        hops = np.diff(work.offsets) + 1
        expected = float((np.ceil(work.size / work.chunk) * hops).sum())
        compiled = expected > _PLAIN_EVENTS and find_spec("numba") is not None
    if compiled:
        events = compiled_run()(work)
    else:
        columns = work._asdict().items()
        work = Work(**{name: column.tolist() if isinstance(column, np.ndarray) else column for name, column in columns})
        events = run(work)
    received = np.asarray(work.received)
    if not np.allclose(received, work.size, rtol=_ROUNDING, atol=0.0):
        raise SimulationError("bytes were lost between FIFO ports: please report this.")
    return work, events
