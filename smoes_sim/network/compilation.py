"""When the network uses compiled code, which takes seconds to compile on first use: one threshold for all of it."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Literal

Fidelity = Literal["bound", "fluid", "fifo", "packet"]
"""Models of the network, from a lower bound to every packet; see docs/explanation/models.md."""
_ARRAYS_ONLY = 56
"""Up to this many flows, all pairs of eight ranks, NumPy alone is fast enough and numba is not imported: an exchange takes
about 5 ms, and numba a second until it has loaded what it compiled before."""


def uses_compiled(num_flows: int) -> bool:
    """Whether the fluid model uses code compiled by numba for ``num_flows`` flows: above 56, if numba is installed.

    Example:
        >>> uses_compiled(56)
        False
    """
    return num_flows > _ARRAYS_ONLY and has_numba()


@cache
def has_numba() -> bool:
    """Whether numba is installed; looked up on disk once."""
    return find_spec("numba") is not None


def may_compile(num_ranks: int, *, fidelity: Fidelity = "fluid") -> bool:
    """Whether exchanges between ``num_ranks`` ranks may need compiled code; ask before a run that a user waits for.

    An exchange has at most one flow per pair of ranks and direction. ``fifo`` decides by its number of chunks, which this
    cannot know, so the answer is True; ``bound`` and ``packet`` compile nothing.

    Example:
        8 ranks have 8 * 7 = 56 flows at most:

        >>> may_compile(8), may_compile(8, fidelity="fifo"), may_compile(1000, fidelity="packet")
        (False, True, False)
    """
    if fidelity == "fluid":
        return uses_compiled(num_ranks * (num_ranks - 1))
    return fidelity == "fifo"
