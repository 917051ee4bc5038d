"""What a family of libraries must say of itself: its steps, how long they take, and what its constants mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smoes_sim.libraries.case import Case, Skip
from smoes_sim.libraries.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A positive number that the topology cannot tell.

    Values are pooled in log space: ``value = prior * exp(all + class + software + system)``. The name that a family uses
    is ``what`` or ``what.class`` (``launch``, ``efficiency.nvlink4``); the software and the system are those of the case.

    Attributes:
        what: First part of its names.
        prior: Value before any data.
        spread: Standard deviation of its logarithm over everything: 0.7 is a factor of two either way.
        meaning: What it stands for, with its unit and the source of the prior.
        most: Largest value that it can have; 1 for a share.
    """

    what: str
    prior: float
    spread: float
    meaning: str
    most: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A way to exchange, as steps and constants.

    Attributes:
        name: As in :attr:`Case.family`.
        constants: All constants, by ``what``.
        names: The constants that a case depends on, such as ``efficiency.nvlink4``.
        stages: Steps of a case, or why it has none (a column that the family needs is empty).
        duration: Seconds of a case, from its steps and the constants by the names of ``names``. Smooth in the constants.
        measured: Seconds (or the derived time) that the row reports; None if it cannot be had.
    """

    name: str
    constants: Sequence[Constant]
    names: Callable[[Case], Sequence[str]]
    stages: Callable[[Case], list[Stage] | Skip]
    duration: Callable[[Case, Sequence[Stage], Mapping[str, float]], float]
    measured: Callable[[Case], float | None]
