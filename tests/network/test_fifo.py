from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from build_from import EVERY_KIND, topology

from smoes_sim.network import Flows, Network, exchange_time, lower_bound, phases_of
from smoes_sim.network.fifo.exchange import TCP_WINDOW, MessageTimes, fifo_exchange_time, fifo_times
from smoes_sim.topology import Topology

MIB = 1 << 20
HEADERS = dict.fromkeys(("link", "nvlink", "nic"), 8940 / 8994)  # TCP, IP and PPP headers of a jumbo packet
HANDSHAKE = 4e-6  # one round trip over links of 1 us


def star(ranks: int, *, bandwidth: str = "50 GB/s", latency: str = "1 us") -> Topology:
    return topology(f"kind: star\nranks: {ranks}\nlink: {{bandwidth: {bandwidth}, latency: {latency}}}\n")


def two_nodes(ranks_per_node: int = 8) -> Topology:
    return topology(
        f"kind: two_level\nnodes: 2\nranks_per_node: {ranks_per_node}\n"
        "scale_up: {kind: nvlink, bandwidth: 450 GB/s, latency: 1 us}\n"
        "nic: {kind: nic, bandwidth: 50 GB/s, latency: 1 us}\n"
    )


def uniform(ranks: int, size: float) -> np.ndarray:
    matrix = np.full((ranks, ranks), float(size))
    np.fill_diagonal(matrix, 0.0)
    return matrix


def times(network: Network, flows: Flows, *, window: float = math.inf, **settings: object) -> MessageTimes:
    return fifo_times(network, [flows], window=window, **settings)


def one_message(size: float, *, ranks: int = 2) -> tuple[Network, Flows]:
    network = Network.on(star(ranks, bandwidth="1 GB/s"))
    return network, network.messages(np.array([0]), np.array([1]), np.array([float(size)]))


def test_one_message_cuts_through_packet_by_packet() -> None:
    # 1 MB at 1 GB/s leaves in 1000 us; its last 1 kB packet is sent on in 1 us more; two links of 1 us
    network, flows = one_message(1e6)
    for chunk in (1e3, 1e4, 1e6):
        result = times(network, flows, chunk=chunk, packet=1e3)
        np.testing.assert_allclose(result.sent, [1000e-6], rtol=1e-12)
        np.testing.assert_allclose(result.arrived, [1003e-6], rtol=1e-12)


def test_a_fast_link_behind_a_slow_one_is_not_held_by_a_chunk() -> None:
    # two senders of 1 GB/s into one port of 2 GB/s: both 1 MB messages end with their senders, not one after the other
    network = Network.on(
        topology(
            "kind: graph\ndevices: [a, b, c]\nswitches: [s]\nlinks:\n"
            "  - {from: a, to: s, bandwidth: 1 GB/s}\n  - {from: b, to: s, bandwidth: 1 GB/s}\n"
            "  - {from: c, to: s, bandwidth: 2 GB/s}\n"
        )
    )
    flows = network.messages(np.array([0, 1]), np.array([2, 2]), np.full(2, 1e6))
    result = times(network, flows, chunk=1e4, packet=1e3)
    assert result.arrived.max() == pytest.approx(1e-3, rel=0.01)
    assert result.arrived.max() >= 1e-3


def test_messages_leave_one_behind_the_other() -> None:
    # 1 GB/s, 100 kB to rank 1 and then to rank 2: the second leaves from 100 to 200 us; a packet of 1 us, 2 us of latency
    network = Network.on(star(3, bandwidth="1 GB/s"))
    flows = network.messages(np.array([0, 0]), np.array([1, 2]), np.full(2, 1e5))
    result = times(network, flows, chunk=1e3, packet=1e3)
    np.testing.assert_allclose(result.sent, [100e-6, 200e-6])
    np.testing.assert_allclose(result.arrived, [103e-6, 203e-6])


def test_messages_take_turns() -> None:
    # the same two, a packet each in turn: the first has its last packet out at 199 us, the second at 200 us
    network = Network.on(star(3, bandwidth="1 GB/s"))
    flows = network.messages(np.array([0, 0]), np.array([1, 2]), np.full(2, 1e5))
    result = times(network, flows, chunk=1e3, packet=1e3, injection="round_robin")
    np.testing.assert_allclose(result.sent, [199e-6, 200e-6])
    np.testing.assert_allclose(result.arrived, [202e-6, 203e-6])


