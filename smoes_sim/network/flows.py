"""A network that can be asked for flows: topology, capacities, routes and the constants of the software on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from smoes_sim.topology import Router, Routes, Topology

_FREE = 1e30
"""B/s of a network that costs nothing: a GB takes 1e-21 s, below the resolution of any clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """Messages from rank to rank and the links they cross.

    Attributes:
        source: Sending rank, shape (F,).
        destination: Receiving rank, shape (F,).
        size: Bytes, shape (F,), > 0.
        routes: Links that are shared and so can be a bottleneck, and the share of the bytes on each where routes are split.
        ceiling: Largest rate by itself, B/s: the narrowest fatpipe link on the way (capacity / share), shape (F,).
        latency: Sum of the latencies of the whole route, seconds, shape (F,); of the longest one where routes are split.
        copies: Messages that a flow stands for, each with its sender's overhead, shape (F,); one each when left out.
        after: Index of the phase that a rank must have received before it posts its part of this one; -1 for none.
        after_sent: Whether it must have sent its part of that phase too.
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

    @property
    def messages(self) -> NDArray[np.float64]:
        """Messages that each flow stands for, shape (F,)."""
        return np.ones(len(self.size)) if self.copies is None else self.copies

    def __len__(self) -> int:
        return len(self.size)

    def at_no_cost(self) -> Flows:
        """The same messages without links, latency or a ceiling of their own, for :meth:`Network.at_no_cost`."""
        nowhere = Routes(offsets=np.zeros(len(self) + 1, dtype=np.int64), links=np.empty(0, dtype=np.int32))
        free = np.full_like(self.ceiling, np.inf)
        return replace(self, routes=nowhere, latency=np.zeros_like(self.latency), ceiling=free)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A topology with the constants that only measurements can tell.

    Attributes:
        topology: What is wired to what.
        efficiency: Share of nominal bandwidth that the transport reaches, per link kind; 1 where not named.
        per_message: Seconds that a sender spends on each message, one after the other.
        per_exchange: Seconds that a rank spends entering an exchange, whatever it sends.
        half_size: Bytes of a message that reaches half of that share, per link kind; see :meth:`sized`.
        curve: Exponent of that loss.
        seed: Seed of the ECMP hash.
    """

    topology: Topology
    efficiency: dict[str, float] = field(default_factory=dict)
    per_message: float = 0.0
    per_exchange: float = 0.0
    half_size: dict[str, float] = field(default_factory=dict)
    curve: float = 0.5
    seed: int = 0

    @cached_property
    def router(self) -> Router:
        """Routes of this topology."""
        return Router(self.topology, seed=self.seed)

    @cached_property
    def capacity(self) -> NDArray[np.float64]:
        """Bytes per second that each link carries, shape (H,)."""
        factor = np.array([self.efficiency.get(kind, 1.0) for kind in self.topology.link_kinds])
        result: NDArray[np.float64] = self.topology.link_bandwidth * factor[self.topology.link_kind]
        return result

    def with_constants(
        self,
        *,
        efficiency: dict[str, float],
        per_message: float,
        per_exchange: float,
        half_size: dict[str, float] | None = None,
        curve: float = 0.5,
    ) -> Network:
        """The same topology and routes under other constants."""
        other = replace(
            self,
            efficiency=efficiency,
            per_message=per_message,
            per_exchange=per_exchange,
            half_size=half_size or {},
            curve=curve,
        )
        other.__dict__["router"] = self.router
        return other

    def at_no_cost(self) -> Network:
        """The same ranks on a network that takes no time, to tell what communication adds to a step."""
        links = self.topology.num_links
        free = replace(self.topology, link_bandwidth=np.full(links, _FREE), link_latency=np.zeros(links))
        other = Network(topology=free, seed=self.seed)
        other.__dict__["router"] = self.router
        return other

    def sized(self, flows: Flows) -> Flows:
        """The same messages as long as their transport makes them: small ones do not reach the full rate.

        ``size * (1 + (half_size / message) ** curve)``, by the narrowest kind of link on the way: ``efficiency`` is what
        endless messages reach, half of it those of ``half_size`` bytes. With ``curve`` 1 this is a fixed time per
        message, with 0.5 the slow approach of NCCL (docs/calibration.md).

        Example:
            half_size 4 KiB, curve 0.5, a message of 16 KiB: 16384 * (1 + 0.5) = 24576 B.
        """
        if not self.half_size or not len(flows):
            return flows
        routes = self.router.compile(flows.source, flows.destination)
        passes = _rate_alone(routes, self.capacity)
        flow = np.repeat(np.arange(len(routes)), np.diff(routes.offsets))
        narrowest = np.full(len(routes), np.inf)
        np.minimum.at(narrowest, flow, passes)
        half = np.array([self.half_size.get(kind, 0.0) for kind in self.topology.link_kinds])
        largest = np.zeros(len(routes))
        decides = passes <= narrowest[flow]
        np.maximum.at(largest, flow[decides], half[self.topology.link_kind[routes.links[decides]]])
        message = flows.size / flows.messages
        return replace(flows, size=flows.size * (1 + (largest / message) ** self.curve))

    def messages(self, source: NDArray[np.int64], destination: NDArray[np.int64], size: NDArray[np.float64]) -> Flows:
        """Flows of single messages between ranks that differ, shape (F,) each."""
        routes = self.router.compile(source, destination)
        latency = routes.sum_of(self.topology.link_latency)
        shared = self.topology.link_shared[routes.links]
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
        return Flows(
            source=source,
            destination=destination,
            size=size,
            routes=Routes(offsets=offsets, links=routes.links[shared], share=share),
            ceiling=ceiling,
            latency=latency,
        )


def _rate_alone(routes: Routes, capacity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest rate of the whole flow that each entry of the routes lets pass, B/s, shape (N,).

    A quarter of a flow on a link of 10 B/s: the flow may have 40 B/s.
    """
    passes: NDArray[np.float64] = capacity[routes.links]
    return passes if routes.share is None else passes / routes.share


def link_load(flows: Flows, num_links: int) -> NDArray[np.float64]:
    """Bytes that cross each link, shape (H,)."""
    weights = np.repeat(flows.size, np.diff(flows.routes.offsets))
    if flows.routes.share is not None:
        weights *= flows.routes.share
    return np.bincount(flows.routes.links, weights=weights, minlength=num_links).astype(np.float64)


def lower_bound(network: Network, phases: Sequence[Flows]) -> float:
    """Seconds that no schedule of these messages can beat, whatever the order of the phases.

    Every link must carry its bytes, the first of which starts after the sender's first message overhead and the last of
    which still has to travel; every message must pass its narrowest link; a sender pays for one message after another::

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
