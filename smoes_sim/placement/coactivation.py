"""Rule ``coactivation``: experts that the same tokens use share a rank.

With deduplication by rank a token costs one copy per rank that holds some of its experts, so experts of the same tokens
should share a rank. Maximised is the number of (token, pair of experts) on one rank; load is not considered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.placement.layout import slots_of
from smoes_sim.routing.trace import RoutingTrace

_BLOCK = 8192
"""Tokens that are counted at a time."""


def coactivation(trace: RoutingTrace, layer: int) -> NDArray[np.float64]:
    """Number of tokens that use both experts of each pair in a layer, shape (E, E), zero on the diagonal."""
    together = np.zeros((trace.num_experts, trace.num_experts))
    for first in range(0, trace.num_tokens, _BLOCK):
        ids = trace.expert_ids[first : first + _BLOCK, layer]
        used = np.zeros((len(ids), trace.num_experts), dtype=np.float32)
        token, slot = np.nonzero(ids >= 0)
        used[token, ids[token, slot]] = 1
        together += used.T @ used
    np.fill_diagonal(together, 0)
    return together


def kept_together(together: NDArray[np.float64], order: NDArray[np.int64], *, num_ranks: int) -> float:
    """Number of (token, pair of experts) on one rank when ``order`` is cut into ranks (the first longer); no replicas."""
    return float(sum(together[np.ix_(row, row)].sum() / 2 for row in np.array_split(order, num_ranks)))


def keep_together(together: NDArray[np.float64], *, num_ranks: int) -> NDArray[np.int64]:
    """Experts ordered by rank, shape (E,): greedy assignment, then the best swap of two experts until none improves it.

    Args:
        together: Symmetric, shape (E, E), zero on the diagonal.
        num_ranks: R, at most E; the first E % R ranks have one expert more.

    Example:
        Experts 0 and 2 are used together 5 times, 1 and 3 4 times, 0 and 1 once; two ranks keep 9 of 10 pairs.

        >>> together = np.array([[0.0, 1, 5, 0], [1, 0, 0, 4], [5, 0, 0, 0], [0, 4, 0, 0]])
        >>> keep_together(together, num_ranks=2).tolist()
        [0, 2, 1, 3]
    """
    rank_of = _gathered(together, num_ranks)
    member = np.zeros((len(together), num_ranks))
    member[np.arange(len(together)), rank_of] = 1
    pull = together @ member
    experts = np.arange(len(together))
    while True:
        own = pull[experts, rank_of]
        towards = pull[:, rank_of] - own[:, None]
        gain = np.where(rank_of[:, None] == rank_of, 0.0, towards + towards.T - 2 * together)
        first, second = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[first, second] <= 0:
            return np.argsort(rank_of, kind="stable")
        change = together[:, second] - together[:, first]
        pull[:, rank_of[first]] += change
        pull[:, rank_of[second]] -= change
        rank_of[[first, second]] = rank_of[[second, first]]


def _gathered(together: NDArray[np.float64], num_ranks: int) -> NDArray[np.int64]:
    """Rank of each expert: each rank starts with the free expert that is used most with free ones, then adds the closest."""
    rank_of = np.full(len(together), -1)
    for rank, size in enumerate(slots_of(len(together), num_ranks).tolist()):
        pull = together[:, rank_of < 0].sum(axis=1)
        for number in range(size):
            expert = int(np.where(rank_of < 0, pull, -1.0).argmax())
            pull = together[:, expert] + (pull if number else 0)
            rank_of[expert] = rank
    return rank_of