def test_receiver_port_is_first_in_first_out() -> None:
    # ranks 0 and 2 send 100 kB to rank 1 at once: its port takes packets in turn from 1+1 us on, 200 us long
    network = Network.on(star(3, bandwidth="1 GB/s"))
    flows = network.messages(np.array([0, 2]), np.array([1, 1]), np.full(2, 1e5))
    result = times(network, flows, chunk=1e3, packet=1e3)
    np.testing.assert_allclose(result.arrived, [202e-6, 203e-6])


def test_the_rest_waits_for_the_answer() -> None:
    # 10 kB with a window of 2 kB: 2 packets leave by 2 us; the first is there at 1+1+1+1 = 4 us, its answer 2 us later
    # (no message goes the other way, so nothing queues); 8 kB leave from 6 to 14 us; the last: 1 us more, 2 us latency
    network, flows = one_message(1e4)
    result = times(network, flows, chunk=1e3, packet=1e3, window=2e3)
    np.testing.assert_allclose(result.sent, [14e-6])
    np.testing.assert_allclose(result.arrived, [17e-6])


def test_the_answer_waits_behind_data() -> None:
    # 10 kB from rank 0 with a window of 2 kB, and 10 messages of 2 kB from rank 1, the first of them to rank 0: these
    # leave by 20 us. The answer (64 B, 0.064 us a link) of rank 1 leaves behind them at 20.064 us and is back at
    # 22.128 us; 8 kB leave by 30.128 us; the last packet takes 1 us more and 2 us of latency
    network = Network.on(star(11, bandwidth="1 GB/s"))
    source, destination = np.array([0, *[1] * 10]), np.array([1, 0, *range(2, 11)])
    flows = network.messages(source, destination, np.array([1e4, *[2e3] * 10]))
    result = times(network, flows, chunk=1e3, packet=1e3, window=2e3)
    assert result.sent[0] == pytest.approx(30.128e-6)
    assert result.arrived[0] == pytest.approx(33.128e-6)


def test_overheads_are_paid_one_after_the_other() -> None:
    # 1 GB/s; 1 kB leave in 1 us; the software of rank 0 takes 2 us a message, twice that for a flow of two copies
    network = Network.on(star(4, bandwidth="1 GB/s"), per_message=2e-6, per_exchange=10e-6)
    flows = network.messages(np.array([0, 0, 0, 1]), np.array([1, 2, 3, 0]), np.full(4, 1e3))
    flows = replace(flows, copies=np.array([1.0, 2.0, 1.0, 1.0]))
    np.testing.assert_allclose(times(network, flows).sent, [13e-6, 17e-6, 19e-6, 13e-6])


def two_phases(**dependency: object) -> tuple[Network, list[Flows]]:
    """1 GB/s, no latency: 0 -> 1 and 1 -> 3, 100 kB each; then 1 -> 2 with 100 kB and 3 -> 0 with 50 kB."""
    network = Network.on(star(4, bandwidth="1 GB/s", latency="0 us"))
    first = network.messages(np.array([0, 1]), np.array([1, 3]), np.array([1e5, 3e5]))
    second = network.messages(np.array([1, 3]), np.array([2, 0]), np.array([1e5, 5e4]))
    return network, [first, replace(second, **dependency)]


def test_phases_without_dependency_are_posted_at_once() -> None:
    # rank 1 sends 300 kB and then 100 kB: 400 us and a packet of 1 us
    network, phases = two_phases()
    result = fifo_times(network, phases, packet=1e3, window=math.inf)
    np.testing.assert_allclose(result.arrived, [101e-6, 301e-6, 401e-6, 51e-6])


def test_a_phase_waits_for_what_was_received() -> None:
    # rank 1 has received at 101 us, but its port is busy until 300 us; rank 3 has received at 301 us
    network, phases = two_phases(after=0)
    result = fifo_times(network, phases, packet=1e3, window=math.inf)
    np.testing.assert_allclose(result.sent, [100e-6, 300e-6, 400e-6, 351e-6])


def test_a_phase_waits_for_what_was_sent() -> None:
    # rank 1 posts when it has sent, at 300 us: with a software time of 7 us a message the port idles meanwhile
    network, phases = two_phases(after=0, after_sent=True)
    network = replace(network, per_message=7e-6)
    result = fifo_times(network, phases, packet=1e3, window=math.inf)
    np.testing.assert_allclose(result.sent, [107e-6, 307e-6, 414e-6, 365e-6])
    free = fifo_times(network, [phases[0], replace(phases[1], after_sent=False)], packet=1e3, window=math.inf)
    np.testing.assert_allclose(free.sent, [107e-6, 307e-6, 407e-6, 365e-6])


