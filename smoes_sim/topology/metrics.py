"""Properties of a topology: the longest route, and the capacity between its two halves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.topology.graph import Topology
from smoes_sim.topology.routes import Router

_MANY = 512
"""Above this number of ranks the diameter is measured from a sample of sources."""


def diameter(topology: Topology) -> int:
    """Number of links on the longest route between two ranks; above 512 ranks from 512 evenly spaced sources.

    Example:
        >>> from smoes_sim.topology import find_topology
        >>> diameter(find_topology("2x8-h100-ndr400"))  # rank, NIC, fabric, NIC, rank
        4
    """
    num_ranks = topology.num_ranks
    if num_ranks == 1:
        return 0
    sources = np.unique(np.linspace(0, num_ranks - 1, min(_MANY, num_ranks)).astype(int))
    source = np.repeat(sources, num_ranks)
    destination = np.tile(np.arange(num_ranks), len(sources))
    away = source != destination
    one_each = replace(topology, routing="hash")
    routes = Router(one_each).compile(source[away], destination[away])
    return int(np.diff(routes.offsets).max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Bisection:
    """The capacity between two halves of a topology.

    Attributes:
        bandwidth: Largest flow from the first half to the second, B/s; 0 for a single rank.
        unit: What is divided: nodes, or the ranks of a single node.
        first: Number of nodes or ranks in the first half.
        total: Number of nodes or ranks in both.
    """

    bandwidth: float
    unit: Literal["node", "rank"]
    first: int
    total: int

    @property
    def cut(self) -> str:
        """The two halves in words; empty for a single rank."""
        if self.total < 2:
            return ""
        return f"{self._named(0, self.first - 1)} to {self._named(self.first, self.total - 1)}"

    def _named(self, first: int, last: int) -> str:
        return f"{self.unit} {first}" if first == last else f"{self.unit}s {first}-{last}"


def bisection(topology: Topology) -> Bisection:
    """Bandwidth from the first half of the nodes to the rest: the largest flow between them.

    With several nodes no node is divided: an odd number of nodes gives halves that differ by one node. The ranks of a single
    node are divided. Devices do not forward.

    Example:
        Three nodes of 4 ranks with one NIC of 25 GB/s each: 25 GB/s from node 0 to nodes 1-2.

        >>> from smoes_sim.topology import find_topology
        >>> found = bisection(find_topology("2x8-h100-ndr400"))  # 8 NICs of 50 GB/s a node
        >>> found.bandwidth, found.cut
        (400000000000.0, 'node 0 to node 1')
    """
    by_node = topology.num_nodes > 1
    unit = topology.node_of_rank if by_node else np.arange(topology.num_ranks)
    total = topology.num_nodes if by_node else topology.num_ranks
    first = total // 2
    bandwidth = _largest_flow(topology, unit < first) if total > 1 else 0.0
    return Bisection(bandwidth=bandwidth, unit="node" if by_node else "rank", first=first, total=total)


def _largest_flow(topology: Topology, is_source: NDArray[np.bool_]) -> float:
    """Largest flow from some ranks to all others, B/s; ``is_source`` has the shape (R,)."""
    import networkx as nx  # noqa: PLC0415 - 0.1 s to import, and only this needs it

    num_ranks = topology.num_ranks
    graph = nx.DiGraph()
    for link in range(topology.num_links):
        source, target = int(topology.link_source[link]), int(topology.link_target[link])
        leaving = ("out", source) if source < num_ranks else source
        entering = ("in", target) if target < num_ranks else target
        capacity = float(topology.link_bandwidth[link])
        known = graph.get_edge_data(leaving, entering, {"capacity": 0.0})["capacity"]
        graph.add_edge(leaving, entering, capacity=known + capacity)
    for rank in range(num_ranks):
        if is_source[rank]:
            graph.add_edge("source", ("out", rank))
        else:
            graph.add_edge(("in", rank), "sink")
    return float(nx.maximum_flow_value(graph, "source", "sink"))
