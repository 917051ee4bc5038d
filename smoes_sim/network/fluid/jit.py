"""Compilation by numba with the types written down, so that importing a module compiles it or loads it from disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., object])
Reals = NDArray[np.float64]
Longs = NDArray[np.int64]
Ids = NDArray[np.int32]


def jit(signature: str) -> Callable[[_Function], _Function]:
    """Compile a function, from the cache on disk if there is a place for one."""

    def compiled(function: _Function) -> _Function:
        try:
            result = numba.njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except RuntimeError:  # numba finds no directory that it may write to
            result = numba.njit(signature, nogil=True, error_model="numpy")(function)
        return cast(_Function, result)

    return compiled
