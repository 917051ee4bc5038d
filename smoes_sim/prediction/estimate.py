"""Totals over all layers and steps from those that were simulated, with the error of the sample.

A *control* is known for every layer and step: the sum of its lower bounds, say. What was simulated is nearly proportional to
it, so the total is estimated by the ratio::

    total = sum of all controls * (sum of simulated values / sum of their controls)

Its standard error follows from the residuals ``value - ratio * control`` of the n simulated out of N (ratio estimator with
the finite population correction, Cochran, Sampling Techniques, 3rd ed., chapter 6)::

    N * sqrt(1 - n / N) * sqrt(sum of squared residuals / (n - 1) / n)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error; the error is 0 where nothing was left out, or unknown because of a single sample."""

    value: float
    error: float

    def __add__(self, other: Estimate) -> Estimate:
        """The sum of two values whose errors are independent."""
        return Estimate(self.value + other.value, math.hypot(self.error, other.error))

    def scaled(self, factor: float) -> Estimate:
        """The value and its error times a factor."""
        return Estimate(self.value * factor, self.error * abs(factor))


def ratio_total(values: ArrayLike, controls: ArrayLike, *, all_controls: float, number: int) -> Estimate:
    """The total over a population from a sample of it, by the ratio to controls.

    Args:
        values: Simulated values of the sample, any shape.
        controls: Their controls, same shape, >= 0.
        all_controls: Sum of the controls of the whole population.
        number: Size of the population.

    Example:
        Two of four layers took 2.2 and 1.8 s where their bounds are 2 and 2 s; all four bounds sum up to 10 s:

        >>> found = ratio_total([2.2, 1.8], [2.0, 2.0], all_controls=10.0, number=4)
        >>> round(found.value, 3), round(found.error, 3)
        (10.0, 0.566)
    """
    sample, known = np.ravel(values).astype(np.float64), np.ravel(controls).astype(np.float64)
    if len(sample) == number:
        return Estimate(float(sample.sum()), 0.0)
    if not known.sum() > 0:
        known, all_controls = np.ones_like(known), float(number)
    ratio = sample.sum() / known.sum()
    total = float(ratio * all_controls)
    if len(sample) < 2:
        return Estimate(total, 0.0)
    residual = sample - ratio * known
    variance = float((residual**2).sum()) / (len(sample) - 1) / len(sample)
    return Estimate(total, number * math.sqrt((1 - len(sample) / number) * variance))


def spaced_error(values: Sequence[float], *, number: int) -> float:
    """Standard error of the mean of evenly spaced values as that of all, from the differences of neighbours.

    A trend, such as the growth of the context, hardly counts, since evenly spaced samples do not miss it (Wolter,
    Introduction to Variance Estimation, 2nd ed., chapter 8)::

        sqrt((1 - n / N) / n * sum of (y[i + 1] - y[i])**2 / (2 (n - 1)))

    Args:
        values: Values of the sample, in order.
        number: Size of the population, N.

    Example:
        >>> round(spaced_error([1.0, 1.2, 1.0], number=100), 4)
        0.0804
    """
    count = len(values)
    if count < 2 or count >= number:
        return 0.0
    squares = float(np.sum(np.diff(values) ** 2)) / (2 * (count - 1))
    return math.sqrt((1 - count / number) * squares / count)
