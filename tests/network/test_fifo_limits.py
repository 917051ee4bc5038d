"""FIFO ports at their limits: nothing to send, any size and rate, laws that any answer obeys, settings without meaning."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from build_from import graph, topology
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fifo import MIB, one_message, random_case, star, times, uniform

from smoes_sim.errors import ConfigError
from smoes_sim.network import Network, phases_of
from smoes_sim.network.fifo.exchange import TCP_WINDOW, fifo_exchange_time
from smoes_sim.topology import Topology


def test_nothing_to_send() -> None:
    network = Network.on(star(3), per_exchange=5e-6)
    empty = network.messages(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    assert len(times(network, empty).arrived) == 0
    assert fifo_exchange_time(network, []).duration == 5e-6
    np.testing.assert_array_equal(fifo_exchange_time(network, [empty, empty]).finish, np.full(3, 5e-6))
    assert fifo_exchange_time(Network.on(star(1)), phases_of(Network.on(star(1)), [np.ones((1, 1))])).duration == 0


def test_all_to_one_is_the_port() -> None:
    # 7 x 1 MiB into one port; it waits 1 us and one packet for the first byte, and the last one travels 1 us
    network = Network.on(star(8))
    matrix = np.zeros((8, 8))
    matrix[1:, 0] = MIB
    for injection in ("fifo", "round_robin"):
        result = fifo_exchange_time(network, phases_of(network, [matrix]), injection=injection)
        assert result.duration == pytest.approx(7 * MIB / 50e9 + 2e-6 + 8940 / 50e9, rel=1e-9)


def wired(bandwidth: np.ndarray, latency: np.ndarray) -> Topology:
    """A switch with a link of its own speed and latency for each rank."""
    names = [f"d{rank}" for rank in range(len(bandwidth))]
    links = (
        f"{name} s, bandwidth: {rate!r} B/s, latency: {delay!r} s"
        for name, rate, delay in zip(names, bandwidth.tolist(), latency.tolist(), strict=True)
    )
    return topology(graph(", ".join(names), *links, switches="s"))


@given(
    seed=st.integers(0, 2**32 - 1),
    window=st.sampled_from([math.inf, TCP_WINDOW, 1.0]),
    injection=st.sampled_from(["fifo", "round_robin"]),
    chunk=st.sampled_from([None, 1e15]),
)
@settings(max_examples=60)
def test_any_size_and_rate_ends_between_its_bounds(seed: int, window: float, injection: str, chunk: float | None) -> None:
    # 1e-3 to 1e15 bytes, rates 9 orders apart. Upper bound: one byte after the other, a link at a time
    rng = np.random.default_rng(seed)
    ranks = int(rng.integers(1, 6))
    network = Network.on(wired(10 ** rng.uniform(2, 11, ranks), rng.choice([0.0, 1e-6, 1e-3], ranks)))
    matrix = 10 ** rng.uniform(-3, 15, (ranks, ranks)) * (rng.random((ranks, ranks)) < 0.7)
    phases = phases_of(network, [matrix], schedule=str(rng.choice(["direct", "pairwise"])))
    packet = max(float(matrix.sum()) / 2000, 8940.0)
    result = fifo_exchange_time(
        network, phases, window=window, injection=injection, chunk=chunk, packet=packet, compiled=False
    )
    slowest = sum(
        float(((flows.size + 2 * 64) @ flows.routes.sum_of(2 / network.capacity)) + 3 * flows.latency.sum())
        for flows in phases
    )
    assert result.bound * (1 - 1e-9) <= result.duration <= slowest * (1 + 1e-9)


@given(seed=st.integers(0, 2**32 - 1), injection=st.sampled_from(["fifo", "round_robin"]))
@settings(max_examples=30)
def test_relabelling_ranks_permutes_the_answer(seed: int, injection: str) -> None:
    # the same messages in the same posting order under other names; latencies differ so that nothing happens at once
    rng = np.random.default_rng(seed)
    ranks = 5
    bandwidth, latency = rng.uniform(1e9, 3e9, ranks), rng.uniform(1e-6, 3e-6, ranks)
    source, destination = (rows.ravel() for rows in np.nonzero(~np.eye(ranks, dtype=bool)))
    size = rng.uniform(1e3, 3e5, len(source))
    name = rng.permutation(ranks)
    finish = []
    for new in (np.arange(ranks), name):
        network = Network.on(wired(bandwidth[np.argsort(new)], latency[np.argsort(new)]))
        order = np.argsort(new[source], kind="stable")
        flows = network.messages(new[source][order], new[destination][order], size[order])
        finish.append(fifo_exchange_time(network, [flows], injection=injection, compiled=False).finish[new])
    np.testing.assert_allclose(finish[0], finish[1], rtol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), injection=st.sampled_from(["fifo", "round_robin"]))
@settings(max_examples=20)
def test_bytes_and_bandwidth_scale_together(seed: int, injection: str) -> None:
    # 1024 times the bytes (of packets too) at 1024 times the rate: the same seconds, to the bit; answers left out
    network, phases = random_case(seed)
    faster = replace(network.topology, link_bandwidth=network.topology.link_bandwidth * 1024)
    options = {"window": math.inf, "injection": injection, "compiled": False}
    before = fifo_exchange_time(network, phases, packet=8192, **options)
    larger = [replace(flows, size=flows.size * 1024, ceiling=flows.ceiling * 1024) for flows in phases]
    after = fifo_exchange_time(replace(network, topology=faster), larger, packet=8192 * 1024, **options)
    np.testing.assert_array_equal(before.finish, after.finish)


def test_a_chunk_too_small_for_the_bytes_is_refused() -> None:
    network, flows = one_message(1e15)
    with pytest.raises(ConfigError, match=r"chunk = 65536 bytes: links would serve 3.1e\+10 chunks, at most 2e\+08"):
        times(network, flows, chunk=65536)
    assert times(network, flows).num_events < 10_000_000


def test_links_that_are_not_shared_cost_their_own_rate() -> None:
    # only fatpipe links: 1 MB at 1 GB/s takes 1 ms, whoever else sends
    text = "kind: graph\ndevices: [a, b, c]\nlinks:\n" + "".join(
        f"  - {{from: {a}, to: {b}, bandwidth: 1 GB/s, latency: 1 us, sharing: fatpipe}}\n" for a, b in ("ab", "bc", "ac")
    )
    network = Network.on(topology(text))
    phases = phases_of(network, [uniform(3, 1e6)] * 2)
    result = fifo_exchange_time(network, phases)
    np.testing.assert_allclose(result.finish, 2 * 1.001e-3)


def test_settings_without_meaning_are_refused() -> None:
    network, flows = one_message(1.0)
    with pytest.raises(ConfigError, match="chunk = 0 bytes"):
        times(network, flows, chunk=0)
    with pytest.raises(ConfigError, match="window = -1 bytes"):
        times(network, flows, window=-1)
    with pytest.raises(ConfigError, match='injection = "lifo"'):
        times(network, flows, injection="lifo")
