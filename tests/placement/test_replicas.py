from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.errors import PlacementError
from smoes_sim.placement import (
    ExpertPlacement,
    home_tokens,
    keep_in_place,
    modality_ranks,
    moved_experts,
    place_experts,
    read_placement,
)
from smoes_sim.placement.formats import write_placement
from smoes_sim.routing import RoutingTrace
from smoes_sim.traffic.copies import count_traffic, transmission_rate


def trace_of(expert_ids, modality, *, num_experts, sequence=None):
    ids = np.array(expert_ids, dtype=np.int16)
    T, L, _ = ids.shape
    return RoutingTrace(
        expert_ids=ids,
        modality=np.array(modality, dtype=np.uint8),
        sequence_id=np.zeros(T, np.int32) if sequence is None else np.array(sequence, dtype=np.int32),
        phase=np.zeros(T, np.uint8),
        moe_layers=np.arange(L, dtype=np.int32),
        num_experts=num_experts,
    )


# three ranks of two slots for experts 0..3: 0 on ranks 0 and 1, 1 on 0, 2 on 1 and 2, 3 on 2
COPIES = ExpertPlacement(physical_to_logical_map=np.array([[0, 1, 0, 2, 2, 3]]), slot_rank=np.array([0, 0, 1, 1, 2, 2]))


def test_a_copy_at_home_is_used_first_and_others_in_turn():
    experts = np.array([[0, 2], [0, -1], [0, 3], [2, 0]], dtype=np.int16)
    home = np.array([0, 2, 2, 0])
    # expert 0: at home for tokens 0 and 3; tokens 1 and 2 (on rank 2) take ranks 0, 1. Expert 2: tokens 0 and 3 take 1, 2
    assert COPIES.destination(0, experts, home).tolist() == [[0, 1], [0, -1], [1, 2], [2, 0]]


def test_traffic_counts_copies_used_and_experts_active_where_they_were_used():
    trace = trace_of([[[0, 2]], [[0, -1]], [[0, 3]], [[2, 0]]], [0] * 4, num_experts=4)
    home = np.array([0, 2, 2, 0])
    traffic = count_traffic(trace, COPIES, home, deduplicate="rank")
    assert traffic.slots.tolist() == [[3, 2, 2]]
    assert traffic.active_experts.tolist() == [[1, 2, 2]]
    assert traffic.stages[0].tolist() == [[[2, 1, 1], [0, 0, 0], [1, 1, 1]]]
    assert transmission_rate(trace, COPIES, home).prefill == 1.0
    assert transmission_rate(trace, COPIES, np.zeros(4, np.int64)).prefill == 3 / 4


def test_the_load_of_an_expert_is_shared_by_its_copies():
    assert COPIES.rank_loads(np.array([[4, 1, 6, 2]])).tolist() == [[3.0, 5.0, 5.0]]
    with pytest.raises(PlacementError, match="no single rank"):
        _ = COPIES.expert_rank


def test_homes_look_at_all_copies():
    # experts 2 and 3 are both on rank 2 alone; experts 0 and 2 both on rank 1 alone
    trace = trace_of([[[2, 3]], [[0, 2]]], [0, 1], num_experts=4)
    assert home_tokens("affinity", trace, COPIES).tolist() == [2, 1]
    # text: half of expert 2 and all of 3 on rank 2; vision: half of 0 on rank 0, half of 0 and of 2 on rank 1
    vision, text = modality_ranks(trace, COPIES)
    assert (vision.tolist(), text.tolist()) == ([0, 1], [2])


def test_a_placement_with_replicas_goes_through_a_file(tmp_path):
    write_placement(COPIES, tmp_path / "p.json", moe_layers=[1], num_layers=2)
    read = read_placement(tmp_path / "p.json", moe_layers=[1], num_experts=4, num_ranks=3)
    assert read.physical_to_logical_map.tolist() == COPIES.physical_to_logical_map.tolist()
    assert read.slot_rank.tolist() == COPIES.slot_rank.tolist()
    with pytest.raises(PlacementError, match=r"6 slots do not divide over 4 ranks"):
        read_placement(tmp_path / "p.json", moe_layers=[1], num_experts=4, num_ranks=4)


