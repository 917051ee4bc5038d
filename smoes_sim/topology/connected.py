"""Which ranks reach each other through NICs and switches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vertices = NDArray[np.int32]


def joined_groups(
    source: Vertices, target: Vertices, *, num_ranks: int, num_vertices: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Group of each rank, (R,), and whether groups reach each other, (G, G); devices do not forward.

    Ranks with links to the same strongly connected parts of the fabric form a group.

    Args:
        source: Vertex that each link leaves, shape (H,); ranks are the vertices below ``num_ranks``.
        target: Vertex that each link enters, shape (H,).
        num_ranks: R.
        num_vertices: V.

    Example:
        Ranks 0 and 1 on switch 3, rank 2 with a link to the switch and none back:

        >>> ends = np.array([[0, 3], [3, 0], [1, 3], [3, 1], [2, 3]])
        >>> group, joined = joined_groups(*ends.T, num_ranks=3, num_vertices=4)
        >>> group.tolist(), joined.tolist()
        ([0, 0, 1], [[True, False], [True, False]])
    """
    inner = (source >= num_ranks) & (target >= num_ranks)
    part = _strong_parts(source[inner], target[inner], num_vertices=num_vertices)
    one_way: dict[int, set[int]] = {}
    leads_on = part[source[inner]] != part[target[inner]]
    for a, b in zip(part[source[inner][leads_on]].tolist(), part[target[inner][leads_on]].tolist(), strict=True):
        one_way.setdefault(a, set()).add(b)
    leaves: list[set[int]] = [set() for _ in range(num_ranks)]
    enters: list[set[int]] = [set() for _ in range(num_ranks)]
    for near, far, parts in ((source, target, leaves), (target, source, enters)):
        outer = (near < num_ranks) & (far >= num_ranks)
        for rank, there in zip(near[outer].tolist(), part[far[outer]].tolist(), strict=True):
            parts[rank].add(there)
    groups: dict[tuple[frozenset[int], frozenset[int]], int] = {}
    group = [groups.setdefault((frozenset(a), frozenset(b)), len(groups)) for a, b in zip(leaves, enters, strict=True)]
    entered_by: dict[int, list[int]] = {}
    for (_, into), number in groups.items():
        for there in into:
            entered_by.setdefault(there, []).append(number)
    joined = np.zeros((len(groups), len(groups)), dtype=bool)
    for (out, _), number in groups.items():
        for there in _beyond(out, one_way):
            joined[number, entered_by.get(there, [])] = True
    return np.array(group, dtype=np.int64), joined


def _beyond(start: frozenset[int], one_way: dict[int, set[int]]) -> set[int]:
    """Parts of the fabric that can be reached from ``start`` over one-way links, ``start`` included."""
    found: set[int] = set()
    waiting = set(start)
    while waiting:
        part = waiting.pop()
        found.add(part)
        waiting |= one_way.get(part, set()) - found
    return found


def _strong_parts(source: Vertices, target: Vertices, *, num_vertices: int) -> NDArray[np.int64]:
    """The strongly connected part of each vertex, (V,).

    Where every link has one back, as in nearly every fabric, parts are what links join in any direction: each vertex and the
    vertex it points at take the smallest vertex that a neighbour points at, and then what that one points at, until nothing
    changes (FastSV: Zhang, Azad, Hu, SIAM PP 2020).
    """
    keys, back = source.astype(np.int64) * num_vertices + target, target.astype(np.int64) * num_vertices + source
    if not np.array_equal(np.unique(keys), np.unique(back)):
        from scipy.sparse import csr_array  # noqa: PLC0415 - 0.3 s to import, and only one-way links need it
        from scipy.sparse.csgraph import connected_components  # noqa: PLC0415 - as above

        edges = csr_array((np.ones(len(source), dtype=np.int8), (source, target)), shape=(num_vertices, num_vertices))
        return connected_components(edges, directed=True, connection="strong")[1].astype(np.int64)
    part = np.arange(num_vertices)
    while True:
        smaller = part.copy()
        np.minimum.at(smaller, part[source], part[target])
        np.minimum.at(smaller, source, part[target])
        smaller = smaller[smaller]
        if np.array_equal(smaller, part):
            return part
        part = smaller
