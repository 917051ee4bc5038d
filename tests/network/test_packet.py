from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from build_from import EVERY_KIND, graph, topology
from build_from import star as wired_star
from test_fifo import KINDS, random_case, two_nodes, uniform

from smoes_sim.errors import ConfigError
from smoes_sim.network import Flows, Network, exchange_time, phases_of
from smoes_sim.network.fifo.exchange import TCP_WINDOW, MessageTimes, fifo_exchange_time, fifo_times
from smoes_sim.network.packet import packet_exchange_time, packet_times
from smoes_sim.topology import Topology

MIB = 1 << 20
PACKET = 8940


def star(ranks: int, *, latency: str = "1 us") -> Topology:
    return topology(wired_star(ranks, bandwidth="1 GB/s", latency=latency))


def send(network: Network, pairs: list[tuple[int, int]], sizes: list[float], **settings: object) -> MessageTimes:
    source, destination = np.array(pairs).T
    flows = network.messages(source, destination, np.array(sizes, dtype=np.float64))
    return packet_times(network, [flows], **{"packet": 1e3, "window": math.inf, **settings})


def test_one_message_is_stored_and_forwarded() -> None:
    # 10.5 kB at 1 GB/s leave in 10.5 us; the last half packet takes 0.5 us more and waits 0.5 us for the full one ahead
    result = send(Network.on(star(2)), [(0, 1)], [10.5e3])
    np.testing.assert_allclose(result.sent, [10.5e-6], rtol=1e-12)
    np.testing.assert_allclose(result.arrived, [13.5e-6], rtol=1e-12)
    assert result.num_events == 11


def test_two_messages_into_one_port_take_turns_by_packet() -> None:
    # both start at 0; the port forwards from 2 us on, alternately, 200 packets of 1 us each
    result = send(Network.on(star(3)), [(0, 1), (2, 1)], [1e5, 1e5])
    np.testing.assert_allclose(result.arrived, [202e-6, 203e-6])


def test_injection_in_order_and_in_turns() -> None:
    network = Network.on(star(3))
    for injection, sent in (("fifo", [100e-6, 200e-6]), ("round_robin", [199e-6, 200e-6])):
        np.testing.assert_allclose(send(network, [(0, 1), (0, 2)], [1e5, 1e5], injection=injection).sent, sent)


def test_the_rest_waits_for_the_answer() -> None:
    # as in test_fifo: 2 packets by 2 us, the first is there at 4 us, its answer back at 6 us, 8 packets more
    result = send(Network.on(star(2)), [(0, 1)], [1e4], window=2e3)
    np.testing.assert_allclose([*result.sent, *result.arrived], [14e-6, 17e-6])


def test_the_answer_waits_behind_data() -> None:
    # as in test_fifo: 64 B behind 20 kB of the receiver, back at 22.128 us
    pairs = [(0, 1), (1, 0), *((1, peer) for peer in range(2, 11))]
    result = send(Network.on(star(11)), pairs, [1e4, *[2e3] * 10], window=2e3)
    assert result.sent[0] == pytest.approx(30.128e-6)


def test_phases_and_overheads() -> None:
    # 2 us a message. 0 -> 1 leaves from 2 to 102 us and is there at 103 us (no latency); 1 -> 2 leaves from 105 us on
    network = Network.on(star(3, latency="0 us"), per_message=2e-6)
    matrices = [np.zeros((3, 3)), np.zeros((3, 3))]
    matrices[0][0, 1] = matrices[1][1, 2] = 1e5
    result = packet_times(network, phases_of(network, matrices), packet=1e3, window=math.inf)
    np.testing.assert_allclose(result.sent, [102e-6, 205e-6])


def test_links_that_are_not_shared_cost_their_own_rate() -> None:
    network = Network.on(topology(graph("a, b", "a b, latency: 1 us, sharing: fatpipe")))
    result = send(network, [(0, 1), (0, 1)], [1e6, 1e6])
    np.testing.assert_allclose(result.arrived, [1.001e-3, 1.001e-3])


