"""Find the synthetic router that shows wanted transmission rates or a wanted modality specialisation index.

The rates are those of two ranks: for ``standard`` the two halves of the expert ids and homes that know nothing of modality
(sequences dealt out), for ``smoes`` the two sides and every token at home with its modality's side. That is the setting in
which rates were published; the router found is then used with any number of ranks and any placement.

For given noise each token has a threshold: it stays local as soon as its pull homewards exceeds it. So the affinity that
gives a wanted rate is a quantile of thresholds, exact for the tokens at hand, and no search is needed.
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
"""Tokens on which the specialisation index is measured while searching."""
_MSI_LEAST = 400
"""At least so many of each modality, where there are: chance alone makes few tokens look specialised."""
_MSI_TOLERANCE = 5e-4


class Rates(Spec):
    """Target transmission rates between two ranks: shares of tokens that need an expert on the other rank."""

    prefill_vision: float = Field(ge=0, le=1, description="Rate of the vision tokens of prefill, 0 to 1.", examples=[0.33])
    prefill: float = Field(ge=0, le=1, description="Rate of all tokens of prefill, 0 to 1.", examples=[0.45])
    decode: float = Field(ge=0, le=1, description="Rate of decoded tokens, 0 to 1.", examples=[0.5])


class Published(Spec):
    """What is published of a router."""

    rates: Rates | None = None
    msi: float = Field(ge=0, le=1)


class _PublishedFile(Spec):
    published: dict[str, Published]


@cache
def published() -> dict[str, Published]:
    """Published rates and indices per policy."""
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
    """Parameters under which ``router`` shows the rates, the index, or both on ``tokens``.

    The rates fix the affinity to a side (``smoes``) or the correlation of slots (``standard``). The index then fixes what
    is left: the correlation of slots (``smoes``: the same rate with less specialisation needs slots that move together) or
    the unplaced preferences (``standard``). ``hard`` and ``hybrid`` are given by their split: there is nothing to find.

    Raises:
        TraceError: If a rate cannot be reached, naming the population and what can be.
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
    """Where a monotone function of [0, 12] meets ``wanted``; the nearer end where it does not."""
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
    """Every n-th token of each population, about :data:`_MSI_TOKENS` in all, more often of a rare modality."""
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
    """The wanted rate of each population; that of prefill text follows from the other two and the token counts."""
    vision, text = int((population == 0).sum()), int((population == 1).sum())
    if not vision or not text:
        return rates.prefill_vision if vision else rates.prefill, rates.prefill, rates.decode
    of_text = (rates.prefill * (vision + text) - rates.prefill_vision * vision) / text
    if not 0 <= of_text <= 1:
        raise TraceError(
            f"rates.prefill = {rates.prefill:.3g} and rates.prefill_vision = {rates.prefill_vision:.3g} ask for a text "
            f"rate of {of_text:.4g} with {vision} vision and {text} text tokens; it must lie in 0..1. Change a rate or "
            "the mix of tokens."
        )
    return rates.prefill_vision, of_text, rates.decode


def _correlation_for(threshold: NDArray[np.float64], shared: NDArray[np.float64], wanted: float, population: str) -> float:
    """The slot correlation at which a share ``wanted`` of tokens stays below its threshold."""

    def rate(correlation: float) -> float:
        return float((correlation * shared <= threshold).mean())

    low, high = 0.0, 64.0
    if not rate(high) <= wanted <= rate(low):
        raise TraceError(
            f"a rate of {wanted:.3g} for {population} is out of reach of a standard router between two ranks: it can show "
            f"{rate(high):.3g} to {rate(low):.3g}. Ask for one of those."
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) > wanted else (low, middle)
    return high
