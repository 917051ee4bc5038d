"""The grid on which steps are simulated, and the nodes and weights between which a batch is interpolated."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

_FIRST_DELAY = 1e-5
"""Seconds. With ``two_batch`` the rest also depends on how long attention hides it: 0, 10, 40, 160 us ... are simulated."""
Weights = list[tuple[int, float]]
"""Values of the grid around a number, and the weight of each."""


class Node(NamedTuple):
    """A step that is simulated.

    Attributes:
        prefill: Prompt tokens.
        decode: Decoded tokens.
        places: Attention groups that the prompts occupy; 0 without prompts.
        delay: Which of the delays attention has; see :func:`delay_at`.
    """

    prefill: int
    decode: int
    places: int
    delay: int


def power_of_two(value: int) -> int:
    """The largest power of two up to a number; 0 for 0.

    Example:
        >>> power_of_two(5), power_of_two(0)
        (4, 0)
    """
    return 1 << (value.bit_length() - 1) if value else 0


def around_tokens(value: int) -> Weights:
    """Powers of two (and 0) around a number.

    Example:
        >>> around_tokens(5)
        [(4, 0.75), (8, 0.25)]
    """
    below = power_of_two(value)
    return _between(value, below, 2 * below if below else 1)


def around_count(value: int) -> Weights:
    """Powers of two and one and a half times those around a number, with 0: what few sequences cost is less straight.

    Example:
        >>> around_count(5), around_count(7)
        ([(4, 0.5), (6, 0.5)], [(6, 0.5), (8, 0.5)])
    """
    (below, _), (above, _) = around_tokens(value)
    middle = (below + above) // 2
    if below < middle:
        below, above = (below, middle) if value < middle else (middle, above)
    return _between(value, below, above)


def around_places(value: float, *, most: int) -> Weights:
    """Powers of two, one and a half times those, ``most`` and seven eighths of it, around a number of places.

    Interpolated in the inverse, since what a place sends is inverse to their number; finer near ``most``, where what the
    busiest rank receives takes over.

    Example:
        >>> around_places(3, most=8), around_places(1.5, most=1)
        ([(2, 0.0), (3, 1.0)], [(1, 1.0)])
    """
    steps = {step << bit for bit in range(most.bit_length()) for step in (1, 3)} | {most, most * 7 // 8}
    grid = sorted(step for step in steps if 1 <= step <= most)
    for below, above in pairwise(grid):
        if value <= above:
            part = (1 / value - 1 / above) / (1 / below - 1 / above)
            return [(below, part), (above, 1 - part)]
    return [(most, 1.0)]


def delay_at(number: int) -> float:
    """Seconds of one of the delays.

    Example:
        >>> [delay_at(number) for number in range(4)]
        [0.0, 1e-05, 4e-05, 0.00016]
    """
    return _FIRST_DELAY * 4.0 ** (number - 1) if number else 0.0


def around_delay(value: float) -> Weights:
    """Numbers of the delays around a time in seconds."""
    below = 0
    while delay_at(below + 1) <= value:
        below += 1
    return _between(value, below, below + 1, low=delay_at(below), high=delay_at(below + 1))


def _between(value: float, below: int, above: int, *, low: float | None = None, high: float | None = None) -> Weights:
    """Two values and their weights; ``low`` and ``high`` say where they lie, if not at themselves."""
    start, end = below if low is None else low, above if high is None else high
    part = (value - start) / (end - start)
    return [(below, 1 - part), (above, part)]
