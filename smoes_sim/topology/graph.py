"""A topology: devices, NICs and switches joined by directed links; frozen after building."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import TopologyError
from smoes_sim.topology.connected import joined_groups

if TYPE_CHECKING:
    import networkx as nx

_MOST_RANKS, _MOST_VERTICES, _MOST_LINKS = 2**20, 2**22, 2**25
VertexKind = Literal["device", "nic", "switch"]
Routing = Literal["hash", "split"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Topology:
    """Directed links between vertices; vertex ``r < num_ranks`` is the device of rank ``r``.

    Attributes:
        name: Shipped name, or the stem of the file.
        kind: Kind of the spec it was built from.
        routing: Whether a flow takes one of several equally short routes by a seeded hash, or is split evenly over them.
        vertex_names: Name of every vertex, shape (V,).
        vertex_kinds: ``device``, ``nic`` or ``switch``, shape (V,).
        node_of_rank: Node (or rack) of each rank, shape (R,).
        index_in_node: Position of each rank in its node, shape (R,).
        link_source: Vertex a link leaves, shape (H,).
        link_target: Vertex a link enters, shape (H,).
        link_bandwidth: Nominal capacity, B/s, shape (H,).
        link_latency: Seconds, shape (H,).
        link_kind: Index into ``link_kinds``, shape (H,).
        link_kinds: Names such as ``nvlink4`` or ``infiniband``.
        link_shared: True where flows share the capacity, False where each flow may have all of it (fatpipe), (H,).
        incast_flows: Number of flows above which a link delivers less; infinite where none, shape (H,).
        incast_efficiency: Share of its capacity that such a link then delivers; 1 where none, shape (H,).
        device: Accelerator of every rank, a name of ``compute.devices``; None where any may be used.

    Example:
        >>> Topology.load("gb200-nvl72").num_ranks
        72

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
    device: str | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays."""
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @classmethod
    def load(cls, topology: str | Path | Mapping[str, Any]) -> Topology:
        """A shipped topology, that of a file, or one written as a mapping with the keys of a file.

        Raises:
            ConfigError: If there is none, or it breaks a rule.

        Example:
            >>> Topology.load({"kind": "star", "ranks": 4, "link": {"bandwidth": "50 GB/s", "latency": "0 us"}})
            <topology topology: star, 4 ranks on 4 nodes, 8 directed links>
        """
        from smoes_sim.topology.shipped import find_topology, topology_of_mapping  # noqa: PLC0415 - it builds on this class

        if isinstance(topology, Mapping):
            return topology_of_mapping(topology)
        return find_topology(str(topology))

    def __repr__(self) -> str:
        size = f"{self.num_ranks} ranks on {self.num_nodes} nodes, {self.num_links} directed links"
        return f"<topology {self.name}: {self.kind}, {size}>"

    @property
    def num_ranks(self) -> int:
        """Number of ranks, R."""
        return len(self.node_of_rank)

    @property
    def num_nodes(self) -> int:
        """Number of nodes (or racks, for a scale-up domain)."""
        return int(self.node_of_rank.max()) + 1

    @property
    def num_links(self) -> int:
        """Number of directed links, H."""
        return len(self.link_source)

    @cached_property
    def graph(self) -> nx.MultiDiGraph:
        """This topology as a frozen networkx graph; the key of an edge is its link id."""
        import networkx as nx  # noqa: PLC0415 - 0.1 s to import, and predictions need no such graph

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

    def first(self, num_ranks: int) -> Topology:
        """The topology of the first ``num_ranks`` ranks: a job on a part of a cluster.

        Devices of the other ranks are removed, and then NICs and switches that lead nowhere. Routes between the remaining
        ranks keep their lengths, and shared links keep the capacity that the other ranks would use too.

        Raises:
            TopologyError: If there are fewer ranks.

        Example:
            >>> from smoes_sim.topology import find_topology
            >>> part = find_topology("2x8-h100-ndr400").first(12)
            >>> part.num_nodes, part.node_of_rank.tolist()
            (2, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
        """
        if not 1 <= num_ranks <= self.num_ranks:
            raise TopologyError(f"{self.name}: has {self.num_ranks} ranks, not {num_ranks}. Use 1..{self.num_ranks}.")
        kept = np.ones(len(self.vertex_names), dtype=bool)
        kept[num_ranks : self.num_ranks] = False
        kept = _without_dead_ends(kept, self.link_source, self.link_target, num_ranks=num_ranks)
        links = np.flatnonzero(kept[self.link_source] & kept[self.link_target])
        number = np.cumsum(kept, dtype=np.int32) - 1
        return replace(
            self,
            vertex_names=tuple(itertools.compress(self.vertex_names, kept)),
            vertex_kinds=tuple(itertools.compress(self.vertex_kinds, kept)),
            node_of_rank=np.unique(self.node_of_rank[:num_ranks], return_inverse=True)[1].astype(np.int32),
            index_in_node=self.index_in_node[:num_ranks],
            link_source=number[self.link_source[links]],
            link_target=number[self.link_target[links]],
            link_bandwidth=self.link_bandwidth[links],
            link_latency=self.link_latency[links],
            link_kind=self.link_kind[links],
            link_shared=self.link_shared[links],
            incast_flows=self.incast_flows[links],
            incast_efficiency=self.incast_efficiency[links],
        )

    def rank_at(self, node: NDArray[np.int32], index: NDArray[np.int32]) -> NDArray[np.int64]:
        """The rank with an index in a node; an index beyond the size of the node wraps around; shapes broadcast."""
        order = np.lexsort((self.index_in_node, self.node_of_rank))
        size = np.bincount(self.node_of_rank)
        first = np.cumsum(size) - size
        found: NDArray[np.int64] = order[first[node] + index % size[node]]
        return found

    def link_name(self, link: int) -> str:
        """Name of a link as ``source -> target``."""
        return f"{self.vertex_names[self.link_source[link]]} -> {self.vertex_names[self.link_target[link]]}"

    def count_kinds(self) -> dict[str, int]:
        """Number of directed links of each kind."""
        counts = Counter(self.link_kind.tolist())
        return {kind: counts[index] for index, kind in enumerate(self.link_kinds) if counts[index]}

    def check_connected(self) -> None:
        """Check that every rank reaches every other through NICs and switches; devices do not forward.

        Raises:
            TopologyError: With the first two ranks that have no route.
        """
        num_ranks = self.num_ranks
        source, target = self.link_source, self.link_target
        direct = np.flatnonzero((source < num_ranks) & (target < num_ranks))
        direct = direct[np.argsort(source[direct], kind="stable")]
        first = np.searchsorted(source[direct], np.arange(num_ranks + 1))
        group, joined = joined_groups(source, target, num_ranks=num_ranks, num_vertices=len(self.vertex_names))
        for a in range(num_ranks):
            missing = ~joined[group[a]][group]
            missing[a] = False
            missing[target[direct[first[a] : first[a + 1]]]] = False
            if missing.any():
                b = int(np.argmax(missing))
                raise TopologyError(
                    f"{self.name}: rank {a} ({self.vertex_names[a]}) has no route to rank {b} "
                    f"({self.vertex_names[b]}): every pair needs one. Add a link or a NIC and fabric between them."
                )


def _without_dead_ends(
    kept: NDArray[np.bool_], source: NDArray[np.int32], target: NDArray[np.int32], *, num_ranks: int
) -> NDArray[np.bool_]:
    """Whether each vertex is kept, (V,): dead ends that are no ranks are removed until there are none."""
    while True:
        both = kept[source] & kept[target]
        ends = np.sort(np.column_stack([source[both], target[both]]), axis=1)
        degree = np.bincount(np.unique(ends, axis=0).ravel(), minlength=len(kept))
        dead = kept & (degree < 2)
        dead[:num_ranks] = False
        if not dead.any():
            return kept
        kept = kept & ~dead


class Builder:
    """Collects vertices and links for a :class:`Topology`; all ranks must be added first."""

    def __init__(self) -> None:
        self._vertices: list[tuple[str, VertexKind]] = []
        self._nodes: list[int] = []
        self._source, self._target, self._kind = array("i"), array("i"), array("i")
        self._bandwidth, self._latency, self._shared = array("d"), array("d"), array("b")
        self._kinds: dict[str, int] = {}
        self._incast: dict[int, tuple[float, float]] = {}

    def rank(self, *, node: int, name: str | None = None) -> int:
        """Add the device of the next rank and return its vertex; ranks are added before any other vertex."""
        self._nodes.append(node)
        return self._vertex(name or f"node{node}.device{self._nodes.count(node) - 1}", "device")

    def ranks(self, *, nodes: int, per_node: int) -> None:
        """Add ``nodes * per_node`` ranks, node by node.

        Raises:
            TopologyError: If they are more than 2**20.
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
        if len(self._vertices) == _MOST_VERTICES:
            raise TopologyError(f"ranks, NICs and switches are more than {_MOST_VERTICES}. Use fewer.")
        self._vertices.append((name, kind))
        return len(self._vertices) - 1

    def join(
        self, a: int, b: int, *, bandwidth: float, latency: float, kind: str, shared: bool = True, duplex: bool = True
    ) -> None:
        """Add a link from ``a`` to ``b`` and, with ``duplex``, one back; each direction has its own capacity."""
        ends = [(a, b), (b, a)] if duplex else [(a, b)]
        self._add(np.array(ends), bandwidth=bandwidth, latency=latency, kind=kind, shared=shared)

    def join_all(self, vertices: range, *, bandwidth: float, latency: float, kind: str) -> None:
        """Join every pair of some vertices, in both directions."""
        self._make_room(len(vertices) * (len(vertices) - 1))
        a, b = np.triu_indices(len(vertices), k=1)
        ends = np.column_stack([a, b, b, a]).reshape(-1, 2) + vertices.start
        self._add(ends, bandwidth=bandwidth, latency=latency, kind=kind, shared=True)

    def _make_room(self, count: int) -> None:
        if len(self._source) + count > _MOST_LINKS:
            raise TopologyError(f"{len(self._source) + count} or more links are more than {_MOST_LINKS}. Use fewer.")

    def _add(self, ends: NDArray[np.int64], *, bandwidth: float, latency: float, kind: str, shared: bool) -> None:
        """Add links from ``ends[:, 0]`` to ``ends[:, 1]``."""
        count = len(ends)
        self._make_room(count)
        self._source.frombytes(ends[:, 0].astype(np.intc).tobytes())
        self._target.frombytes(ends[:, 1].astype(np.intc).tobytes())
        self._kind.extend(array("i", [self._kinds.setdefault(kind, len(self._kinds))]) * count)
        self._bandwidth.extend(array("d", [bandwidth]) * count)
        self._latency.extend(array("d", [latency]) * count)
        self._shared.extend(array("b", [shared]) * count)

    def limit_incast(self, vertex: int, *, flows: int, efficiency: float) -> None:
        """Let more than ``flows`` flows get ``efficiency`` of the capacity of the last joined link into ``vertex``."""
        last = next(link for link in reversed(range(len(self._target))) if self._target[link] == vertex)
        self._incast[last] = (flows, efficiency)

    def build(self, *, name: str, kind: str, routing: Routing = "hash", device: str | None = None) -> Topology:
        """The frozen topology of what was added.

        Raises:
            TopologyError: If two ranks have no route.
        """
        kinds = tuple(sorted(self._kinds))
        index = np.array([kinds.index(link_kind) for link_kind in self._kinds], dtype=np.int32)
        nodes = np.array(self._nodes, dtype=np.int32)
        incast = np.full((2, len(self._source)), [[np.inf], [1.0]])
        for link, limit in self._incast.items():
            incast[:, link] = limit
        topology = Topology(
            name=name,
            kind=kind,
            routing=routing,
            vertex_names=tuple(vertex[0] for vertex in self._vertices),
            vertex_kinds=tuple(vertex[1] for vertex in self._vertices),
            node_of_rank=nodes,
            index_in_node=_index_within(nodes),
            link_source=np.array(self._source, dtype=np.int32),
            link_target=np.array(self._target, dtype=np.int32),
            link_bandwidth=np.array(self._bandwidth),
            link_latency=np.array(self._latency),
            link_kind=index[np.array(self._kind, dtype=np.int32)],
            link_kinds=kinds,
            link_shared=np.array(self._shared, dtype=bool),
            incast_flows=incast[0],
            incast_efficiency=incast[1],
            device=device,
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
