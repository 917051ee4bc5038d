from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoes_sim.placement.eplb import add_replicas, balance, pack, replicate

# deepseek-ai/EPLB, README, "Interface and Example": two layers of 12 experts in 4 groups, 16 slots, 2 nodes of 4 devices
LOADS = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
PUBLISHED = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


@pytest.mark.parametrize(("loads", "published"), [(LOADS[0], PUBLISHED[0]), (LOADS[1], PUBLISHED[1])])
def test_the_published_example_comes_out_slot_by_slot(loads, published):
    assert balance(np.array(loads), num_slots=16, num_ranks=8, num_nodes=2, num_groups=4).tolist() == published


@pytest.mark.parametrize(("nodes", "groups"), [(2, 1), (2, 3), (1, 4)])
def test_where_nodes_do_not_divide_groups_or_are_one_the_whole_system_is_balanced(nodes, groups):
    here = balance(np.array(LOADS[0]), num_slots=16, num_ranks=8, num_nodes=nodes, num_groups=groups)
    if nodes > 1:
        assert here.tolist() == balance(np.array(LOADS[0]), num_slots=16, num_ranks=8).tolist()
    assert set(here.tolist()) == set(range(12))


def test_groups_stay_on_their_node():
    row = balance(np.array(LOADS[0]), num_slots=16, num_ranks=8, num_nodes=2, num_groups=4)
    first, second = ({expert // 3 for expert in half.tolist()} for half in row.reshape(2, 8))
    assert not first & second


def test_six_slots_by_hand():
    # copies of 0 carry 4/3 each; heaviest first: 1 (2) | 0 (4/3); 0 | -> the lighter; ... 13/3 and 11/3
    assert balance(np.array([4, 2, 1, 1]), num_slots=6, num_ranks=2).tolist() == [1, 0, 3, 0, 0, 2]


def test_packing_takes_the_heaviest_first_and_the_lightest_pack_that_has_room():
    assert pack(np.array([5.0, 4, 3, 3, 2, 1]), num_packs=2) == [[0, 3, 5], [1, 2, 4]]
    assert pack(np.array([1.0, 9, 4]), num_packs=3) == [[0], [1], [2]]


def test_the_busiest_copy_is_copied_next():
    assert replicate(np.array([4.0, 2, 1]), num_slots=5).tolist() == [0, 1, 2, 0, 0]


def test_replicas_of_bins_go_to_the_lighter_rank_that_lacks_them():
    # loads 6, 2 | 1, 1: expert 0 to the second rank (5 | 5); the first, alone free, gets 2 as it has 1
    assert add_replicas(np.array([[0, 1], [2, 3]]), np.array([6, 2, 1, 1]), slots=3).tolist() == [[0, 1, 2], [2, 3, 0]]


def test_of_several_ranks_that_lack_the_busiest_expert_the_least_loaded_gets_it():
    # loads 100, 1 | 60, 1 | 1, 1 | 20, 20. Expert 0 (100) goes to the third rank (load 2, not 61 or 40). Then 2 (60 against
    # 50 per copy of 0) to the fourth (40, not 51); then 0 (50) to the second, and 2 (30) to the first, which has 0.
    base, loads = np.arange(8).reshape(4, 2), np.array([100, 1, 60, 1, 1, 1, 20, 20])
    assert add_replicas(base, loads, slots=3).tolist() == [[0, 1, 2], [2, 3, 0], [4, 5, 0], [6, 7, 2]]


@settings(deadline=None, max_examples=40)
@given(loads=st.lists(st.integers(0, 100), min_size=12, max_size=12), spare=st.integers(0, 9))
def test_bins_stay_and_no_rank_holds_an_expert_twice(loads, spare):
    base = np.arange(12).reshape(4, 3)
    filled = add_replicas(base, np.array(loads), slots=base.shape[1] + spare)
    assert filled.shape == (4, 3 + spare)
    assert np.array_equal(filled[:, :3], base)
    assert all(len(set(row)) == 3 + spare for row in filled.tolist())
