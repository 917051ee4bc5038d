"""Functions compiled by numba: how, and when that pays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., object])
Reals = NDArray[np.float64]
Longs = NDArray[np.int64]
Ids = NDArray[np.int32]


class Compiled:
    """A function that numba compiles, or loads from its cache on disk, when it is called first.

    A function whose name begins with an underscore is a part: it is compiled only with one that calls it, and the cache
    holds both together. So they belong into one module, because numba does not notice a change in another one.

    Args:
        function: A function of arrays and numbers, in numba's subset of Python.
        signature: Types of its arguments.

    Attributes:
        is_part: Whether only compiled functions call it.
    """

    def __init__(self, function: Callable[..., object], signature: str) -> None:
        self._function, self._signature = function, signature
        self.is_part = function.__name__.startswith("_")

    def __call__(self, *arguments: object) -> object:
        """What the function returns for these arguments, by position."""
        return self.dispatcher(*arguments)

    @cached_property
    def dispatcher(self) -> Any:
        """What numba has made of it."""
        import numba  # noqa: PLC0415 (a third of a second, where it is needed)

        numba.extending.typeof_impl.register(Compiled)(_type_of)
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        options |= {"no_cfunc_wrapper": True, "no_cpython_wrapper": self.is_part}  # nothing uses them
        try:
            return numba.njit(self._signature, cache=not self.is_part, **options)(self._function)
        except RuntimeError:  # numba finds no directory that it may write to
            return numba.njit(self._signature, **options)(self._function)


def jit(signature: str) -> Callable[[_Function], _Function]:
    """Compile a function for a signature when it is called first; see :class:`Compiled`."""

    def compiled(function: _Function) -> _Function:
        return cast(_Function, Compiled(function, signature))

    return compiled


def _type_of(value: Compiled, context: object) -> Any:
    """Type of a compiled function that another one calls, for numba."""
    from numba.core.types import Dispatcher  # noqa: PLC0415 (loaded already)

    del context
    return Dispatcher(value.dispatcher)


def pays(work: int, *, least: int) -> bool:
    """Whether compiled code is worth it: ``work`` reaches ``least`` and numba is installed.

    It counts that a function must be compiled once, also where numba is loaded. Only for code that gives the same bytes
    either way.
    """
    return work >= least and find_spec("numba") is not None
