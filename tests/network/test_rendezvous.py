"""What messages wait for besides their sender: a receiver that is ready, and what goes before on their connection."""

from __future__ import annotations

import numpy as np
import pytest
from build_from import star, topology

from smoes_sim.network import Network, exchange_time, phases_of

TWO_NODES = """\
kind: two_level
nodes: 2
ranks_per_node: 2
scale_up: {kind: nvlink, bandwidth: 1 GB/s, latency: 0 us}
nic: {kind: infiniband, per: rank, bandwidth: 1 GB/s, latency: 0 us}
"""


def on_star(num_ranks: int, **constants: float) -> Network:
    return Network.on(topology(star(num_ranks, bandwidth="1 GB/s", latency="0 us")), **constants)


def test_a_round_of_pairwise_begins_when_both_sides_have_come_to_it() -> None:
    # round 1: 0 -> 1 in 3 ms; rank 2 has nothing to do in it, but rank 1 does not take its message of round 2 before
    matrix = np.zeros((3, 3))
    matrix[0, 1], matrix[2, 1] = 3e6, 1e6
    network = on_star(3)
    finish = exchange_time(network, phases_of(network, [matrix], schedule="pairwise", rendezvous=True)).finish
    assert finish == pytest.approx([3e-3, 4e-3, 4e-3])


def test_kernels_with_their_own_buffers_do_not_wait() -> None:
    network = on_star(3)
    (flows,) = phases_of(network, [np.ones((3, 3))], schedule="low_latency", rendezvous=True)
    assert flows.rendezvous == "none"


def test_parts_of_a_forwarded_message_go_one_behind_the_other() -> None:
    # 0 -> 3 through rank 2: 8 MB in 8 parts, the first forwarded after 1 ms, the last arrives 1 ms after stage one ends
    matrix = np.zeros((4, 4))
    matrix[0, 3] = 8e6
    network = Network.on(topology(TWO_NODES))
    assert exchange_time(
        network, phases_of(network, [matrix], schedule="two_hop", rendezvous=True)
    ).duration == pytest.approx(9e-3)


def test_jitter_counts_where_several_links_are_loaded_alike() -> None:
    # docstring of Network.straggling: 8 links of 0.1 s, scatter 0.0076 * sqrt(0.1) s
    network = on_star(4, jitter=0.0076)
    even = exchange_time(network, phases_of(network, [np.full((4, 4), 1e8 / 3)])).duration
    assert even == pytest.approx(0.1 + 0.0076 * 0.1**0.5 * np.log(8))
    one_way = np.zeros((4, 4))
    one_way[0, 1] = 1e8
    assert exchange_time(network, phases_of(network, [one_way])).duration == pytest.approx(0.1)


def test_of_one_bottleneck_jitter_takes_the_mean() -> None:
    hot = np.zeros((4, 4))
    hot[1:, 0] = 1e8 / 3
    network = on_star(4, jitter=0.0076)
    assert exchange_time(network, phases_of(network, [hot])).duration == pytest.approx(0.1, rel=1e-6)


def test_jitter_is_the_same_however_the_exchange_is_cut() -> None:
    # pairwise has three phases; its links carry in all what those of one phase carry
    network = on_star(4, jitter=0.0076)
    matrix = np.full((4, 4), 1e8 / 3)
    at_once, in_rounds = (
        exchange_time(network, phases_of(network, [matrix], schedule=name, rendezvous=True))
        for name in ("direct", "pairwise")
    )
    assert in_rounds.duration == pytest.approx(at_once.duration)
