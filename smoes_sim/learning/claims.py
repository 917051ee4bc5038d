"""What a study supports, refutes or leaves open: differences paired by seed, and where they lie. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats

from smoes_sim.learning.study_file import ClaimSpec, Measure
from smoes_sim.placement import TOKEN_RULES

Verdict = Literal["supported", "refuted", "undecided"]
Results = dict[str, dict[int, dict[str, Any]]]
"""Results by variant and seed."""
_CONFIDENCE = 0.95
TRAFFIC: tuple[Measure, ...] = ("transmission_rate", "copies_per_token")


def placement_of(result: dict[str, Any], *, experts: str, tokens: str, ranks: int, key: str = "test") -> dict[str, Any]:
    """The row of a result's traffic for one placement."""
    for row in result["sets"][key]["placements"]:
        if (row["ranks"], row["experts"], row["tokens"]) == (ranks, experts, tokens):
            return row
    raise KeyError((ranks, experts, tokens))


def value_of(result: dict[str, Any], measure: Measure, *, experts: str, tokens: str, ranks: int) -> float:
    """A measure of one run; traffic on the test set under a placement.

    ``overall`` is the mean of accuracy on open questions and on next tokens.
    """
    if measure == "overall":
        return 0.5 * (result["accuracy"] + result["language_accuracy"])
    if measure == "msi":
        return float(result["sets"]["test"]["msi"])
    if measure in TRAFFIC:
        return float(placement_of(result, experts=experts, tokens=tokens, ranks=ranks)[measure])
    return float(result[measure])


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95% Student interval of the mean; without end for a single seed.

    0.01, 0.02, 0.03: 0.02 +- 4.3027 x 0.01 / sqrt(3) = (-0.0048, 0.0448).
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        return -np.inf, np.inf
    half = float(stats.t.ppf(0.5 + _CONFIDENCE / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def judge(differences: Sequence[float], *, threshold: float) -> Verdict:
    """Whether the mean lies above a threshold: supported or refuted if its whole interval is on one side."""
    low, high = interval(differences)
    if low > threshold:
        return "supported"
    return "refuted" if high < threshold else "undecided"


def judge_claim(claim: ClaimSpec, results: Results, placements: Mapping[str, str], *, ranks: int) -> list[dict[str, Any]]:
    """One row per token placement for a claim about traffic, one row otherwise.

    A claim is supported if each of its parts is, refuted if one of its parts is.

    Args:
        claim: What is said.
        results: Of all variants.
        placements: How the experts of each variant are placed.
        ranks: R of the traffic.
    """
    speaks_of_traffic = any(measure in TRAFFIC for measure in (*claim.higher, *claim.lower, *claim.not_worse))
    rules = TOKEN_RULES if speaks_of_traffic else ("modality",)
    return [_judge_under(claim, results, placements, ranks=ranks, tokens=rule) for rule in rules]


def _judge_under(
    claim: ClaimSpec, results: Results, placements: Mapping[str, str], *, ranks: int, tokens: str
) -> dict[str, Any]:
    seeds = sorted(results[claim.first])

    def values(name: str, measure: Measure) -> list[float]:
        experts = placements[name]
        return [value_of(results[name][seed], measure, experts=experts, tokens=tokens, ranks=ranks) for seed in seeds]

    parts = []
    for measures, sign, threshold in ((claim.higher, 1, 0.0), (claim.lower, -1, 0.0), (claim.not_worse, 1, -claim.margin)):
        for measure in measures:
            pairs = zip(values(claim.first, measure), values(claim.second, measure), strict=True)
            differences = [first - second for first, second in pairs]
            low, high = interval(differences)
            parts.append(
                {
                    "measure": measure,
                    "wanted": f"> {threshold:g}" if sign > 0 else "< 0",
                    "differences": differences,
                    "mean": float(np.mean(differences)),
                    "sd": float(np.std(differences, ddof=1)) if len(differences) > 1 else None,
                    "interval": [low, high] if np.isfinite(low) else None,
                    "verdict": judge([sign * difference for difference in differences], threshold=threshold),
                }
            )
    verdicts = {part["verdict"] for part in parts}
    verdict = "refuted" if "refuted" in verdicts else "undecided" if "undecided" in verdicts else "supported"
    return {
        "claim": claim.text,
        "first": claim.first,
        "second": claim.second,
        "ranks": ranks,
        "token_placement": tokens,
        "verdict": verdict,
        "parts": parts,
        "imbalance": {name: _imbalance(results[name], placements[name], ranks) for name in (claim.first, claim.second)},
    }


def _imbalance(by_seed: dict[int, dict[str, Any]], experts: str, ranks: int) -> float | None:
    """Busiest rank over mean rank on the test set, mean over seeds; it does not depend on where tokens live."""
    if "placements" not in next(iter(by_seed.values()))["sets"]["test"]:
        return None
    rows = [placement_of(one, experts=experts, tokens="modality", ranks=ranks) for one in by_seed.values()]
    return float(np.mean([row["imbalance"] for row in rows]))
