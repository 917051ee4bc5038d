"""The largest rate at which enough requests meet an objective."""

from __future__ import annotations

from collections.abc import Callable

WANTED = 0.9
"""Share of requests that must meet the objective (as DistServe states goodput, arXiv 2401.09670)."""
PRECISION = 0.02
"""Relative distance of the rates between which the search stops."""


def largest_rate(attainment: Callable[[float], float], start: float, *, first_factor: float = 2.0) -> float:
    """The largest rate that keeps :data:`WANTED`, to within :data:`PRECISION`.

    From ``start`` up or down by ``first_factor``, its square, and so on, at most by 2, until the rate is bracketed; then by
    bisection.

    The rate returned was tried and keeps it. Except for noise, attainment must not grow with the rate; it must be enough at
    some rate below ``start`` and too small at some above, or this does not end.

    Args:
        attainment: Share of requests that meet the objective at a rate.
        start: Where to begin, requests per second.
        first_factor: Factor of the first two rates: 2, or less where ``start`` is near the result.
    """
    low = high = start
    factor = first_factor
    if attainment(start) >= WANTED:
        while attainment(high := factor * low) >= WANTED:
            low, factor = high, min(2.0, factor**2)
    else:
        while attainment(low := high / factor) < WANTED:
            high, factor = low, min(2.0, factor**2)
    while high > low * (1 + PRECISION):
        middle = float((low * high) ** 0.5)
        if attainment(middle) >= WANTED:
            low = middle
        else:
            high = middle
    return low
