from __future__ import annotations

import math

import numpy as np
import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.files import Document
from smoes_sim.network import Flows, Network, lower_bound, phases_of
from smoes_sim.network.fifo import TCP_WINDOW, MessageTimes, fifo_times
from smoes_sim.network.packet import packet_exchange_time, packet_times
from smoes_sim.topology import Topology, build
from smoes_sim.topology.shipped import TopologyFile

MIB = 1 << 20
PACKET = 8940


def topology(text: str) -> Topology:
    return build(Document(text, name="test").validate(TopologyFile).root, name="test")


def star(ranks: int, *, bandwidth: str = "1 GB/s", latency: str = "1 us") -> Topology:
    return topology(f"kind: star\nranks: {ranks}\nlink: {{bandwidth: {bandwidth}, latency: {latency}}}\n")


def send(network: Network, pairs: list[tuple[int, int]], sizes: list[float], **settings: object) -> MessageTimes:
    source, destination = np.array(pairs).T
    flows = network.messages(source, destination, np.array(sizes, dtype=np.float64))
    return packet_times(network, [flows], **{"packet": 1e3, "window": math.inf, **settings})


def test_one_message_is_stored_and_forwarded() -> None:
    # 10.5 kB at 1 GB/s leave in 10.5 us; the last half packet takes 0.5 us more and waits 0.5 us for the full one ahead
    result = send(Network(topology=star(2)), [(0, 1)], [10.5e3])
    np.testing.assert_allclose(result.sent, [10.5e-6], rtol=1e-12)
    np.testing.assert_allclose(result.arrived, [13.5e-6], rtol=1e-12)
    assert result.num_events == 11


def test_two_messages_into_one_port_take_turns_by_packet() -> None:
    # both start at 0; the port forwards from 2 us on, alternately, 200 packets of 1 us each
    result = send(Network(topology=star(3)), [(0, 1), (2, 1)], [1e5, 1e5])
    np.testing.assert_allclose(result.arrived, [202e-6, 203e-6])


def test_injection_in_order_and_in_turns() -> None:
    network = Network(topology=star(3))
    for injection, sent in (("fifo", [100e-6, 200e-6]), ("round_robin", [199e-6, 200e-6])):
        np.testing.assert_allclose(send(network, [(0, 1), (0, 2)], [1e5, 1e5], injection=injection).sent, sent)


def test_the_rest_waits_for_the_answer() -> None:
    # as in test_fifo: 2 packets by 2 us, the first is there at 4 us, its answer back at 6 us, 8 packets more
    result = send(Network(topology=star(2)), [(0, 1)], [1e4], window=2e3)
    np.testing.assert_allclose([*result.sent, *result.arrived], [14e-6, 17e-6])


def test_the_answer_waits_behind_data() -> None:
    # as in test_fifo: 64 B behind 20 kB of the receiver, back at 22.128 us
    pairs = [(0, 1), (1, 0), *((1, peer) for peer in range(2, 11))]
    result = send(Network(topology=star(11)), pairs, [1e4, *[2e3] * 10], window=2e3)
    assert result.sent[0] == pytest.approx(30.128e-6)


def test_phases_and_overheads() -> None:
    # 2 us a message. 0 -> 1 leaves from 2 to 102 us and is there at 103 us (no latency); 1 -> 2 leaves from 105 us on
    network = Network(topology=star(3, latency="0 us"), per_message=2e-6)
    matrices = [np.zeros((3, 3)), np.zeros((3, 3))]
    matrices[0][0, 1] = matrices[1][1, 2] = 1e5
    result = packet_times(network, phases_of(network, matrices), packet=1e3, window=math.inf)
    np.testing.assert_allclose(result.sent, [102e-6, 205e-6])


def test_links_that_are_not_shared_cost_their_own_rate() -> None:
    network = Network(topology=topology(
        "kind: graph\ndevices: [a, b]\nlinks:\n"
        "  - {from: a, to: b, bandwidth: 1 GB/s, latency: 1 us, sharing: fatpipe}\n"
    ))
    result = send(network, [(0, 1), (0, 1)], [1e6, 1e6])
    np.testing.assert_allclose(result.arrived, [1.001e-3, 1.001e-3])


def random_case(seed: int) -> tuple[Network, list[Flows]]:
    rng = np.random.default_rng(seed)
    wires = [
        star(5, bandwidth="50 GB/s"),
        topology(
            "kind: two_level\nnodes: 2\nranks_per_node: 3\n"
            "scale_up: {kind: nvlink, bandwidth: 450 GB/s, latency: 1 us}\n"
            "nic: {kind: nic, bandwidth: 50 GB/s, latency: 1 us}\n"
        ),
        topology("{kind: torus, shape: [3, 2], link: {bandwidth: 50 GB/s, latency: 1 us}}"),
    ][seed % 3]
    network = Network(
        topology=wires, per_message=float(rng.choice([0.0, 3e-7])), per_exchange=float(rng.choice([0.0, 4e-6]))
    )
    shape = (wires.num_ranks, wires.num_ranks)
    stages = [rng.integers(1, 400_000, shape) * (rng.random(shape) < 0.8) for _ in range(1 + seed % 2)]
    order = ["naive", "shifted", "rail", "random"][seed % 4]
    schedule = ["direct", "pairwise", "two_hop", "hierarchical"][seed % 4] if len(stages) == 1 else "direct"
    return network, phases_of(network, stages, schedule=schedule, order=order)


DIFF = []


@pytest.mark.parametrize("injection", ["fifo", "round_robin"])
@pytest.mark.parametrize("seed", range(36))
def test_fifo_with_a_packet_per_chunk_agrees(seed: int, injection: str) -> None:
    network, phases = random_case(seed)
    for window in (math.inf, TCP_WINDOW):
        slow = packet_times(network, phases, window=window, injection=injection)
        fast = fifo_times(network, phases, window=window, injection=injection, chunk=PACKET, compiled=False)
        DIFF.append((seed, injection, window, abs(slow.arrived.max() / fast.arrived.max() - 1), np.abs(slow.arrived / fast.arrived - 1).max()))
        print(DIFF[-1])
        assert slow.arrived.max() >= lower_bound(network, phases) * (1 - 1e-9)
