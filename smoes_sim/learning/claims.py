"""Which claims a study supports, refutes or leaves undecided: differences paired by seed, with intervals. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from smoes_sim.learning.study_file import ClaimSpec, Measure
from smoes_sim.learning.unit_result import ExpertOrder, Results, UnitResult
from smoes_sim.placement import TOKEN_RULES, TokenRule

Verdict = Literal["supported", "refuted", "undecided"]
_CONFIDENCE = 0.95
TRAFFIC: tuple[Measure, ...] = ("transmission_rate", "copies_per_token")
"""Measures that depend on the placement of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPart:
    """One measure of a claim: first variant minus second, paired by seed.

    Attributes:
        measure: Measure that is compared.
        wanted: Condition on the difference, such as ``> 0``.
        differences: Difference of each seed.
        mean: Mean of the differences.
        sd: Their sample standard deviation; None for a single seed.
        interval: 95% Student interval of the mean; None for a single seed.
        verdict: Whether the interval lies on one side of the threshold.
    """

    measure: Measure
    wanted: str
    differences: tuple[float, ...]
    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedClaim:
    """A claim under one placement of tokens.

    Attributes:
        claim: Text of the claim.
        first: Variant that the claim is about.
        second: Variant it is compared with.
        ranks: Number of ranks of the traffic.
        token_placement: Placement of the tokens.
        verdict: Supported if every part is, refuted if one part is.
        parts: The measures of the claim.
        imbalance: Busiest rank over the mean, by variant, mean over seeds; None for a dense model.
    """

    claim: str
    first: str
    second: str
    ranks: int
    token_placement: TokenRule
    verdict: Verdict
    parts: tuple[ClaimPart, ...]
    imbalance: dict[str, float | None]


def value_of(result: UnitResult, measure: Measure, *, experts: ExpertOrder, tokens: TokenRule, ranks: int) -> float:
    """Value of a measure for one variant and seed; traffic is that of the test set under one placement.

    ``overall`` is the mean of the accuracy on questions and on next tokens. NaN if the measure is not known.
    """
    found: float | None
    if measure == "overall":
        parts = (result.accuracy, result.language_accuracy)
        found = None if None in parts else 0.5 * sum(part for part in parts if part is not None)
    elif measure == "accuracy":
        found = result.accuracy
    elif measure == "language_accuracy":
        found = result.language_accuracy
    elif measure == "msi":
        found = result.routed().msi
    else:
        traffic = result.routed().traffic(experts=experts, tokens=tokens, ranks=ranks)
        found = traffic.transmission_rate if measure == "transmission_rate" else traffic.copies_per_token
    return float("nan") if found is None else found


def paired_interval(differences: Sequence[float]) -> tuple[float, float]:
    """95% Student interval of the mean difference; infinite for a single seed.

    Example:
        0.02 +- 4.3027 x 0.01 / sqrt(3):

        >>> low, high = paired_interval([0.01, 0.02, 0.03])
        >>> round(low, 4), round(high, 4)
        (-0.0048, 0.0448)
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return -np.inf, np.inf
    half = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def verdict_of(differences: Sequence[float], *, threshold: float) -> Verdict:
    """Whether the mean difference lies above a threshold; undecided while the 95% interval contains the threshold.

    Example:
        >>> verdict_of([0.10, 0.11, 0.12], threshold=0)
        'supported'
    """
    low, high = paired_interval(differences)
    if low > threshold:
        return "supported"
    return "refuted" if high < threshold else "undecided"


def judge_claim(
    claim: ClaimSpec, results: Results, placements: Mapping[str, ExpertOrder], *, ranks: int
) -> tuple[JudgedClaim, ...]:
    """Verdicts on a claim: one per token placement if the claim is about traffic, one otherwise.

    Args:
        claim: The claim of the study file.
        results: Results of all variants.
        placements: Placement of the experts of each variant.
        ranks: Number of ranks of the traffic, R.
    """
    is_about_traffic = any(measure in TRAFFIC for measure in (*claim.higher, *claim.lower, *claim.not_worse))
    rules: tuple[TokenRule, ...] = TOKEN_RULES if is_about_traffic else ("modality",)
    return tuple(_judge_under(claim, results, placements, ranks=ranks, tokens=rule) for rule in rules)


def _judge_under(
    claim: ClaimSpec, results: Results, placements: Mapping[str, ExpertOrder], *, ranks: int, tokens: TokenRule
) -> JudgedClaim:
    seeds = sorted(results[claim.first])

    def values(name: str, measure: Measure) -> list[float]:
        experts = placements[name]
        return [value_of(results[name][seed], measure, experts=experts, tokens=tokens, ranks=ranks) for seed in seeds]

    parts = []
    for measures, sign, threshold in ((claim.higher, 1, 0.0), (claim.lower, -1, 0.0), (claim.not_worse, 1, -claim.margin)):
        for measure in measures:
            pairs = zip(values(claim.first, measure), values(claim.second, measure), strict=True)
            parts.append(_part(measure, [first - second for first, second in pairs], sign=sign, threshold=threshold))
    verdicts = {part.verdict for part in parts}
    return JudgedClaim(
        claim=claim.text,
        first=claim.first,
        second=claim.second,
        ranks=ranks,
        token_placement=tokens,
        verdict="refuted" if "refuted" in verdicts else "undecided" if "undecided" in verdicts else "supported",
        parts=tuple(parts),
        imbalance={name: _imbalance(results[name], placements[name], ranks) for name in (claim.first, claim.second)},
    )


def _part(measure: Measure, differences: Sequence[float], *, sign: int, threshold: float) -> ClaimPart:
    low, high = paired_interval(differences)
    return ClaimPart(
        measure=measure,
        wanted=f"> {threshold:g}" if sign > 0 else "< 0",
        differences=tuple(differences),
        mean=float(np.mean(differences)),
        sd=float(np.std(differences, ddof=1)) if len(differences) > 1 else None,
        interval=(low, high) if np.isfinite(low) else None,
        verdict=verdict_of([sign * difference for difference in differences], threshold=threshold),
    )


def _imbalance(by_seed: Mapping[int, UnitResult], experts: ExpertOrder, ranks: int) -> float | None:
    """Busiest rank over the mean on the test set, mean over seeds; it does not depend on the token placement."""
    units = list(by_seed.values())
    if not units[0].has_router:
        return None
    return float(
        np.mean([unit.routed().traffic(experts=experts, tokens="modality", ranks=ranks).imbalance for unit in units])
    )
