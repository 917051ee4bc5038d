"""Exchanges that ranks enter one after the other, with work in between: exact times in compiled code.

Messages of neighbouring exchanges share the links where ranks that finish early have entered the next one. Every rate change
is followed, as on SimPy's clock (:mod:`smoes_sim.network.fluid.engine`) but without its events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.fluid import compiled_pass
from smoes_sim.network.fluid.problem import Links, usable_routes
from smoes_sim.network.fluid.waterfill import ONE, backend
from smoes_sim.topology import Routes

Times = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExchangeSequence:
    """The messages of K exchanges of one phase between R ranks, prepared for many sets of constants; made by :meth:`of`.

    Rank r in exchange k is the *node* ``k R + r``. F is the number of all messages, P that of pairs of ranks with any.

    Attributes:
        phases: The exchanges.
        routes: Links of each pair, (P,).
        ceiling: Largest rate of a message of each pair on its own, B/s, (P,).
        ends: Nodes that send and receive each message, its pair, and whether it waits for its receiver, (4, F).
        queued: Number of messages that each message's sender posts up to and including it, (F,).
        sent: Node n sends the messages from ``sent[n]`` up to ``sent[n + 1]``, (K R + 1,).
        received: Bounds of each node in ``inbound``, (K R + 1,).
        inbound: Messages that wait for the entry of their receiver, by receiver.
    """

    phases: Sequence[Flows]
    routes: Routes
    ceiling: Times
    ends: Ints
    queued: Times
    sent: Ints
    received: Ints
    inbound: Ints

    @classmethod
    def of(cls, phases: Sequence[Flows], network: Network) -> ExchangeSequence:
        """Prepare exchanges, at least one, on the routes of a network; between two ranks each has one message at most."""
        num_ranks, nodes = network.topology.num_ranks, len(phases) * network.topology.num_ranks
        source = np.concatenate([flows.source for flows in phases])
        destination = np.concatenate([flows.destination for flows in phases])
        exchange = np.repeat(np.arange(len(phases)), [len(flows) for flows in phases])
        waits = np.repeat([flows.rendezvous != "none" for flows in phases], [len(flows) for flows in phases])
        pairs, pair = np.unique(source * num_ranks + destination, return_inverse=True)
        sender, receiver = exchange * num_ranks + source, exchange * num_ranks + destination
        ceiling = np.empty(len(pairs))
        ceiling[pair] = np.concatenate([flows.ceiling for flows in phases])
        messages = np.concatenate([flows.messages for flows in phases])
        total, sent = np.cumsum(messages), np.searchsorted(sender, np.arange(nodes + 1))
        inbound = np.flatnonzero(waits)[np.argsort(receiver[waits], kind="stable")]
        return cls(
            phases=phases,
            routes=network.messages(pairs // num_ranks, pairs % num_ranks, np.ones(len(pairs))).routes,
            ceiling=ceiling,
            ends=np.stack([sender, receiver, pair, waits]).astype(np.int64),
            queued=total - (total - messages)[sent[sender]],
            sent=sent,
            received=np.searchsorted(receiver[inbound], np.arange(nodes + 1)),
            inbound=inbound,
        )

    def left(self, network: Network, before: Times, meanwhile: Times, *, is_free: NDArray[np.bool_]) -> Times:
        """Seconds until each rank has left each exchange, (K, R): all that it sends is gone, all that it receives is there.

        Args:
            network: Capacities and constants, on the topology of the messages; without incast.
            before: Seconds of work of each rank between the exchange before and its entry into this one, (K, R).
            meanwhile: Seconds of work that it starts on entry and ends before it leaves, (K, R).
            is_free: Whether an exchange takes no time, so that ranks only wait for the entry of others, (K,).
        """
        lengths = [len(flows) for flows in self.phases]
        costs = np.repeat(~is_free, lengths)
        size = np.concatenate([network.sized_all([flows])[0].size for flows in self.phases])
        pair, is_alone = self.ends[compiled_pass.PAIR], np.diff(self.routes.offsets) == 0
        messages = np.stack([
            network.per_message * self.queued * costs,
            size,
            np.where(costs, np.where(is_alone[pair], size / self.ceiling[pair], -1.0), 0.0),
            np.concatenate([flows.latency for flows in self.phases]) * costs,
        ])  # fmt: skip
        nodes = np.zeros((7, before.size))
        nodes[compiled_pass.BEFORE], nodes[compiled_pass.MEANWHILE] = before.ravel(), meanwhile.ravel()
        nodes[compiled_pass.OVERHEAD] = np.repeat(network.per_exchange * ~is_free, before.shape[1])
        waiting = 1 + np.bincount(self.ends[:2].ravel(), minlength=before.size).astype(np.int64)
        links = self._links(network.capacity)
        compiled_pass.run_pass(
            before.shape[1], nodes, messages, self.ends, waiting, self.sent, self.received, self.inbound, *links
        )
        assert not waiting.any(), "every rank leaves every exchange"
        return nodes[compiled_pass.LEFT].reshape(before.shape)

    def _links(self, capacity: Times) -> tuple[Ints, NDArray[np.int32], Times, Ints, Times]:
        """Links that can be a bottleneck, a ceiling as a link of its own; the last arguments of ``run_pass``."""
        routes, count = self.routes, np.diff(self.routes.offsets)
        limited = np.flatnonzero(np.isfinite(self.ceiling) & (count > 0))
        ends = routes.offsets[1:][limited]
        entries = np.insert(routes.links, ends, len(capacity) + np.arange(len(limited))).astype(np.int32)
        weight = ONE if routes.share is None else np.insert(routes.share, ends, 1.0)
        count[limited] += 1
        offsets = np.concatenate([[0], np.cumsum(count)])
        links = Links.without_incast(np.concatenate([capacity, self.ceiling[limited]]))
        used = usable_routes(backend(len(count)), offsets, entries, weight, links)
        first = np.concatenate([[0], np.cumsum(np.bincount(used.local, minlength=len(used.links)))])
        weights = np.broadcast_to(used.weight, len(used.local)).copy()
        return used.start, used.local, weights, first, links.capacity[used.links]
