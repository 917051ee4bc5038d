"""When the network uses compiled code, which takes seconds to compile on first use: one threshold for all of it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

Fidelity = Literal["bound", "fluid", "fifo", "packet"]
"""Models of the network, from a lower bound to every packet; see docs/explanation/models.md."""
ARRAYS_ONLY = 500
"""Up to this many flows NumPy alone is fast enough: no search for symmetry, and numba is not imported."""


def uses_compiled(num_flows: int) -> bool:
    """Whether the fluid model uses code compiled by numba for ``num_flows`` flows: above 500, if numba is installed.

    Example:
        >>> uses_compiled(500)
        False
    """
    return num_flows > ARRAYS_ONLY and find_spec("numba") is not None


def may_compile(num_ranks: int, *, fidelity: Fidelity = "fluid") -> bool:
    """Whether exchanges between ``num_ranks`` ranks may need compiled code; ask before a run that a user waits for.

    An exchange has at most one flow per pair of ranks and direction. ``fifo`` decides by its number of chunks, which this
    cannot know, so the answer is True; ``bound`` and ``packet`` compile nothing.

    Example:
        22 ranks have 22 * 21 = 462 flows at most, 23 have 506:

        >>> may_compile(22), may_compile(22, fidelity="fifo"), may_compile(1000, fidelity="packet")
        (False, True, False)
    """
    if fidelity == "fluid":
        return uses_compiled(num_ranks * (num_ranks - 1))
    return fidelity == "fifo"
