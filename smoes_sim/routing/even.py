"""Even routing: every expert of a layer receives the same number of tokens, as in profiles of perfectly balanced engines.

Tokens that run together (a prefill, or one decode step) are taken in order, in *pages* of E / gcd(E, K) tokens. In each
layer a page has a random order of the E experts of its own, and the tokens of the page take K experts each from it in turn,
beginning again where it ends. So a page uses each expert K / gcd(E, K) times, no token has an expert twice (K <= E), and
each token has a random set of K experts, all sets alike. In the last page, which may be cut short, experts differ by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smoes_sim.routing.counters import EVEN, draw, starts

Ids = NDArray[np.int16]

_DRAWS = 1 << 21
"""Random numbers that are drawn together: 16 MB."""


class Places(NamedTuple):
    """Where T tokens stand among those that run together with them.

    Attributes:
        step: 0 in prefill, otherwise the number of the decode step, from 1, shape (T,).
        place: Place in the step, from 0, in the order of the tokens, shape (T,).
    """

    step: NDArray[np.int64]
    place: NDArray[np.int64]


def places(sequence_id: NDArray[np.int32], is_decoded: NDArray[np.bool_]) -> Places:
    """The step of each token and its place there; the i-th decoded token of a sequence runs in decode step i.

    Example:
        Two prompts of two tokens, and two decoded tokens of each:

        >>> sequence = np.array([0, 0, 1, 1, 0, 0, 1, 1], dtype=np.int32)
        >>> found = places(sequence, np.arange(8) >= 4)
        >>> found.step.tolist(), found.place.tolist()
        ([0, 0, 0, 0, 1, 2, 1, 2], [0, 1, 2, 3, 0, 0, 1, 1])
    """
    step = np.where(is_decoded, _number_among_equals(np.where(is_decoded, sequence_id, -1)) + 1, 0)
    return Places(step=step, place=_number_among_equals(step))


def _number_among_equals(values: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many earlier elements have the same value. 5 7 5 5: 0 0 1 2."""
    order = np.argsort(values, kind="stable")
    is_first = np.diff(values[order], prepend=values[order[:1]] - 1) != 0
    first = np.flatnonzero(is_first)
    number = np.empty(len(values), dtype=np.int64)
    number[order] = np.arange(len(values)) - np.repeat(first, np.diff(first, append=len(values)))
    return number


def deal(at: Places, *, num_experts: int, top_k: int, layers: Sequence[int], seed: int) -> Ids:
    """Experts of each token in some layers, shape (T, layers, K); they depend on seed, layer, step and place only.

    Example:
        Six tokens with two of three experts each: every expert four times.

        >>> at = Places(step=np.zeros(6, np.int64), place=np.arange(6))
        >>> np.bincount(deal(at, num_experts=3, top_k=2, layers=[0], seed=0).ravel()).tolist()
        [4, 4, 4]
    """
    page, inside = np.divmod(at.place, num_experts // math.gcd(num_experts, top_k))
    pages, which = np.unique((at.step << 32) + page, return_inverse=True)
    cards = (inside[:, None] * top_k + np.arange(top_k)) % num_experts
    dealt = np.empty((len(at.place), len(layers), top_k), dtype=np.int16)
    for row, layer in enumerate(layers):
        dealt[:, row] = _orders(seed, layer, pages, num_experts)[which[:, None], cards]
    return dealt


def _orders(seed: int, layer: int, pages: NDArray[np.int64], num_experts: int) -> Ids:
    """A random order of the experts for each page of a layer, shape (pages, E)."""
    start = starts(seed, EVEN, [layer], pages)[0]
    together = max(1, _DRAWS // num_experts)
    parts = []
    for first in range(0, len(pages), together):
        some = start[first : first + together]
        noise = np.stack([draw(some, expert) for expert in range(num_experts)], axis=1)
        parts.append(noise.argsort(axis=1).astype(np.int16))
    return np.concatenate(parts)
