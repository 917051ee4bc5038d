"""The switches between the ranks as arrays: their distances, and the ways of each rank to them.

The search for routes has three parts: the way out of the source (device, NIC, first switch), the way through the switches
(the core), and the way into the destination. Distances in the core are computed once. Shapes: C vertices of the core, R
ranks, W the largest number of ways of a rank.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from smoes_sim.topology.graph import Topology

Ints = NDArray[np.int64]
Hops = NDArray[np.int16]
FAR = np.int16(10_000)
"""Number of hops to a vertex that cannot be reached."""


class Core:
    """The switches of a topology, and the NICs that forward.

    Attributes:
        size: Number of vertices of the core, C.
        num_ranks: Number of ranks, R.
        out_start: Links out of vertex ``v`` are ``out_links[out_start[v]:out_start[v + 1]]``, shape (C + 1,).
        out_links: Link ids.
        out_target: Vertex of the core that each of them enters.
        distance: Number of links from vertex to vertex, shape (C, C).
        leave: Ways out of each rank.
        enter: Ways into each rank.
    """

    def __init__(self, topology: Topology) -> None:
        kinds = np.array(topology.vertex_kinds)
        members = np.flatnonzero((kinds == "switch") | _forwarding_nics(topology, kinds))
        index = np.full(len(kinds), -1, dtype=np.int64)
        index[members] = np.arange(len(members))
        self.size, self.num_ranks = len(members), topology.num_ranks
        source, target = topology.link_source.astype(np.int64), topology.link_target.astype(np.int64)
        inner = np.flatnonzero((index[source] >= 0) & (index[target] >= 0))
        self.out_links = inner[np.argsort(index[source[inner]], kind="stable")]
        self.out_target = index[target[self.out_links]]
        self.out_start = np.searchsorted(index[source[self.out_links]], np.arange(self.size + 1))
        self.distance = _distances(self.out_start, self.out_target)
        self.leave = Chains(topology, index, leaving=True)
        self.enter = Chains(topology, index, leaving=False)
        direct = np.flatnonzero((source < self.num_ranks) & (target < self.num_ranks))
        keys = source[direct] * self.num_ranks + target[direct]
        order = np.argsort(keys, kind="stable")
        self._direct, self._direct_keys = direct[order], keys[order]

    def find_direct(self, src: Ints, dst: Ints) -> tuple[Ints, Ints, Ints]:
        """Direct links between devices as (low, high, links): those of pair ``f`` are ``links[low[f]:high[f]]``."""
        keys = src * self.num_ranks + dst
        low = np.searchsorted(self._direct_keys, keys, side="left")
        high = np.searchsorted(self._direct_keys, keys, side="right")
        return low, high, self._direct

    def shortest_ways(self, src: Ints, dst: Ints) -> NDArray[np.bool_]:
        """Whether each way out and in is on a route with the fewest links, shape (W out, W in, F)."""
        cost = np.full((self.leave.width, self.enter.width, len(src)), FAR, dtype=np.int16)
        for out, into in np.ndindex(*cost.shape[:2]):
            here, goal = self.leave.vertex[src, out], self.enter.vertex[dst, into]
            valid = (here >= 0) & (goal >= 0)
            hops = self.leave.length[src, out] + self.enter.length[dst, into]
            between = self.distance[here[valid], goal[valid]]
            cost[out, into, valid] = np.where(between >= FAR, FAR, between + hops[valid])
        return cost == cost.min(axis=(0, 1), initial=FAR)

    def hops_into(self, here: Ints, dst: Ints) -> Hops:
        """Number of links from vertices of the core to ranks, shape (F,)."""
        best = np.full(len(here), FAR, dtype=np.int16)
        for way in range(self.enter.width):
            goal = self.enter.vertex[dst, way]
            hops = np.where(goal >= 0, self.distance[here, goal] + self.enter.length[dst, way], FAR)
            best = np.minimum(best, hops)
        return best


class Chains:
    """The ways from each device to its first switch, or from the last switch to the device.

    Attributes:
        width: Largest number of ways of a rank, W.
        vertex: The switch of each way (index in the core); -1 where a rank has fewer ways, shape (R, W).
        length: Number of links, shape (R, W).
        weight: One over the number of ways that cross the same first link, shape (R, W).
    """

    def __init__(self, topology: Topology, core: Ints, *, leaving: bool) -> None:
        near, far = topology.link_source, topology.link_target
        if not leaving:
            near, far = far, near
        is_nic = np.array(topology.vertex_kinds) == "nic"
        beyond: dict[int, list[int]] = {}
        for link in np.flatnonzero(is_nic[near] & (core[near] < 0) & (core[far] >= 0)).tolist():
            beyond.setdefault(int(near[link]), []).append(link)
        ways: list[list[tuple[int, int, int]]] = [[] for _ in range(topology.num_ranks)]
        for link in np.flatnonzero((near < topology.num_ranks) & (far >= topology.num_ranks)).tolist():
            rank, vertex = int(near[link]), int(far[link])
            if core[vertex] >= 0:
                ways[rank].append((int(core[vertex]), link, -1))
            ways[rank] += [(int(core[far[second]]), link, second) for second in beyond.get(vertex, [])]
        self.width = max((len(way) for way in ways), default=0)
        table = np.full((topology.num_ranks, max(self.width, 1), 3), -1, dtype=np.int64)
        for rank, found in enumerate(ways):
            for number, way in enumerate(found):
                table[rank, number] = way
        self.vertex = table[:, :, 0]
        self._links = (table[:, :, 1], table[:, :, 2]) if leaving else (table[:, :, 2], table[:, :, 1])
        self.length = (table[:, :, 1] >= 0).astype(np.int16) + (table[:, :, 2] >= 0)
        first = np.where(self._links[0] >= 0, *self._links)
        self.weight = 1 / (first[:, :, None] == first[:, None, :]).sum(axis=2)

    def links_of(self, ranks: Ints, way: Ints | int) -> list[Ints]:
        """Link ids in order of travel; -1 where the way is shorter."""
        return [links[ranks, way] for links in self._links]


class NextHops:
    """The links of the core that lead one hop nearer to a goal, per (vertex, goal); found on first use and kept.

    Args:
        core: The vertices.
        num_goals: Number of goals, which are 0 .. ``num_goals`` - 1.
        to_go: Function from vertices and goals to the number of links between them, shape (F,) each.
    """

    def __init__(self, core: Core, num_goals: int, to_go: Callable[[Ints, Ints], Hops]) -> None:
        self._core, self._num_goals, self._to_go = core, num_goals, to_go
        self._known = np.full(core.size * num_goals, -1, dtype=np.int32)
        self._offsets = np.zeros(1, dtype=np.int64)
        self._links = np.empty(0, dtype=np.int64)

    def find(self, here: Ints, goal: Ints) -> tuple[Ints, Ints, Ints]:
        """Indices into ``Core.out_links`` as (low, high, links): those of pair ``f`` are ``links[low[f]:high[f]]``."""
        keys = here * self._num_goals + goal
        missing = np.zeros(len(self._known), dtype=bool)
        missing[keys] = True
        missing &= self._known < 0
        self._learn(np.flatnonzero(missing))
        row = self._known[keys]
        return self._offsets[row], self._offsets[row + 1], self._links

    def _learn(self, keys: Ints) -> None:
        if not len(keys):
            return
        here, goal = keys // self._num_goals, keys % self._num_goals
        first = self._core.out_start[here]
        count = self._core.out_start[here + 1] - first
        pair, link = expand(first, count)
        nearer = self._to_go(self._core.out_target[link], goal[pair]) == self._to_go(here, goal)[pair] - 1
        found = np.bincount(pair[nearer], minlength=len(keys))
        self._known[keys] = len(self._offsets) - 1 + np.arange(len(keys), dtype=np.int32)
        self._offsets = np.concatenate([self._offsets, self._offsets[-1] + np.cumsum(found)])
        self._links = np.concatenate([self._links, link[nearer]])


def expand(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Index ``i`` and value of each number in the runs ``first[i], first[i] + 1, ...`` of ``count[i]`` numbers, (N,) each.

    Example:
        >>> [part.tolist() for part in expand(np.array([5, 9]), np.array([2, 1]))]
        [[0, 0, 1], [5, 6, 9]]
    """
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) + np.repeat(first - (np.cumsum(count) - count), count)