@pytest.mark.parametrize("rule", ["bins", "eplb", "optimal"])
def test_every_expert_is_somewhere_and_ranks_have_equal_slots(rule):
    rng = np.random.default_rng(1)
    trace = trace_of(rng.integers(0, 6, (40, 2, 2)), rng.integers(0, 2, 40), num_experts=6)
    placed = place_experts(rule, trace, num_ranks=2, rng=rng, spare=1)
    assert np.bincount(placed.slot_rank).tolist() == [4, 4]
    assert all(set(row) == set(range(6)) for row in placed.physical_to_logical_map.tolist())


def test_a_hot_expert_gets_the_spare_slots_by_hand():
    # expert 0 is used 6 times, the others once: eplb copies 0 (3 and 3), then again 0 or 1.. as the most per copy
    trace = trace_of([[[0]]] * 6 + [[[1]], [[2]], [[3]]], [0] * 9, num_experts=4)
    placed = place_experts("eplb", trace, num_ranks=2, rng=np.random.default_rng(0), spare=1)
    assert np.bincount(placed.physical_to_logical_map[0]).tolist() == [3, 1, 1, 1]
    assert sorted(placed.rank_loads(np.array([[6, 1, 1, 1]]))[0].tolist()) == [4.0, 5.0]


@pytest.mark.parametrize(
    ("rule", "spare", "message"),
    [
        ("contiguous", 1, r"contiguous cannot fill 1 spare slots.*bins, eplb, optimal"),
        ("coactivation", 2, r"coactivation cannot fill 2"),
        ("eplb", 3, r"2 \+ 3 slots per rank are more than the 4 experts. Use at most 2"),
    ],
)
def test_spare_slots_that_do_not_fit_are_refused(rule, spare, message):
    trace = trace_of([[[0]]], [0], num_experts=4)
    with pytest.raises(PlacementError, match=message):
        place_experts(rule, trace, num_ranks=2, rng=np.random.default_rng(0), spare=spare)


def placed(*slots, ranks=2, groups=1):
    rows = np.array(slots)
    each = rows.shape[1] // ranks
    return ExpertPlacement(physical_to_logical_map=rows, slot_rank=np.arange(rows.shape[1]) // each, num_groups=groups)


def test_what_a_rank_did_not_hold_is_fetched_from_one_that_did():
    assert moved_experts(placed([0, 1, 2, 3]), placed([0, 2, 1, 3])).tolist() == [[0, 1], [1, 0]]
    assert moved_experts(placed([0, 1, 2, 3]), placed([1, 0, 3, 2])).tolist() == [[0, 0], [0, 0]]


def test_senders_take_turns_and_groups_move_their_own():
    # ranks 0 and 1 both hold expert 0; rank 2 fetches it once in each of two layers: one copy from each
    old, new = (
        placed([0, 1, 0, 2, 1, 2], [0, 1, 0, 2, 1, 2], ranks=3),
        placed([0, 1, 0, 2, 1, 0], [0, 1, 0, 2, 1, 0], ranks=3),
    )
    assert moved_experts(old, new).tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    both = moved_experts(placed([0, 1], groups=2), placed([1, 0], groups=2))
    assert both.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_ranks_are_renamed_so_that_nothing_moves_that_need_not():
    old = placed([0, 1, 2, 3], [0, 1, 2, 3])
    renamed = keep_in_place(old, placed([2, 3, 0, 1], [3, 1, 0, 2]))
    # layer 1: (3, 1 | 0, 2) shares one expert either way; two move
    assert renamed.physical_to_logical_map[0].tolist() == [0, 1, 2, 3]
    assert moved_experts(old, renamed).sum() == 2
