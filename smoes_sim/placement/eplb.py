"""Even out the load of ranks by copies of busy experts: the algorithm of EPLB, and replicas for SMoES bins.

EPLB (deepseek-ai/EPLB, README and ``eplb.py``; MIT) in words, for one layer: groups of experts are packed onto nodes; inside
each node the expert with most load per copy gets the next copy until all slots are taken; copies are packed onto the node's
ranks. Packing takes the heaviest first and puts it on the lightest pack that has room. Where nodes do not divide the groups
the whole system counts as one node and one group ("global"). Copies of one expert are taken to share its load alike.
"""

from __future__ import annotations

import heapq

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
        num_slots: S, a multiple of R and at least E.
        num_ranks: R, a multiple of the nodes.
        num_nodes: Nodes.
        num_groups: Groups of neighbouring experts, of which each stays on one node if nodes divide them.

    Example:
        Loads 4, 2, 1, 1 in 6 slots on 2 ranks: expert 0 gets two copies of 2, then (lowest first among equals) three of
        4/3; heaviest first they are packed to 2 + 4/3 + 1 = 13/3 and 4/3 + 4/3 + 1 = 11/3, in slots 1, 0, 3 and 0, 0, 2.
    """
    values = np.asarray(loads, dtype=np.float64)
    if num_groups % num_nodes:
        num_nodes = num_groups = 1
    group_size = len(values) // num_groups
    rows = []
    for groups in pack(values.reshape(num_groups, group_size).sum(axis=1), num_packs=num_nodes):
        experts = (groups[:, None] * group_size + np.arange(group_size)).ravel()
        copies = replicate(values[experts], num_slots=num_slots // num_nodes)
        number = np.bincount(copies)
        packs = pack((values[experts] / number)[copies], num_packs=num_ranks // num_nodes)
        rows += [experts[copies[chosen]] for chosen in packs]
    return np.concatenate(rows)


def pack(weights: NDArray[np.float64], *, num_packs: int) -> NDArray[np.int64]:
    """Indices of the weights in each pack, shape (packs, weights / packs), in the order in which they were put there.

    Example:
        5, 4, 3, 3, 2, 1 in two packs: 5 + 3 + 1 and 4 + 3 + 2, indices 0, 3, 5 and 1, 2, 4.
    """
    size = len(weights) // num_packs
    if size == 1:
        return np.arange(num_packs)[:, None]
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    open_packs = [(0.0, number) for number in range(num_packs)]
    for index in np.argsort(-weights, kind="stable").tolist():
        total, number = heapq.heappop(open_packs)
        packs[number].append(index)
        if len(packs[number]) < size:
            heapq.heappush(open_packs, (total + float(weights[index]), number))
    return np.array(packs, dtype=np.int64)


def replicate(loads: NDArray[np.float64], *, num_slots: int) -> NDArray[np.int64]:
    """Expert of each copy, shape (num_slots,): each once, then again and again that with most load per copy.

    Example:
        Loads 4, 2, 1 and five slots: 0, 1, 2, 0, 0 (4, then 2 for the lower of two equals).
    """
    number = np.ones(len(loads))
    copies = list(range(len(loads)))
    for _ in range(num_slots - len(loads)):
        busiest = int((loads / number).argmax())
        copies.append(busiest)
        number[busiest] += 1
    return np.array(copies, dtype=np.int64)


def add_replicas(
    base: NDArray[np.int64], loads: NDArray[np.integer] | NDArray[np.floating], *, spare: int
) -> NDArray[np.int64]:
    """Fill spare slots of bins with replicas of hot experts: shape (R, E / R) gives (R, E / R + spare).

    One after the other, the expert with most load per copy that can still go somewhere is copied to the least loaded rank
    with a free slot and without it.

    Example:
        Bins (0, 1) and (2, 3) with loads 6, 2, 1, 1 and one spare slot each: 0 goes to the second rank (5 and 5), whose load
        it was; then 1 is out, as the first rank has it, and 2 is copied there: (0, 1, 2) and (2, 3, 0).
    """
    ranks = [list(row) for row in base.tolist()]
    values = np.asarray(loads, dtype=np.float64)
    number = np.ones(len(values))
    for _ in range(spare * len(ranks)):
        per_copy = values / number
        rank_load = [float(per_copy[row].sum()) for row in ranks]
        free = [rank for rank, row in enumerate(ranks) if len(row) < base.shape[1] + spare]
        possible = [expert for expert in range(len(values)) if any(expert not in ranks[rank] for rank in free)]
        expert = max(possible, key=lambda candidate: per_copy[candidate])
        rank = min((rank for rank in free if expert not in ranks[rank]), key=lambda candidate: rank_load[candidate])
        ranks[rank].append(expert)
        number[expert] += 1
    return np.array(ranks, dtype=np.int64)
