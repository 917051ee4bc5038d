"""An exchange of one phase that ranks enter at different times, alone on the network, without an event loop.

A rank posts its messages when it enters, and has finished when all of them have left and all that it receives has arrived,
as on SimPy's clock (:mod:`smoes_sim.network.fluid.engine`). Exchanges of several phases, sends in kernel buffers and
overheads of receives need that clock.
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


class RouteSolver:
    """When messages leave a network under one set of constants; routes that come again are prepared once.

    Args:
        network: Capacities and constants.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._kept: list[tuple[Flows, PreparedRoutes]] = []
        self._has_incast = bool(np.isfinite(network.topology.incast_flows).any())

    def drained(self, flows: Flows, ready: Times) -> Times:
        """Seconds when the last byte of each message leaves, by one fluid solution, shape (F,).

        Args:
            flows: The messages.
            ready: Seconds when each may start, shape (F,).
        """
        size = self.network.sized_all([flows])[0].size
        if not self._has_incast:
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
    """Whether :class:`StaggeredExchange` can time an exchange."""
    return len(phases) == 1 and not (network.send_buffer or network.per_receive)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StaggeredExchange:
    """The messages of an exchange, prepared for many entry times and constants; made by :meth:`of`.

    Attributes:
        flows: The messages, sorted by sender.
        queued: Number of messages that each message's sender posts up to and including it, shape (F,).
        senders: Ranks that send, ascending.
        first: Index of the first message of each of them.
        is_full: Whether every rank sends to every other one.
    """

    flows: Flows
    queued: Times
    senders: NDArray[np.int64]
    first: NDArray[np.int64]
    is_full: bool

    @classmethod
    def of(cls, flows: Flows, num_ranks: int) -> StaggeredExchange:
        """Prepare the messages of one phase."""
        first = np.flatnonzero(np.diff(flows.source, prepend=-1))
        messages = flows.messages
        total = np.cumsum(messages)
        before = (total - messages)[first]
        queued = total - np.repeat(before, np.diff(first, append=len(flows)))
        is_full = len(flows) == num_ranks * (num_ranks - 1)
        return cls(flows=flows, queued=queued, senders=flows.source[first], first=first, is_full=is_full)

    def finish(self, solver: RouteSolver, entry: Times) -> Times:
        """Seconds until each rank has sent and received everything, shape (R,).

        Args:
            solver: Of the network of the messages.
            entry: Seconds when each rank enters, shape (R,).
        """
        flows, network = self.flows, solver.network
        posted = entry + network.per_exchange
        if not len(flows):
            return posted
        start = float(posted.min())
        posted = posted - start
        ready = posted[flows.source] + network.per_message * self.queued
        if flows.rendezvous != "none":
            ready = np.maximum(ready, posted[flows.destination])
        sent = solver.drained(flows, ready)
        return start + self._latest(posted, sent, sent + flows.latency)

    def finish_at_no_cost(self, entry: Times) -> Times:
        """The same on a network that takes no time: when a rank and all that send to it have entered, shape (R,)."""
        if self.is_full:
            return np.full_like(entry, entry.max())
        sent = entry[self.flows.source]
        if self.flows.rendezvous != "none":
            sent = np.maximum(sent, entry[self.flows.destination])
        return self._latest(entry, sent, sent)

    def _latest(self, posted: Times, sent: Times, arrived: Times) -> Times:
        finish = posted.copy()
        if len(sent):
            finish[self.senders] = np.maximum(finish[self.senders], np.maximum.reduceat(sent, self.first))
            np.maximum.at(finish, self.flows.destination, arrived)
        return finish
