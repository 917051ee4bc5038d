from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoes_sim.errors import PlacementError
from smoes_sim.placement import EXPERT_RULES, ExpertPlacement, ExpertRule, place_experts
from smoes_sim.routing import RoutingTrace


def trace_of(expert_ids, modality, *, num_experts):
    ids = np.array(expert_ids, dtype=np.int16)
    T, L, _ = ids.shape
    return RoutingTrace(
        expert_ids=ids,
        modality=np.array(modality, dtype=np.uint8),
        sequence_id=np.zeros(T, np.int32),
        phase=np.zeros(T, np.uint8),
        moe_layers=np.arange(L, dtype=np.int32),
        num_experts=num_experts,
    )


def random_trace(*, layers, experts, seed=0, tokens=20):
    rng = np.random.default_rng(seed)
    return trace_of(
        rng.integers(-1, experts, (tokens, layers, min(2, experts))), rng.integers(0, 4, tokens), num_experts=experts
    )


def place(rule, trace, *, num_ranks, seed=0):
    return place_experts(rule, trace, num_ranks=num_ranks, rng=np.random.default_rng(seed))


@settings(deadline=None, max_examples=60)
@given(
    rule=st.sampled_from(["contiguous", "random", "bins"]),
    ranks=st.integers(1, 5),
    each=st.integers(1, 4),
    layers=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_every_expert_has_one_slot_in_each_layer_and_every_rank_equally_many(rule, ranks, each, layers, seed):
    placement = place(rule, random_trace(layers=layers, experts=ranks * each, seed=seed), num_ranks=ranks, seed=seed)
    assert placement.num_ranks == ranks
    assert np.bincount(placement.slot_rank).tolist() == [each] * ranks
    for slots, rank_of in zip(placement.physical_to_logical_map.tolist(), placement.expert_rank.tolist(), strict=True):
        assert sorted(slots) == list(range(ranks * each))
        assert [rank_of[expert] for expert in slots] == placement.slot_rank.tolist()


def test_the_rank_of_an_expert_is_that_of_its_slot_in_each_layer():
    placement = ExpertPlacement(
        physical_to_logical_map=np.array([[2, 0, 3, 1], [0, 1, 2, 3]]), slot_rank=np.array([0, 0, 1, 1])
    )
    assert placement.expert_rank.tolist() == [[0, 1, 0, 1], [0, 0, 1, 1]]


def test_contiguous_keeps_the_order_of_the_model():
    placement = place("contiguous", random_trace(layers=2, experts=6), num_ranks=3)
    assert placement.expert_rank.tolist() == [[0, 0, 1, 1, 2, 2]] * 2


def test_random_shuffles_each_layer_by_its_own_and_by_the_seed_alone():
    trace = random_trace(layers=2, experts=16)
    first, again, other = (place("random", trace, num_ranks=2, seed=seed).physical_to_logical_map for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_bins_sort_by_the_share_of_text_most_visual_first():
    # expert 0: 3 text; 1: 2 images; 2: 1 text, 3 videos (1/4); 3: 2 text, 1 image (2/3)
    expert = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    modality = [0, 0, 0, 1, 1, 0, 2, 2, 2, 0, 0, 1]
    placement = place("bins", trace_of(np.reshape(expert, (12, 1, 1)), modality, num_experts=4), num_ranks=2)
    assert placement.physical_to_logical_map.tolist() == [[1, 2, 3, 0]]
    assert placement.expert_rank.tolist() == [[1, 0, 0, 1]]


def test_bins_take_raw_counts_so_that_only_the_order_within_a_layer_matters():
    # layer 0: expert 0 sees 1 of 3 text, expert 1 sees 2 of 3; layer 1 the other way round
    ids = [[[0], [1]], [[1], [0]], [[1], [0]], [[0], [1]], [[0], [1]], [[1], [0]]]
    placement = place("bins", trace_of(ids, [0, 0, 0, 1, 1, 1], num_experts=2), num_ranks=2)
    assert placement.expert_rank.tolist() == [[0, 1], [1, 0]]


def test_bins_count_an_unused_expert_as_half_and_break_ties_by_id():
    # expert 0 text, 2 image, 1 and 3 unused, 4 half and half
    trace = trace_of(np.reshape([0, 2, 4, 4], (4, 1, 1)), [0, 1, 0, 1], num_experts=5)
    assert place("bins", trace, num_ranks=5).physical_to_logical_map.tolist() == [[2, 1, 3, 4, 0]]


def test_bins_compare_text_with_vision_whatever_else_there_is():
    # expert 0: 1 text, 3 audio: share 1 / 1; expert 1: 2 text, 1 image: 2/3
    trace = trace_of(np.reshape([0, 0, 0, 0, 1, 1, 1], (7, 1, 1)), [0, 3, 3, 3, 0, 0, 1], num_experts=2)
    assert place("bins", trace, num_ranks=2).physical_to_logical_map.tolist() == [[1, 0]]


@settings(deadline=None, max_examples=60)
@given(
    rule=st.sampled_from(["contiguous", "random", "bins", "coactivation", "eplb"]),
    experts=st.integers(1, 13),
    ranks=st.integers(1, 13),
    seed=st.integers(0, 1000),
)
def test_where_experts_do_not_divide_the_first_ranks_have_one_more(rule, experts, ranks, seed):
    ranks = min(ranks, experts)
    placement = place(rule, random_trace(layers=2, experts=experts, seed=seed), num_ranks=ranks)
    more = [experts // ranks + (rank < experts % ranks) for rank in range(ranks)]
    assert placement.slots_per_rank.tolist() == more
    assert all(sorted(slots) == list(range(experts)) for slots in placement.physical_to_logical_map.tolist())


def test_12_experts_on_8_ranks_are_2_on_4_ranks_and_1_on_4():
    placement = place("contiguous", random_trace(layers=1, experts=12), num_ranks=8)
    assert placement.expert_rank.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("rule", ["bins", "eplb", "optimal"])
def test_a_spare_slot_makes_uneven_ranks_equal_and_holds_replicas(rule):
    # 12 experts on 8 ranks: 12 // 8 + 1 = 2 slots on each, 4 replicas
    trace = random_trace(layers=1, experts=12)
    placed = place_experts(rule, trace, num_ranks=8, rng=np.random.default_rng(0), spare=1)
    assert placed.slots_per_rank.tolist() == [2] * 8
    assert set(placed.physical_to_logical_map[0].tolist()) == set(range(12))


def test_ranks_without_an_expert_are_refused_with_what_holds_them():
    trace = random_trace(layers=1, experts=12)
    with pytest.raises(
        PlacementError, match=r"^12 experts leave some of the 20 ranks .*parallelism\.expert=10, or replicas"
    ):
        place("bins", trace, num_ranks=20)
    placed = place_experts("eplb", trace, num_ranks=20, rng=np.random.default_rng(0), spare=1)
    assert placed.slots_per_rank.tolist() == [1] * 20


@pytest.mark.parametrize(("experts", "slots"), [(256, 288), (128, 144)])
def test_one_spare_slot_on_72_ranks_as_published(experts, slots):
    # DeepSeek-V3 on 72 ranks: 256 // 72 + 1 = 4 slots a rank, 288 in all; 128 experts: 1 + 1 = 2, 144
    trace = random_trace(layers=1, experts=experts, tokens=400)
    placed = place_experts("eplb", trace, num_ranks=72, rng=np.random.default_rng(0), spare=1)
    assert placed.physical_to_logical_map.shape == (1, slots)
    assert placed.slots_per_rank.tolist() == [slots // 72] * 72
    assert (
        np.bincount(place("bins", trace, num_ranks=72).slots_per_rank).tolist()
        == {
            256: [0, 0, 0, 32, 40],  # 40 * 4 + 32 * 3
            128: [0, 16, 56],  # 56 * 2 + 16
        }[experts]
    )


def test_the_registry_holds_every_rule_of_the_schema():
    assert get_args(ExpertRule) == tuple(EXPERT_RULES)


def test_more_ranks_than_experts_are_groups_that_each_hold_all_experts():
    placement = place("contiguous", random_trace(layers=1, experts=4), num_ranks=12)
    assert (placement.ep_size, placement.num_groups, placement.num_ranks) == (4, 3, 12)
    # tokens at home on ranks 1, 6 and 11 use the experts of groups 0-3, 4-7 and 8-11
    experts = np.array([[0, 3], [2, -1], [1, 1]])
    assert placement.destination(0, experts, np.array([1, 6, 11])).tolist() == [[0, 3], [6, -1], [9, 9]]
