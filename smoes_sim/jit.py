"""Functions compiled by numba: how, and when that pays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., object])


def jit(signature: str) -> Callable[[_Function], _Function]:
    """Compile a function for a signature, from the cache on disk if there is a place for one."""
    import numba  # noqa: PLC0415 (a quarter of a second, for large cases only)

    def compiled(function: _Function) -> _Function:
        try:
            result = numba.njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except RuntimeError:  # numba finds no directory that it may write to
            result = numba.njit(signature, nogil=True, error_model="numpy")(function)
        return cast(_Function, result)

    return compiled


def pays(work: int, *, least: int) -> bool:
    """Whether compiled code is worth it: numba is loaded already, or ``work`` reaches ``least`` and numba is installed.

    Only for code that gives the same bytes either way.
    """
    return "numba" in sys.modules or (work >= least and find_spec("numba") is not None)
