"""Routes as arrays: the link ids of each (source, destination) pair, found without a graph library.

A route has the fewest hops and passes no device; NICs forward, except that a NIC under a single switch does not send traffic
back to it. Of several equally short routes one is chosen by a seeded hash of the pair (ECMP); with ``routing: split`` every
vertex divides a flow evenly over them (``split``). Each hop of all pairs is one array operation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from smoes_sim.topology.core import Core, Hops, Ints, NextHops
from smoes_sim.topology.graph import Topology
from smoes_sim.topology.split import Splitter

_KEPT = 8_000_000
"""Number of entries up to which the routes of all pairs are kept, which takes 4 B each, 14 B where routes are split."""
_SCRATCH = 2**23
"""Number of entries of the table in which :class:`SplitRoutes` looks for the longest route."""
Which = Ints | slice
"""Indices of some flows, or a slice of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Links of F routes, one after the other.

    Attributes:
        offsets: Route ``f`` is ``links[offsets[f]:offsets[f + 1]]``, shape (F + 1,).
        links: Link ids in order of travel, shape (N,); each at most once in a route.
        share: Share of the flow that crosses each entry, shape (N,); None where routes are not split.
    """

    offsets: Ints
    links: NDArray[np.int32]
    share: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sum_of(self, per_link: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of a link property along each route, shape (F,); the sum of latencies is the route's latency."""
        num_hops = len(self.links) // max(len(self), 1)
        if len(self) and np.array_equal(self.offsets, np.arange(len(self) + 1) * num_hops):
            total = np.zeros(len(self))
            for hop in range(num_hops):
                total += per_link[self.links[hop::num_hops]]
            return total
        flow = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return np.bincount(flow, weights=per_link[self.links], minlength=len(self)).astype(np.float64)

    def some(self, flows: Ints) -> Routes:
        """Some of the routes, in the order given."""
        offsets, entries = self._entries_of(flows)
        return Routes(offsets=offsets, links=self.links[entries], share=None if self.share is None else self.share[entries])

    def _entries_of(self, flows: Ints) -> tuple[Ints, Ints]:
        """Offsets of some routes, and the places of their entries."""
        length = np.diff(self.offsets)[flows]
        offsets = np.concatenate([[0], np.cumsum(length)])
        return offsets, np.arange(offsets[-1]) + np.repeat(self.offsets[flows] - offsets[:-1], length)

    def of(self, flow: int) -> list[int]:
        """Link ids of one route."""
        return self.links[self.offsets[flow] : self.offsets[flow + 1]].tolist()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRoutes(Routes):
    """Routes of flows that are divided over all equally short routes; entries are sorted by hop.

    Attributes:
        hop: Number of the hop of each entry, from 0, shape (N,).
        link_source: Vertex that each link leaves, shape (H,).
        link_target: Vertex that each link enters, shape (H,).
    """

    hop: Hops
    link_source: NDArray[np.int32]
    link_target: NDArray[np.int32]

    def some(self, flows: Ints) -> SplitRoutes:
        """Some of the routes, in the order given."""
        offsets, entries = self._entries_of(flows)
        share = None if self.share is None else self.share[entries]
        return replace(self, offsets=offsets, links=self.links[entries], share=share, hop=self.hop[entries])

    def sum_of(self, per_link: NDArray[np.float64]) -> NDArray[np.float64]:
        """Largest sum of a link property, >= 0, over the routes of each flow, shape (F,).

        The largest sum of latencies gives the arrival of the last byte.
        """
        num_vertices = int(max(self.link_source.max(), self.link_target.max())) + 1
        result, step = np.zeros(len(self)), max(_SCRATCH // num_vertices, 1)
        reached = np.zeros(step * num_vertices)
        for first in range(0, len(self), step):
            bounds = self.offsets[first : first + step + 1]
            entries = slice(bounds[0], bounds[-1])
            links, hop = self.links[entries], self.hop[entries]
            base = np.repeat(np.arange(len(bounds) - 1) * num_vertices, np.diff(bounds))
            source, target = base + self.link_source[links], base + self.link_target[links]
            for number in range(int(hop.max(initial=-1)) + 1):
                now = np.flatnonzero(hop == number)
                np.maximum.at(reached, target[now], reached[source[now]] + per_link[links[now]])
            result[first : first + len(bounds) - 1] = reached[target[bounds[1:] - 1 - bounds[0]]]
            reached[target] = 0.0
        return result


class Router:
    """Finds the routes of one topology; the same seed gives the same choice among equal routes.

    Attributes:
        seed: Seed of the ECMP hash.
    """

    def __init__(self, topology: Topology, *, seed: int = 0) -> None:
        self.seed = seed
        self._topology = topology
        self._num_ranks = topology.num_ranks
        self._core = core = Core(topology)
        self._splitter = Splitter(core) if topology.routing == "split" else None
        self._hops = NextHops(core, core.size, lambda here, goal: core.distance[here, goal])
        self._num_asked = 0

    def pair(self, source: NDArray[np.integer], destination: NDArray[np.integer]) -> Ints:
        """Index of each pair in :meth:`all_pairs`, which has (0, 1), (0, 2), ..., (1, 0), (1, 2), ..., shape (F,)."""
        src, dst = source.astype(np.int64), destination.astype(np.int64)
        return src * (self._num_ranks - 1) + dst - (dst > src)

    def all_pairs(self, num_asked: int) -> Routes | None:
        """Routes of all pairs of different ranks, kept; None while compiling the ``num_asked`` that are needed is cheaper.

        They are compiled when as many routes have been asked for as there are pairs, and never if they are too many to keep.
        """
        self._num_asked += num_asked
        num_ranks = self._num_ranks
        return self._all_pairs if self._num_asked >= num_ranks * (num_ranks - 1) else None

    @cached_property
    def _all_pairs(self) -> Routes | None:
        others = np.arange(1, self._num_ranks)
        if len(self.compile(np.zeros_like(others), others).links) * self._num_ranks > _KEPT:
            return None
        source, destination = np.nonzero(~np.eye(self._num_ranks, dtype=bool))
        return self.compile(source, destination)

    def compile(self, source: NDArray[np.integer], destination: NDArray[np.integer]) -> Routes:
        """Routes of the pairs (source[f], destination[f]), which must differ; shape (F,) each."""
        src, dst = source.astype(np.int64), destination.astype(np.int64)
        if self._splitter is not None:
            offsets, links, hop, share = self._splitter.spread(src, dst)
            link_source, link_target = self._topology.link_source, self._topology.link_target
            return SplitRoutes(
                offsets=offsets, links=links, share=share, hop=hop, link_source=link_source, link_target=link_target
            )
        return self._hashed(src, dst)

    def has_choice(self, source: NDArray[np.integer], destination: NDArray[np.integer]) -> bool:
        """Whether any of these pairs of different ranks, shape (F,) each, has several equally short routes."""
        splitter = self._splitter or Splitter(self._core)
        *_, share = splitter.spread(source.astype(np.int64), destination.astype(np.int64))
        return bool((share < 1).any())

    def _hashed(self, src: Ints, dst: Ints) -> Routes:
        columns: list[tuple[Which, Ints]] = []  # (flows, link of each) in order of travel
        rest: Which = slice(None)
        first = self._find_direct(src, dst)
        if first is not None:
            columns.append((np.flatnonzero(first >= 0), first[first >= 0]))
            rest = np.flatnonzero(first < 0)
        if len(src[rest]):
            for flows, ids in self._through_switches(src[rest], dst[rest]):
                columns.append((flows if isinstance(rest, slice) else rest[flows], ids))
        if columns and all(isinstance(flows, slice) for flows, _ in columns):
            table = np.empty((len(src), len(columns)), dtype=np.int32)
            for hop, (_, ids) in enumerate(columns):
                table[:, hop] = ids
            return Routes(offsets=np.arange(len(src) + 1) * len(columns), links=table.ravel())
        lengths = np.zeros(len(src), dtype=np.int64)
        for flows, _ in columns:
            lengths[flows] += 1
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        links = np.empty(int(offsets[-1]), dtype=np.int32)
        cursor = offsets[:-1].copy()
        for flows, ids in columns:
            links[cursor[flows]] = ids
            cursor[flows] += 1
        return Routes(offsets=offsets, links=links)

    def _salt(self, src: Ints, dst: Ints) -> NDArray[np.uint64]:
        """Hash of each pair, which decides between equal routes."""
        return _mix(src * self._num_ranks + dst, np.uint64(self.seed))

    def _find_direct(self, src: Ints, dst: Ints) -> Ints | None:
        """Direct link of each pair, -1 where there is none, shape (F,); None where no pair has one."""
        low, high, links = self._core.find_direct(src, dst)
        has = np.flatnonzero(high > low)
        if not len(has):
            return None
        found = np.full(len(src), -1, dtype=np.int64)
        salt = self._salt(src[has], dst[has])
        found[has] = links[low[has] + (salt % (high - low)[has].astype(np.uint64)).astype(np.int64)]
        return found

    def _through_switches(self, src: Ints, dst: Ints) -> list[tuple[Which, Ints]]:
        leave, enter = self._core.leave, self._core.enter
        out, into = self._choose_ways(src, dst)
        columns = _crossed(leave.links_of(src, out))
        here, goal = leave.vertex[src, out], enter.vertex[dst, into]
        moving = np.flatnonzero(here != goal)
        salt = _mix(self._salt(src[moving], dst[moving]).astype(np.int64), np.uint64(1))
        here, goal = here[moving], goal[moving]
        while len(moving):
            low, high, nearer = self._hops.find(here, goal)
            chosen = nearer[low + (salt % (high - low).astype(np.uint64)).astype(np.int64)]
            columns.append((moving, self._core.out_links[chosen]))
            here = self._core.out_target[chosen]
            on = here != goal
            moving, here, goal = moving[on], here[on], goal[on]
            salt = _mix(salt[on].astype(np.int64), np.uint64(1))
        return columns + _crossed(enter.links_of(dst, into))

    def _choose_ways(self, src: Ints, dst: Ints) -> tuple[Ints | int, Ints | int]:
        """The ways out and in of every pair with the fewest hops in total; ties are decided by the hash."""
        if self._core.leave.width == self._core.enter.width == 1:
            return 0, 0
        tied = self._core.shortest_ways(src, dst)
        width = tied.shape[1]
        tied = tied.reshape(-1, len(src))
        number = np.argmax(tied, axis=0)
        several = np.flatnonzero(np.count_nonzero(tied, axis=0) > 1)
        if len(several):
            rank = np.cumsum(tied[:, several], axis=0)
            wanted = 1 + (self._salt(src[several], dst[several]) % rank[-1].astype(np.uint64)).astype(np.int64)
            number[several] = np.argmax(rank == wanted, axis=0)
        return number // width, number % width


def _crossed(links_of_hops: list[Ints]) -> list[tuple[Which, Ints]]:
    """The flows that cross each hop of a way with their links; a way that is shorter has -1 there."""
    columns: list[tuple[Which, Ints]] = []
    for links in links_of_hops:
        has = links >= 0
        if has.all():
            columns.append((slice(None), links))
        elif has.any():
            columns.append((np.flatnonzero(has), links[has]))
    return columns


def _mix(value: Ints, seed: np.uint64) -> NDArray[np.uint64]:
    """SplitMix64: a well mixed 64-bit hash of each value."""
    with np.errstate(over="ignore"):
        mixed = value.astype(np.uint64) + seed * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
