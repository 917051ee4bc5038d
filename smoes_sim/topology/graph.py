"""What is wired to what: devices, NICs and switches joined by directed links; frozen once built."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from smoes_sim.errors import TopologyError

_MOST_RANKS = 2**20
VertexKind = Literal["device", "nic", "switch"]
Routing = Literal["hash", "split"]


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Directed links between vertices; vertex ``r < num_ranks`` is the device of rank ``r``.

    Attributes:
        name: Shipped name or path.
        kind: The generator that built it.
        routing: Over equal routes a flow takes one by seeded hash, or is split evenly over all.
        vertex_names: Name of every vertex, shape (V,).
        vertex_kinds: ``device``, ``nic`` or ``switch``, shape (V,).
        node_of_rank: The node (or rack) that holds each rank, shape (R,).
        index_in_node: Position of each rank in its node, shape (R,).
        link_source: Vertex a link leaves, shape (H,).
        link_target: Vertex a link enters, shape (H,).
        link_bandwidth: Nominal capacity, B/s, shape (H,).
        link_latency: Seconds, shape (H,).
        link_kind: Index into ``link_kinds``, shape (H,).
        link_kinds: Names such as ``nvlink4`` or ``infiniband``.
        link_shared: True where flows share the capacity, False where each flow may have all of it (fatpipe), (H,).
        incast_flows: While more flows than this are in flight on a link, it delivers less; infinite where none, (H,).
        incast_efficiency: Part of its capacity that such a link then delivers; 1 where none, shape (H,).
    """

    name: str
    kind: str
    routing: Routing
    vertex_names: tuple[str, ...]
    vertex_kinds: tuple[VertexKind, ...]
    node_of_rank: NDArray[np.int32]
    index_in_node: NDArray[np.int32]
    link_source: NDArray[np.int32]
    link_target: NDArray[np.int32]
    link_bandwidth: NDArray[np.float64]
    link_latency: NDArray[np.float64]
    link_kind: NDArray[np.int32]
    link_kinds: tuple[str, ...]
    link_shared: NDArray[np.bool_]
    incast_flows: NDArray[np.float64]
    incast_efficiency: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @property
    def num_ranks(self) -> int:
        """Ranks, R."""
        return len(self.node_of_rank)

    @property
    def num_nodes(self) -> int:
        """Nodes (or racks, for a scale-up domain)."""
        return int(self.node_of_rank.max()) + 1

    @property
    def num_links(self) -> int:
        """Directed links, H."""
        return len(self.link_source)

    @cached_property
    def graph(self) -> nx.MultiDiGraph:
        """The same topology as a frozen networkx graph; the key of an edge is its link id."""
        graph = nx.MultiDiGraph(name=self.name, kind=self.kind)
        for vertex, (name, kind) in enumerate(zip(self.vertex_names, self.vertex_kinds, strict=True)):
            graph.add_node(vertex, name=name, kind=kind)
        for link in range(self.num_links):
            graph.add_edge(
                int(self.link_source[link]),
                int(self.link_target[link]),
                key=link,
                bandwidth=float(self.link_bandwidth[link]),
                latency=float(self.link_latency[link]),
                kind=self.link_kinds[self.link_kind[link]],
                sharing="shared" if self.link_shared[link] else "fatpipe",
            )
        return nx.freeze(graph)

    def rank_at(self, node: NDArray[np.int32], index: NDArray[np.int32]) -> NDArray[np.int64]:
        """The rank of a node that has an index there; an index beyond the node's size wraps; shapes broadcast."""
        order = np.lexsort((self.index_in_node, self.node_of_rank))
        size = np.bincount(self.node_of_rank)
        first = np.cumsum(size) - size
        found: NDArray[np.int64] = order[first[node] + index % size[node]]
        return found

    def link_name(self, link: int) -> str:
        """``source -> target`` of a link, as people read it."""
        return f"{self.vertex_names[self.link_source[link]]} -> {self.vertex_names[self.link_target[link]]}"

    def count_kinds(self) -> dict[str, int]:
        """Number of directed links of each kind."""
        counts = Counter(self.link_kind.tolist())
        return {kind: counts[index] for index, kind in enumerate(self.link_kinds) if counts[index]}

    def check_connected(self) -> None:
        """Every rank reaches every other through NICs and switches (devices do not forward).

        Raises:
            TopologyError: With the first two ranks that have no route.
        """
        source, target = self.link_source, self.link_target
        num_ranks, num_vertices = self.num_ranks, len(self.vertex_names)
        forwarding = np.zeros(num_vertices, dtype=bool)
        forwarding[num_ranks:] = True
        inner = forwarding[source] & forwarding[target]
        matrix = _adjacency(source[inner], target[inner], num_vertices)
        labels = _components(matrix)
        one_way: dict[int, set[int]] = {}
        for a, b in zip(labels[source[inner]].tolist(), labels[target[inner]].tolist(), strict=True):
            if a != b:
                one_way.setdefault(a, set()).add(b)
        direct = {(int(a), int(b)) for a, b in zip(source, target, strict=True) if a < num_ranks and b < num_ranks}
        leaves = [_beyond(labels[target[(source == rank) & forwarding[target]]], one_way) for rank in range(num_ranks)]
        enters = [set(labels[source[(target == rank) & forwarding[source]]].tolist()) for rank in range(num_ranks)]
        if len({(frozenset(a), frozenset(b)) for a, b in zip(leaves, enters, strict=True)}) == 1 and (
            num_ranks == 1 or leaves[0] & enters[0]
        ):
            return
        for a in range(num_ranks):
            for b in range(num_ranks):
                if a != b and not leaves[a] & enters[b] and (a, b) not in direct:
                    raise TopologyError(
                        f"{self.name}: rank {a} ({self.vertex_names[a]}) has no route to rank {b} "
                        f"({self.vertex_names[b]}): every pair needs one. Add a link or a NIC and fabric between them."
                    )


