"""Robust least squares in log space, with draws that say how well each constant is known.

Residuals are relative: ``log(predicted / measured) / sigma``, under a soft-L1 loss, so that one disturbed row does not
rule. Every constant has a log-normal prior that counts as one more residual; where the data are silent it decides.
A draw shakes the measured times by the model's error and the scatter of their repetitions, and the priors' middles by
their spread, and fits again (a parametric bootstrap; with priors: randomise, then optimise, Bardsley et al. 2014). A
constant without data is thus drawn from its prior. Rows are not resampled: with one row that tells two constants apart
most samples would lack it.

The simulator is slow, so it is fitted through its tangent: the time of an exchange is a sum of terms proportional to
fixed costs and to ``1 / efficiency`` for as long as the same links and ranks decide it. Each fit alternates between
solving on the tangent and a new tangent where the exact times differ from it.
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
_STARTS = 32
_TANGENTS, _TANGENTS_OF_DRAW = 8, 2
"""Tangents that are tried at most."""
_HALVINGS = 6
_GOOD_ENOUGH = 0.1
"""A tangent will do where it is right to this share of sigma."""
_LEAST = 0.05
"""A tangent never predicts less than this share of the time where it touches."""
_KIND_ROWS = 4
"""Rows of one kind that tell its own error; with fewer the largest error would be the width."""
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
        powers: 1 for constants that times grow with, -1 for shares, with whose inverse they grow, (P,).
        groups: Rows of one group are left out together when the model's error is estimated, (N,).
        kinds: Rows of one kind err alike, (N,).
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
        draws: The same for each draw, (B, P).
        residuals: log(predicted / measured) at ``best``, (N,).
        left_out: The same where the row's group was left out of the fit, (N,).
        spread: Standard deviation of the model's own error, by the 80th percentile of ``left_out``, beyond what draws differ
            by: left-out rows err by both.
        spreads: That of each row's kind, (N,).
    """

    best: Array
    draws: Array
    residuals: Array
    left_out: Array
    spread: float
    spreads: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tangent:
    """The model about some constants: residuals log(predicted / measured), (N,), and their slopes, (N, P)."""

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
    """What one fit sees: the rows' noise and shifts of their times, (N,), and the priors' middles, (P,)."""

    sigma: Array
    middle: Array
    shake: Array


def solve(problem: Problem, *, num_draws: int, rng: np.random.Generator) -> Solution:
    """Fit, estimate the model's error on rows that are left out, and draw."""
    silent = np.zeros_like(problem.measured)
    tangent = _tangent(problem, _start(problem, rng))
    sigma = np.full_like(problem.measured, _FIRST_SIGMA)
    for _ in range(2):
        tangent = _fit(problem, tangent, _Sample(sigma=sigma, middle=problem.middle, shake=silent), _TANGENTS)
        sigma = _noise(problem, 1.4826 * float(np.median(np.abs(tangent.residuals))))  # a normal one's, by its median
    left_out = _left_out(problem, tangent, sigma)
    spread = error_spread(left_out)
    spreads = _by_kind(left_out, problem.kinds, error_spread)
    sigma = _noise(problem, spreads)
    draws = []
    for _ in range(num_draws):
        middle = problem.middle + problem.spread * rng.standard_normal(len(problem.middle))
        sample = _Sample(sigma=sigma, middle=middle, shake=sigma * rng.standard_normal(len(sigma)))
        draws.append(_fit(problem, tangent, sample, _TANGENTS_OF_DRAW).at)
    known = np.var([problem.log_times(draw) for draw in draws], axis=0) if draws else np.zeros_like(silent)
    return Solution(
        best=tangent.at,
        draws=np.array(draws),
        residuals=tangent.residuals,
        left_out=left_out,
        spread=float(_beyond(spread, known.mean())),
        spreads=_beyond(spreads, _by_kind(known, problem.kinds, np.mean)),
    )


