"""Ranks and links that a topology does not tell apart, found from its wiring before any route is built.

A *symmetry* is a permutation of the vertices that maps every link to a link of the same bandwidth, latency, kind, sharing
and incast. Candidates rotate the ranks inside blocks: by one rank inside nodes, by one node inside pods, and so on. Each is
extended to NICs and switches by their neighbours, and used only if it maps the links onto the links, which is checked for
all of them. So the result is proven for this topology, whatever generator or file it came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from smoes_sim.topology.graph import Topology

Words = NDArray[np.uint64]
Longs = NDArray[np.int64]
_ROUNDS = 16
"""Most rounds in which vertices learn of ranks that are farther away; four levels of switches need five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symmetry:
    """Orbits of ranks and links: any member is mapped to any other by some symmetry of the topology.

    Attributes:
        rank_class: Orbit of each rank, 0, 1, ..., shape (R,).
        link_class: Orbit of each link, 0, 1, ..., shape (H,).
    """

    rank_class: Longs
    link_class: Longs


def find_symmetry(topology: Topology) -> Symmetry:
    """Orbits of ranks and links under the symmetries that were found; every rank is alone where there are none.

    Example:
        >>> from smoes_sim.topology import find_topology
        >>> found = find_symmetry(find_topology("8x8-h100-ndr400"))
        >>> int(found.rank_class.max()) + 1, int(found.link_class.max()) + 1  # links to and from NVSwitch, NICs and fabric
        (1, 6)
    """
    wiring = _Wiring(topology)
    pairs = [np.empty((2, 0), np.int64)], [np.empty((2, 0), np.int64)]
    inner = 1
    while inner < topology.num_ranks:
        for outer in _multiples(inner, topology.num_ranks):
            found = wiring.extended(_rotated(topology.num_ranks, inner, outer))
            if found is not None:
                vertex_image, link_image = found
                pairs[0].append(np.stack([np.arange(topology.num_ranks), vertex_image[: topology.num_ranks]]))
                pairs[1].append(np.stack([np.arange(topology.num_links), link_image]))
                inner = outer
                break
        else:
            break
    return Symmetry(
        rank_class=_orbits(topology.num_ranks, np.concatenate(pairs[0], axis=1)),
        link_class=_orbits(topology.num_links, np.concatenate(pairs[1], axis=1)),
    )


class _Wiring:
    """The links of a topology, arranged to test whether a permutation of the ranks is a symmetry."""

    def __init__(self, topology: Topology) -> None:
        self._num_ranks = topology.num_ranks
        self._source, self._target = topology.link_source.astype(np.int64), topology.link_target.astype(np.int64)
        attributes = np.stack(
            [
                topology.link_bandwidth,
                topology.link_latency,
                topology.link_kind,
                topology.link_shared,
                topology.incast_flows,
                topology.incast_efficiency,
            ]
        )
        self._attribute = np.unique(attributes, axis=1, return_inverse=True)[1].astype(np.int64)
        self._kind = np.unique(np.array(topology.vertex_kinds), return_inverse=True)[1].astype(np.int64)
        self._order = np.lexsort((self._attribute, self._target, self._source))
        self._colors = self._refined(np.arange(topology.num_ranks))

    def extended(self, image: Longs) -> tuple[Longs, Longs] | None:
        """Images of all vertices and links under a symmetry that maps rank ``r`` to ``image[r]``; None if none was found.

        A vertex maps to the one that has the images of its neighbours, or to one of several that have the same neighbours.
        """
        colors = self._refined(image)
        theirs, ours = np.argsort(colors, kind="stable"), np.argsort(self._colors, kind="stable")
        if not np.array_equal(colors[theirs], self._colors[ours]):
            return None
        vertex = np.empty(len(colors), np.int64)
        vertex[theirs] = ours
        source, target = vertex[self._source], vertex[self._target]
        order = np.lexsort((self._attribute, target, source))
        pairs = [(source, self._source), (target, self._target), (self._attribute, self._attribute)]
        is_symmetry = (
            np.array_equal(vertex[: self._num_ranks], image)
            and np.array_equal(self._kind[vertex], self._kind)
            and all(np.array_equal(mapped[order], given[self._order]) for mapped, given in pairs)
        )
        if not is_symmetry:
            return None
        link = np.empty(len(order), np.int64)
        link[order] = self._order
        return vertex, link

    def _refined(self, label: Longs) -> Words:
        """Colour of each vertex by the labels of the ranks around it; a rank's colour is its label, shape (V,)."""
        ranks = self._num_ranks
        colors = _mix(self._kind.astype(np.uint64))
        colors[:ranks] = _mix(label.astype(np.uint64) + np.uint64(2**32))
        attribute = _mix(self._attribute.astype(np.uint64))
        before = 0
        for _ in range(_ROUNDS):
            total = np.zeros(len(colors), np.uint64)
            np.add.at(total, self._target, _mix(colors[self._source] + attribute))
            np.add.at(total, self._source, _mix(colors[self._target] ^ attribute))
            colors[ranks:] = _mix(colors + total)[ranks:]
            count = len(np.unique(colors))
            if count == before:
                break
            before = count
        return colors


def _multiples(inner: int, num_ranks: int) -> Iterator[int]:
    """Sizes of blocks from the largest on: divisors of the number of ranks that are multiples of ``inner``."""
    return (num_ranks // parts for parts in range(1, num_ranks // inner) if num_ranks % (parts * inner) == 0)


def _rotated(num_ranks: int, inner: int, outer: int) -> Longs:
    """Ranks moved on by ``inner`` inside blocks of ``outer``, shape (R,).

    Example:
        >>> _rotated(8, 2, 4).tolist()
        [2, 3, 0, 1, 6, 7, 4, 5]
    """
    rank = np.arange(num_ranks)
    return rank - rank % outer + (rank + inner) % outer


def _orbits(count: int, pairs: Longs) -> Longs:
    """Number of the connected part of each of ``count`` items, by pairs of joined items, shape (2, N)."""
    joined = csr_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(count, count))
    return connected_components(joined, directed=False)[1].astype(np.int64)


def _mix(value: Words) -> Words:
    """SplitMix64: a well mixed 64-bit hash of each value."""
    mixed = value + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