def _forwarding_nics(topology: Topology, kinds: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Whether each vertex is a NIC that forwards, (V,): all NICs except those that join devices to a single switch only."""
    neighbours: list[dict[int, set[bool]]] = [{} for _ in kinds]
    is_nic = kinds == "nic"
    of_nics = is_nic[topology.link_source] | is_nic[topology.link_target]
    for a, b in zip(topology.link_source[of_nics].tolist(), topology.link_target[of_nics].tolist(), strict=True):
        for here, there in ((a, b), (b, a)):
            if kinds[here] == "nic" and kinds[there] != "device":
                neighbours[here].setdefault(there, set()).add(here == a)
    return np.array(
        [
            kind == "nic" and not (len(found) == 1 and all(kinds[v] == "switch" and len(found[v]) == 2 for v in found))
            for kind, found in zip(kinds, neighbours, strict=True)
        ]
    )


def _distances(out_start: Ints, out_target: Ints) -> NDArray[np.int16]:
    """Number of hops between all pairs of vertices, (C, C), by breadth-first search from all; ``FAR`` without a way.

    Sets of vertices are rows of bits: ``k + 1`` hops from a vertex are those ``k`` hops from its neighbours that are not
    nearer.
    """
    size = len(out_start) - 1
    distance = np.full((size, size), FAR, dtype=np.int16)
    leaving = np.flatnonzero(np.diff(out_start))
    frontier = np.packbits(np.eye(size, dtype=bool), axis=1)
    nearer, hops = np.zeros_like(frontier), 0
    while frontier.any():
        distance[np.unpackbits(frontier, axis=1, count=size).astype(bool)] = hops
        nearer |= frontier
        beyond = np.zeros_like(frontier)
        if len(leaving):
            beyond[leaving] = np.bitwise_or.reduceat(frontier[out_target], out_start[leaving], axis=0)
        frontier, hops = beyond & ~nearer, hops + 1
    return distance
