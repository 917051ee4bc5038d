"""An exchange that ranks enter at different times, alone on the network, without an event loop.

A rank posts its messages when it enters, and has finished when all of them have left and all that it receives has arrived,
as on SimPy's clock (:mod:`smoes_sim.network.fluid.engine`). Phases that follow each other are solved one after the other,
as if no two shared a link at the same time. Pipelined phases, sends in kernel buffers and overheads of receives need
that clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.fluid.prepared import PreparedRoutes
from smoes_sim.network.fluid.solve import fluid_times

Times = NDArray[np.float64]
WINDOW = 0.4
"""Width of the windows of the single fluid solution, as a share of the least time that the flows in flight still need."""

_MOST_PHASES = 2
"""Phases of a chain: copies between nodes, then forwarded inside them (``deduplicate: node``)."""


class RouteSolver:
    """When messages leave a network under one set of constants; routes that come again are prepared once.

    Args:
        network: Capacities and constants.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._kept: list[tuple[Flows, PreparedRoutes]] = []

    def drained(self, flows: Flows, ready: Times) -> Times:
        """Seconds when the last byte of each message leaves, by one fluid solution, shape (F,).

        Args:
            flows: The messages.
            ready: Seconds when each may start, shape (F,).
        """
        size = self.network.sized_all([flows])[0].size
        if not self.network.has_incast:
            return self._prepared(flows).drained(size, ready, window=WINDOW)
        topology = self.network.topology
        return fluid_times(
            flows.routes.offsets,
            flows.routes.links,
            size,
            self.network.capacity,
            share=flows.routes.share,
            ready=ready,
            ceiling=flows.ceiling,
            incast_flows=topology.incast_flows,
            incast_efficiency=topology.incast_efficiency,
            window=WINDOW,
        ).drained

    def _prepared(self, flows: Flows) -> PreparedRoutes:
        for known, routes in self._kept:
            if known.routes.links is flows.routes.links and known.ceiling is flows.ceiling:
                return routes
        routes = PreparedRoutes(
            flows.routes.offsets,
            flows.routes.links,
            self.network.capacity,
            share=flows.routes.share,
            ceiling=flows.ceiling,
        )
        self._kept = [*self._kept[-1:], (flows, routes)]
        return routes


def is_one_phase(network: Network, phases: Sequence[Flows]) -> bool:
    """Whether an exchange is one phase of messages that every sender posts at once."""
    return len(phases) == 1 and not (network.send_buffer or network.per_receive)


def is_chain(network: Network, phases: Sequence[Flows]) -> bool:
    """Whether :func:`finish_chain` can time an exchange: one phase, or a second one that forwards what the first brought.

    Rounds of ``pairwise`` form a chain too, but neighbouring rounds share links, which a chain leaves out.
    """
    waits = [flows.after == number - 1 and flows.behind < 0 for number, flows in enumerate(phases)]
    return len(phases) <= _MOST_PHASES and all(waits) and not (network.send_buffer or network.per_receive)


