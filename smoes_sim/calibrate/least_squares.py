"""Robust least squares in log space, with draws that say how well each constant is known.

Residuals are relative: ``log(predicted / measured) / sigma``, under a soft-L1 loss, so that one disturbed row does not
rule. Every constant has a log-normal prior that counts as one more residual; where the data are silent it decides.
A draw resamples the rows, shakes the measured times by what their repetitions allow and the priors' middles by their
spread, and fits again (randomise, then optimise); a constant without data is thus drawn from its prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
_FIRST_SIGMA = 0.1
"""Relative error that is assumed until residuals are there."""
_LEAST_SIGMA = 0.003
"""No model of a network is better than this: half a percent is what repetitions of one exchange scatter by."""
_STEP = 0.02
"""Step in the logarithm for differences: 2%, far above the 1e-4 that large exchanges are exact to."""
_REFINEMENTS = 3
_GOOD_ENOUGH = 0.1
"""A draw is not refined further where its linear residuals are right to this share of sigma."""
_NORMAL_90 = 1.2816
"""90th percentile of the standard normal distribution: half the width of an 80% interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is fitted.

    Attributes:
        log_times: Logarithms of the predicted seconds, (N,), of logarithms of the constants, (P,).
        measured: Logarithms of the measured seconds, (N,).
        scatter: How well the measured medians are known: standard deviation of their logarithms, (N,).
        middle: Logarithms of the priors' medians, (P,).
        spread: Their standard deviations, (P,).
        most: Logarithms of the largest values, (P,).
        groups: Rows of one group are left out together when the model's error is estimated, (N,).
    """

    log_times: Callable[[Array], Array]
    measured: Array
    scatter: Array
    middle: Array
    spread: Array
    most: Array
    groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The fit.

    Attributes:
        best: Logarithms of the constants, (P,).
        draws: The same for each draw, (B, P).
        residuals: log(predicted / measured) at ``best``, (N,).
        left_out: The same where the row's group was left out of the fit, (N,).
        spread: Standard deviation of the model's own error: the 80th percentile of sqrt(residual * left out residual),
            which for a linear fit is the residual over sqrt(1 - leverage): what is left once the constants' own uncertainty,
            which the draws carry, is taken out.
    """

    best: Array
    draws: Array
    residuals: Array
    left_out: Array
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """The model about some constants: residuals log(predicted / measured), (N,), and their slopes, (N, P)."""

    at: Array
    residuals: Array
    slopes: Array


def solve(problem: Problem, *, num_draws: int, rng: np.random.Generator) -> Solution:
    """Fit, draw, and estimate the model's error on rows that are left out."""
    start = np.minimum(problem.middle, problem.most)
    point = _optimum(problem, start, np.full_like(problem.measured, _FIRST_SIGMA))
    sigma = _noise(problem, point.residuals)
    point = _optimum(problem, point.at, sigma)
    sigma = _noise(problem, point.residuals)
    left_out = _left_out(problem, point, sigma)
    draws = [_draw(problem, point, sigma, rng) for _ in range(num_draws)]
    return Solution(
        best=point.at,
        draws=np.array(draws),
        residuals=point.residuals,
        left_out=left_out,
        spread=error_spread(np.sqrt(np.abs(left_out * point.residuals))),
    )


def error_spread(errors: Array) -> float:
    """Standard deviation of a normal error whose 80% interval holds, on average, 80% of further cases like these.

    Its half width is the absolute error at place ``0.8 * (n + 1)`` in order, between neighbours in proportion (as in split
    conformal prediction, Vovk et al. 2005); the largest one where there are fewer than four.

    Example:
        Nine errors of 0.01, 0.02, ..., 0.09: the eighth, 0.08, over 1.2816 is 0.0624.
    """
    return float(np.quantile(np.abs(errors), 0.8, method="weibull")) / _NORMAL_90


def _noise(problem: Problem, residuals: Array) -> Array:
    """Standard deviation of each row: the model's error as residuals show it, and the scatter of the measured median."""
    robust = 1.4826 * float(np.median(np.abs(residuals)))  # of a normal distribution, by its median absolute deviation
    result: Array = np.hypot(max(robust, _LEAST_SIGMA), problem.scatter)
    return result


