"""Which experts a token takes: the K best, the K best inside a few groups, or equally many from each group.

Groups are runs of neighbouring expert ids of one size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FORBIDDEN = np.float32(-1e9)
"""Score of an expert that a token may not use."""


def best_experts(scores: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """The so many experts of highest score in no particular order, (T, number), from scores (T, E)."""
    return np.argpartition(scores, -number, axis=1)[:, -number:]


def only_best_groups(scores: NDArray[np.float32], *, num_groups: int, kept: int) -> NDArray[np.float32]:
    """Scores (T, E) in which a token may use its ``kept`` best groups alone; a group is as good as its best expert.

    Example:
        4 groups of 2 with scores 1 8, 5 5, 7 0, 2 3 and 2 kept: the first and the third, 1 8 and 7 0.
    """
    by_group = scores.reshape(len(scores), num_groups, -1)
    best = best_experts(by_group.max(axis=2), kept)
    is_kept = np.zeros(by_group.shape[:2], dtype=bool)
    np.put_along_axis(is_kept, best, True, axis=1)
    return np.where(is_kept[:, :, None], by_group, FORBIDDEN).reshape(scores.shape)


def best_of_each_group(scores: NDArray[np.float32], number: int, *, num_groups: int) -> NDArray[np.int64]:
    """The ``number / num_groups`` best experts of every group in no particular order, (T, number), from scores (T, E).

    Example:
        2 groups of 2 with scores 1 8, 5 4 and 2 experts: 1 and 2.
    """
    size = scores.shape[1] // num_groups
    inside = best_experts(scores.reshape(-1, size), number // num_groups).reshape(len(scores), num_groups, -1)
    return (inside + size * np.arange(num_groups)[:, None]).reshape(len(scores), number)
