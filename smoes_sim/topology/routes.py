"""Routes compiled to arrays: for each (source, destination) pair the ids of its links, without a graph in the loop.

A route is the shortest by hops that no device forwards; a NIC forwards, but one under a single switch does not turn
traffic round. Where several are equal, one is chosen by a seeded hash of the pair (ECMP). The search is split in three:
the way out of the source (device, NIC, first switch), the way through the switches, and the way into the destination.
Distances between switches are found once; after that every hop of all pairs is one array operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from smoes_sim.topology.graph import Topology

Ints = NDArray[np.int64]
_FAR = np.int16(10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Links of F routes, one after the other.

    Attributes:
        offsets: Route ``f`` is ``links[offsets[f]:offsets[f + 1]]``, shape (F + 1,).
        links: Link ids in order of travel.
    """

    offsets: Ints
    links: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sum_of(self, per_link: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of a link property along each route, shape (F,); the sum of latencies is the route's latency."""
        flow = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return np.bincount(flow, weights=per_link[self.links], minlength=len(self)).astype(np.float64)

    def of(self, flow: int) -> list[int]:
        """Link ids of one route."""
        return self.links[self.offsets[flow] : self.offsets[flow + 1]].tolist()


class Router:
    """Compiles routes of one topology; the same seed gives the same choice among equal routes."""

    def __init__(self, topology: Topology, *, seed: int = 0) -> None:
        self._seed = np.uint64(seed)
        self._num_ranks = topology.num_ranks
        kinds = np.array(topology.vertex_kinds)
        core = np.flatnonzero((kinds == "switch") | _forwarding_nics(topology, kinds))
        self._core = np.full(len(kinds), -1, dtype=np.int64)
        self._core[core] = np.arange(len(core))
        source, target = topology.link_source.astype(np.int64), topology.link_target.astype(np.int64)
        inner = np.flatnonzero((self._core[source] >= 0) & (self._core[target] >= 0))
        order = inner[np.argsort(self._core[source[inner]], kind="stable")]
        self._out_links = order
        self._out_target = self._core[target[order]]
        self._out_start = np.searchsorted(self._core[source[order]], np.arange(len(core) + 1))
        self._distance = _distances(len(core), self._core[source[order]], self._out_target)
        self._leave = _Chains(topology, self._core, leaving=True)
        self._enter = _Chains(topology, self._core, leaving=False)
        direct = np.flatnonzero((source < self._num_ranks) & (target < self._num_ranks))
        keys = source[direct] * self._num_ranks + target[direct]
        self._direct = direct[np.argsort(keys, kind="stable")]
        self._direct_keys = np.sort(keys)
        self._hops = _NextHops(self._out_start, self._out_target, self._distance)

    def compile(self, source: NDArray[np.integer], destination: NDArray[np.integer]) -> Routes:
        """Routes of the pairs (source[f], destination[f]), which must differ; shape (F,) each."""
        src, dst = source.astype(np.int64), destination.astype(np.int64)
        num_flows = len(src)
        salt = _mix(src * self._num_ranks + dst, self._seed)
        columns: list[tuple[Ints, Ints]] = []  # (flows, link of each) in order of travel
        first = self._find_direct(src, dst, salt)
        is_direct = first >= 0
        if is_direct.any():
            columns.append((np.flatnonzero(is_direct), first[is_direct]))
        rest = np.flatnonzero(~is_direct)
        if len(rest):
            columns += self._through_switches(rest, src[rest], dst[rest], salt[rest])
        lengths = np.zeros(num_flows, dtype=np.int64)
        for flows, _ in columns:
            lengths[flows] += 1
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        links = np.empty(int(offsets[-1]), dtype=np.int32)
        cursor = offsets[:-1].copy()
        for flows, ids in columns:
            links[cursor[flows]] = ids
            cursor[flows] += 1
        return Routes(offsets=offsets, links=links)

    def _find_direct(self, src: Ints, dst: Ints, salt: NDArray[np.uint64]) -> Ints:
        keys = src * self._num_ranks + dst
        low = np.searchsorted(self._direct_keys, keys, side="left")
        high = np.searchsorted(self._direct_keys, keys, side="right")
        found = np.full(len(src), -1, dtype=np.int64)
        has = high > low
        pick = low[has] + (salt[has] % (high - low)[has].astype(np.uint64)).astype(np.int64)
        found[has] = self._direct[pick]
        return found

    def _through_switches(self, flows: Ints, src: Ints, dst: Ints, salt: NDArray[np.uint64]) -> list[tuple[Ints, Ints]]:
        out, into = self._choose_chains(src, dst, salt)
        columns = [(flows[has], links[has]) for links in self._leave.links_of(src, out) for has in [links >= 0] if has.any()]
        here, goal = self._leave.vertex[src, out], self._enter.vertex[dst, into]
        salt = _mix(salt.astype(np.int64), np.uint64(1))
        moving = np.flatnonzero(here != goal)
        while len(moving):
            link_index = self._hops.choose(here[moving], goal[moving], salt[moving])
            columns.append((flows[moving], self._out_links[link_index]))
            here[moving] = self._out_target[link_index]
            salt[moving] = _mix(salt[moving].astype(np.int64), np.uint64(1))
            moving = moving[here[moving] != goal[moving]]
        for links in self._enter.links_of(dst, into):
            has = links >= 0
            if has.any():
                columns.append((flows[has], links[has]))
        return columns

    def _choose_chains(self, src: Ints, dst: Ints, salt: NDArray[np.uint64]) -> tuple[Ints, Ints]:
        """The way out and the way in of every pair: fewest hops in all, ties by hash."""
        ways = [(a, b) for a in range(self._leave.width) for b in range(self._enter.width)]
        cost = np.full((len(ways), len(src)), _FAR, dtype=np.int16)
        for number, (a, b) in enumerate(ways):
            here, goal = self._leave.vertex[src, a], self._enter.vertex[dst, b]
            valid = (here >= 0) & (goal >= 0)
            hops = self._leave.length[src, a] + self._enter.length[dst, b]
            between = self._distance[here[valid], goal[valid]]
            cost[number, valid] = np.where(between >= _FAR, _FAR, between + hops[valid])
        best = cost.min(axis=0)
        tied = cost == best
        rank = np.cumsum(tied, axis=0)
        wanted = 1 + (salt % rank[-1].astype(np.uint64)).astype(np.int64)
        number = np.argmax(rank == wanted, axis=0)
        choice = np.array(ways, dtype=np.int64)[number]
        return choice[:, 0], choice[:, 1]


class _Chains:
    """The ways from each device to its first switch (or from the last switch): links, switch, length.

    ``vertex[rank, way]`` is the switch (core index, -1 where there is no such way), ``length`` its number of links.
    """

    def __init__(self, topology: Topology, core: Ints, *, leaving: bool) -> None:
        near, far = topology.link_source, topology.link_target
        if not leaving:
            near, far = far, near
        kinds = np.array(topology.vertex_kinds)
        beyond: dict[int, list[int]] = {}
        for link in np.flatnonzero((kinds[near] == "nic") & (core[near] < 0) & (core[far] >= 0)).tolist():
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

    def links_of(self, ranks: Ints, way: Ints) -> list[Ints]:
        """Links in order of travel, -1 where the way is shorter."""
        return [links[ranks, way] for links in self._links]


class _NextHops:
    """For (switch, goal): the links that lead one hop nearer, found when first asked for."""

    def __init__(self, start: Ints, target: Ints, distance: NDArray[np.int16]) -> None:
        self._start, self._target, self._distance = start, target, distance
        self._size = len(distance)
        self._known = np.full(self._size * self._size, -1, dtype=np.int32)
        self._offsets = np.zeros(1, dtype=np.int64)
        self._links = np.empty(0, dtype=np.int64)

    def choose(self, here: Ints, goal: Ints, salt: NDArray[np.uint64]) -> Ints:
        """Index of the chosen outgoing link of each (here, goal)."""
        keys = here * self._size + goal
        missing = np.zeros(len(self._known), dtype=bool)
        missing[keys] = True
        missing &= self._known < 0
        self._learn(np.flatnonzero(missing))
        row = self._known[keys]
        low = self._offsets[row]
        count = (self._offsets[row + 1] - low).astype(np.uint64)
        return self._links[low + (salt % count).astype(np.int64)]

    def _learn(self, keys: Ints) -> None:
        if not len(keys):
            return
        here, goal = keys // self._size, keys % self._size
        count = self._start[here + 1] - self._start[here]
        pair = np.repeat(np.arange(len(keys)), count)
        link = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(self._start[here], count)
        nearer = self._distance[self._target[link], goal[pair]] == self._distance[here, goal][pair] - 1
        found = np.bincount(pair[nearer], minlength=len(keys))
        self._known[keys] = len(self._offsets) - 1 + np.arange(len(keys), dtype=np.int32)
        self._offsets = np.concatenate([self._offsets, self._offsets[-1] + np.cumsum(found)])
        self._links = np.concatenate([self._links, link[nearer]])


def _forwarding_nics(topology: Topology, kinds: NDArray[np.str_]) -> NDArray[np.bool_]:
    """NICs that count as switches, shape (V,): all but those that join devices to a single switch and nothing else."""
    neighbours: list[dict[int, set[bool]]] = [{} for _ in kinds]
    for a, b in zip(topology.link_source.tolist(), topology.link_target.tolist(), strict=True):
        for here, there in ((a, b), (b, a)):
            if kinds[here] == "nic" and kinds[there] != "device":
                neighbours[here].setdefault(there, set()).add(here == a)
    return np.array(
        [
            kind == "nic" and not (len(found) == 1 and all(kinds[v] == "switch" and len(found[v]) == 2 for v in found))
            for kind, found in zip(kinds, neighbours, strict=True)
        ]
    )


def _distances(size: int, source: Ints, target: Ints) -> NDArray[np.int16]:
    """Hops between all pairs of switches by breadth-first search from all at once; ``_FAR`` where there is no way."""
    distance = np.full((size, size), _FAR, dtype=np.int16)
    np.fill_diagonal(distance, 0)
    edges = csr_array((np.ones(len(source), dtype=np.float32), (source, target)), shape=(size, size))
    frontier = csr_array(np.eye(size, dtype=np.float32))
    hops = 0
    while frontier.nnz:
        hops += 1
        reached = (frontier @ edges).tocoo()
        fresh = distance[reached.row, reached.col] == _FAR
        row, column = reached.row[fresh], reached.col[fresh]
        distance[row, column] = hops
        frontier = csr_array((np.ones(len(row), dtype=np.float32), (row, column)), shape=(size, size))
    return distance


def _mix(value: Ints, seed: np.uint64) -> NDArray[np.uint64]:
    """SplitMix64: a well mixed 64-bit hash of each value."""
    with np.errstate(over="ignore"):
        mixed = value.astype(np.uint64) + seed * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