def _beyond(start: NDArray[np.int32], one_way: dict[int, set[int]]) -> set[int]:
    """Components that can be reached from some, over links that lead only one way."""
    found: set[int] = set()
    waiting = set(start.tolist())
    while waiting:
        component = waiting.pop()
        found.add(component)
        waiting |= one_way.get(component, set()) - found
    return found


def _adjacency(source: NDArray[np.int32], target: NDArray[np.int32], size: int) -> object:
    return csr_array((np.ones(len(source)), (source, target)), shape=(size, size))


def _components(matrix: object) -> NDArray[np.int32]:
    labels: NDArray[np.int32] = connected_components(matrix, directed=True, connection="strong")[1]
    return labels


class Builder:
    """Collects vertices and links, then freezes them into a :class:`Topology`. Ranks come first."""

    def __init__(self) -> None:
        self._vertices: list[tuple[str, VertexKind]] = []
        self._nodes: list[int] = []
        self._links: list[tuple[int, int, float, float, str, bool]] = []
        self._incast: dict[int, tuple[float, float]] = {}

    def rank(self, *, node: int, name: str | None = None) -> int:
        """Add the device of the next rank; all ranks must be added before any other vertex."""
        self._nodes.append(node)
        return self._vertex(name or f"node{node}.device{self._nodes.count(node) - 1}", "device")

    def ranks(self, *, nodes: int, per_node: int) -> None:
        """Add ``nodes * per_node`` ranks, node by node.

        Raises:
            TopologyError: If they are more than any machine could hold in memory.
        """
        if nodes * per_node > _MOST_RANKS:
            raise TopologyError(f"{nodes} x {per_node} ranks are more than {_MOST_RANKS}. Use fewer.")
        for node in range(nodes):
            for index in range(per_node):
                self._nodes.append(node)
                self._vertex(f"node{node}.device{index}", "device")

    def nic(self, name: str) -> int:
        """Add a NIC."""
        return self._vertex(name, "nic")

    def switch(self, name: str) -> int:
        """Add a switch."""
        return self._vertex(name, "switch")

    def _vertex(self, name: str, kind: VertexKind) -> int:
        self._vertices.append((name, kind))
        return len(self._vertices) - 1

    def join(
        self, a: int, b: int, *, bandwidth: float, latency: float, kind: str, shared: bool = True, duplex: bool = True
    ) -> None:
        """Add a link from ``a`` to ``b`` and, with ``duplex``, one back; each direction has its own capacity."""
        self._links.append((a, b, bandwidth, latency, kind, shared))
        if duplex:
            self._links.append((b, a, bandwidth, latency, kind, shared))

    def limit_incast(self, vertex: int, *, flows: int, efficiency: float) -> None:
        """Let the last joined link into ``vertex`` deliver ``efficiency`` of its capacity to more than ``flows`` flows."""
        last = next(link for link in reversed(range(len(self._links))) if self._links[link][1] == vertex)
        self._incast[last] = (flows, efficiency)

    def build(self, *, name: str, kind: str, routing: Routing = "hash") -> Topology:
        """Freeze.

        Raises:
            TopologyError: If two ranks have no route.
        """
        kinds = tuple(sorted({link[4] for link in self._links}))
        index = {link_kind: number for number, link_kind in enumerate(kinds)}
        nodes = np.array(self._nodes, dtype=np.int32)
        columns = list(zip(*self._links, strict=True)) or [()] * 6
        incast = np.array([self._incast.get(link, (np.inf, 1.0)) for link in range(len(self._links))]).reshape(-1, 2)
        topology = Topology(
            name=name,
            kind=kind,
            routing=routing,
            vertex_names=tuple(vertex[0] for vertex in self._vertices),
            vertex_kinds=tuple(vertex[1] for vertex in self._vertices),
            node_of_rank=nodes,
            index_in_node=_index_within(nodes),
            link_source=np.array(columns[0], dtype=np.int32),
            link_target=np.array(columns[1], dtype=np.int32),
            link_bandwidth=np.array(columns[2], dtype=np.float64),
            link_latency=np.array(columns[3], dtype=np.float64),
            link_kind=np.array([index[link_kind] for link_kind in columns[4]], dtype=np.int32),
            link_kinds=kinds,
            link_shared=np.array(columns[5], dtype=bool),
            incast_flows=incast[:, 0].copy(),
            incast_efficiency=incast[:, 1].copy(),
        )
        topology.check_connected()
        return topology


def _index_within(nodes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Position of each rank among the ranks of its node."""
    order = np.argsort(nodes, kind="stable")
    starts = np.searchsorted(nodes[order], np.arange(nodes.max(initial=-1) + 1))
    index = np.empty(len(nodes), dtype=np.int32)
    index[order] = np.arange(len(nodes)) - starts[nodes[order]]
    return index
