"""Parameters of a synthetic router with target transmission rates or a target modality specialisation index.

The rates are those between two ranks: for ``standard`` the two halves of the expert ids with sequences dealt out to the
ranks, for ``smoes`` the two sides with every token at home on the side of its modality. This is the setting of the published
rates; the router is then used with any number of ranks and any placement.

The share of tokens that stay local is a smooth function of affinity and correlation (``local_share``), so a rate is met in
expectation, on any tokens; a trace of N independent tokens differs by the chance of its draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib import resources

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smoes_sim.errors import TraceError
from smoes_sim.routing.information import modality_specialisation
from smoes_sim.routing.local_share import LocalShare
from smoes_sim.routing.synthetic import POPULATIONS, RouterParameters, SyntheticRouter, Tokens
from smoes_sim.routing.trace import TEXT
from smoes_sim.yaml_files import Document, Spec

_STEPS = 60
_MOST = 64.0
"""Largest affinity or correlation that is tried, nats: e^-64 of the tokens are on the other side."""
_RATE_TOLERANCE = 5e-5
_FIRST_STEP = 0.25
"""First step of the search for an affinity or a correlation, nats."""
_MSI_MOST = 12.0
_MSI_TOKENS = 1500
"""Number of tokens on which the specialisation index is measured during the search."""
_MSI_LEAST = 400
"""Least number of tokens of each modality, if available: few tokens look specialised by chance."""
_MSI_LAYERS = 8
"""Most layers on which it is measured, evenly spaced."""
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

    near = start

    def fitted(free: float) -> RouterParameters:
        nonlocal near
        if router.policy == "standard":
            parameters = replace(start, preference=free)
        elif rates is None:
            parameters = replace(start, slot_correlation=(1.0,) * 3, affinity=(-free, free, free))
        else:
            parameters = replace(start, slot_correlation=(free,) * 3)
        if rates is not None:
            parameters = near = _match_rates(router, tokens, parameters, rates, near=near)
        return parameters

    if msi is None:
        return fitted(0.0 if router.policy == "standard" else 1.0)
    few = tokens.select(_sample(tokens))
    layers = np.unique(
        np.linspace(0, router.num_layers - 1, min(_MSI_LAYERS, router.num_layers)).round().astype(int)
    ).tolist()
    rising = router.policy == "standard" or rates is None

    def specialisation(free: float) -> float:
        trace = router.route(few, fitted(free), layers=layers, with_weights=False)
        return float(np.mean(modality_specialisation(trace)))

    return fitted(
        solve(specialisation, wanted=msi, within=(0.0, _MSI_MOST), guess=1.0, rising=rising, tolerance=_MSI_TOLERANCE)
    )


def solve(
    function: Callable[[float], float],
    *,
    wanted: float,
    within: tuple[float, float],
    guess: float,
    rising: bool,
    tolerance: float,
    step: float = 1.0,
) -> float:
    """Argument in a range at which a monotone function is ``wanted``; the nearer end if there is none.

    From the guess on, steps grow fourfold until the value is passed; then regula falsi, where the end that stays has its
    error reduced (Anderson and Bjoerck, BIT 13, 1973).

    Example:
        >>> round(solve(lambda x: x**3, wanted=8.0, within=(0.0, 12.0), guess=1.0, rising=True, tolerance=1e-9), 6)
        2.0
    """
    sign = 1 if rising else -1

    def error(at: float) -> float:
        return sign * (function(at) - wanted)

    low, high = within
    at, value = guess, error(guess)
    if abs(value) <= tolerance:
        return at
    while True:
        end = min(high, at + step) if value < 0 else max(low, at - step)
        end_value = error(end)
        if abs(end_value) <= tolerance or (end in within and (end_value < 0) == (value < 0)):
            return end
        if (end_value < 0) != (value < 0):
            break
        at, value, step = end, end_value, 4 * step
    for _ in range(_STEPS):
        middle = (end * value - at * end_value) / (value - end_value)
        error_there = error(middle)
        if abs(error_there) <= tolerance:
            break
        if (error_there < 0) != (value < 0):
            end, end_value = at, value
        else:
            kept = 1 - error_there / value
            end_value *= kept if kept > 0 else 0.5
        at, value = middle, error_there
    return middle


def _sample(tokens: Tokens) -> NDArray[np.int64]:
    """Every n-th token of each modality, about :data:`_MSI_TOKENS` in all, with a smaller n for a rare modality."""
    by_population = np.argsort(tokens.population, kind="stable")
    is_text = tokens.modality[by_population] == TEXT
    parts = []
    for rows in (by_population[~is_text], by_population[is_text]):
        stride = max(1, min(len(tokens.modality) // _MSI_TOKENS, len(rows) // _MSI_LEAST))
        parts.append(rows[::stride])
    return np.concatenate(parts)


def _match_rates(
    router: SyntheticRouter, tokens: Tokens, parameters: RouterParameters, rates: Rates, *, near: RouterParameters
) -> RouterParameters:
    """The parameters with the rates; the search begins at those of ``near``."""
    population = tokens.population
    is_smoes = router.policy == "smoes"
    home = np.where(population == 0, -1, 1) if is_smoes else np.where(tokens.sequence_id % 2 == 1, 1, -1)
    affinity, correlation = np.array(parameters.affinity), np.array(parameters.slot_correlation)
    for index, wanted in enumerate(_population_rates(rates, population)):
        rows = population == index
        if not rows.any():
            continue
        remote = _remote_share(router, parameters, tokens.modality[rows] != TEXT, home[rows])
        if is_smoes:
            spread = float(correlation[index])
            towards_home = solve(
                lambda pull, remote=remote, spread=spread: remote(pull, spread),  # type: ignore[misc]
                wanted=wanted, within=(-_MOST, _MOST), guess=near.affinity[index] * home[rows][0], rising=False,
                tolerance=_RATE_TOLERANCE, step=_FIRST_STEP,
            )  # fmt: skip
            affinity[index] = towards_home * home[rows][0]
        else:
            correlation[index] = _correlation_for(
                partial(remote, 0.0), wanted, population=POPULATIONS[index], guess=near.slot_correlation[index]
            )
    return replace(parameters, affinity=_three(affinity), slot_correlation=_three(correlation))


def _remote_share(
    router: SyntheticRouter, parameters: RouterParameters, kind: NDArray[np.bool_], home: NDArray[np.int64]
) -> Callable[[float, float], float]:
    """Share of tokens that leave their home side, as a function of the affinity to it and of the slots' correlation."""
    parts: list[tuple[float, LocalShare]] = []
    for each in (False, True):
        for side in (-1, 1):
            share = float(((kind == each) & (home == side)).mean())
            if share:
                parts.append((share, router.local_share(parameters, kind=int(each), home=side)))
    return lambda affinity, correlation: 1 - sum(share * part.at(affinity, correlation) for share, part in parts)


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


def _correlation_for(remote: Callable[[float], float], wanted: float, *, population: str, guess: float) -> float:
    """Slot correlation at which a share ``wanted`` of the tokens is remote."""
    found = solve(
        remote, wanted=wanted, within=(0.0, _MOST), guess=guess, rising=False, tolerance=_RATE_TOLERANCE, step=_FIRST_STEP
    )
    if 0 < found < _MOST:
        return found
    least, most = remote(_MOST), remote(0.0)
    if least - _RATE_TOLERANCE <= wanted <= most + _RATE_TOLERANCE:
        return found
    raise TraceError(
        f"routing.rates: {wanted:.3g} for {population} cannot be reached by a standard router on two ranks, which has "
        f"{least:.3g} to {most:.3g}. Choose a rate in this range, or leave rates out."
    )
