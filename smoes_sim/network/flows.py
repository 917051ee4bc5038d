"""Messages with their routes, and the network that they cross: topology, capacities, routes, constants of the software."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from smoes_sim.topology import Router, Routes, Topology

Rendezvous = Literal["none", "entry", "phase"]
"""What a message waits for at its receiver: nothing (there is a buffer), ``entry`` of the receiver into the exchange, which
posts all its receives, or that the receiver has posted its part of the ``phase``."""
_FIRST = 1e-3
"""Fraction of a message sent before it counts as buffered; small enough not to affect timing."""
_FREE = 1e30
"""B/s of a network without cost: a GB takes 1e-21 s, below the resolution of a float clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """Messages of one phase from rank to rank, with the links they cross.

    Attributes:
        source: Sending rank, shape (F,).
        destination: Receiving rank, shape (F,).
        size: Bytes, shape (F,), > 0.
        routes: Shared links of each route, which can be a bottleneck, and the share of the bytes on each where routes are
            split.
        ceiling: Largest rate of each flow on its own, B/s: the narrowest fatpipe link on its route (capacity / share), (F,).
        latency: Sum of the latencies along the route, seconds, shape (F,); of the longest one where routes are split.
        copies: Number of messages that each flow represents, each with its sender's overhead, shape (F,); default 1.
        after: Index of the phase that a rank must have received before it posts its part of this one; -1 for none.
        after_sent: Whether it must have sent its part of that phase too.
        rendezvous: What messages wait for at their receiver.
        behind: Index of the phase whose messages, between the same ranks, precede these on the same connections; -1 for
            none. Only the fluid model needs this: in FIFO ports the order follows from posting.
        is_buffered: Whether the sender's kernel buffers these at once: they count as sent when the messages before them have
            left.
    """

    source: NDArray[np.int64]
    destination: NDArray[np.int64]
    size: NDArray[np.float64]
    routes: Routes
    ceiling: NDArray[np.float64]
    latency: NDArray[np.float64]
    copies: NDArray[np.float64] | None = None
    after: int = -1
    after_sent: bool = False
    rendezvous: Rendezvous = "none"
    behind: int = -1
    is_buffered: bool = False

    @property
    def messages(self) -> NDArray[np.float64]:
        """Number of messages that each flow represents, shape (F,)."""
        return np.ones(len(self.size)) if self.copies is None else self.copies

    @property
    def queued(self) -> NDArray[np.float64]:
        """Number of messages that the sender of each flow posts up to and including it, shape (F,); flows are by sender."""
        messages = self.messages
        total = np.cumsum(messages)
        first = np.searchsorted(self.source, self.source, side="left")
        return total - (total - messages)[first]

    def __len__(self) -> int:
        return len(self.size)

    def at_no_cost(self) -> Flows:
        """The same messages without links, latency and ceiling, for :meth:`Network.at_no_cost`."""
        nowhere = Routes(offsets=np.zeros(len(self) + 1, dtype=np.int64), links=np.empty(0, dtype=np.int32))
        free = np.full_like(self.ceiling, np.inf)
        return replace(self, routes=nowhere, latency=np.zeros_like(self.latency), ceiling=free)


class Constants(TypedDict, total=False):
    """Constants of the software and the transport that :meth:`Network.with_constants` can set; units as in `Network`."""

    efficiency: Mapping[str, float]
    per_message: float
    per_receive: float
    per_exchange: float
    half_size: Mapping[str, float]
    curve: float
    jitter: float
    send_buffer: float


