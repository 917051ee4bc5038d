"""Messages of each rank under ``two_hop``: over the NIC to the rank of the own index, then inside the node.

A *pair* is a source and a destination; its rows travel from the source to the pair's gateway (the rank of the source's
index in the destination's node; the destination itself in the own node) and from there to the destination. This is the
``two_hop`` of :mod:`smoes_sim.network.schedules`, whose test compares the two byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
"""Source and destination."""
Hop = tuple[int, list[Pair]]
"""Peer, and the pairs whose rows are sent in one message, in their order in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Sends and receives of one rank in each stage; sends start with the next rank, receives with the previous one."""

    first_receives: list[Hop]
    first_sends: list[Hop]
    second_receives: list[Hop]
    second_sends: list[Hop]


def gateways(node_of_rank: Sequence[int]) -> NDArray[np.int64]:
    """The rank through which each pair goes, shape (R, R) by source and destination; an index beyond a node's size wraps.

    Two nodes of two ranks: 0 reaches 1 at once, and 2 and 3 through 2.
    """
    node = np.asarray(node_of_rank)
    num_ranks = len(node)
    members = [np.flatnonzero(node == number) for number in range(int(node.max()) + 1)]
    index = np.array([int(np.flatnonzero(members[node[rank]] == rank)[0]) for rank in range(num_ranks)])
    table = np.tile(np.arange(num_ranks), (num_ranks, 1))
    for source, destination in zip(*np.nonzero(node[:, None] != node[None, :]), strict=True):
        there = members[node[destination]]
        table[source, destination] = there[index[source] % len(there)]
    return table


def plan_hops(node_of_rank: Sequence[int], rank: int) -> Hops:
    """The messages of a rank. Pairs in a message are ordered by destination (stage one) or source (stage two)."""
    gateway = gateways(node_of_rank)
    num_ranks = len(gateway)
    after = [(rank + step) % num_ranks for step in range(1, num_ranks)]
    before = after[::-1]

    def first(source: int, through: int) -> list[Pair]:
        return [(source, destination) for destination in np.flatnonzero(gateway[source] == through).tolist()]

    def second(through: int, destination: int) -> list[Pair]:
        sources = np.flatnonzero(gateway[:, destination] == through).tolist()
        return [(source, destination) for source in sources] if through != destination else []

    return Hops(
        first_receives=[(peer, first(peer, rank)) for peer in before],
        first_sends=[(peer, first(rank, peer)) for peer in after],
        second_receives=[(peer, second(peer, rank)) for peer in before],
        second_sends=[(peer, second(rank, peer)) for peer in after],
    )


def part_of(num_rows: int, part: int, num_parts: int) -> slice:
    """The rows of a pair that travel in a part; 10 rows in 4 parts: 2, 3, 2, 3."""
    return slice(num_rows * part // num_parts, num_rows * (part + 1) // num_parts)
