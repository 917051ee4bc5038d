"""Fit the constants of a family to measured cases, pooled over transport classes, software and systems.

The posterior mode of all deviations together, with its curvature: residuals of log seconds over ``NOISE``, softened where
they are large (soft L1), and every deviation over its prior standard deviation. A system that was never seen keeps the
deviations of its classes and software; its own are zero and as uncertain as systems differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.libraries.case import Case
from smoes_sim.libraries.family import Constant, Family, kind_of
from smoes_sim.libraries.stage import Stage

NOISE = 0.08
"""Standard deviation of the logarithm of a repeated measurement: the same hardware differs by 5-12% between sites."""
_MOST_STEPS, _DONE = 60, 1e-6
"""Steps to the mode at most, and the relative gain below which a step is the last."""
_STEP = 1e-4
"""Step of the deviations for derivatives."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A case with its steps, which hold for any constants, and what was measured.

    Attributes:
        case: The case.
        stages: Its steps.
        measured: Seconds; None if only a prediction is wanted.
    """

    case: Case
    stages: Sequence[Stage]
    measured: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A family with fitted deviations.

    Attributes:
        family: The family.
        deviations: By key, such as ``efficiency.nvlink4@nccl``; all others are zero.
        covariance: Of the deviations in that order, shape (D, D).
        scale: Factor on standard deviations that makes 80% intervals hold 80% of the systems left out.
    """

    family: Family
    deviations: Mapping[str, float]
    covariance: Floats
    scale: float = 1.0

    def predict(self, known: Known) -> tuple[float, float]:
        """Seconds, and the standard deviation of their logarithm (times ``scale``)."""
        chains = chains_of(self.family, known.case)
        moved = [sum(self.deviations.get(key, 0.0) for key, _ in chain) for _, _, chain in chains]
        seconds, slopes = _slopes(self.family, known, chains, moved)
        position = {key: index for index, key in enumerate(self.deviations)}
        row = np.zeros(len(position))
        unseen = 0.0
        for (_, _, chain), slope in zip(chains, slopes, strict=True):
            for key, spread in chain:
                if key in position:
                    row[position[key]] += slope
                else:
                    unseen += (slope * spread) ** 2
        variance = float(row @ self.covariance @ row) + unseen + NOISE**2
        return seconds, self.scale * math.sqrt(variance)

    def constants(self, case: Case) -> dict[str, float]:
        """The constants of a case by name."""
        return {
            name: value_of(constant, name, sum(self.deviations.get(key, 0.0) for key, _ in chain))
            for name, constant, chain in chains_of(self.family, case)
        }


Chain = list[tuple[str, float]]


def chains_of(family: Family, case: Case) -> list[tuple[str, Constant, Chain]]:
    """For each constant of a case: name, constant, and the keys of its deviations with their prior spread."""
    constants = {constant.what: constant for constant in family.constants}
    found = []
    for name in family.names(case):
        what, _, transport = name.partition(".")
        constant = constants[what]
        keys = [what, f"{what}.{kind_of(transport)}", name] if transport else [what]
        keys += [f"{name}@{case.software}", f"{name}@{case.system}"]
        spreads = [constant.spread] + [constant.between] * (len(set(keys)) - 1)
        found.append((name, constant, list(zip(dict.fromkeys(keys), spreads, strict=True))))
    return found


def value_of(constant: Constant, name: str, moved: float) -> float:
    """The value of a constant whose deviations sum to ``moved``."""
    prior = constant.prior_of(name.partition(".")[2])
    if constant.is_share:
        return 1 / (1 + (1 / prior - 1) * math.exp(-moved))
    return prior * math.exp(moved)


