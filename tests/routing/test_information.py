from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoes_sim.routing import RoutingTrace, expert_counts, gini, modality_specialisation, text_share
from smoes_sim.routing.summary import describe


def trace_of(expert_ids, modality, *, num_experts, phase=None):
    ids = np.array(expert_ids, dtype=np.int16)
    T, L, _ = ids.shape
    return RoutingTrace(
        expert_ids=ids,
        modality=np.array(modality, dtype=np.uint8),
        sequence_id=np.arange(T, dtype=np.int32) // 2,
        phase=np.zeros(T, np.uint8) if phase is None else np.array(phase, dtype=np.uint8),
        moe_layers=np.arange(L, dtype=np.int32),
        num_experts=num_experts,
    )


# two layers, two slots; text, text, image
THREE = trace_of([[[0, 1], [2, 2]], [[0, 2], [2, -1]], [[3, 1], [0, 2]]], [0, 0, 1], num_experts=4)


def test_counts_are_routed_tokens_per_layer_and_expert_without_empty_slots():
    assert expert_counts(THREE).tolist() == [[2, 2, 1, 1], [1, 0, 4, 0]]


def test_counts_of_some_tokens_only():
    assert expert_counts(THREE, THREE.is_vision).tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]


def test_the_share_is_normalised_by_modality():
    # layer 0: text slots 2, 1, 1, 0 of 4; vision 0, 1, 0, 1 of 2
    # expert 1: (1/4) / (1/4 + 1/2) = 1/3; layer 1: text 0, 0, 3, 0 of 3, vision 1, 0, 1, 0 of 2
    # expert 2: 1 / (1 + 1/2) = 2/3; experts 1 and 3 are unused
    expected = [[1, 1 / 3, 1, 0], [0, np.nan, 2 / 3, np.nan]]
    assert text_share(THREE) == pytest.approx(np.array(expected), nan_ok=True)


def test_one_percent_of_text_and_three_of_vision_is_a_share_of_a_quarter():
    # 100 text tokens, 1 to expert 0; 100 image tokens, 3 to expert 0
    ids = np.array([0] + [1] * 99 + [0] * 3 + [1] * 97).reshape(200, 1, 1)
    share = text_share(trace_of(ids, [0] * 100 + [1] * 100, num_experts=2))
    assert share[0, 0] == pytest.approx(0.25)


def test_the_index_is_the_mean_over_used_experts():
    # 2|share - 0.5|: layer 0: 1, 1/3, 1, 1 -> 10/12; layer 1: 1, 1/3 -> 2/3
    assert modality_specialisation(THREE) == pytest.approx([5 / 6, 2 / 3])


def test_experts_that_never_share_have_index_one_and_equal_use_has_zero():
    assert modality_specialisation(trace_of([[[0]], [[1]]], [0, 1], num_experts=2)).tolist() == [1.0]
    same = trace_of([[[0]], [[1]], [[0]], [[1]]], [0, 0, 1, 1], num_experts=2)
    assert modality_specialisation(same).tolist() == [0.0]


@pytest.mark.parametrize("modality", [0, 1, 3])
def test_without_text_or_without_vision_there_is_no_index(modality):
    assert np.isnan(modality_specialisation(trace_of([[[0], [1]]], [modality], num_experts=2))).tolist() == [True, True]


def test_a_layer_that_routes_nothing_has_no_index_and_the_others_keep_theirs():
    trace = trace_of([[[0], [-1]], [[1], [-1]]], [0, 1], num_experts=2)
    assert modality_specialisation(trace) == pytest.approx([1.0, np.nan], nan_ok=True)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), experts=st.integers(2, 9))
def test_the_index_lies_in_0_to_1_and_does_not_depend_on_the_names_of_experts(seed, experts):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, experts, (12, 3, 2))
    trace = trace_of(ids, [0, 1] * 6, num_experts=experts)
    index = modality_specialisation(trace)
    known = index[~np.isnan(index)]
    assert ((known >= 0) & (known <= 1 + 1e-12)).all()
    renamed = np.append(rng.permutation(experts), -1)[ids]
    assert modality_specialisation(trace_of(renamed, [0, 1] * 6, num_experts=experts)) == pytest.approx(index, nan_ok=True)


def test_the_gini_coefficient_by_hand():
    # mean absolute difference over twice the mean: loads 1, 1, 2: (0+1+1) pairs of 9 ordered: 4/9 / (2 * 4/3) = 1/6
    assert gini(np.array([1, 1, 2])) == pytest.approx(1 / 6)
    assert gini(np.array([3, 3, 3])) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(3 / 4)  # all on one of n: (n - 1) / n
    assert gini(np.array([0, 0])) == 0.0


@settings(deadline=None, max_examples=50)
@given(load=st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
def test_gini_is_the_mean_absolute_difference_over_twice_the_mean(load):
    values = np.array(load, dtype=float)
    expected = np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())
    assert gini(values) == pytest.approx(expected, abs=1e-12)


def test_a_description_counts_by_hand():
    trace = trace_of(THREE.expert_ids, [0, 0, 1], num_experts=4, phase=[0, 1, 0])
    found = describe(trace)
    document = found.to_dict()
    # gini of 2, 2, 1, 1: ordered weights -3, -1, 1, 3 on 1, 1, 2, 2: 4 / (4 * 6) = 1/6;
    # of 1, 0, 4, 0: (0, 0, 1, 4): 13 / (4 * 5) = 0.65
    assert document.pop("expert_load_gini") == pytest.approx((1 / 6 + 0.65) / 2)
    assert document.pop("msi") == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert document.pop("msi_per_layer") == pytest.approx([5 / 6, 2 / 3])
    assert document == {
        "tokens": 3,
        "prefill_tokens": 2,
        "vision_tokens": 1,
        "sequences": 2,
        "layers": 2,
        "experts": 4,
        "top_k": 2,
        "empty_slots": 1,
        "metadata": {},
    }


def test_a_description_without_vision_has_no_index():
    found = describe(trace_of([[[0], [1]]], [0], num_experts=2))
    assert (found.msi, found.msi_per_layer) == (None, [None, None])
