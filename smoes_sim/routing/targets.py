"""Parameters of a synthetic router with target transmission rates or a target modality specialisation index.

The rates are those between two ranks: for ``standard`` the two halves of the expert ids with sequences dealt out to the
ranks, for ``smoes`` the two sides with every token at home on the side of its modality. This is the setting of the published
rates; the router is then used with any number of ranks and any placement.

For given noise each token has a threshold: it stays local if its pull towards home exceeds it. So the affinity for a target
rate is a quantile of the thresholds, exact for the given tokens, without a search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smoes_sim.errors import TraceError
from smoes_sim.routing.information import modality_specialisation
from smoes_sim.routing.synthetic import POPULATIONS, RouterParameters, SyntheticRouter, Tokens
from smoes_sim.routing.trace import TEXT
from smoes_sim.yaml_files import Document, Spec

_STEPS = 40
_MSI_TOKENS = 1500
"""Number of tokens on which the specialisation index is measured during the search."""
_MSI_LEAST = 400
"""Least number of tokens of each modality, if available: few tokens look specialised by chance."""
_MSI_TOLERANCE = 5e-4


class Rates(Spec):
    """Target transmission rates between two ranks: shares of tokens that need an expert on the other rank."""

    prefill_vision: float = Field(ge=0, le=1, description="Rate of the vision tokens of prefill, 0 to 1.", examples=[0.33])
    prefill: float = Field(ge=0, le=1, description="Rate of all tokens of prefill, 0 to 1.", examples=[0.45])
    decode: float = Field(ge=0, le=1, description="Rate of decoded tokens, 0 to 1.", examples=[0.5])


class Published(Spec):
    """Published figures of a router: transmission rates, and the modality specialisation index."""

    rates: Rates | None = None
    msi: float = Field(ge=0, le=1)


class _PublishedFile(Spec):
    published: dict[str, Published]


@cache
def published() -> dict[str, Published]:
    """Published figures of each policy, by name."""
    text = (resources.files("smoes_sim") / "data" / "routing.yaml").read_text(encoding="utf-8")
    return Document(text, name="smoes_sim/data/routing.yaml").validate(_PublishedFile).published


def find_parameters(
    router: SyntheticRouter,
    tokens: Tokens,
    *,
    rates: Rates | None = None,
    msi: float | None = None,
    popularity: float = 0.1,
) -> RouterParameters:
    """Parameters with which ``router`` has the target rates, the target index, or both on ``tokens``.

    The rates fix the affinity to a side (``smoes``) or the correlation of slots (``standard``). The index then fixes the
    remaining freedom: the correlation of slots (``smoes``: the same rate with less specialisation needs slots that move
    together) or the preferences of single experts (``standard``). ``hard`` and ``hybrid`` follow from their split and have
    nothing to fit.

    Args:
        router: The router.
        tokens: Tokens on which the targets hold.
        rates: Target transmission rates; None: no such target.
        msi: Target modality specialisation index, mean over layers; None: no such target.
        popularity: Spread of expert popularity, nats.

    Raises:
        TraceError: If a rate cannot be reached, with the population and the range that can be reached.
    """
    start = RouterParameters(popularity=popularity)
    if router.policy in {"hard", "hybrid"}:
        return start

    def fitted(free: float) -> RouterParameters:
        if router.policy == "standard":
            parameters = replace(start, preference=free)
        elif rates is None:
            parameters = replace(start, slot_correlation=(1.0,) * 3, affinity=(-free, free, free))
        else:
            parameters = replace(start, slot_correlation=(free,) * 3)
        return parameters if rates is None else _match_rates(router, tokens, parameters, rates)

    if msi is None:
        return fitted(0.0 if router.policy == "standard" else 1.0)
    few = _sample(tokens)
    rising = router.policy == "standard" or rates is None

    def specialisation(free: float) -> float:
        return float(np.mean(modality_specialisation(router.route(few, fitted(free)))))

    return fitted(_bisect(specialisation, wanted=msi, rising=rising))


def _bisect(function: Callable[[float], float], *, wanted: float, rising: bool) -> float:
    """Argument in [0, 12] at which a monotone function equals ``wanted``; the nearer end if there is none."""
    low, high = 0.0, 12.0
    middle = 1.0
    for _ in range(_STEPS):
        value = function(middle)
        if abs(value - wanted) < _MSI_TOLERANCE:
            break
        if (value < wanted) == rising:
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    return middle


def _sample(tokens: Tokens) -> Tokens:
    """Every n-th token of each modality, about :data:`_MSI_TOKENS` in all, with a smaller n for a rare modality."""
    by_population = np.argsort(tokens.population, kind="stable")
    is_text = tokens.modality[by_population] == TEXT
    parts = []
    for rows in (by_population[~is_text], by_population[is_text]):
        stride = max(1, min(len(tokens.modality) // _MSI_TOKENS, len(rows) // _MSI_LEAST))
        parts.append(rows[::stride])
    order = np.concatenate(parts)
    return Tokens(modality=tokens.modality[order], sequence_id=tokens.sequence_id[order], phase=tokens.phase[order])


def _match_rates(router: SyntheticRouter, tokens: Tokens, parameters: RouterParameters, rates: Rates) -> RouterParameters:
    population = tokens.population
    is_smoes = router.policy == "smoes"
    home = np.where(population == 0, -1, 1) if is_smoes else np.where(tokens.sequence_id % 2 == 1, 1, -1)
    threshold = router.thresholds(tokens, parameters, home=home)
    shared = router.shared_pull(tokens, parameters.layer_correlation) * home[:, None]
    affinity, correlation = np.array(parameters.affinity), np.array(parameters.slot_correlation)
    for index, wanted in enumerate(_population_rates(rates, population)):
        rows = population == index
        if not rows.any():
            continue
        if is_smoes:
            needed = (threshold[rows] - correlation[index] * shared[rows]) / router.depth(parameters.depth_decay)
            affinity[index] = float(np.quantile(needed, 1 - wanted)) * (-1 if index == 0 else 1)
        else:
            correlation[index] = _correlation_for(threshold[rows], shared[rows], wanted, POPULATIONS[index])
    return replace(parameters, affinity=_three(affinity), slot_correlation=_three(correlation))


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _population_rates(rates: Rates, population: NDArray[np.int64]) -> tuple[float, float, float]:
    """Target rate of each population; that of prefill text follows from the other two and the numbers of tokens."""
    vision, text = int((population == 0).sum()), int((population == 1).sum())
    if not vision or not text:
        return rates.prefill_vision if vision else rates.prefill, rates.prefill, rates.decode
    of_text = (rates.prefill * (vision + text) - rates.prefill_vision * vision) / text
    if not 0 <= of_text <= 1:
        raise TraceError(
            f"rates.prefill = {rates.prefill:.3g} and rates.prefill_vision = {rates.prefill_vision:.3g} imply a text "
            f"rate of {of_text:.4g} with {vision} vision and {text} text tokens; it must lie in 0..1. Change a rate or "
            "the mix of tokens."
        )
    return rates.prefill_vision, of_text, rates.decode


def _correlation_for(threshold: NDArray[np.float64], shared: NDArray[np.float64], wanted: float, population: str) -> float:
    """Slot correlation at which a share ``wanted`` of the tokens stays below its threshold."""

    def rate(correlation: float) -> float:
        return float((correlation * shared <= threshold).mean())

    low, high = 0.0, 64.0
    if not rate(high) <= wanted <= rate(low):
        raise TraceError(
            f"routing.rates: {wanted:.3g} for {population} cannot be reached by a standard router on two ranks, which has "
            f"{rate(high):.3g} to {rate(low):.3g}. Choose a rate in this range, or leave rates out."
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) > wanted else (low, middle)
    return high
