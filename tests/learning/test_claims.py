from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.learning.claims import judge_claim, paired_interval, verdict_of
from smoes_sim.learning.study_file import ClaimSpec
from smoes_sim.learning.unit_result import PlacementTraffic, RoutedSetResult, UnitResult
from smoes_sim.placement import TOKEN_RULES


def result(accuracy: float, rates: dict[str, float]) -> UnitResult:
    rows = tuple(
        PlacementTraffic(
            ranks=2,
            experts="bins",
            tokens=rule,
            transmission_rate=rates.get(rule, 0.5),
            transmission_rate_vision=None,
            transmission_rate_text=None,
            copies_per_token=0.5,
            bytes_remote=0,
            imbalance=1.5,
        )
        for rule in TOKEN_RULES
    )
    test = RoutedSetResult(
        accuracy=accuracy,
        tokens=1,
        vision_share=0.5,
        experts_per_token=1.0,
        msi=0.5,
        msi_per_layer=(0.5,),
        expert_imbalance=1.0,
        text_share=((0.5, None),),
        placements=rows,
    )
    return UnitResult(
        fingerprint="",
        seed=0,
        parameters=1,
        train_cpu_seconds=None,
        accuracy=accuracy,
        language_accuracy=0.4,
        bits_per_byte=2.0,
        sets={"test": test},
    )


def test_the_interval_by_hand() -> None:
    assert paired_interval([0.01, 0.02, 0.03]) == pytest.approx((-0.004841, 0.044841), abs=1e-6)
    assert paired_interval([0.5]) == (-np.inf, np.inf)


def test_a_verdict_needs_its_whole_interval_on_one_side() -> None:
    assert verdict_of([0.10, 0.11, 0.12], threshold=0) == "supported"
    assert verdict_of([-0.10, -0.11, -0.12], threshold=0) == "refuted"
    assert verdict_of([0.01, 0.02, 0.03], threshold=0) == "undecided"
    assert verdict_of([0.01, 0.02, 0.03], threshold=-0.02) == "supported"
    assert verdict_of([0.9], threshold=0) == "undecided"


CLAIM = ClaimSpec(text="less", first="new", second="old", lower=("transmission_rate",), not_worse=("accuracy",))


def verdicts(new: list[UnitResult], old: list[UnitResult]) -> dict[str, str]:
    results = {"new": dict(enumerate(new)), "old": dict(enumerate(old))}
    rows = judge_claim(CLAIM, results, {"new": "bins", "old": "bins"}, ranks=2)
    return {row.token_placement: row.verdict for row in rows}


def test_a_claim_about_traffic_is_judged_under_every_token_placement() -> None:
    old = [result(0.90, {"modality": 0.9}), result(0.95, {"modality": 0.8}), result(0.92, {"modality": 0.85})]
    new = [result(0.901, {"modality": 0.2}), result(0.951, {"modality": 0.12}), result(0.919, {"modality": 0.15})]
    assert verdicts(new, old) == {
        "data_parallel": "undecided",  # the same rate in both
        "sharded": "undecided",
        "modality": "supported",
        "affinity": "undecided",
    }


def test_a_claim_is_refuted_with_one_of_its_parts() -> None:
    old = [result(0.90, {"modality": 0.9}), result(0.95, {"modality": 0.8}), result(0.92, {"modality": 0.85})]
    new = [result(0.70, {"modality": 0.2}), result(0.75, {"modality": 0.12}), result(0.73, {"modality": 0.15})]
    assert verdicts(new, old)["modality"] == "refuted"


def test_accuracy_claims_are_judged_once_and_pairing_removes_the_common_seed_effect() -> None:
    claim = ClaimSpec(text="better", first="new", second="old", higher=("overall",))
    old = {0: result(0.5, {}), 1: result(0.7, {}), 2: result(0.9, {})}
    new = {0: result(0.52, {}), 1: result(0.721, {}), 2: result(0.919, {})}
    (row,) = judge_claim(claim, {"new": new, "old": old}, {"new": "bins", "old": "bins"}, ranks=2)
    assert row.verdict == "supported"
    assert row.parts[0].differences == pytest.approx([0.01, 0.0105, 0.0095])
    assert row.imbalance == {"new": 1.5, "old": 1.5}
