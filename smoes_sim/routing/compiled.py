"""The draws of ``choice`` as a loop compiled by numba, with the same result: integers and comparisons only.

Imported only when that pays (``jit.pays``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.jit import jit
from smoes_sim.routing.counters import GAMMA, MIX_A, MIX_B, Words

Longs = NDArray[np.int64]
Ids = NDArray[np.int16]

_GAMMA, _A, _B = np.uint64(GAMMA), np.uint64(MIX_A), np.uint64(MIX_B)
_S27, _S30, _S31, _S32 = (np.uint64(shift) for shift in (27, 30, 31, 32))
_LOW = np.uint64(2**32 - 1)


@jit("i8[::1](u8[::1], u8[::1], i8[::1], u8[::1], i2[::1], i2[::1], i8, i8, i8, i8, i8, i8, i2[:, ::1])")
def draw_experts(  # noqa: PLR0917 (numba takes no keywords)
    start: Words, chance: Words, table: Longs, cut: Words, own: Ids, other: Ids, columns: int,
    group_size: int, num_groups: int, per_group: int, kept: int, attempts: int, chosen: Ids,
) -> Longs:  # fmt: skip
    """Fill ``chosen``, shape (N, K), with experts in the order of arrival; returns how many each row has got, (N,)."""
    num_rows, top_k = chosen.shape
    count = np.zeros(num_rows, np.int64)
    used = np.zeros(num_groups, np.int64)
    width = np.uint64(columns)
    for row in range(num_rows):
        word, number, seen = start[row], 0, 0
        used[:] = 0
        for _ in range(attempts):
            word += _GAMMA
            mixed = (word ^ (word >> _S30)) * _A
            mixed = (mixed ^ (mixed >> _S27)) * _B
            mixed ^= mixed >> _S31
            at = (mixed & _LOW) * width
            place = table[row] + np.int64(at >> _S32)
            if mixed >> _S32 >= chance[row]:
                place += columns
            expert = own[place] if (at & _LOW) < cut[place] else other[place]
            fresh = True
            for k in range(number):
                if chosen[row, k] == expert:
                    fresh = False
            if num_groups > 1 and fresh:
                group = expert // group_size
                fresh = used[group] < per_group and (used[group] > 0 or seen < kept)
                if fresh:
                    seen += used[group] == 0
                    used[group] += 1
            if fresh:
                chosen[row, number] = expert
                number += 1
                if number == top_k:
                    break
        count[row] = number
    return count