@dataclass(frozen=True, kw_only=True)
class Network:
    """A topology with its routes, and the constants that only measurements can tell; made by :meth:`on`.

    Attributes:
        topology: Devices, switches and links.
        router: Routes of the topology.
        efficiency: Share of nominal bandwidth that the transport reaches, per link kind; 1 where not named.
        per_message: Seconds that a sender spends on each message, one after the other.
        per_receive: Seconds that a rank spends on posting each receive before it sends anything; counts only where messages
            wait for their receiver (rendezvous).
        per_exchange: Seconds that a rank spends entering an exchange, whatever it sends.
        half_size: Message size in bytes that reaches half of that share, per link kind; see :meth:`sized`.
        curve: Exponent of that loss.
        jitter: Scatter of the moment when a link finishes, s per root of the seconds it took; see :meth:`straggling`.
        send_buffer: Last bytes of a message that the sender's kernel buffers while they wait to leave; see :meth:`buffered`.
    """

    topology: Topology
    router: Router
    efficiency: Mapping[str, float] = field(default_factory=dict)
    per_message: float = 0.0
    per_receive: float = 0.0
    per_exchange: float = 0.0
    half_size: Mapping[str, float] = field(default_factory=dict)
    curve: float = 0.5
    jitter: float = 0.0
    send_buffer: float = 0.0

    @classmethod
    def on(cls, topology: Topology, *, seed: int = 0, **constants: Unpack[Constants]) -> Network:
        """A network on a topology, its router built here.

        Args:
            topology: Devices, switches and links.
            seed: Seed of the ECMP hash that chooses among equal routes.
            constants: Constants that differ from their defaults.

        Example:
            >>> from smoes_sim.topology import find_topology
            >>> network = Network.on(find_topology("two-orin-10gbe"), efficiency={"ethernet": 0.5})
            >>> network.capacity.tolist()  # 10 Gb/s is 1.25e9 B/s
            [625000000.0, 625000000.0, 625000000.0, 625000000.0]
        """
        return cls(topology=topology, router=Router(topology, seed=seed), **constants)

    @property
    def seed(self) -> int:
        """Seed of the ECMP hash."""
        return self.router.seed

    @cached_property
    def capacity(self) -> NDArray[np.float64]:
        """Bytes per second that each link carries, shape (H,)."""
        factor = np.array([self.efficiency.get(kind, 1.0) for kind in self.topology.link_kinds])
        result: NDArray[np.float64] = self.topology.link_bandwidth * factor[self.topology.link_kind]
        return result

    @property
    def has_incast(self) -> bool:
        """Whether some link delivers less where many messages meet."""
        topology = self.topology
        return bool((np.isfinite(topology.incast_flows) & (topology.incast_efficiency < 1)).any())

    @property
    def constants(self) -> tuple[object, ...]:
        """Everything that a set of constants can change, to tell two networks on the same links apart."""
        of_links = [tuple(sorted(values.items())) for values in (self.efficiency, self.half_size)]
        software = (self.per_message, self.per_receive, self.per_exchange, self.send_buffer)
        return (*of_links, *software, self.curve, self.jitter)

    def with_constants(self, **constants: Unpack[Constants]) -> Network:
        """The same topology and routes; constants that are not given keep their values."""
        return replace(self, **constants)

    def with_links(self, *, bandwidth: NDArray[np.float64], latency: NDArray[np.float64]) -> Network:
        """The same wiring, routes and constants with other links.

        Args:
            bandwidth: Nominal B/s of each link, shape (H,).
            latency: Seconds of each link, shape (H,).
        """
        return replace(self, topology=replace(self.topology, link_bandwidth=bandwidth, link_latency=latency))

    def at_no_cost(self) -> Network:
        """The same ranks and routes on a network that takes no time, without any constants.

        What communication adds to a step is the difference to a step on this network.
        """
        links = self.topology.num_links
        free = self.with_links(bandwidth=np.full(links, _FREE), latency=np.zeros(links))
        return Network(topology=free.topology, router=self.router)

    @property
    def changes_sizes(self) -> bool:
        """Whether :meth:`sized_all` changes anything."""
        return bool(self.half_size or self.jitter)

    def sized_all(self, phases: Sequence[Flows]) -> list[Flows]:
        """Phases whose sizes include what the transport (:meth:`sized`) and stragglers (:meth:`straggling`) add, bytes."""
        sized = [self.sized(flows) for flows in phases]
        factor = self.straggling(sized)
        return sized if factor == 1 else [replace(flows, size=flows.size * factor) for flows in sized]

    def buffered(self, phases: Sequence[Flows]) -> list[Flows]:
        """Phases cut in two where the kernel buffers sends: the part that must leave first, and the buffered rest.

        A message counts as sent when all but its last ``send_buffer`` bytes have left: its sender continues, and its next
        messages share the link with them. A shorter message counts as sent when a thousandth of it has left.

        Example:
            ``send_buffer`` 100 B, messages of 150 and 60 B: first 50 and 0.06 B, then 100 and 59.94 B.
        """
        if not self.send_buffer:
            return list(phases)
        cut = []
        for number, flows in enumerate(phases):
            first = np.maximum(flows.size - self.send_buffer, _FIRST * flows.size)
            after = -1 if flows.after < 0 else 2 * flows.after + 1
            behind = -1 if flows.behind < 0 else 2 * flows.behind + 1
            cut.append(replace(flows, size=first, after=after, behind=behind))
            rest = replace(flows, size=flows.size - first, after=after, copies=np.zeros(len(flows)))
            cut.append(replace(rest, behind=2 * number, is_buffered=True))
        return cut

    def straggling(self, phases: Sequence[Flows]) -> float:
        """Factor >= 1 by which an exchange is longer because it ends with its last link.

        Queues run empty at random, so the time when a link finishes scatters, as a random walk does, by
        ``jitter * sqrt(time)``. With one bottleneck its mean counts; with several equally loaded links the latest counts: if
        the scatter has a Gumbel distribution of scale ``s``, the mean of the latest is ``s log(sum of exp(time / s))``.
        Consecutive links that the same messages cross count as one queue.

        Example:
            8 links of 0.1 s each, jitter 0.0076: s = 2.4 ms, and the exchange takes 0.1 + 0.0024 * log 8 = 0.105 s.
        """
        if not self.jitter:
            return 1.0
        num_links = self.topology.num_links
        time = sum((link_load(flows, num_links) for flows in phases), np.zeros(num_links)) / self.capacity
        _, queue = np.unique(_crossing(phases, num_links), return_inverse=True)
        of_queue = np.zeros(num_links)
        np.maximum.at(of_queue, queue, time)
        slowest = float(of_queue.max(initial=0.0))
        if not slowest:
            return 1.0
        scatter = self.jitter * math.sqrt(slowest)
        late = scatter * math.log(float(np.exp((of_queue[of_queue > 0] - slowest) / scatter).sum()))
        return 1.0 + late / slowest

    def sized(self, flows: Flows) -> Flows:
        """Messages whose sizes include what the transport adds, because small messages do not reach the full rate.

        ``size * (1 + (half_size / message) ** curve)``, with the constants of the narrowest link on the route: infinitely
        long messages reach ``efficiency``, those of ``half_size`` bytes half of it. ``curve`` 1 is a fixed time per message;
        0.5 is the slow approach to the full rate of NCCL (docs/explanation/calibration.md).

        Example:
            half_size 4 KiB, curve 0.5, a message of 16 KiB: 16384 * (1 + 0.5) = 24576 B.
        """
        if not self.half_size or not len(flows):
            return flows
        pairs = self.router.all_pairs(len(flows))
        if pairs is None:
            largest = self._half_sizes(self.router.compile(flows.source, flows.destination))
        else:
            largest = self._half_sizes_of_pairs[self.router.pair(flows.source, flows.destination)]
        message = flows.size / flows.messages
        return replace(flows, size=flows.size * (1 + (largest / message) ** self.curve))

    def messages(self, source: NDArray[np.int64], destination: NDArray[np.int64], size: NDArray[np.float64]) -> Flows:
        """Flows of one message each.

        Args:
            source: Sending rank, shape (F,).
            destination: Receiving rank, which differs from the sender, shape (F,).
            size: Bytes, shape (F,), > 0.
        """
        pairs = self.router.all_pairs(len(source))
        if pairs is None:
            ways = self._ways(self.router.compile(source, destination))
        else:
            ways = self._ways_of_pairs.some(self.router.pair(source, destination))
        return Flows(
            source=source, destination=destination, size=size, routes=ways.routes, ceiling=ways.ceiling, latency=ways.latency
        )

    @cached_property
    def _ways_of_pairs(self) -> _Ways:
        """Ways of all pairs, if the router keeps their routes."""
        return self._ways(self._kept_routes())

    @cached_property
    def _half_sizes_of_pairs(self) -> NDArray[np.float64]:
        """Half sizes of all pairs, if the router keeps their routes."""
        return self._half_sizes(self._kept_routes())

    def _kept_routes(self) -> Routes:
        pairs = self.router.all_pairs(0)
        assert pairs is not None
        return pairs

    def _ways(self, routes: Routes) -> _Ways:
        """Shared links, ceiling and latency of routes."""
        latency = routes.sum_of(self.topology.link_latency)
        shared = self.topology.link_shared[routes.links]
        if shared.all():
            kept_all = Routes(offsets=routes.offsets, links=routes.links, share=routes.share)
            return _Ways(routes=kept_all, ceiling=np.full(len(routes), np.inf), latency=latency)
        flow = np.repeat(np.arange(len(routes)), np.diff(routes.offsets))
        passes = _rate_alone(routes, self.capacity)
        ceiling = np.full(len(routes), np.inf)
        np.minimum.at(ceiling, flow[~shared], passes[~shared])
        narrowest = np.full(len(routes), np.inf)
        np.minimum.at(narrowest, flow[shared], passes[shared])
        ceiling[ceiling >= narrowest] = np.inf  # never reached: the shared links are narrower
        kept = np.bincount(flow[shared], minlength=len(routes))
        offsets = np.concatenate([[0], np.cumsum(kept)])
        share = None if routes.share is None else routes.share[shared]
        return _Ways(
            routes=Routes(offsets=offsets, links=routes.links[shared], share=share), ceiling=ceiling, latency=latency
        )

    def _half_sizes(self, routes: Routes) -> NDArray[np.float64]:
        """Bytes of a message that reaches half of the bandwidth of its narrowest link, shape (F,)."""
        passes = _rate_alone(routes, self.capacity)
        flow = np.repeat(np.arange(len(routes)), np.diff(routes.offsets))
        narrowest = np.full(len(routes), np.inf)
        np.minimum.at(narrowest, flow, passes)
        half = np.array([self.half_size.get(kind, 0.0) for kind in self.topology.link_kinds])
        largest = np.zeros(len(routes))
        decides = passes <= narrowest[flow]
        np.maximum.at(largest, flow[decides], half[self.topology.link_kind[routes.links[decides]]])
        return largest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """What messages meet on their way, without their bytes: attributes as of :class:`Flows`."""

    routes: Routes
    ceiling: NDArray[np.float64]
    latency: NDArray[np.float64]

    def some(self, flows: NDArray[np.int64]) -> _Ways:
        """Some of them, in the order given; the very same arrays for all of them."""
        if len(flows) == len(self.routes) and np.array_equal(flows, np.arange(len(flows))):
            return self
        return _Ways(routes=self.routes.some(flows), ceiling=self.ceiling[flows], latency=self.latency[flows])


