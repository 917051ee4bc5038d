"""Equal blocks between all ranks, timed without a list of all flows, where symmetries of the topology make ranks equal.

A symmetry maps the flows onto the flows: sizes are equal, all start together, and a route is the only shortest one or is
split evenly over all, so the image of a route is the route of the image. Max-min fair rates are unique, so at any time they
are equal for a flow and its image. It is therefore enough to follow the flows of one rank of each orbit, each on one link of
each orbit of links: a flow that puts a share ``w`` on links of an orbit of ``D`` links, and whose rank stands for ``S``
ranks, loads each of these links by ``S w / D`` times its bytes. That is exact, with latencies, ceilings and incast.

Where a hash chooses among equal routes, or a sender's time per message depends on its order, ranks are not equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.flows import Flows, Network
from smoes_sim.network.fluid.solve import LinkUse, fluid_times
from smoes_sim.topology.symmetry import Symmetry, find_symmetry

_MOST_FLOWS = 1_000_000
"""Largest number of flows that are followed; more orbits than this allows are no gain over all flows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvenExchange:
    """An all-to-all of equal blocks.

    Attributes:
        duration: Seconds until the last rank has finished, links shared max-min fairly; exact.
        bound: Lower bound of the duration under any schedule, seconds; see ``lower_bound``.
        num_flows: Number of flows between different ranks.
        load: Bytes on each link, shape (H,).
        link_use: Use of the links from each rate change on; empty unless recorded.
    """

    duration: float
    bound: float
    num_flows: int
    load: NDArray[np.float64]
    link_use: tuple[LinkUse, ...] = ()


def even_exchange_time(network: Network, block: float, *, record_links: bool = False) -> EvenExchange | None:
    """Time of an exchange in which every rank sends a block to every other, all at once; None where ranks are not equal.

    Args:
        network: Capacities and constants.
        block: Bytes from each rank to each other, > 0.
        record_links: Record the use of every link over time.

    Example:
        64 ranks on 8 nodes, 1 MiB a block: a NIC of 50 GB/s carries 56 of them, and a message travels 2.7 us.

        >>> from smoes_sim.topology import find_topology
        >>> found = even_exchange_time(Network.on(find_topology("8x8-h100-ndr400")), 2**20)
        >>> round(found.duration * 1e6, 3), round(56 * 2**20 / 50e9 * 1e6, 3)
        (1177.105, 1174.405)
    """
    topology = network.topology
    if network.per_message or network.send_buffer or network.jitter:
        return None
    symmetry = find_symmetry(topology)
    senders, orbit_size = np.unique(symmetry.rank_class, return_index=True, return_counts=True)[1:]
    if len(senders) * topology.num_ranks > min(_MOST_FLOWS, topology.num_ranks**2 // 2):
        return None
    source = np.repeat(senders, topology.num_ranks)
    destination = np.tile(np.arange(topology.num_ranks), len(senders))
    source, destination = source[source != destination], destination[source != destination]
    if topology.routing == "hash" and network.router.has_choice(source, destination):
        return None
    flows = network.messages(source, destination, np.full(len(source), block))
    stands_for = np.repeat(orbit_size, topology.num_ranks - 1).astype(np.float64)
    return _timed(network, network.sized(flows), flows, stands_for, symmetry, record_links=record_links)


def _timed(
    network: Network,
    sized: Flows,
    flows: Flows,
    stands_for: NDArray[np.float64],
    symmetry: Symmetry,
    *,
    record_links: bool,
) -> EvenExchange:
    """Time, bound and loads from flows that stand for several equal ones each; ``sized`` has what the transport adds."""
    topology, routes, of_link = network.topology, flows.routes, symmetry.link_class
    first, orbit_size = np.unique(of_link, return_index=True, return_counts=True)[1:]
    count = np.diff(routes.offsets)
    share = np.ones(len(routes.links)) if routes.share is None else routes.share
    crossed = of_link[routes.links]
    weight = np.repeat(stands_for, count) * share / orbit_size[crossed]
    result = fluid_times(
        routes.offsets,
        crossed,
        sized.size,
        network.capacity[first],
        share=weight,
        ready=np.full(len(flows), network.per_exchange),
        ceiling=flows.ceiling,
        incast_flows=topology.incast_flows[first],
        incast_efficiency=topology.incast_efficiency[first],
        compiled=False,
        record_links=record_links,
    )
    load = np.bincount(crossed, weights=np.repeat(flows.size, count) * weight, minlength=len(first)).astype(np.float64)
    return EvenExchange(
        duration=float((result.drained + flows.latency).max()),
        bound=network.per_exchange + _bound(network, flows, crossed, share, load, network.capacity[first]),
        num_flows=int(stands_for.sum()),
        load=load[of_link],
        link_use=tuple((moment, use[of_link]) for moment, use in result.link_use),
    )


def _bound(
    network: Network,
    flows: Flows,
    crossed: NDArray[np.int64],
    share: NDArray[np.float64],
    load: NDArray[np.float64],
    capacity: NDArray[np.float64],
) -> float:
    """Seconds that the busiest link and the slowest message need at least; ``lower_bound`` without overheads."""
    count = np.diff(flows.routes.offsets)
    least = np.full(len(load), np.inf)
    np.minimum.at(least, crossed, np.repeat(flows.latency, count))
    rate = flows.ceiling.copy()
    np.minimum.at(rate, np.repeat(np.arange(len(flows)), count), network.capacity[flows.routes.links] / share)
    used = load > 0
    by_link = (load[used] / capacity[used] + least[used]).max(initial=0.0)
    return float(max(by_link, (flows.size / rate + flows.latency).max()))
