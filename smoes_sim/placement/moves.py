"""From one placement to the next: which expert weights move, and how to renumber ranks so that few do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.placement.expert_placement import ExpertPlacement


def moved_experts(old: ExpertPlacement, new: ExpertPlacement) -> NDArray[np.int64]:
    """Number of experts whose weights are sent from rank to rank, over all layers, shape (R, R).

    A rank fetches each expert that it does not hold yet from the holder that has sent least so far (the lowest rank wins a
    tie). Experts that it already holds, in any slot, cost nothing. Every EP group moves its own copies.

    Example:
        >>> ranks = np.array([0, 0, 1, 1])
        >>> old = ExpertPlacement(physical_to_logical_map=np.array([[0, 1, 2, 3]]), slot_rank=ranks)
        >>> new = ExpertPlacement(physical_to_logical_map=np.array([[0, 2, 1, 3]]), slot_rank=ranks)
        >>> moved_experts(old, new).tolist()
        [[0, 1], [1, 0]]
    """
    R, G = new.ep_size, new.num_groups
    moved = np.zeros((R, R), dtype=np.int64)
    for layer in range(len(new.physical_to_logical_map)):
        before, after = _held(old, layer), _held(new, layer)
        for rank, expert in zip(*np.nonzero(after & ~before), strict=True):
            holders = np.flatnonzero(before[:, expert])
            source = holders[moved[holders].sum(axis=1).argmin()]
            moved[source, rank] += 1
    return np.kron(np.eye(G, dtype=np.int64), moved)


def keep_in_place(old: ExpertPlacement, new: ExpertPlacement) -> ExpertPlacement:
    """The new placement with the ranks of each layer renumbered so that as many experts as possible stay where they are.

    For rules whose cost does not depend on the numbering of ranks; solves one assignment problem per layer.

    Example:
        >>> ranks = np.array([0, 0, 1, 1])
        >>> old = ExpertPlacement(physical_to_logical_map=np.array([[0, 1, 2, 3]]), slot_rank=ranks)
        >>> new = ExpertPlacement(physical_to_logical_map=np.array([[2, 3, 0, 1]]), slot_rank=ranks)
        >>> keep_in_place(old, new).physical_to_logical_map.tolist()
        [[0, 1, 2, 3]]
    """
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415 - 0.4 s to import, and predictions do not renumber

    rows, sizes = [], np.bincount(new.slot_rank)
    for layer, slots in enumerate(new.physical_to_logical_map):
        common = _held(new, layer).astype(np.int64) @ _held(old, layer).T
        common[sizes[:, None] != sizes] = -1 - len(slots)  # a rank keeps its number of slots
        _, place = linear_sum_assignment(common, maximize=True)
        by_rank = np.split(slots, np.cumsum(sizes)[:-1])
        rows.append(np.concatenate([by_rank[rank] for rank in np.argsort(place)]))
    return replace(new, physical_to_logical_map=np.stack(rows))


def _held(placement: ExpertPlacement, layer: int) -> NDArray[np.bool_]:
    """Whether each rank of a group holds each expert, shape (ep_size, E)."""
    slots = placement.physical_to_logical_map[layer]
    held = np.zeros((placement.ep_size, int(slots.max()) + 1), dtype=bool)
    held[placement.slot_rank, slots] = True
    return held