def test_a_rank_without_messages_in_a_phase_still_waits_for_it() -> None:
    # phase 1 (0 -> 1, 100 kB), phase 2 after it with nothing in it, phase 3 after nothing: 1 -> 2 leaves from 101 us on
    network = Network.on(star(3, bandwidth="1 GB/s", latency="0 us"))
    first, second, third = (
        network.messages(np.array([a]), np.array([b]), np.array([1e5])) for a, b in ((0, 1), (0, 2), (1, 2))
    )
    second = replace(network.messages(*np.empty((2, 0), np.int64), np.empty(0)), after=0)
    result = fifo_times(network, [first, second, third], packet=1e3, window=math.inf)
    np.testing.assert_allclose(result.sent, [100e-6, 201e-6])


def test_pairwise_rounds_are_those_of_fluid() -> None:
    # 15 rounds: each 1 MiB at 50 GB/s, a packet, 2 us
    network = Network.on(star(16))
    phases = phases_of(network, [uniform(16, MIB)], schedule="pairwise")
    result = fifo_exchange_time(network, phases, window=math.inf)
    assert result.duration == pytest.approx(15 * ((MIB + 8940) / 50e9 + 2e-6), rel=1e-9)
    assert exchange_time(network, phases).duration == pytest.approx(15 * (MIB / 50e9 + 2e-6), rel=1e-9)


# name: topology, order, injection, time over bound at packet level (ns-3 for fifo, htsim for round-robin)
PACKET_LEVEL = {
    "star naive": (star(16), "naive", "fifo", 1.655),
    "star shifted": (star(16), "shifted", "fifo", 1.033),
    "nodes naive": (two_nodes(), "naive", "fifo", 1.89),
    "nodes shifted": (two_nodes(), "shifted", "fifo", 1.89),
    "nodes rail": (two_nodes(), "rail", "fifo", 1.06),
    "star naive in turns": (star(16), "naive", "round_robin", 1.04),
    "star shifted in turns": (star(16), "shifted", "round_robin", 1.03),
    "nodes naive in turns": (two_nodes(), "naive", "round_robin", 1.04),
}


def port_bound(topology_: Topology, matrix: np.ndarray, order: str) -> float:
    bare = Network.on(topology_)
    phases = phases_of(bare, [matrix], order=order)
    load = np.bincount(
        phases[0].routes.links, np.repeat(phases[0].size, np.diff(phases[0].routes.offsets)), len(bare.capacity)
    )
    return float((load / bare.capacity).max())


@pytest.mark.parametrize("case", PACKET_LEVEL)
def test_order_and_injection_cost_what_packet_level_shows(case: str) -> None:
    # with the handshake and the headers that packet level had: the second digit behind the point
    wires, order, injection, expected = PACKET_LEVEL[case]
    network = Network.on(wires, efficiency=HEADERS, per_exchange=HANDSHAKE)
    phases = phases_of(network, [uniform(16, MIB)], order=order)
    result = fifo_exchange_time(network, phases, injection=injection)
    assert result.duration / port_bound(wires, uniform(16, MIB), order) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("case", PACKET_LEVEL)
def test_defaults_show_what_order_costs(case: str) -> None:
    # nominal rates, nothing set by the user: within 0.1 of packet level
    wires, order, injection, expected = PACKET_LEVEL[case]
    network = Network.on(wires)
    result = fifo_exchange_time(network, phases_of(network, [uniform(16, MIB)], order=order), injection=injection)
    assert result.duration / port_bound(wires, uniform(16, MIB), order) == pytest.approx(expected, abs=0.05)


def test_without_a_window_naive_order_costs_more() -> None:
    # All hit rank 0, then 1, ...: port 15 idles until everybody has sent 14 messages and then takes 15: (14 + 15) / 15 =
    # 1.93 port loads. With a window ports have work from everybody before that: 1.63.
    network = Network.on(star(16))
    phases = phases_of(network, [uniform(16, MIB)], order="naive")
    ratio = fifo_exchange_time(network, phases, window=math.inf).duration / (15 * MIB / 50e9)
    assert ratio == pytest.approx(29 / 15, abs=0.01)


