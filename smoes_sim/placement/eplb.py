"""Balance the load of ranks by replicas of busy experts: the algorithm of EPLB, and replicas for SMoES bins.

EPLB (deepseek-ai/EPLB, README and ``eplb.py``; MIT) in words, for one layer: groups of experts are packed onto nodes;
inside each node the expert with the highest load per copy gets the next copy until all slots are used; copies are packed
onto the node's ranks. Packing takes the heaviest first and puts it on the lightest pack that has room. Where nodes do not
divide the groups, or ranks do not divide the slots, the whole system is one node and one group ("global"). Where ranks do
not divide the slots, the first ones have one more; the servers' own EPLB needs equally many. Copies of an expert are
assumed to share its load equally.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def balance(
    loads: NDArray[np.integer] | NDArray[np.floating],
    *,
    num_slots: int,
    num_ranks: int,
    num_nodes: int = 1,
    num_groups: int = 1,
) -> NDArray[np.int64]:
    """Expert in each slot of one layer, shape (S,), ordered by rank.

    Args:
        loads: Routed tokens of each expert, shape (E,).
        num_slots: S, at least E; the first S % R ranks have one more.
        num_ranks: R, a multiple of the nodes.
        num_nodes: Nodes.
        num_groups: Groups of neighbouring experts; each stays on one node if the nodes divide the groups.

    Example:
        Expert 0 gets three copies of load 4/3; packed, the ranks have 2 + 4/3 + 1 = 13/3 and 4/3 + 4/3 + 1 = 11/3.

        >>> balance(np.array([4, 2, 1, 1]), num_slots=6, num_ranks=2).tolist()
        [1, 0, 3, 0, 0, 2]
    """
    values = np.asarray(loads, dtype=np.float64)
    if num_groups % num_nodes or num_slots % num_ranks:
        num_nodes = num_groups = 1
    group_size = len(values) // num_groups
    rows = []
    for groups in pack(values.reshape(num_groups, group_size).sum(axis=1), num_packs=num_nodes):
        experts = (np.array(groups)[:, None] * group_size + np.arange(group_size)).ravel()
        copies = replicate(values[experts], num_slots=num_slots // num_nodes)
        number = np.bincount(copies)
        packs = pack((values[experts] / number)[copies], num_packs=num_ranks // num_nodes)
        rows += [experts[copies[chosen]] for chosen in packs]
    return np.concatenate(rows)


def pack(weights: NDArray[np.float64], *, num_packs: int) -> list[list[int]]:
    """Indices of the weights in each pack, in the order of packing; where they do not divide, the first have one more.

    Example:
        Two packs: 5 + 3 + 1 and 4 + 3 + 2.

        >>> pack(np.array([5.0, 4, 3, 3, 2, 1]), num_packs=2)
        [[0, 3, 5], [1, 2, 4]]
    """
    size, larger = divmod(len(weights), num_packs)
    if size == 1 and not larger:
        return [[number] for number in range(num_packs)]
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    open_packs = [(0.0, number) for number in range(num_packs)]
    for index in np.argsort(-weights, kind="stable").tolist():
        total, number = heapq.heappop(open_packs)
        packs[number].append(index)
        if len(packs[number]) < size + (number < larger):
            heapq.heappush(open_packs, (total + float(weights[index]), number))
    return packs


def replicate(loads: NDArray[np.float64], *, num_slots: int) -> NDArray[np.int64]:
    """Expert of each copy, shape (num_slots,): each once, then repeatedly the one with the highest load per copy.

    Example:
        The lower index wins a tie (the last copy: 2 and 2).

        >>> replicate(np.array([4.0, 2, 1]), num_slots=5).tolist()
        [0, 1, 2, 0, 0]
    """
    number = np.ones(len(loads))
    copies = list(range(len(loads)))
    for _ in range(num_slots - len(loads)):
        busiest = int((loads / number).argmax())
        copies.append(busiest)
        number[busiest] += 1
    return np.array(copies, dtype=np.int64)


def add_replicas(
    base: Sequence[NDArray[np.int64]] | NDArray[np.int64],
    loads: NDArray[np.integer] | NDArray[np.floating],
    *,
    slots: int,
) -> NDArray[np.int64]:
    """Experts of each rank with its free slots filled by replicas of busy experts, shape (R, slots).

    Repeatedly, of the experts that some rank with a free slot lacks, the one with the highest load per copy is copied to the
    least loaded of those ranks.

    Args:
        base: Experts of each of the R ranks.
        loads: Routed tokens of each expert, shape (E,).
        slots: Slots of each rank.

    Example:
        Expert 0 is copied to the second rank. The first rank already has 0 and 1, so it gets 2.

        >>> add_replicas(np.array([[0, 1], [2, 3]]), np.array([6, 2, 1, 1]), slots=3).tolist()
        [[0, 1, 2], [2, 3, 0]]
    """
    ranks = [row.tolist() for row in base]
    values = np.asarray(loads, dtype=np.float64)
    number = np.ones(len(values))
    for _ in range(slots * len(ranks) - sum(map(len, ranks))):
        per_copy = values / number
        rank_load = [float(per_copy[row].sum()) for row in ranks]
        free = [rank for rank, row in enumerate(ranks) if len(row) < slots]
        possible = [expert for expert in range(len(values)) if any(expert not in ranks[rank] for rank in free)]
        expert = max(possible, key=lambda candidate: per_copy[candidate])
        rank = min((rank for rank in free if expert not in ranks[rank]), key=lambda candidate: rank_load[candidate])
        ranks[rank].append(expert)
        number[expert] += 1
    return np.array(ranks, dtype=np.int64)
