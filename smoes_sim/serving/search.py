"""The largest rate at which enough requests meet an objective."""

from __future__ import annotations

from collections.abc import Callable

WANTED = 0.9
"""Share of requests that must meet the objective (as DistServe states goodput, arXiv 2401.09670)."""
PRECISION = 0.02
"""Relative distance of the rates between which the search stops."""


def largest_rate(attainment: Callable[[float], float], start: float) -> float:
    """The largest rate that keeps :data:`WANTED`, to within :data:`PRECISION`, by doubling or halving, then bisection.

    The rate returned was tried and keeps it. Except for noise, attainment must not grow with the rate; it must be enough at
    some rate below ``start`` and too small at some above, or this does not end.

    Args:
        attainment: Share of requests that meet the objective at a rate.
        start: Where to begin, requests per second.
    """
    low = high = start
    if attainment(start) >= WANTED:
        while attainment(high := 2 * low) >= WANTED:
            low = high
    else:
        while attainment(low := high / 2) < WANTED:
            high = low
    while high > low * (1 + PRECISION):
        middle = float((low * high) ** 0.5)
        if attainment(middle) >= WANTED:
            low = middle
        else:
            high = middle
    return low
