"""Random numbers that depend only on what they are for: a hash of seed, stream, layer, token and number of the draw.

So any part of the layers or tokens has the numbers that it has in the whole, in any order. The draws of a token in a layer
are a SplitMix64 sequence (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014) from a start
of its own; the constants of its finaliser are David Stafford's Mix13, as in Java's SplittableRandom and in Vigna's
splitmix64.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

GAMMA = 0x9E3779B97F4A7C15
"""Step from one draw to the next: 2^64 over the golden ratio, odd."""
MIX_A, MIX_B = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
EXPERTS, PULL, ORDERS, EVEN = range(4)
"""Streams: the choice of experts, the pull of a token, the orders on which a router is fitted, those of even routing."""
_QUANTILES = 1 << 16


def mix(words: Words) -> Words:
    """The finaliser of SplitMix64: a bijection of 64-bit words whose values look independent; changes its argument.

    Example:
        The first two numbers of Vigna's splitmix64.c from seed 0:

        >>> [f"{word:x}" for word in mix(np.array([GAMMA, 2 * GAMMA % 2**64], dtype=np.uint64))]
        ['e220a8397b1dcdaf', '6e789e6aa1b965f4']
    """
    words ^= words >> np.uint64(30)
    words *= np.uint64(MIX_A)
    words ^= words >> np.uint64(27)
    words *= np.uint64(MIX_B)
    words ^= words >> np.uint64(31)
    return words


def starts(seed: int, stream: int, layers: Sequence[int] | NDArray[np.int64], tokens: NDArray[np.int64]) -> Words:
    """Start of the draws of each token in each layer, shape (layers, tokens).

    Args:
        seed: Seed; its lowest 64 bits count.
        stream: What the numbers are for.
        layers: Layers, or whatever else is numbered.
        tokens: Number of each token.
    """
    key = mix(np.array([seed % 2**64 ^ stream * MIX_A % 2**64], dtype=np.uint64))
    keys = mix(key + np.asarray(layers, dtype=np.uint64) * np.uint64(GAMMA))
    return mix(keys[:, None] + tokens.astype(np.uint64) * np.uint64(GAMMA))


def draw(start: Words, number: int) -> Words:
    """Draw ``number``, counted from 0, of each sequence."""
    return mix(start + np.uint64((number + 1) * GAMMA % 2**64))


def uniform(words: Words) -> NDArray[np.float64]:
    """Numbers between 0 and 1, both excluded, from the highest 53 bits."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(seed: int, num_layers: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Standard normal numbers of each token in layers 0, 1, ..., shape (layers, tokens).

    A hash has four of them, 16 bits each: one of 65,536 equally likely values, the quantiles of the normal distribution up
    to 4.3.
    """
    quantiles = normal_quantiles(_QUANTILES)
    result = np.empty((num_layers, len(tokens)), dtype=np.float32)
    words = draw(starts(seed, PULL, range(-(-num_layers // 4)), tokens), 0)
    for layer in range(num_layers):
        result[layer] = quantiles[(words[layer // 4] >> np.uint64(16 * (layer % 4))) & np.uint64(_QUANTILES - 1)]
    return result


@cache
def normal_quantiles(number: int) -> NDArray[np.float32]:
    """Quantiles of the standard normal distribution at (i + 1/2) / ``number``, rising, shape (number,).

    By the trapezoidal rule and interpolation; the error is below 1e-6 where the density matters.

    Example:
        >>> normal_quantiles(4).round(4).tolist()  # at 1/8, 3/8, 5/8, 7/8
        [-1.1503..., -0.318..., 0.318..., 1.1503...]
    """
    at = np.linspace(-7.0, 7.0, 28001)
    density = np.exp(-(at**2) / 2)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return np.interp((np.arange(number) + 0.5) / number, below / below[-1], at).astype(np.float32)