@pytest.mark.parametrize("injection", ["fifo", "round_robin"])
@pytest.mark.parametrize("seed", range(2 * len(KINDS)))
def test_fifo_with_a_packet_per_chunk_is_the_same(seed: int, injection: str) -> None:
    # Two programs, one model. Capacities and latencies are drawn so that nothing happens at the same time, except for one
    # thing: answers come back in the rhythm of the sender's own packets, so that the rest of a message may join the queue
    # at the very instant of a turn; it then goes before or after the message whose turn it is, a packet per phase.
    network, phases = untied(seed, *random_case(seed))
    for window in (math.inf, TCP_WINDOW):
        slow = packet_times(network, phases, window=window, injection=injection)
        fast = fifo_times(network, phases, window=window, injection=injection, chunk=PACKET, compiled=False)
        may_swap = injection == "round_robin" and window == TCP_WINDOW
        tolerance = {"rtol": 1e-9, "atol": 4 * PACKET / network.capacity.min() if may_swap else 0.0}
        np.testing.assert_allclose(slow.sent, fast.sent, **tolerance)
        np.testing.assert_allclose(slow.arrived, fast.arrived, **tolerance)


def untied(seed: int, network: Network, phases: list[Flows]) -> tuple[Network, list[Flows]]:
    """The same exchange with every link up to 1% slower."""
    rng, wires = np.random.default_rng(seed), network.topology
    wires = replace(
        wires,
        link_bandwidth=wires.link_bandwidth * rng.uniform(0.99, 1, wires.num_links),
        link_latency=wires.link_latency * rng.uniform(0.99, 1, wires.num_links),
    )
    network = replace(network, topology=wires)
    return network, [
        replace(
            network.messages(flows.source, flows.destination, flows.size), after=flows.after, after_sent=flows.after_sent
        )
        for flows in phases
    ]


@pytest.mark.parametrize("seed", range(2 * len(KINDS), 3 * len(KINDS)))
def test_ties_move_the_end_little(seed: int) -> None:
    # Equal links: what happens at one instant is ordered by kind and message in fifo, by who asked first here.
    network, phases = random_case(seed)
    for injection in ("fifo", "round_robin"):
        slow = packet_exchange_time(network, phases, injection=injection)
        fast = fifo_exchange_time(network, phases, injection=injection, chunk=PACKET, compiled=False)
        assert slow.duration == pytest.approx(fast.duration, rel=0.02)
        assert slow.duration >= slow.bound * (1 - 1e-9)


def test_a_large_case_is_refused() -> None:
    # 15 x 16 messages of 64 MiB, 7507 packets each, over 2 links
    network = Network.on(star(16))
    with pytest.raises(ConfigError, match=r"fidelity packet: 3.6e\+06 packets would cross links, .* Use fidelity fifo"):
        packet_exchange_time(network, phases_of(network, [uniform(16, 64 * MIB)]))


def test_settings_without_meaning_are_refused() -> None:
    network = Network.on(star(2))
    with pytest.raises(ConfigError, match="window = 0 bytes"):
        send(network, [(0, 1)], [1.0], window=0)


# order, injection: fluid, fifo and packet over the port bound; docs/explanation/models.md, Packet
LEVELS = {
    ("naive", "fifo"): (1.012, 1.849, 1.849),
    ("naive", "round_robin"): (1.012, 1.024, 1.024),
    ("rail", "fifo"): (1.012, 1.026, 1.026),
}


@pytest.mark.parametrize(("order", "injection"), LEVELS)
def test_where_fluid_fifo_and_packet_differ(order: str, injection: str) -> None:
    # two nodes of 8 ranks with a NIC each, 1 MiB a pair: 8 MiB through every NIC
    network = Network.on(two_nodes())
    phases = phases_of(network, [uniform(16, MIB)], order=order)
    durations = (
        exchange_time(network, phases).duration,
        fifo_exchange_time(network, phases, injection=injection, chunk=PACKET).duration,
        packet_exchange_time(network, phases, injection=injection).duration,
    )
    np.testing.assert_allclose(np.array(durations) / (8 * MIB / 50e9), LEVELS[order, injection], atol=0.002)


def test_split_routes_are_refused() -> None:
    network = Network.on(topology(EVERY_KIND["rail_optimized"] + "routing: split\n"))
    phases = phases_of(network, [uniform(8, 1e3)])
    for simulate in (fifo_exchange_time, packet_exchange_time):
        with pytest.raises(ConfigError, match="routing: split in the topology needs fidelity fluid"):
            simulate(network, phases)
