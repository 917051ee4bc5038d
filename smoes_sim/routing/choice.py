"""Selection of experts by score: the K best, the K best inside a few groups, or the same number from each group.

Groups are runs of neighbouring expert ids, all of the same size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FORBIDDEN = np.float32(-1e9)
"""Score of an expert that a token must not use."""


def best_experts(scores: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """The ``number`` highest-scoring experts of each token, unordered, shape (T, number), from scores (T, E)."""
    return np.argpartition(scores, -number, axis=1)[:, -number:]


def only_best_groups(scores: NDArray[np.float32], *, num_groups: int, kept: int) -> NDArray[np.float32]:
    """Scores in which every expert outside the ``kept`` best groups of its token is forbidden, shape (T, E).

    The score of a group is that of its best expert.

    Example:
        Of 4 groups of 2 experts the first and the third are kept.

        >>> scores = np.array([[1, 8, 5, 5, 7, 0, 2, 3]], dtype=np.float32)
        >>> (only_best_groups(scores, num_groups=4, kept=2) > FORBIDDEN).astype(int).tolist()
        [[1, 1, 0, 0, 1, 1, 0, 0]]
    """
    by_group = scores.reshape(len(scores), num_groups, -1)
    best = best_experts(by_group.max(axis=2), kept)
    is_kept = np.zeros(by_group.shape[:2], dtype=bool)
    np.put_along_axis(is_kept, best, True, axis=1)
    return np.where(is_kept[:, :, None], by_group, FORBIDDEN).reshape(scores.shape)


def best_of_each_group(scores: NDArray[np.float32], number: int, *, num_groups: int) -> NDArray[np.int64]:
    """The ``number / num_groups`` best experts of every group, unordered, shape (T, number), from scores (T, E).

    Example:
        >>> best_of_each_group(np.array([[1, 8, 5, 4]], dtype=np.float32), 2, num_groups=2).tolist()
        [[1, 2]]
    """
    size = scores.shape[1] // num_groups
    inside = best_experts(scores.reshape(-1, size), number // num_groups).reshape(len(scores), num_groups, -1)
    return (inside + size * np.arange(num_groups)[:, None]).reshape(len(scores), number)
