from __future__ import annotations

import numpy as np
import pytest
from build_from import NODES, star, topology
from hypothesis import given
from hypothesis import strategies as st

from smoes_sim.network import Network, phases_of

FOUR = Network.on(topology(star(4)))
TWO_BY_TWO = Network.on(topology(NODES.replace("ranks_per_node: 4", "ranks_per_node: 2")))
NUMBERED = np.arange(16.0).reshape(4, 4) + 1
"""Block (i, j) has 4 i + j + 1 bytes, so its size says which block a message carries."""


def queue(phase, rank):
    """Whom a rank sends to, in the order in which it posts."""
    return phase.destination[phase.source == rank].tolist()


def queues(network, order, **options):
    (phase,) = phases_of(network, [np.ones((4, 4))], order=order, **options)
    return [queue(phase, rank) for rank in range(4)]


def test_naive_order_counts_from_rank_zero():
    assert queues(FOUR, "naive") == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_shifted_order_starts_at_the_next_rank():
    assert queues(FOUR, "shifted") == [[1, 2, 3], [2, 3, 0], [3, 0, 1], [0, 1, 2]]


def test_rail_order_goes_to_the_own_node_first_then_to_the_own_index_of_the_next():
    # ranks 0 1 | 2 3: rank 1 has index 1, so in node 1 it begins with rank 3; rank 3 begins node 0 with rank 1
    assert queues(TWO_BY_TWO, "rail") == [[1, 2, 3], [0, 3, 2], [3, 0, 1], [2, 1, 0]]


def test_random_order_depends_on_the_seed_alone():
    first, again, other = (queues(FOUR, "random", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [sorted(ranks) for ranks in first] == queues(FOUR, "naive")


def test_direct_posts_every_block_of_a_stage_in_one_phase():
    (phase,) = phases_of(FOUR, [NUMBERED])
    assert len(phase) == 12
    np.testing.assert_array_equal(phase.size, 4 * phase.source + phase.destination + 1)


def test_pairwise_sends_to_the_rank_k_further_on_in_round_k():
    rounds = phases_of(FOUR, [NUMBERED], schedule="pairwise")
    assert len(rounds) == 3
    for step, phase in enumerate(rounds, start=1):
        assert phase.source.tolist() == [0, 1, 2, 3]
        assert phase.destination.tolist() == [(rank + step) % 4 for rank in range(4)]
        np.testing.assert_array_equal(phase.size, 4 * phase.source + phase.destination + 1)


def test_stages_follow_each_other_and_pairwise_rounds_stay_within_theirs():
    assert [len(phase) for phase in phases_of(FOUR, [NUMBERED, np.eye(4, k=1)])] == [12, 3]
    rounds = phases_of(FOUR, [NUMBERED, np.eye(4, k=1)], schedule="pairwise")
    assert [len(phase) for phase in rounds] == [4, 4, 4, 3, 0, 0]


def test_local_and_empty_blocks_are_no_messages():
    assert [len(phase) for phase in phases_of(FOUR, [np.diag([1.0, 2.0, 3.0, 4.0])])] == [0]
    (phase,) = phases_of(FOUR, [np.array([[9, 0, 5, 0], [0, 9, 0, 0], [0, 0, 9, 0], [7, 0, 0, 9]])])
    assert list(zip(phase.source.tolist(), phase.destination.tolist(), phase.size.tolist(), strict=True)) == [
        (0, 2, 5.0),
        (3, 0, 7.0),
    ]


@given(
    matrix=st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=4, max_size=4),
    schedule=st.sampled_from(["direct", "pairwise"]),
    order=st.sampled_from(["naive", "shifted", "rail", "random"]),
)
def test_every_schedule_carries_each_remote_block_once(matrix, schedule, order):
    blocks = np.array(matrix, dtype=float)
    carried = np.zeros((4, 4))
    messages = 0
    for phase in phases_of(TWO_BY_TWO, [blocks], schedule=schedule, order=order):
        assert np.all(np.diff(phase.source) >= 0)  # senders in turn: the engine finds a rank's messages by it
        np.add.at(carried, (phase.source, phase.destination), phase.size)
        messages += len(phase)
    np.fill_diagonal(blocks, 0)
    np.testing.assert_array_equal(carried, blocks)
    assert messages == np.count_nonzero(blocks)


@pytest.mark.parametrize("schedule", ["direct", "pairwise"])
def test_a_single_rank_sends_nothing(schedule):
    network = Network.on(topology(star(1)))
    assert sum(len(phase) for phase in phases_of(network, [np.ones((1, 1))], schedule=schedule)) == 0


@pytest.mark.parametrize("dense", [0.2, 0.8])
def test_shifted_order_starts_at_the_next_rank_whatever_is_sent(dense):
    rng = np.random.default_rng(1)
    matrix = np.where(rng.random((9, 9)) < dense, rng.random((9, 9)), 0.0)
    (flows,) = phases_of(Network.on(topology(star(9))), [matrix])
    expected = [(s, (s + k) % 9) for s in range(9) for k in range(1, 9) if matrix[s, (s + k) % 9]]
    assert list(zip(flows.source.tolist(), flows.destination.tolist(), strict=True)) == expected
    assert flows.size.tolist() == [matrix[pair] for pair in expected]