def finish_chain(phases: Sequence[StaggeredExchange], solvers: Sequence[RouteSolver], entry: Times) -> Times:
    """Seconds until each rank is done with an exchange under each of S sets of constants, shape (S, R).

    Args:
        phases: Its phases, each of which waits for the one before.
        solvers: Of the network of the messages, under each set.
        entry: Seconds when each rank enters, shape (S, R).
    """
    entered = entry + np.array([[solver.network.per_exchange] for solver in solvers])
    posted = finish = sent = received = entered
    for number, phase in enumerate(phases):
        if number:
            posted = np.maximum(posted, np.maximum(received, sent) if phase.flows.after_sent else received)
        sent, received = phase.ends(solvers, posted, entered if phase.flows.rendezvous == "entry" else posted)
        finish = np.maximum(finish, np.maximum(sent, received))
    return finish


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StaggeredExchange:
    """The messages of a phase, prepared for many entry times and constants; made by :meth:`of`.

    Attributes:
        flows: The messages, sorted by sender.
        queued: Number of messages that each message's sender posts up to and including it, shape (F,).
        senders: Ranks that send, ascending.
        first: Index of the first message of each of them.
        is_apart: Whether no two messages share a link.
    """

    flows: Flows
    queued: Times
    senders: NDArray[np.int64]
    first: NDArray[np.int64]
    is_apart: bool

    @classmethod
    def of(cls, flows: Flows) -> StaggeredExchange:
        """Prepare the messages of one phase."""
        first = np.flatnonzero(np.diff(flows.source, prepend=-1))
        is_apart = bool(np.bincount(flows.routes.links, minlength=1).max() <= 1)
        return cls(flows=flows, queued=flows.queued, senders=flows.source[first], first=first, is_apart=is_apart)

    def ends(self, solvers: Sequence[RouteSolver], posted: Times, there: Times) -> tuple[Times, Times]:
        """Seconds until each rank has sent its messages, and received those for it, both (S, R) and at least ``posted``.

        Args:
            solvers: Of the network of the messages, under each set of constants.
            posted: Seconds when each rank posts its messages, shape (S, R).
            there: Seconds when each rank has posted its receives, which count with rendezvous, shape (S, R).
        """
        flows = self.flows
        if not len(flows):
            return posted, posted
        per_message = np.array([[solver.network.per_message] for solver in solvers])
        start = posted.min(axis=1, keepdims=True)
        ready = (posted - start)[:, flows.source] + per_message * self.queued
        if flows.rendezvous != "none":
            ready = np.maximum(ready, (there - start)[:, flows.destination])
        left = self._drained(solvers, ready) + start
        sent, received = posted.copy(), posted.copy()
        sent[:, self.senders] = np.maximum(sent[:, self.senders], np.maximum.reduceat(left, self.first, axis=1))
        np.maximum.at(received.T, flows.destination, (left + flows.latency).T)
        return sent, received

    def _drained(self, solvers: Sequence[RouteSolver], ready: Times) -> Times:
        """Seconds when the last byte of each message leaves, (S, F); without a solution where no two share a link."""
        networks = [solver.network for solver in solvers]
        if self.is_apart and not any(network.changes_sizes for network in networks):
            return ready + self.flows.size / rates_alone(self.flows, np.stack([network.capacity for network in networks]))
        return np.stack([solver.drained(self.flows, start) for solver, start in zip(solvers, ready, strict=True)])


def finish_at_no_cost(phases: Sequence[Flows], entry: Times) -> Times:
    """Seconds until each rank is done with an exchange on a network that takes no time: only waiting is left, (S, R).

    A rank posts its part of a phase when it has received (and sent, where it must) its part of the phase that goes before.

    Args:
        phases: Messages of each phase.
        entry: Seconds when each rank enters, shape (S, R).
    """
    num_ranks = entry.shape[1]
    if len(phases) == 1 and len(phases[0]) == num_ranks * (num_ranks - 1):
        return np.broadcast_to(entry.max(axis=1, keepdims=True), entry.shape)
    posted, finish = entry, entry
    ends: list[tuple[Times, Times]] = []
    for flows in phases:
        if flows.after >= 0:
            sent, received = ends[flows.after]
            posted = np.maximum(posted, np.maximum(received, sent) if flows.after_sent else received)
        left = posted[:, flows.source]
        if flows.rendezvous != "none":
            there = posted if flows.rendezvous == "phase" else entry
            left = np.maximum(left, there[:, flows.destination])
        ends.append((_latest_at(flows.source, left, posted), _latest_at(flows.destination, left, entry)))
        finish = np.maximum(finish, np.maximum(*ends[-1]))
    return finish


def _latest_at(ranks: NDArray[np.int64], times: Times, least: Times) -> Times:
    """Latest time of the messages of each rank, at least ``least``, (S, R)."""
    latest = least.copy()
    np.maximum.at(latest.T, ranks, times.T)
    return latest


def rates_alone(flows: Flows, capacity: Times) -> Times:
    """Rate of each message if it were alone on its route, B/s, shape (..., F); infinite where nothing limits it.

    Args:
        flows: The messages.
        capacity: B/s of each link, shape (..., H).
    """
    routes = flows.routes
    filled = np.flatnonzero(np.diff(routes.offsets))
    rate = np.broadcast_to(flows.ceiling, (*capacity.shape[:-1], len(flows))).copy()
    if len(filled):
        passes = capacity[..., routes.links] if routes.share is None else capacity[..., routes.links] / routes.share
        narrowest = np.minimum.reduceat(passes, routes.offsets[filled], axis=-1)
        rate[..., filled] = np.minimum(rate[..., filled], narrowest)
    return rate
