"""Robust least squares in log space, with bootstrap draws of the constants.

Residuals are relative: ``log(predicted / measured) / sigma``, under a soft-L1 loss, so that a single outlier has little
influence. Every constant has a log-normal prior, which counts as one more residual and decides where the data do not. A
draw perturbs the measured times by the model's error and the scatter of their repetitions, and the medians of the priors
by their spread, and fits again (a parametric bootstrap; with priors: randomise, then optimise, Bardsley et al. 2014). A
constant without data is thus drawn from its prior. Rows are not resampled: where a single row separates two constants,
most resamples would lack it.

The simulator is slow, so it is fitted through its tangent: as long as the same links and ranks are critical, the time of
an exchange is a sum of terms proportional to fixed costs and to ``1 / efficiency``. Each fit alternates between solving
on the tangent and computing a new tangent where the exact times differ from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
_FIRST_SIGMA = 0.1
"""Relative error that is assumed before there are residuals."""
_LEAST_SIGMA = 0.003
"""Smallest relative error of a row: repetitions of one exchange scatter by half a percent."""
_STEP = 0.02
"""Step of the logarithms for finite differences: 2%, far above the tolerance of 1e-4 of large exchanges."""
_STARTS = 32
_TANGENTS, _TANGENTS_OF_DRAW = 8, 2
"""Largest number of tangents of a fit, and of the fit of a draw."""
_HALVINGS = 6
_GOOD_ENOUGH = 0.1
"""A tangent is accepted where its error is below this share of sigma."""
_LEAST = 0.05
"""Smallest time that a tangent predicts, as a share of the time at its point of contact."""
_KIND_ROWS = 4
"""Number of rows of a kind from which it has its own error; with fewer the largest error would be the width."""
_NORMAL_90 = 1.2816
"""90th percentile of the standard normal distribution: half the width of an 80% interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A fitting problem of N rows and P constants.

    Attributes:
        log_times: Logarithms of the predicted seconds, (N,), of logarithms of the constants, (P,).
        measured: Logarithms of the measured seconds, (N,).
        scatter: Standard deviation of the logarithms of the measured medians, from the repetitions, (N,).
        middle: Logarithms of the priors' medians, (P,).
        spread: Their standard deviations, (P,).
        most: Logarithms of the largest values, (P,).
        powers: 1 for constants with which times grow, -1 for shares, with whose inverse they grow, (P,).
        groups: Rows of one group are left out together when the model's error is estimated, (N,).
        kinds: Rows of one kind share one estimate of the error, (N,).
    """

    log_times: Callable[[Array], Array]
    measured: Array
    scatter: Array
    middle: Array
    spread: Array
    most: Array
    powers: Array
    groups: NDArray[np.int64]
    kinds: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The fit.

    Attributes:
        best: Logarithms of the constants, (P,).
        draws: The same for each of B draws, (B, P).
        residuals: log(predicted / measured) at ``best``, (N,).
        left_out: The same with the row's group left out of the fit, (N,).
        spread: Standard deviation of the model's own error: from the 80th percentile of ``left_out``, less the variance
            of the draws, because the error of a left-out row contains both.
        spreads: The same for the kind of each row, (N,).
    """

    best: Array
    draws: Array
    residuals: Array
    left_out: Array
    spread: float
    spreads: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tangent:
    """Linearised model at some constants: residuals log(predicted / measured), (N,), and their slopes, (N, P)."""

    at: Array
    residuals: Array
    slopes: Array
    powers: Array

    def parts(self, x: Array) -> tuple[Array, Array]:
        """Residuals and their slopes at other constants: times are linear in ``constant ** power``."""
        factor = np.exp(self.powers * (x - self.at))
        change = 1 + (self.slopes / self.powers) @ (factor - 1)
        known = change > _LEAST
        change = np.where(known, change, _LEAST)
        return self.residuals + np.log(change), np.where(known[:, None], self.slopes * factor / change[:, None], 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Input of one fit: standard deviation and shift of each row, (N,), and medians of the priors, (P,)."""

    sigma: Array
    middle: Array
    shift: Array


def solve(
    problem: Problem, *, num_draws: int, rng: np.random.Generator, on_draw: Callable[[int], None] = lambda _: None
) -> Solution:
    """The fit, the model's error on left-out rows, and bootstrap draws.

    Args:
        problem: What is fitted.
        num_draws: Number of draws, B.
        rng: Source of the draws.
        on_draw: Called with the number of finished draws.
    """
    zero = np.zeros_like(problem.measured)
    tangent = _tangent(problem, _start(problem, rng))
    sigma = np.full_like(problem.measured, _FIRST_SIGMA)
    for _ in range(2):
        tangent = _fit(problem, tangent, _Sample(sigma=sigma, middle=problem.middle, shift=zero), _TANGENTS)
        sigma = _noise(problem, robust_spread(tangent.residuals))
    left_out = _left_out(problem, tangent, sigma)
    spread = error_spread(left_out)
    spreads = _by_kind(left_out, problem.kinds, error_spread)
    sigma = _noise(problem, spreads)
    draws = []
    for number in range(1, num_draws + 1):
        middle = problem.middle + problem.spread * rng.standard_normal(len(problem.middle))
        sample = _Sample(sigma=sigma, middle=middle, shift=sigma * rng.standard_normal(len(sigma)))
        draws.append(_fit(problem, tangent, sample, _TANGENTS_OF_DRAW).at)
        on_draw(number)
    known = np.var([problem.log_times(draw) for draw in draws], axis=0) if draws else np.zeros_like(zero)
    return Solution(
        best=tangent.at,
        draws=np.array(draws),
        residuals=tangent.residuals,
        left_out=left_out,
        spread=float(_beyond(spread, known.mean())),
        spreads=_beyond(spreads, _by_kind(known, problem.kinds, np.mean)),
    )


def error_spread(errors: Array) -> float:
    """Standard deviation of a normal error whose 80% interval covers, on average, 80% of further cases of the same kind.

    The half width of that interval is the absolute error of rank ``0.8 * (n + 1)``, interpolated between neighbours (as in
    split conformal prediction, Vovk et al. 2005), and the largest error where there are fewer than four.

    Example:
        Nine errors of 0.01, 0.02, ..., 0.09: the eighth, 0.08, divided by 1.2816.

        >>> round(error_spread(np.arange(1, 10) / 100), 4)
        0.0624
    """
    return float(np.quantile(np.abs(errors), 0.8, method="weibull")) / _NORMAL_90


def robust_spread(errors: Array) -> float:
    """Standard deviation of normal errors, from the median of their absolute values, which outliers do not move.

    Example:
        The median absolute value is 0.2; a normal distribution has 0.6745 standard deviations there.

        >>> round(robust_spread(np.array([0.1, -0.2, 9.0])), 4)
        0.2965
    """
    return 1.4826 * float(np.median(np.abs(errors)))


def _by_kind(values: Array, kinds: NDArray[np.int64], what: Callable[[Array], float]) -> Array:
    """A statistic of the values of each row's kind, (N,); of all rows for a kind with too few rows."""
    result = np.full_like(values, what(values))
    for kind in np.unique(kinds):
        rows = kinds == kind
        if rows.sum() >= _KIND_ROWS:
            result[rows] = what(values[rows])
    return result


def _beyond(spread: Array | float, known: Array | float) -> Array:
    """Standard deviation without a known part of its variance: of 5 with a variance of 16 known, 3 is left."""
    result: Array = np.sqrt(np.maximum(np.square(spread) - known, 0.0))
    return result


def _start(problem: Problem, rng: np.random.Generator) -> Array:
    """The best of several draws from the prior: a small cost that the transfer hides has no slope to follow."""
    shape = (_STARTS, len(problem.middle))
    candidates = np.minimum(problem.middle + problem.spread * rng.standard_normal(shape), problem.most)
    candidates[0] = np.minimum(problem.middle, problem.most)
    errors = [np.abs(problem.log_times(candidate) - problem.measured).mean() for candidate in candidates]
    result: Array = candidates[int(np.argmin(errors))]
    return result


def _noise(problem: Problem, error: float | Array) -> Array:
    """Standard deviation of each row, (N,): error of the model and scatter of the measured median."""
    result: Array = np.hypot(np.maximum(error, _LEAST_SIGMA), problem.scatter)
    return result


def _tangent(problem: Problem, x: Array) -> _Tangent:
    """The exact model at some constants and its slopes there, by finite differences away from the bound."""
    here = problem.log_times(x)
    columns = []
    for index in range(len(x)):
        step = np.zeros_like(x)
        step[index] = _STEP if x[index] + _STEP <= problem.most[index] else -_STEP
        columns.append((problem.log_times(x + step) - here) / step[index])
    return _Tangent(at=x, residuals=here - problem.measured, slopes=np.array(columns).T, powers=problem.powers)


def _fit(problem: Problem, tangent: _Tangent, sample: _Sample, most: int) -> _Tangent:
    """The best constants for a sample, starting from a tangent; a step counts only if the exact model improves."""
    best, cost = tangent, _cost(problem, tangent.residuals, tangent.at, sample)
    for _ in range(most):
        x = _on_tangent(problem, best, sample)
        for _ in range(_HALVINGS):
            exact = problem.log_times(x) - problem.measured
            new_cost = _cost(problem, exact, x, sample)
            if new_cost <= cost:
                break
            x = (x + best.at) / 2
        if new_cost >= cost:
            return best
        missed = float(np.max(np.abs(exact - best.parts(x)[0]) / sample.sigma))
        if missed <= _GOOD_ENOUGH:
            return _Tangent(at=x, residuals=exact, slopes=best.parts(x)[1], powers=best.powers)
        best, cost = _tangent(problem, x), new_cost
    return best


def _cost(problem: Problem, residuals: Array, x: Array, sample: _Sample) -> float:
    """Soft-L1 cost of the rows and the priors."""
    scaled = np.concatenate([(residuals - sample.shift) / sample.sigma, (x - sample.middle) / problem.spread])
    return float((np.sqrt(1 + scaled**2) - 1).sum())


def _on_tangent(problem: Problem, tangent: _Tangent, sample: _Sample) -> Array:
    """The best constants for a sample on the tangent, (P,); rows of infinite sigma do not count."""
    inverse = np.diag(1 / problem.spread)

    def residuals(x: Array) -> Array:
        of_rows = (tangent.parts(x)[0] - sample.shift) / sample.sigma
        return np.concatenate([of_rows, (x - sample.middle) / problem.spread])

    def slopes(x: Array) -> Array:
        return np.vstack([tangent.parts(x)[1] / sample.sigma[:, None], inverse])

    bounds = (-np.inf, problem.most + 1e-12)
    found = least_squares(residuals, tangent.at, jac=slopes, bounds=bounds, x_scale=problem.spread, loss="soft_l1")
    result: Array = np.minimum(found.x, problem.most)
    return result


def _left_out(problem: Problem, tangent: _Tangent, sigma: Array) -> Array:
    """Residual of each row with its group left out, (N,), on the tangent of the whole fit."""
    result = np.empty_like(problem.measured)
    zero = np.zeros_like(sigma)
    for group in np.unique(problem.groups):
        out = problem.groups == group
        sample = _Sample(sigma=np.where(out, np.inf, sigma), middle=problem.middle, shift=zero)
        result[out] = tangent.parts(_on_tangent(problem, tangent, sample))[0][out]
    return result


def log_scatter(low: float | None, high: float | None, repeats: int | None) -> float:
    """Standard deviation of the logarithm of one repetition, from its 10th and 90th percentile; 0 where unknown."""
    if low is None or high is None or not repeats or repeats < 2:
        return 0.0
    return float(np.log(high / low)) / (2 * _NORMAL_90)


def median_scatter(scatter: Sequence[float], repeats: Sequence[int]) -> Array:
    """Standard deviation of the median of n normal repetitions: sqrt(pi / 2 / n) times that of one, (N,)."""
    result: Array = np.sqrt(np.pi / 2 / np.asarray(repeats, dtype=np.float64)) * np.asarray(scatter)
    return result
