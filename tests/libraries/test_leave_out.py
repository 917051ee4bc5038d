import math

import numpy as np
import pytest

from smoes_sim.libraries.leave_out import (
    CasePrediction,
    class_of,
    evaluate,
    leave_out,
    most_nodes,
    num_fits,
    scale_of,
    scaled,
    size_folds,
    system_of,
)
from smoes_sim.libraries.pooling import FittedPool, PreparedCase, fit
from tests.libraries.test_pooling import prepared, times

NOTHING = FittedPool(deviations={}, covariance=np.zeros((0, 0)))


def test_left_out_rows_do_not_influence_their_prediction() -> None:
    """The system that is three times as slow is predicted as the others are, and in no key of the fit that predicts it."""
    members = [*times("8x Slow", 3.0), *times("8x One", 1.0), *times("8x Two", 1.0)]
    outcomes = leave_out(members, system_of, full=fit(members))
    slow = [outcome for outcome in outcomes if "Slow" in outcome.prepared.case.system]
    assert len(outcomes) == len(members)
    assert all(outcome.seconds < 0.6 * outcome.measured for outcome in slow)
    assert all("Slow" not in key for outcome in slow for key in outcome.fitted.deviations)
    assert any("Slow" in key for outcome in outcomes for key in outcome.fitted.deviations)


def test_leaving_out_changes_the_constants() -> None:
    members = [*times("8x Slow", 3.0), *times("8x One", 1.0), *times("8x Two", 1.0)]
    full = fit(members)
    without = next(outcome.fitted for outcome in leave_out(members, system_of, full=full))
    assert without.deviations["launch"] < full.deviations["launch"] - 0.05


def test_all_sizes_of_a_box_form_one_system_and_hardware_is_grouped_by_class() -> None:
    two = prepared("2x NVIDIA A100-SXM4-80GB", 1024.0, seconds=1e-5, intra_link="NVLink3")
    eight = prepared("8x NVIDIA A100-SXM4-80GB", 1024.0, seconds=1e-5, intra_link="NVLink3")
    other = prepared("8x A100 of another site", 1024.0, seconds=1e-5, intra_link="NVLink3")
    assert system_of(two) == system_of(eight) != system_of(other)
    assert class_of(two) == class_of(other)


def test_equal_sizes_are_in_the_same_fold() -> None:
    members = [*times("8x One", 1.0), *times("8x Two", 1.0)]
    fold = size_folds(members)
    assert len({fold(member) for member in members}) == 5
    assert all(
        fold(one) == fold(two) for one, two in zip(members[: len(members) // 2], members[len(members) // 2 :], strict=True)
    )


def test_only_the_largest_node_count_is_left_out() -> None:
    def nodes(count: int) -> PreparedCase:
        return prepared("8x One per node", 2.0**20, seconds=1e-4, nodes=count, inter_link="InfiniBand", nic_bandwidth=50e9)

    members = [nodes(1), nodes(2), nodes(4), *times("8x Alone", 1.0)]
    key = most_nodes(members)
    assert [key(member) is not None for member in members[:4]] == [False, False, True, False]


def outcomes_of(system: str, scores: list[float]) -> list[CasePrediction]:
    member = prepared(system, 1024.0, seconds=1e-5)
    return [
        CasePrediction(prepared=member, fitted=NOTHING, seconds=1e-5 * math.exp(0.1 * score), deviation=0.1)
        for score in scores
    ]


def test_the_interval_is_the_exponential_of_the_deviations() -> None:
    (outcome,) = outcomes_of("8x One", [0.0])
    # 1.2816 standard deviations of 0.1
    assert outcome.low == pytest.approx(1e-5 * math.exp(-0.12816), rel=1e-4)
    assert outcome.high == pytest.approx(1e-5 * math.exp(0.12816), rel=1e-4)


def test_intervals_widen_until_they_cover_80_percent() -> None:
    normal = list(np.random.default_rng(0).normal(size=400))
    wide = outcomes_of("8x One", [3 * score for score in normal])
    factor = scale_of([*wide, *outcomes_of("8x Two", [3 * score for score in normal])])
    assert 2.0 < factor < 3.2
    assert 0.1 < scale_of(outcomes_of("8x One", [0.1 * score for score in normal])) < 0.8  # the imaginary system has a say


def test_the_width_of_an_interval_comes_from_other_systems() -> None:
    bad, good = outcomes_of("8x Bad", [10.0] * 50), outcomes_of("8x Good", [0.1] * 50)
    found = scaled([*bad, *good])
    assert found[0].deviation < 0.1  # by the scores of Good
    assert found[-1].deviation > 0.5


def test_the_number_of_fits_is_known_before() -> None:
    members = [*times("8x One", 1.0)[:2], *times("8x Two", 1.2)[:2]]
    finished: list[None] = []
    evaluate(members, on_fit=lambda: finished.append(None))
    # all rows; two systems; one class; two sizes; no system with several node counts
    assert len(finished) == num_fits(members) == 1 + 2 + 1 + 2