def error_spread(errors: Array) -> float:
    """Standard deviation of a normal error whose 80% interval holds, on average, 80% of further cases like these.

    Its half width is the absolute error at place ``0.8 * (n + 1)`` in order, between neighbours in proportion (as in split
    conformal prediction, Vovk et al. 2005); the largest one where there are fewer than four.

    Example:
        Nine errors of 0.01, 0.02, ..., 0.09: the eighth, 0.08, over 1.2816 is 0.0624.
    """
    return float(np.quantile(np.abs(errors), 0.8, method="weibull")) / _NORMAL_90


def _by_kind(values: Array, kinds: NDArray[np.int64], what: Callable[[Array], float]) -> Array:
    """A figure of the values of each row's kind, (N,); of all rows where a kind has too few."""
    result = np.full_like(values, what(values))
    for kind in np.unique(kinds):
        rows = kinds == kind
        if rows.sum() >= _KIND_ROWS:
            result[rows] = what(values[rows])
    return result


def _beyond(spread: Array | float, known: Array | float) -> Array:
    """What is left of a standard deviation when a variance is known. 5 and 16: 3."""
    result: Array = np.sqrt(np.maximum(np.square(spread) - known, 0.0))
    return result


def _start(problem: Problem, rng: np.random.Generator) -> Array:
    """The best of some draws from the prior: a cost that hides behind the transfer has no slope where it is small."""
    shape = (_STARTS, len(problem.middle))
    candidates = np.minimum(problem.middle + problem.spread * rng.standard_normal(shape), problem.most)
    candidates[0] = np.minimum(problem.middle, problem.most)
    errors = [np.abs(problem.log_times(candidate) - problem.measured).mean() for candidate in candidates]
    result: Array = candidates[int(np.argmin(errors))]
    return result


def _noise(problem: Problem, error: float | Array) -> Array:
    """Standard deviation of each row: the model's error and the scatter of the measured median."""
    result: Array = np.hypot(np.maximum(error, _LEAST_SIGMA), problem.scatter)
    return result


def _tangent(problem: Problem, x: Array) -> _Tangent:
    """The exact model at some constants and its slopes there, by differences away from the bound."""
    here = problem.log_times(x)
    columns = []
    for index in range(len(x)):
        step = np.zeros_like(x)
        step[index] = _STEP if x[index] + _STEP <= problem.most[index] else -_STEP
        columns.append((problem.log_times(x + step) - here) / step[index])
    return _Tangent(at=x, residuals=here - problem.measured, slopes=np.array(columns).T, powers=problem.powers)


def _fit(problem: Problem, tangent: _Tangent, sample: _Sample, most: int) -> _Tangent:
    """The constants that fit a sample best, from a tangent on; the exact model decides whether a step was one."""
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
    """Soft-L1 cost of rows and priors."""
    scaled = np.concatenate([(residuals - sample.shake) / sample.sigma, (x - sample.middle) / problem.spread])
    return float((np.sqrt(1 + scaled**2) - 1).sum())


def _on_tangent(problem: Problem, tangent: _Tangent, sample: _Sample) -> Array:
    """The constants that fit a sample best on the tangent; rows of infinite noise do not count."""
    inverse = np.diag(1 / problem.spread)

    def residuals(x: Array) -> Array:
        of_rows = (tangent.parts(x)[0] - sample.shake) / sample.sigma
        return np.concatenate([of_rows, (x - sample.middle) / problem.spread])

    def slopes(x: Array) -> Array:
        return np.vstack([tangent.parts(x)[1] / sample.sigma[:, None], inverse])

    bounds = (-np.inf, problem.most + 1e-12)
    found = least_squares(residuals, tangent.at, jac=slopes, bounds=bounds, x_scale=problem.spread, loss="soft_l1")
    result: Array = np.minimum(found.x, problem.most)
    return result


def _left_out(problem: Problem, tangent: _Tangent, sigma: Array) -> Array:
    """Residual of each row when its group is left out, by the tangent of the whole fit."""
    result = np.empty_like(problem.measured)
    silent = np.zeros_like(sigma)
    for group in np.unique(problem.groups):
        out = problem.groups == group
        sample = _Sample(sigma=np.where(out, np.inf, sigma), middle=problem.middle, shake=silent)
        result[out] = tangent.parts(_on_tangent(problem, tangent, sample))[0][out]
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