def _rate_alone(routes: Routes, capacity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest rate of a whole flow that each entry of its route allows, B/s, shape (N,).

    A link of 10 B/s that carries a quarter of a flow allows 40 B/s.
    """
    passes: NDArray[np.float64] = capacity[routes.links]
    return passes if routes.share is None else passes / routes.share


def _crossing(phases: Sequence[Flows], num_links: int) -> NDArray[np.float64]:
    """A number for each link, equal only for links that the same messages cross, shape (H,)."""
    key = np.zeros(num_links)
    first = 1
    for flows in phases:
        of_flow = np.sqrt(np.arange(first, first + len(flows)))
        key += np.bincount(flows.routes.links, np.repeat(of_flow, np.diff(flows.routes.offsets)), minlength=num_links)
        first += len(flows)
    return key


def link_load(flows: Flows, num_links: int) -> NDArray[np.float64]:
    """Bytes on each link, shape (H,)."""
    weights = np.repeat(flows.size, np.diff(flows.routes.offsets))
    if flows.routes.share is not None:
        weights *= flows.routes.share
    return np.bincount(flows.routes.links, weights=weights, minlength=num_links).astype(np.float64)


def lower_bound(network: Network, phases: Sequence[Flows]) -> float:
    """Lower bound of the time of these messages under any schedule and order of phases, seconds.

    Every link must carry its bytes: the first one starts after the sender's first message overhead, and the last one must
    still travel. Every message must pass its narrowest link. A sender pays for one message after the other::

        o + max(max over links of bytes / capacity + least latency,
                max over messages of size / narrowest + latency,
                o * (messages of the busiest sender - 1))

    Example:
        4 ranks on a star of 50 GB/s, 16 MiB a pair: each port carries 3 * 16777216 B, so 1.00663 ms.
    """
    num_links = network.topology.num_links
    load, least = np.zeros(num_links), np.full(num_links, np.inf)
    messages = np.zeros(network.topology.num_ranks)
    least_overhead = np.inf
    longest = 0.0
    for flows in phases:
        count, links = np.diff(flows.routes.offsets), flows.routes.links
        load += link_load(flows, num_links)
        np.minimum.at(least, links, np.repeat(flows.latency, count))
        rate = flows.ceiling.copy()
        np.minimum.at(rate, np.repeat(np.arange(len(flows)), count), _rate_alone(flows.routes, network.capacity))
        longest = max(longest, float((flows.size / rate + flows.latency).max(initial=0.0)))
        messages += np.bincount(flows.source, weights=flows.messages, minlength=len(messages))
        least_overhead = min(least_overhead, float(flows.messages.min(initial=np.inf)))
    if not messages.any():
        return network.per_exchange
    used = load > 0
    by_link = (load[used] / network.capacity[used] + least[used]).max(initial=0.0)
    first = network.per_message * least_overhead
    by_sender = network.per_message * messages.max() - first
    return float(network.per_exchange + first + max(by_link, longest, by_sender))