# ranks, KiB a pair: ns-3 naive, ns-3 shifted, us (reference/peers.md, 2.2)
NS3 = {
    (4, 64): (14.7, 13.0),
    (4, 256): (32.3, 24.2),
    (4, 1024): (111.6, 71.7),
    (8, 64): (25.1, 18.0),
    (8, 256): (67.6, 45.3),
    (8, 1024): (242.0, 156.1),
    (16, 64): (45.7, 28.1),
    (16, 256): (140.1, 87.5),
    (16, 1024): (520.7, 324.9),
}


@pytest.mark.parametrize(("ranks", "kib"), NS3)
def test_times_are_those_of_ns3(ranks: int, kib: int) -> None:
    network = Network.on(star(ranks), efficiency=HEADERS, per_exchange=HANDSHAKE)
    for order, expected in zip(("naive", "shifted"), NS3[ranks, kib], strict=True):
        phases = phases_of(network, [uniform(ranks, kib * 1024)], order=order)
        measured = fifo_exchange_time(network, phases).duration * 1e6
        assert measured == pytest.approx(expected, rel=0.005, abs=0.05)


@pytest.mark.parametrize("ranks", [4, 8, 16, 32, 64])
def test_start_up_is_constant_and_made_of_named_parts(ranks: int) -> None:
    # 256 KiB a pair, shifted; ns-3: 8.5-10.3 us. Over the bound: 2 us of path and 0.18 us of a packet; as much again while
    # the first answers cross; 4 us of handshake; the headers of what a port carries, 0.6%
    network, size = Network.on(star(ranks)), 256 * 1024
    phases = phases_of(network, [uniform(ranks, size)])
    load = (ranks - 1) * size / 50e9
    path = 2e-6 + 8940 / 50e9
    never_waits = fifo_exchange_time(network, phases, window=math.inf)
    assert never_waits.duration - load == pytest.approx(path, rel=1e-6)
    assert fifo_exchange_time(network, phases).duration - load == pytest.approx(2 * path, rel=0.01)
    network = Network.on(star(ranks), efficiency=HEADERS, per_exchange=HANDSHAKE)
    total = fifo_exchange_time(network, phases).duration - load
    assert total == pytest.approx(2 * path + HANDSHAKE + load * (8994 / 8940 - 1), rel=0.01)
    assert 8.4e-6 < total < 10.4e-6


KINDS = [star(5), two_nodes(3), *(topology(text) for text in EVERY_KIND.values())]


def random_case(seed: int) -> tuple[Network, list[Flows]]:
    """A small exchange: any kind of topology, schedule and order; one or two stages, some pairs silent."""
    rng = np.random.default_rng(seed)
    wires = KINDS[seed % len(KINDS)]
    network = Network.on(wires, per_message=float(rng.choice([0.0, 3e-7])), per_exchange=float(rng.choice([0.0, 4e-6])))
    shape = (wires.num_ranks, wires.num_ranks)
    stages = [rng.integers(1, 200_000, shape) * (rng.random(shape) < 0.8) for _ in range(int(rng.integers(1, 3)))]
    schedule = str(rng.choice(["direct", "pairwise", "two_hop", "hierarchical"] if len(stages) == 1 else ["direct"]))
    return network, phases_of(
        network, stages, schedule=schedule, order=str(rng.choice(["naive", "shifted", "rail", "random"]))
    )


@pytest.mark.parametrize("seed", range(len(KINDS)))
@pytest.mark.parametrize("injection", ["fifo", "round_robin"])
def test_random_exchanges_keep_the_rules(seed: int, injection: str) -> None:
    network, phases = random_case(seed)
    for window in (math.inf, TCP_WINDOW, 4096.0):
        for chunk in (8940, 65536):
            options = {"injection": injection, "window": window, "chunk": chunk}
            plain = fifo_exchange_time(network, phases, compiled=False, **options)  # checks that bytes arrive
            assert plain.duration >= lower_bound(network, phases) * (1 - 1e-9)
            again = fifo_exchange_time(network, phases, compiled=False, **options)
            np.testing.assert_array_equal(plain.finish, again.finish)
            assert plain.rate_changes == again.rate_changes


@pytest.mark.parametrize("injection", ["fifo", "round_robin"])
def test_compiled_and_plain_agree_to_the_bit(injection: str) -> None:
    pytest.importorskip("numba")
    for seed in range(len(KINDS)):
        network, phases = random_case(seed)
        for window in (math.inf, TCP_WINDOW):
            plain, fast = (
                fifo_exchange_time(network, phases, compiled=compiled, injection=injection, window=window)
                for compiled in (False, True)
            )
            np.testing.assert_array_equal(plain.finish, fast.finish)
            assert plain.rate_changes == fast.rate_changes
