"""Small messages do not reach the full rate: size * (1 + (half_size / message) ** curve)."""

import numpy as np
import pytest
import simpy
from build_from import NODES, star, topology

from smoes_sim.network import Engine, Network, exchange_time, phases_of
from smoes_sim.network.fifo.exchange import fifo_exchange_time
from smoes_sim.traffic.skewed import uniform_matrix

FOUR = topology(star(4, bandwidth="1 GB/s", latency="0 us"))
KIND = FOUR.link_kinds[0]


def network(**constants: object) -> Network:
    return Network.on(FOUR, **constants)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["direct", "pairwise"])
def test_half_of_the_rate_at_the_half_size(schedule: str) -> None:
    # 3 messages of 1 MB at 1 GB/s take 3 ms, at half of that rate 6 ms, whatever the exponent
    matrix = uniform_matrix(4, 4e6)
    for curve in (0.5, 1.0):
        slow = network(half_size={KIND: 1e6}, curve=curve)
        assert exchange_time(slow, phases_of(slow, [matrix], schedule=schedule)).duration == pytest.approx(6e-3)


def test_the_exponent_says_how_slowly_the_rate_is_reached() -> None:
    # messages of 16 half sizes: 1 + 1/4 with exponent 0.5, 1 + 1/16 with exponent 1
    matrix = uniform_matrix(4, 4e6)
    for curve, factor in ((0.5, 1.25), (1.0, 1.0625)):
        slow = network(half_size={KIND: 1e6 / 16}, curve=curve)
        assert exchange_time(slow, phases_of(slow, [matrix])).duration == pytest.approx(3e-3 * factor)


def test_exponent_one_is_a_fixed_time_per_message() -> None:
    # 3 messages a rank, each as long as 1 kB more: 3 * 1 us at 1 GB/s
    slow = network(half_size={KIND: 1e3}, curve=1.0)
    for size in (4e5, 4e7):
        matrix = uniform_matrix(4, size)
        difference = exchange_time(slow, phases_of(slow, [matrix])).duration - size * 0.75 / 1e9
        assert difference == pytest.approx(3e-6)


def test_only_the_kind_that_is_narrowest_on_the_way_counts() -> None:
    nodes = topology(NODES)
    narrow, wide = (
        Network.on(nodes, half_size={"infiniband": 1e6}),
        Network.on(nodes, half_size={"nvlink": 1e6}),
    )
    source, destination = np.array([0, 0]), np.array([1, nodes.num_ranks - 1])
    flows = Network.on(nodes).messages(source, destination, np.array([1e6, 1e6]))
    assert narrow.sized(flows).size.tolist() == [1e6, 2e6]
    assert wide.sized(flows).size.tolist() == [2e6, 1e6]


def test_fifo_and_the_clock_see_it_too_and_bytes_stay_bytes() -> None:
    matrix = uniform_matrix(4, 4e6)
    slow = network(half_size={KIND: 1e6})
    phases = phases_of(slow, [matrix])
    assert fifo_exchange_time(slow, phases, window=float("inf")).duration == pytest.approx(6e-3, rel=0.01)
    engine = Engine(simpy.Environment(), slow, phases)
    opened = engine.open_all(phases[:1])[0]
    assert opened.bytes_sent.tolist() == [3e6] * 4
    assert opened.flows.size.sum() == pytest.approx(2 * 12e6)


def test_low_latency_messages_are_those_of_one_copy() -> None:
    slow = network(half_size={KIND: 1e4}, curve=1.0)
    (flows,) = phases_of(slow, [uniform_matrix(4, 4e6)], schedule="low_latency", message_size=1e4)
    assert slow.sized(flows).size.sum() == pytest.approx(2 * 12e6)
