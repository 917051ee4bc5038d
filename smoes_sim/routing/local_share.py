"""Share of tokens whose K experts are all on the home side, as a function of their pull; nothing of it is sampled twice.

In the race of ``choice`` a token stays local if the first K arrivals are all of its home side A. When c of A's rate W_A have
arrived, the next arrival is of A, not of the other side B, with probability (W_A - c) / (W_A - c + W_B exp(-pull)), so

    P(local | order of A's arrivals) = prod over k < K of 1 / (1 + exp(-pull) W_B / (W_A - c_k)).

The order matters only where experts are of unequal popularity; a few orders are drawn. The pull that the slots of a token
share is normal; its distribution is taken at equally likely quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.routing.choice import Race
from smoes_sim.routing.counters import ORDERS, draw, normal_quantiles, starts, uniform

_ORDERS = 256
"""Orders of arrival in all, over the layers: with the default popularity their spread moves a rate by 1e-5."""
_QUANTILES = 32
"""Quantiles of the shared pull: the share is a smooth function, whose middle they meet to 1e-4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalShare:
    """What decides whether a token is local, for tokens of one kind with one home side.

    Attributes:
        others: W_B / (W_A - c_k) of each order, shape (L, orders, K); infinite where A has too few experts.
        depth: Factor of the affinity in each layer, shape (L,).
    """

    others: NDArray[np.float64]
    depth: NDArray[np.float64]

    def at(self, affinity: float, correlation: float) -> float:
        """Share of (token, layer) pairs that are local, with an affinity towards home and a spread of the shared pull."""
        shared = correlation * (normal_quantiles(_QUANTILES).astype(np.float64) if correlation else np.zeros(1))
        with np.errstate(over="ignore", invalid="ignore"):
            weaker = np.exp(-(affinity * self.depth[:, None, None] + shared))
            product = np.ones((*self.others.shape[:2], len(shared)))
            for k in range(self.others.shape[2]):
                product *= 1 + weaker * self.others[:, :, k, None]
        return float(np.mean(1 / product))


def local_share(race: Race, *, seed: int, kind: int, home: int, depth: NDArray[np.float64]) -> LocalShare:
    """What decides whether a token is local.

    Args:
        race: A race over two sides, of all layers.
        seed: Seed of the orders.
        kind: 0 for text, 1 for other tokens.
        home: Home side, +1 or -1.
        depth: Factor of the affinity in each layer, shape (L,).
    """
    L, _, E = race.scores.shape
    rates = np.exp(race.scores[:, kind])
    mine = race.side == home
    number = -(-_ORDERS // L)
    noise = uniform(draw(starts(seed, ORDERS, range(L), np.arange(number * E)), 0)).reshape(L, number, E)
    arrival = np.where(mine[:, None, :], -np.log(noise) / rates[:, None, :], np.inf)
    first = np.argsort(arrival, axis=2)[:, :, : race.top_k]
    rate = np.where(
        np.isfinite(np.take_along_axis(arrival, first, axis=2)), np.take_along_axis(rates[:, None], first, 2), 0.0
    )
    inside = np.where(mine, rates, 0.0).sum(axis=1)[:, None, None]
    still = np.maximum(inside - (np.cumsum(rate, axis=2) - rate), rate)
    with np.errstate(divide="ignore"):
        return LocalShare(others=(rates.sum(axis=1)[:, None, None] - inside) / np.where(rate > 0, still, 0.0), depth=depth)
