"""Fit the constants of a family to measured cases, pooled over transport classes, software and systems.

The fit is the posterior mode of all deviations with its curvature (Laplace approximation). The cost sums residuals of log
seconds divided by ``NOISE``, under a soft-L1 loss, and deviations divided by their prior standard deviations. A system that
was not fitted has the deviations of its classes and software; its own are zero, with the variance between systems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, diags_array
from scipy.sparse.linalg import splu

from smoes_sim.libraries.family import Constant, Family, kind_of
from smoes_sim.libraries.stage import ScheduleStage
from smoes_sim.libraries.system import SystemCase

NOISE = 0.08
"""Standard deviation of the logarithm of a repeated measurement: the same hardware differs by 5-12% between sites."""
_MOST_STEPS, _MOST_DAMPING, _DONE = 60, 1e8, 1e-6
"""Largest number of steps, largest damping, and the relative gain below which the iteration ends."""
_STEP = 1e-4
"""Step of the deviations for finite differences."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCase:
    """A case with its stages, which are the same for any constants, and its measured time.

    Attributes:
        case: The case.
        family: Its family.
        stages: Its stages.
        measured: Measured time, seconds; None if there is none.
    """

    case: SystemCase
    family: Family
    stages: Sequence[ScheduleStage]
    measured: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedPool:
    """Fitted deviations of one pool of families.

    Attributes:
        deviations: By key, such as ``efficiency.nvlink4@nccl``; all others are zero.
        covariance: Covariance of the deviations in that order, shape (D, D).
        scale_seen: Factor on the standard deviation for fitted systems.
        scale_unseen: Factor on the standard deviation for other systems. With both factors the 80% intervals cover 80% of
            the cases in cross-validation.
    """

    deviations: Mapping[str, float]
    covariance: Floats
    scale_seen: float = 1.0
    scale_unseen: float = 1.0

    def predict(self, prepared: PreparedCase) -> tuple[float, float]:
        """Predicted seconds, and the standard deviation of their logarithm."""
        terms = terms_of(prepared.family, prepared.case)
        seconds, slopes = _slopes(prepared, terms, [self._moved(term) for term in terms])
        position = {key: index for index, key in enumerate(self.deviations)}
        row = np.zeros(len(position))
        unseen = 0.0
        for term, slope in zip(terms, slopes, strict=True):
            for key, spread in term.chain:
                if key in position:
                    row[position[key]] += slope
                else:
                    unseen += (slope * spread) ** 2
        variance = float(row @ self.covariance @ row) + unseen + NOISE**2
        scale = self.scale_seen if prepared.case.system in self.systems else self.scale_unseen
        return seconds, scale * math.sqrt(variance)

    @property
    def systems(self) -> set[str]:
        """Names of the fitted systems (and software)."""
        return {key.partition("@")[2] for key in self.deviations if "@" in key}

    def constants(self, family: Family, case: SystemCase) -> dict[str, float]:
        """The constants of a case by name."""
        return {term.name: term.value(self._moved(term)) for term in terms_of(family, case)}

    def _moved(self, term: Term) -> float:
        return sum(self.deviations.get(key, 0.0) for key, _ in term.chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A constant in one case.

    Attributes:
        name: Its name in the family, such as ``efficiency.nvlink4``.
        constant: The constant.
        prior: Value before any data, for its transport class.
        chain: Keys of its deviations, the most general first, with their prior standard deviations.
    """

    name: str
    constant: Constant
    prior: float
    chain: tuple[tuple[str, float], ...]

    def value(self, moved: float) -> float:
        """Value of the constant for a sum of deviations ``moved``."""
        return self.constant.moved(self.prior, moved)


def terms_of(family: Family, case: SystemCase) -> list[Term]:
    """The constants of a case."""
    constants = {constant.what: constant for constant in family.constants}
    found = []
    for name in family.names(case):
        what, _, transport = name.partition(".")
        constant = constants[what]
        keys = [what, f"{what}.{kind_of(transport)}", name] if transport else [what]
        keys = list(dict.fromkeys([*keys, f"{name}@{case.software}", f"{name}@{case.system}"]))
        spreads = [constant.spread] + [constant.between] * (len(keys) - 1)
        chain = tuple((key, spread) for key, spread in zip(keys, spreads, strict=True) if spread > 0)
        found.append(Term(name=name, constant=constant, prior=constant.prior_of(transport), chain=chain))
    return found


def _slopes(prepared: PreparedCase, terms: Sequence[Term], moved: Sequence[float]) -> tuple[float, list[float]]:
    """Seconds, and the derivative of their logarithm with respect to the deviation of each term."""
    values = {term.name: term.value(move) for term, move in zip(terms, moved, strict=True)}
    seconds = prepared.family.duration(prepared.case, prepared.stages, values)
    slopes = []
    for term, move in zip(terms, moved, strict=True):
        other = {**values, term.name: term.value(move + _STEP)}
        slopes.append(math.log(prepared.family.duration(prepared.case, prepared.stages, other) / seconds) / _STEP)
    return seconds, slopes


def fit(cases: Sequence[PreparedCase], *, start: Mapping[str, float] | None = None) -> FittedPool:
    """The deviations that explain the measured cases best.

    Args:
        cases: Measured cases of families that share their constants.
        start: Initial deviations, such as those of a fit to more cases; zero for names that are missing.
    """
    terms = [terms_of(prepared.family, prepared.case) for prepared in cases]
    spread = {key: spread for row in terms for term in row for key, spread in term.chain}
    if not spread:
        return FittedPool(deviations={}, covariance=np.zeros((0, 0)))
    position = {key: index for index, key in enumerate(spread)}
    members = [[[position[key] for key, _ in term.chain] for term in row] for row in terms]
    measured = np.log([prepared.measured or math.nan for prepared in cases])
    rows = np.repeat(np.arange(len(cases)), [sum(map(len, groups)) for groups in members])
    columns = np.array([index for groups in members for group in groups for index in group])

    def evaluate(deviation: Floats) -> tuple[Floats, csr_array]:
        residual, entries = np.empty(len(cases)), []
        for row, (prepared, needed, groups) in enumerate(zip(cases, terms, members, strict=True)):
            seconds, slopes = _slopes(prepared, needed, [sum(deviation[index] for index in group) for group in groups])
            residual[row] = math.log(seconds) - measured[row]
            entries += [slope for slope, group in zip(slopes, groups, strict=True) for _ in group]
        softened, weight = _soften(residual / NOISE)
        data = np.array(entries) / NOISE * weight[rows]
        return softened, csr_array((data, (rows, columns)), shape=(len(cases), len(spread)))

    prior = np.array(list(spread.values()))
    first = np.array([(start or {}).get(key, 0.0) for key in spread])
    mode, curvature = _climb(evaluate, first, 1 / prior**2)
    covariance: Floats = splu(curvature).solve(np.eye(len(spread)))
    return FittedPool(deviations=dict(zip(spread, mode.tolist(), strict=True)), covariance=(covariance + covariance.T) / 2)


def _climb(
    evaluate: Callable[[Floats], tuple[Floats, csr_array]], first: Floats, precision: Floats
) -> tuple[Floats, csc_array]:
    """The mode by damped Gauss-Newton steps (Levenberg-Marquardt), and the curvature there.

    Args:
        evaluate: Residuals, shape (N,), and their slopes, shape (N, D), at given deviations.
        first: Initial deviations, shape (D,).
        precision: One over the prior variance of each deviation, shape (D,).
    """
    mode, damping = first, 1e-2
    residual, jacobian = evaluate(mode)
    cost = float((residual**2).sum() + (precision * mode**2).sum())
    for _ in range(_MOST_STEPS):
        curvature = jacobian.T @ jacobian + diags_array(precision)
        gradient = jacobian.T @ residual + precision * mode
        step = splu((curvature + damping * diags_array(curvature.diagonal())).tocsc()).solve(-gradient)
        new_residual, new_jacobian = evaluate(mode + step)
        new_cost = float((new_residual**2).sum() + (precision * (mode + step) ** 2).sum())
        if new_cost >= cost:
            damping *= 10
            if damping > _MOST_DAMPING:
                break
            continue
        is_done = cost - new_cost < _DONE * cost
        mode, cost, residual, jacobian, damping = mode + step, new_cost, new_residual, new_jacobian, damping / 5
        if is_done:
            break
    return mode, (jacobian.T @ jacobian + diags_array(precision)).tocsc()


def _soften(residual: Floats) -> tuple[Floats, Floats]:
    """Residuals whose squares are the soft-L1 loss of the given ones, and their slopes; small residuals are unchanged."""
    soft = np.sqrt(2 * (np.sqrt(1 + residual**2) - 1))
    slope = np.where(soft > 1e-9, np.abs(residual) / (np.maximum(soft, 1e-9) * np.sqrt(1 + residual**2)), 1.0)
    return np.sign(residual) * soft, slope
