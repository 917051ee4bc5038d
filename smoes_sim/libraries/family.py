"""The description of a family of libraries: its stages, their duration, and the meaning of its constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from smoes_sim.libraries.stage import ScheduleStage
from smoes_sim.libraries.system import Skip, SystemCase


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A positive number that does not follow from the topology, pooled over transport classes, software and systems.

    A family names it ``what`` or ``what.class`` (``per_peer``, ``efficiency.nvlink4``). Its value in a case is the prior
    moved by a sum of deviations, one for each of ``what``, the kind of class (``nvlink``), the class, the class with the
    case's software, and the case's system; each is zero without data. They move the logarithm, or for a share
    the logit, so that a share stays below 1.

    Attributes:
        what: First part of its names.
        prior: Value before any data.
        spread: Standard deviation of the first deviation: 0.7 is a factor of two either way.
        between: Standard deviation of each of the others.
        meaning: Meaning with unit and source of the prior.
        is_share: Whether it lies between 0 and 1.
        priors: Values before any data for some transport classes or kinds of class, where more is known.
    """

    what: str
    prior: float
    spread: float
    between: float
    meaning: str
    is_share: bool = False
    priors: Mapping[str, float] = field(default_factory=dict)

    def prior_of(self, transport: str) -> float:
        """Value before any data for a transport class ("" for a constant without a class)."""
        return self.priors.get(transport, self.priors.get(kind_of(transport), self.prior))

    def moved(self, prior: float, deviation: float) -> float:
        """The value of a constant with this prior after a sum of deviations.

        Example:
            A share of 0.8 moved by 1: the logit goes from ln 4 to ln 4 + 1, so 4e / (4e + 1).

            >>> share = Constant(what="x", prior=0.8, spread=1, between=1, meaning="", is_share=True)
            >>> round(share.moved(0.8, 1), 3)
            0.916
        """
        if self.is_share:
            return 1 / (1 + (1 / prior - 1) * math.exp(-deviation))
        return prior * math.exp(deviation)


def kind_of(transport: str) -> str:
    """The kind of a transport class, without generation.

    Example:
        >>> kind_of("nvlink5_mnnvl")
        'nvlink'
    """
    return transport.split("_", maxsplit=1)[0].rstrip("0123456789")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A way to exchange data: stages and constants.

    Attributes:
        name: As in :attr:`SystemCase.family`.
        pool: Families of one pool are fitted together; constants of the same name are the same.
        constants: All constants, by ``what``.
        names: Names of the constants on which a case depends, such as ``efficiency.nvlink4``.
        stages: Stages of a case, or the reason why it has none (a column that the family needs is empty).
        duration: Seconds of a case, from its stages and its constants by name; smooth in the constants.
        measured: Measured time of the row in seconds, as given or computed from its bandwidth; None without either.
    """

    name: str
    pool: str
    constants: Sequence[Constant]
    names: Callable[[SystemCase], Sequence[str]]
    stages: Callable[[SystemCase], list[ScheduleStage] | Skip]
    duration: Callable[[SystemCase, Sequence[ScheduleStage], Mapping[str, float]], float]
    measured: Callable[[SystemCase], float | None]