def _slopes(
    family: Family, known: Known, chains: Sequence[tuple[str, Constant, Chain]], moved: Sequence[float]
) -> tuple[float, Floats]:
    """Seconds, and the change of their logarithm with each constant's deviation, shape (C,)."""
    values = {name: value_of(constant, name, move) for (name, constant, _), move in zip(chains, moved, strict=True)}
    seconds = family.duration(known.case, known.stages, values)
    slopes = np.empty(len(chains))
    for index, ((name, constant, _), move) in enumerate(zip(chains, moved, strict=True)):
        other = {**values, name: value_of(constant, name, move + _STEP)}
        slopes[index] = math.log(family.duration(known.case, known.stages, other) / seconds) / _STEP
    return seconds, slopes


def fit(family: Family, knowns: Sequence[Known], *, start: Mapping[str, float] | None = None) -> Fitted:
    """The deviations that explain measured cases best.

    Args:
        family: Whose constants.
        knowns: Cases of that family, measured.
        start: Deviations to begin with, such as those of a fit to more cases; zero where not named.
    """
    chains = [chains_of(family, known.case) for known in knowns]
    spread = {key: spread for rows in chains for _, _, chain in rows for key, spread in chain if spread > 0}
    position = {key: index for index, key in enumerate(spread)}
    members = [[[position[key] for key, _ in chain if key in position] for _, _, chain in rows] for rows in chains]
    prior = np.array(list(spread.values()))
    measured = np.log([known.measured or math.nan for known in knowns])

    def evaluate(deviation: Floats) -> tuple[Floats, Floats]:
        residual, jacobian = np.empty(len(knowns)), np.zeros((len(knowns), len(prior)))
        for row, (known, rows, groups) in enumerate(zip(knowns, chains, members, strict=True)):
            seconds, slopes = _slopes(family, known, rows, [float(deviation[group].sum()) for group in groups])
            residual[row] = math.log(seconds) - measured[row]
            for group, slope in zip(groups, slopes, strict=True):
                jacobian[row, group] += slope
        return _soften(residual / NOISE, jacobian / NOISE)

    first = np.array([(start or {}).get(key, 0.0) for key in spread])
    mode, curvature = _climb(evaluate, first, 1 / prior**2)
    return Fitted(
        family=family, deviations=dict(zip(spread, mode.tolist(), strict=True)), covariance=np.linalg.inv(curvature)
    )


def _climb(evaluate: Callable[[Floats], tuple[Floats, Floats]], first: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """The mode by damped Gauss-Newton steps (Levenberg-Marquardt), and the curvature there.

    Args:
        evaluate: Residuals, shape (N,), and their slopes, shape (N, D), at given deviations.
        first: Where to begin, shape (D,).
        precision: One over the prior variance of each deviation, shape (D,).
    """
    mode, damping = first, 1e-2
    residual, jacobian = evaluate(mode)
    cost = float(residual @ residual + precision @ mode**2)
    for _ in range(_MOST_STEPS):
        curvature = jacobian.T @ jacobian + np.diag(precision)
        gradient = jacobian.T @ residual + precision * mode
        step = np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), -gradient)
        new_residual, new_jacobian = evaluate(mode + step)
        new_cost = float(new_residual @ new_residual + precision @ (mode + step) ** 2)
        if new_cost >= cost:
            damping *= 10
            if damping > 1e8:
                break
            continue
        is_done = cost - new_cost < _DONE * cost
        mode, cost, residual, jacobian, damping = mode + step, new_cost, new_residual, new_jacobian, damping / 5
        if is_done:
            break
    return mode, jacobian.T @ jacobian + np.diag(precision)


def _soften(residual: Floats, jacobian: Floats) -> tuple[Floats, Floats]:
    """Residuals whose squares are soft L1 of the given ones: r below 1, growing as a root beyond."""
    soft = np.sqrt(2 * (np.sqrt(1 + residual**2) - 1))
    slope = np.where(soft > 1e-9, np.abs(residual) / (np.maximum(soft, 1e-9) * np.sqrt(1 + residual**2)), 1.0)
    return np.sign(residual) * soft, slope[:, None] * jacobian
