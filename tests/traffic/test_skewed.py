"""Skewed traffic matrices are what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoes_sim.errors import ConfigError, PlacementError, TraceError
from smoes_sim.routing import RoutingTrace
from smoes_sim.traffic.skewed import (
    full_workload_name,
    lognormal_matrix,
    read_matrix,
    trace_matrix,
    uniform_matrix,
    workload_matrix,
    workload_names,
    zipf_matrix,
)

SIZE = 64 * 2**20


def trace(expert_ids, sequence_id, *, num_experts=4):
    T = len(expert_ids)
    return RoutingTrace(
        expert_ids=np.array(expert_ids, dtype=np.int16).reshape(T, 1, -1),
        modality=np.zeros(T, dtype=np.uint8),
        sequence_id=np.array(sequence_id, dtype=np.int32),
        phase=np.zeros(T, dtype=np.uint8),
        moe_layers=np.zeros(1, dtype=np.int32),
        num_experts=num_experts,
    )


def test_uniform_blocks_are_equal():
    assert np.array_equal(uniform_matrix(4, SIZE), np.full((4, 4), 16 * 2**20))


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("per_source", [False, True])
def test_the_exponent_of_zipf_is_recovered(exponent, per_source):
    matrix = zipf_matrix(32, SIZE, exponent=exponent, seed=3, per_source=per_source)
    assert matrix.sum(axis=1) == pytest.approx(np.full(32, SIZE), rel=1e-12)
    for row in matrix:
        shares = np.sort(row)[::-1]
        slope = np.polyfit(np.log(np.arange(1, 33)), np.log(shares), 1)[0]
        assert slope == pytest.approx(-exponent, abs=1e-9)
    assert (len(np.unique(matrix, axis=0)) > 1) == (per_source and exponent > 0)


def test_zipf_of_four_ranks_by_hand():
    # 1 + 1/2 + 1/3 + 1/4 = 25/12
    row = zipf_matrix(4, 25.0, exponent=1.0, seed=0, per_source=False)[0]
    assert sorted(row, reverse=True) == pytest.approx([12, 6, 4, 3], rel=1e-12)


@pytest.mark.parametrize("sigma", [0.25, 1.0])
def test_the_spread_of_a_lognormal_is_recovered(sigma):
    # the standard deviation of 2,000 draws is known to 1 / sqrt(4000) = 1.6%
    matrix = lognormal_matrix(2000, SIZE, sigma=sigma, seed=1)
    assert np.std(np.log(matrix[0])) == pytest.approx(sigma, rel=0.06)
    assert np.array_equal(matrix, np.broadcast_to(matrix[0], matrix.shape))
    assert matrix[0].sum() == pytest.approx(SIZE, rel=1e-12)


def test_a_huge_spread_sends_everything_to_one_rank():
    matrix = lognormal_matrix(8, SIZE, sigma=1e6, seed=0)
    assert sorted(matrix[0]) == pytest.approx([0] * 7 + [SIZE])


@given(
    name=st.sampled_from(workload_names()),
    num_ranks=st.integers(1, 40),
    seed=st.integers(0, 99),
    step=st.integers(0, 30),
    size=st.floats(1, 1e12),
)
def test_the_mean_rank_of_every_workload_sends_the_size(name, num_ranks, seed, step, size):
    matrix = workload_matrix(name, num_ranks, size, seed=seed, step=step)
    assert (matrix >= 0).all()
    assert matrix.sum() == pytest.approx(num_ranks * size, rel=1e-9)
    if name != "W4_source_ragged":
        assert matrix.sum(axis=1) == pytest.approx(np.full(num_ranks, size), rel=1e-9)
    doubled = workload_matrix(name, num_ranks, 2 * size, seed=seed, step=step)
    assert doubled == pytest.approx(2 * matrix, rel=1e-9)
    assert np.array_equal(matrix, workload_matrix(name, num_ranks, size, seed=seed, step=step))


def received(name, *, num_ranks=16, seed=5, step=0):
    """Bytes that each rank receives, in units of the smallest that is not 0."""
    columns = workload_matrix(name, num_ranks, SIZE, seed=seed, step=step).sum(axis=0)
    return columns / columns[columns > 0].min()


def test_w0_is_balanced():
    assert np.ptp(workload_matrix("W0", 16, SIZE, seed=0)) == 0


def test_w1_heats_experts_side_by_side():
    # 16 ranks of 8 experts: 8 hot ones, 4 times as hot, in a row: at most 2 ranks hold them. A rank with h of them gets
    # 8 + 3 h, a rank without 8
    for seed in range(20):
        hot = (received("W1", seed=seed) * 8 - 8) / 3
        assert hot.sum() == pytest.approx(8)
        assert 1 <= (hot > 1e-9).sum() <= 2


def test_w3_heats_as_many_experts_apart():
    # the same 8 hot experts, 16 apart: one on every second rank, which gets 11 to the others' 8
    assert np.sort(received("W3")) == pytest.approx([1] * 8 + [11 / 8] * 8)


def test_w2_has_one_rank_that_gets_four_times_as_much():
    assert np.sort(received("W2")) == pytest.approx([1] * 15 + [4])


def test_w4_has_sources_up_to_four_times_as_busy_as_others():
    matrix = workload_matrix("W4", 16, SIZE, seed=0)
    assert np.ptp(matrix, axis=1) == pytest.approx(np.zeros(16))
    sends = matrix.sum(axis=1)
    assert 1.5 < sends.max() / sends.min() <= 4
    assert sends.mean() == pytest.approx(SIZE)


@pytest.mark.parametrize(("num_ranks", "idle"), [(1, 0), (2, 1), (4, 1), (16, 4)])
def test_w5_leaves_a_quarter_of_the_ranks_without_experts(num_ranks, idle):
    columns = received("W5", num_ranks=num_ranks)
    assert (columns == 0).sum() == idle
    assert columns[columns > 0] == pytest.approx(np.ones(num_ranks - idle))


def test_w6_moves_its_hot_rank_by_one_each_step():
    hot = [int(received("W6", step=step).argmax()) for step in range(20)]
    assert [(later - hot[0]) % 16 for later in hot] == [step % 16 for step in range(20)]


def test_w7_bursts_in_every_tenth_step():
    peaks = [received("W7", step=step).max() for step in range(21)]
    assert peaks == pytest.approx([4 if step % 10 == 0 else 1 for step in range(21)])


def test_the_seed_decides_which_rank_is_hot():
    assert len({int(received("W2", seed=seed).argmax()) for seed in range(40)}) > 8


def test_a_workload_has_a_short_name():
    assert [full_workload_name(f"W{number}") for number in range(8)] == workload_names()
    assert [full_workload_name(name) for name in workload_names()] == workload_names()
    with pytest.raises(ConfigError, match=r'workload = "W2_hot_rnk" is unknown\. Did you mean "W2_hot_rank"\?'):
        full_workload_name("W2_hot_rnk")


def test_a_trace_keeps_its_proportions():
    # experts 0, 1 on rank 0 and 2, 3 on rank 1; sequence 0 on rank 0 sends 1 copy to itself and 2 to rank 1, sequence 1
    # sends 1 to rank 0: 4 copies, scaled to 100 B a rank on average
    matrix = trace_matrix(trace([0, 2, 3, 1], [0, 0, 0, 1]), 2, 100.0)
    assert matrix == pytest.approx(np.array([[50, 100], [50, 0]]))


def test_a_trace_must_fit_the_ranks():
    with pytest.raises(PlacementError, match="4 experts leave some of the 6 ranks of an EP group without one"):
        trace_matrix(trace([0, 2], [0, 1]), 6, 100.0)


def test_a_trace_without_any_expert_has_no_proportions():
    with pytest.raises(TraceError, match="no token goes to any expert"):
        trace_matrix(trace([-1, -1], [0, 1]), 2, 100.0)


def test_a_matrix_file_is_read_as_it_is_written(tmp_path):
    path = tmp_path / "matrix.txt"
    path.write_text("0 1.5 2e3\n\n3 4 5\n6 7 8\n")
    assert np.array_equal(read_matrix(path, 3), [[0, 1.5, 2000], [3, 4, 5], [6, 7, 8]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is 0 x 0, the topology has 2 ranks: it must be 2 x 2"),
        ("1 2\n3\n", "is 2 x 1/2, the topology has 2 ranks"),
        ("1 2\n3 x\n", r'matrix\.txt:2: "x" is not a number of bytes >= 0'),
        ("1 2\n3 inf\n", r'matrix\.txt:2: "inf" is not'),
    ],
)
def test_a_broken_matrix_file_says_where(tmp_path, text, message):
    (tmp_path / "matrix.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_matrix(tmp_path / "matrix.txt", 2)
