"""Many exchanges, each alone on the network: their bounds together, and their exact times from routes prepared once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import SimulationError
from smoes_sim.network.exchange import ROUNDING
from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.fluid.prepared import PreparedRoutes
from smoes_sim.network.staggered import rates_alone
from smoes_sim.topology import Routes

Reals = NDArray[np.float64]
Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeparateExchanges:
    """K exchanges that never meet, prepared for many sets of constants; made by :meth:`of`.

    F is the number of all messages, N the sum of the lengths of their routes, R that of ranks, H that of links.

    Attributes:
        phases: The phases of each exchange.
        flows: The messages of all exchanges, (F,).
        exchange: Exchange of each message, (F,).
        queued: Number of messages that each message's sender posts in its phase up to and including it, (F,).
        load: Bytes on each link, (K, H).
        least: Least latency of a message on each link, seconds, (K, H); infinite where there is none.
        busiest: Messages of the busiest sender, (K,).
        fewest: Smallest number of messages that a flow stands for, (K,); 0 without flows.
    """

    phases: Sequence[Sequence[Flows]]
    flows: Flows
    exchange: Longs
    queued: Reals
    load: Reals
    least: Reals
    busiest: Reals
    fewest: Reals

    @classmethod
    def of(cls, exchanges: Sequence[Sequence[Flows]], network: Network) -> SeparateExchanges:
        """Prepare exchanges, at least one, of messages on the routes of a network."""
        number, num_links, num_ranks = len(exchanges), network.topology.num_links, network.topology.num_ranks
        parts = [flows for phases in exchanges for flows in phases]
        flows = _joined(parts)
        exchange = np.repeat(
            np.repeat(np.arange(number), [len(phases) for phases in exchanges]), [len(part) for part in parts]
        )
        count, messages = np.diff(flows.routes.offsets), flows.messages
        entry = np.repeat(exchange, count) * num_links + flows.routes.links
        weights = np.repeat(flows.size, count)
        if flows.routes.share is not None:
            weights = weights * flows.routes.share
        least, fewest = np.full(number * num_links, np.inf), np.full(number, np.inf)
        np.minimum.at(least, entry, np.repeat(flows.latency, count))
        np.minimum.at(fewest, exchange, messages)
        sent = np.bincount(exchange * num_ranks + flows.source, weights=messages, minlength=number * num_ranks)
        load = np.bincount(entry, weights=weights, minlength=number * num_links)
        return cls(
            phases=exchanges,
            flows=flows,
            exchange=exchange,
            queued=np.concatenate([part.queued for part in parts]),
            load=load.astype(np.float64).reshape(number, num_links),
            least=least.reshape(number, num_links),
            busiest=sent.reshape(number, num_ranks).max(axis=1),
            fewest=np.where(np.isfinite(fewest), fewest, 0.0),
        )

    def bounds(self, network: Network) -> Reals:
        """Lower bound of each exchange as by :func:`~smoes_sim.network.flows.lower_bound`, seconds, (K,)."""
        flows = self.flows
        longest = np.zeros(len(self.phases))
        at_narrowest = flows.size / rates_alone(flows, network.capacity)
        np.maximum.at(longest, self.exchange, at_narrowest + flows.latency)
        by_link = np.where(self.load > 0, self.load / network.capacity + self.least, 0.0).max(axis=1, initial=0.0)
        first = network.per_message * self.fewest
        by_sender = network.per_message * self.busiest - first
        bound = network.per_exchange + first + np.maximum(np.maximum(by_link, longest), by_sender)
        return np.where(self.busiest > 0, bound, network.per_exchange)

    def durations(self, network: Network) -> Reals:
        """Seconds of each exchange if all ranks enter it together, with every rate change followed, (K,).

        Only for exchanges that ``is_one_phase`` allows, on links that incast does not slow down.

        Raises:
            SimulationError: If a duration is below its bound, which is a bug.
        """
        flows, first = self.flows, np.searchsorted(self.exchange, np.arange(len(self.phases) + 1))
        sizes = [network.sized_all(phases)[0].size for phases in self.phases] if network.changes_sizes else [flows.size]
        size = np.concatenate(sizes)
        ready = network.per_exchange + network.per_message * self.queued
        entry = np.repeat(self.exchange, np.diff(flows.routes.offsets)) * network.topology.num_links + flows.routes.links
        if np.bincount(entry, minlength=1).max() <= 1:
            drained = ready + size / rates_alone(flows, network.capacity)
        else:
            drained = self._solved(network, size, ready, first)
        found = np.full(len(self.phases), network.per_exchange)
        np.maximum.at(found, self.exchange, drained + flows.latency)
        bounds = self.bounds(network)
        if (found < bounds * (1 - ROUNDING)).any():
            at = int(np.argmin(found / bounds))
            raise SimulationError(f"an exchange took {found[at]} s, below its bound of {bounds[at]} s: please report this.")
        return found

    def _solved(self, network: Network, size: Reals, ready: Reals, first: Longs) -> Reals:
        """Seconds when the last byte of each message leaves, one exchange after the other on the routes of all pairs."""
        flows, num_ranks = self.flows, network.topology.num_ranks
        pairs, place, pair = np.unique(flows.source * num_ranks + flows.destination, return_index=True, return_inverse=True)
        routes = flows.routes.some(place)
        prepared = PreparedRoutes(
            routes.offsets, routes.links, network.capacity, share=routes.share, ceiling=flows.ceiling[place]
        )
        drained = np.empty(len(flows))
        for start, end in itertools.pairwise(first.tolist()):
            own = pair[start:end]
            of_pairs, starts = np.zeros(len(pairs)), np.zeros(len(pairs))
            of_pairs[own], starts[own] = size[start:end], ready[start:end]
            drained[start:end] = prepared.drained(of_pairs, starts)[own]
        return drained


def _joined(parts: Sequence[Flows]) -> Flows:
    """The messages of several phases as one."""
    lengths = np.concatenate([[0], *(np.diff(part.routes.offsets) for part in parts)])
    share = None
    if any(part.routes.share is not None for part in parts):
        share = np.concatenate([_shares(part.routes) for part in parts])
    return Flows(
        source=np.concatenate([part.source for part in parts]),
        destination=np.concatenate([part.destination for part in parts]),
        size=np.concatenate([part.size for part in parts]),
        routes=Routes(offsets=np.cumsum(lengths), links=np.concatenate([part.routes.links for part in parts]), share=share),
        ceiling=np.concatenate([part.ceiling for part in parts]),
        latency=np.concatenate([part.latency for part in parts]),
        copies=None if all(part.copies is None for part in parts) else np.concatenate([part.messages for part in parts]),
    )


def _shares(routes: Routes) -> Reals:
    return np.ones(len(routes.links)) if routes.share is None else routes.share