def _optimum(problem: Problem, start: Array, sigma: Array) -> _Point:
    """The constants that fit best, with the exact model."""

    def residuals(x: Array) -> Array:
        return np.concatenate([(problem.log_times(x) - problem.measured) / sigma, (x - problem.middle) / problem.spread])

    def slopes(x: Array) -> Array:
        return np.vstack([_slopes(problem, x) / sigma[:, None], np.diag(1 / problem.spread)])

    found = least_squares(
        residuals,
        start,
        jac=slopes,
        bounds=(-np.inf, problem.most + 1e-12),
        x_scale=problem.spread,
        loss="soft_l1",
        xtol=1e-4,
        ftol=1e-4,
        gtol=1e-6,
        max_nfev=30,
    )
    at = np.minimum(found.x, problem.most)
    return _Point(at=at, residuals=problem.log_times(at) - problem.measured, slopes=_slopes(problem, at))


def _slopes(problem: Problem, x: Array) -> Array:
    """Change of log(seconds) per change of log(constant), (N, P), by differences away from the bound."""
    here = problem.log_times(x)
    columns = []
    for index in range(len(x)):
        step = np.zeros_like(x)
        step[index] = _STEP if x[index] + _STEP <= problem.most[index] else -_STEP
        columns.append((problem.log_times(x + step) - here) / step[index])
    return np.array(columns).T


def _linear(problem: Problem, point: _Point, sigma: Array, *, rows: NDArray[np.int64], middle: Array, shake: Array) -> Array:
    """The best constants of the linear model about a point, for some rows (perhaps repeated), priors and shaken times."""
    base, slopes, noise = (point.residuals - shake)[rows], point.slopes[rows], sigma[rows]
    jacobian = np.vstack([slopes / noise[:, None], np.diag(1 / problem.spread)])

    def residuals(x: Array) -> Array:
        return np.concatenate([(base + slopes @ (x - point.at)) / noise, (x - middle) / problem.spread])

    bounds = (-np.inf, problem.most + 1e-12)
    found = least_squares(residuals, point.at, jac=lambda _: jacobian, bounds=bounds, x_scale=problem.spread, loss="soft_l1")
    result: Array = np.minimum(found.x, problem.most)
    return result


def _draw(problem: Problem, point: _Point, sigma: Array, rng: np.random.Generator) -> Array:
    """Constants for resampled rows; the slopes follow what the exact model says along the way (Broyden's update)."""
    num_rows = len(problem.measured)
    rows = rng.integers(num_rows, size=num_rows)
    shake = problem.scatter * rng.standard_normal(num_rows)
    middle = np.minimum(problem.middle + problem.spread * rng.standard_normal(len(problem.middle)), problem.most)
    at = point.at
    for _ in range(_REFINEMENTS):
        at = _linear(problem, point, sigma, rows=rows, middle=middle, shake=shake)
        moved = at - point.at
        exact = problem.log_times(at) - problem.measured
        missed = exact - (point.residuals + point.slopes @ moved)
        if float(np.max(np.abs(missed) / sigma)) <= _GOOD_ENOUGH or not moved.any():
            break
        slopes = point.slopes + np.outer(missed, moved) / float(moved @ moved)
        point = _Point(at=at, residuals=exact, slopes=slopes)
    return at


def _left_out(problem: Problem, point: _Point, sigma: Array) -> Array:
    """Residual of each row when its group is left out, by the linear model about the fit."""
    result = np.empty_like(problem.measured)
    nothing = np.zeros_like(problem.measured)
    for group in np.unique(problem.groups):
        out = problem.groups == group
        others = np.flatnonzero(~out)
        at = problem.middle
        if len(others):
            at = _linear(problem, point, sigma, rows=others, middle=problem.middle, shake=nothing)
        result[out] = (point.residuals + point.slopes @ (at - point.at))[out]
    return result


def log_scatter(low: float | None, high: float | None, repeats: int | None) -> float:
    """Standard deviation of the logarithm of one repetition, from the 10th and 90th percentile; 0 where unknown."""
    if low is None or high is None or not repeats or repeats < 2:
        return 0.0
    return float(np.log(high / low)) / (2 * _NORMAL_90)


def median_scatter(scatter: Sequence[float], repeats: Sequence[int]) -> Array:
    """Standard deviation of the median of normal repetitions: sqrt(pi / 2 / n) of that of one."""
    result: Array = np.sqrt(np.pi / 2 / np.asarray(repeats, dtype=np.float64)) * np.asarray(scatter)
    return result
