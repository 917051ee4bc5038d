"""gloo's ``all_to_all_single``: a pair of ranks works in one direction at a time."""

import numpy as np
import pytest
from build_from import star, topology

from smoes_sim.network import Network, exchange_time, phases_of


def network(num_ranks: int) -> Network:
    return Network.on(topology(star(num_ranks, bandwidth="1 GB/s", latency="0 us")))


def duration(matrix: np.ndarray) -> float:
    net = network(len(matrix))
    return exchange_time(net, phases_of(net, [matrix], schedule="all_to_all_single")).duration


def test_two_ranks_take_turns() -> None:
    # 1 MB there and 2 MB back, one after the other
    assert duration(np.array([[0.0, 1e6], [2e6, 0.0]])) == pytest.approx(3e-3)


def test_the_shorter_way_round_goes_first() -> None:
    # rank 1 to 2 is one step, 2 to 1 is two: 2 to 1 waits 1 ms for 1 to 2
    matrix = np.zeros((3, 3))
    matrix[1, 2], matrix[2, 1] = 1e6, 2e6
    assert duration(matrix) == pytest.approx(3e-3)
    net = network(3)
    first, second = phases_of(net, [matrix], schedule="all_to_all_single")
    assert (first.source.tolist(), second.source.tolist()) == ([1], [2])
    assert (first.after, second.after) == (-1, 0)


def test_one_way_traffic_does_not_wait() -> None:
    matrix = np.zeros((4, 4))
    matrix[3, 0] = matrix[2, 0] = 1e6
    assert duration(matrix) == pytest.approx(2e-3)


def test_even_blocks_with_an_odd_number_of_ranks_lose_nothing() -> None:
    # every port is full in both halves: 4 blocks of 1 MB at 1 GB/s
    assert duration(np.full((5, 5), 1e6)) == pytest.approx(4e-3)


def test_every_block_travels_once() -> None:
    matrix = np.random.default_rng(0).integers(0, 9, (6, 6)).astype(float)
    total = np.zeros((6, 6))
    for flows in phases_of(network(6), [matrix], schedule="all_to_all_single"):
        np.add.at(total, (flows.source, flows.destination), flows.size)
    np.fill_diagonal(matrix, 0.0)
    assert total.tolist() == matrix.tolist()


def test_a_second_stage_comes_after_the_first() -> None:
    net = network(3)
    stages = [np.full((3, 3), 1e6)] * 2
    assert exchange_time(net, phases_of(net, stages, schedule="all_to_all_single")).duration == pytest.approx(4e-3)
