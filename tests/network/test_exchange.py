from __future__ import annotations

import numpy as np
import pytest
import simpy
from build_from import EVERY_KIND, graph, star, topology
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import fluid_finish

from smoes_sim.errors import SimulationError
from smoes_sim.network import (
    Engine,
    Network,
    enter_exchange,
    exchange_time,
    link_load,
    lower_bound,
    phases_of,
)

MIB = 2**20
KINDS = {name: topology(text) for name, text in EVERY_KIND.items()}


def on_star(ranks, *, latency="0 us", **constants):
    """A star of 10 B/s ports: times by hand are whole numbers."""
    return Network.on(topology(star(ranks, bandwidth="10 B/s", latency=latency)), **constants)


def blocks(ranks, sizes):
    """A traffic matrix of {(source, destination): bytes}."""
    matrix = np.zeros((ranks, ranks))
    for pair, size in sizes.items():
        matrix[pair] = size
    return matrix


def timed(network, *stages, **options):
    return exchange_time(network, phases_of(network, stages, **options))


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-15)


def test_four_ranks_that_exchange_64_mib_each_are_held_by_their_ports():
    network = Network.on(topology(star(4, latency="2 us")))
    result = timed(network, np.full((4, 4), 16 * MIB))
    # 3 blocks of 16 MiB leave a port of 50 GB/s: 3 * 16777216 / 50e9 = 1.00663296 ms; 2 links of 2 us
    assert result.duration == pytest.approx(1.01063296e-3, rel=1e-9)
    assert result.finish.tolist() == near([result.duration] * 4)
    assert (result.num_flows, result.bound) == (12, near(result.duration))


def test_rates_change_when_flows_end():
    # ports of 10: three flows into rank 3 get 10/3 each, the fourth flow gets what rank 0 has left, 20/3
    #   t = 3: 0->3 and 1->3 (10 bytes) are through; 2->3 has 20 - 10 left; 0->1 has 40 - 20 left; both now run at 10
    #   t = 4: 2->3 is through; t = 5: 0->1 is through
    result = timed(on_star(4), blocks(4, {(0, 3): 10, (1, 3): 10, (2, 3): 20, (0, 1): 40}))
    assert result.finish.tolist() == near([5, 5, 4, 4])
    assert result.duration == near(5)
    assert result.bound == near(5)  # rank 0 has 50 bytes to send
    assert result.rate_changes == 3  # at 0, 3 and 4


def test_fair_sharing_may_leave_the_busiest_port_idle_and_so_miss_the_bound():
    # the port into 0 gives 3->0, 2->0 and 1->0 10/3 each; the one into 2 gives 1->2 and 3->2 5 each; so the busiest port,
    # out of 3 (100 bytes, 10 s), runs at 5 + 10/3
    #   t = 6: 2->0 and 1->0 (20) are through; 1->2 has 40 - 30 left, 3->2 60 - 30, 3->0 40 - 20, all at 5 from here
    #   t = 8: 1->2 is through; 3->2 and 3->0 have 20 and 10 left, still 5 each
    #   t = 10: 3->0 is through; 3->2 has 10 left at 10: t = 11. Rank 3 lost 6 * 5/3 = 10 bytes, 1 s
    result = timed(on_star(4), blocks(4, {(1, 2): 40, (3, 2): 60, (3, 0): 40, (2, 0): 20, (1, 0): 20}))
    assert result.finish.tolist() == near([10, 8, 11, 11])
    assert (result.duration, result.bound) == (near(11), near(10))
    assert result.rate_changes == 4  # at 0, 6, 8 and 10


def test_a_sender_pays_for_its_messages_one_after_the_other():
    # 0.5 s a message: 0->1 starts at 0.5 alone at 10, has 5 of 10 left at 1.0 when 0->2 starts; 5 each from then on
    #   t = 2.0: 0->1 is through; 0->2 has 5 left at 10: t = 2.5
    result = timed(on_star(3, per_message=0.5), blocks(3, {(0, 1): 10, (0, 2): 10}))
    assert result.finish.tolist() == near([2.5, 2.0, 2.5])


def test_the_order_of_posting_says_who_waits():
    sizes = blocks(3, {(1, 0): 10, (1, 2): 10})
    # from rank 1, shifted order posts to 2 first, naive order to 0; times as above
    assert timed(on_star(3, per_message=0.5), sizes).finish.tolist() == near([2.5, 2.5, 2.0])
    assert timed(on_star(3, per_message=0.5), sizes, order="naive").finish.tolist() == near([2.0, 2.5, 2.5])


def test_two_senders_pay_for_their_messages_at_the_same_time():
    result = timed(on_star(2, per_message=0.5), blocks(2, {(0, 1): 10, (1, 0): 10}))
    assert result.finish.tolist() == near([1.5, 1.5])


def test_entering_an_exchange_is_paid_once_by_every_rank():
    # 2 rounds of 10 bytes at 10 B/s after 3 s; rank 3 neither sends nor receives, but enters
    sizes = blocks(4, {(a, b): 10 for a in range(3) for b in range(3)})
    result = timed(on_star(4, per_exchange=3.0), sizes)
    assert result.finish.tolist() == near([5, 5, 5, 3])
    assert timed(on_star(4, per_exchange=3.0), sizes, schedule="pairwise").finish[3] == near(3)


def test_latency_is_paid_by_the_receiver_once_for_messages_in_flight_together():
    # ports of 10, 2 links of 0.25 s: both messages drain at 2 s, the receivers have them at 2.5 s
    result = timed(on_star(3, latency="250 ms"), blocks(3, {(0, 1): 10, (0, 2): 10}))
    assert result.finish.tolist() == near([2.0, 2.5, 2.5])


def test_latency_is_paid_in_every_round_of_a_pairwise_exchange():
    # 3 rounds of 1 s and 0.5 s: a rank cannot go on before it has what it receives
    result = timed(on_star(4, latency="250 ms"), np.full((4, 4), 10.0), schedule="pairwise")
    assert result.duration == near(4.5)


def test_pairwise_rounds_overlap_where_ranks_do_not_wait_for_each_other():
    # round 1: 0->1 10, 1->2 20, 2->0 10; round 2: 10 each of 0->2, 1->0, 2->1; ports of 10
    #   t = 1: rank 0 has sent and received, and posts 0->2, which halves the rate of 1->2 (10 left)
    #   t = 3: 1->2 and 0->2 are through; ranks 1 and 2 post 1->0 and 2->1, each alone at 10
    #   t = 4: all are through; with a barrier: round 1 takes 2, round 2 takes 1, so 3, and so does direct: 30 out of 1
    sizes = blocks(3, {(0, 1): 10, (1, 2): 20, (2, 0): 10, (0, 2): 10, (1, 0): 10, (2, 1): 10})
    result = timed(on_star(3), sizes, schedule="pairwise")
    assert result.finish.tolist() == near([4, 4, 4])
    assert timed(on_star(3), sizes).duration == result.bound == near(3)


def test_the_second_stage_of_a_rank_starts_when_its_first_is_done():
    # stage 1: 0->1 10 (1 s), 2->3 30 (3 s); stage 2: 1->0 10 starts at 1, 3->2 10 at 3
    result = timed(on_star(4), blocks(4, {(0, 1): 10, (2, 3): 30}), blocks(4, {(1, 0): 10, (3, 2): 10}))
    assert result.finish.tolist() == near([2, 2, 4, 4])


@pytest.mark.parametrize("schedule", ["direct", "pairwise"])
def test_nothing_to_send_takes_no_time_but_that_of_entering(schedule):
    for constants, expected in (({}, 0.0), ({"per_exchange": 2.0, "per_message": 1.0}, 2.0)):
        result = timed(on_star(3, **constants), np.diag([5.0, 5.0, 5.0]), schedule=schedule)
        assert result.finish.tolist() == [expected] * 3
        assert (result.duration, result.bound, result.num_flows, result.rate_changes) == (expected, expected, 0, 0)


@pytest.mark.parametrize("schedule", ["direct", "pairwise"])
def test_one_rank_alone_is_done_at_once(schedule):
    result = timed(on_star(1), np.array([[5.0]]), schedule=schedule)
    assert (result.duration, result.num_flows) == (0.0, 0)


def test_all_to_one_is_held_by_the_receivers_port():
    # 7 senders of 10 bytes into a port of 10 B/s: 7 s, and all of them end together
    result = timed(on_star(8), blocks(8, {(rank, 0): 10 for rank in range(1, 8)}))
    assert result.finish.tolist() == near([7] * 8)
    assert result.rate_changes == 1  # at the start


def test_flows_that_end_together_are_one_rate_change():
    # 90 flows at 10 / 9, a rate that is no float: 9 s, one start and one end
    result = timed(on_star(10), np.full((10, 10), 10.0))
    assert result.duration == near(9)
    assert result.rate_changes == 1


@pytest.mark.parametrize("power", range(-3, 16))
def test_sizes_from_a_thousandth_of_a_byte_to_a_petabyte_take_their_time(power):
    network = Network.on(topology(star(3)))
    size = 10.0**power
    # rank 0 sends size and 2 * size through 50 GB/s: half rate each, the smaller is through after 2 * size / 50e9, and
    # all 3 * size have left after 3 * size / 50e9
    result = timed(network, blocks(3, {(0, 1): size, (0, 2): 2 * size}))
    assert result.finish[1] == pytest.approx(2 * size / 50e9, rel=1e-9)
    assert result.duration == pytest.approx(3 * size / 50e9, rel=1e-9)


def test_sizes_far_apart_in_one_exchange_each_take_their_time():
    network = Network.on(topology(star(4)))
    result = timed(network, blocks(4, {(0, 1): 1e-3, (1, 2): 1e15, (2, 3): 1e3}))
    # nothing is shared; rank 0 and 3 are done with their one message, 1 and 2 with the petabyte
    assert result.finish.tolist() == pytest.approx([2e-14, 2e4, 2e4, 2e-8], rel=1e-9)


def test_tiny_messages_that_differ_in_the_fifth_digit_end_apart():
    network = Network.on(topology(star(2)))
    result = timed(network, blocks(2, {(0, 1): 1e-3, (1, 0): 1.00001e-3}))
    assert result.duration == pytest.approx(1.00001e-3 / 50e9, rel=1e-12)
    assert result.rate_changes == 2


def test_efficiency_scales_the_bandwidth_of_its_kind_of_link_only():
    built = KINDS["two_level"]  # NVLink 400 GB/s, InfiniBand 50 GB/s
    sizes = blocks(8, {(0, 1): 400e9, (0, 4): 50e9})
    for efficiency, expected in (({}, [1, 1]), ({"infiniband": 0.5}, [1, 2]), ({"nvlink": 0.25, "other": 0.1}, [4, 1])):
        finish = timed(Network.on(built, efficiency=efficiency), sizes).finish
        assert finish[[1, 4]] == pytest.approx(expected, rel=1e-4)  # latencies are some us


def test_each_flow_may_have_all_of_a_fatpipe_but_no_more():
    built = topology(
        graph(
            "a, b, c",
            *("a s, bandwidth: 4 B/s, sharing: fatpipe", "b s, bandwidth: 100 B/s", "c s, bandwidth: 100 B/s"),
            switches="s",
        )
    )
    network = Network.on(built)
    # both flows of a run at 4 at the same time; b -> c is alone on a port of 100 that a's flow takes 4 of
    result = timed(network, blocks(3, {(0, 1): 40, (0, 2): 80, (1, 2): 480}))
    assert result.finish.tolist() == near([20, 10, 20])
    assert result.bound == near(20)


def test_a_network_at_no_cost_takes_no_time():
    network = Network.on(KINDS["two_level"], per_message=1e-6, per_exchange=1e-5).at_no_cost()
    assert timed(network, np.full((8, 8), 1e9)).duration < 1e-18


def test_new_constants_keep_topology_and_routes():
    network = Network.on(KINDS["torus"], seed=3)
    other = network.with_constants(efficiency={"link": 0.5}, per_exchange=1.0)
    matrix = np.full((8, 8), 1e9)
    np.testing.assert_array_equal(phases_of(network, [matrix])[0].routes.links, phases_of(other, [matrix])[0].routes.links)
    assert other.seed == 3
    assert other.capacity[other.topology.link_kind == other.topology.link_kinds.index("link")].tolist() == [50e9] * 24
    assert network.capacity.max() == 600e9


ALL_CONSTANTS = {
    "efficiency": {"link": 0.5},
    "per_message": 1e-6,
    "per_receive": 2e-6,
    "per_exchange": 3e-6,
    "half_size": {"link": 4096.0},
    "curve": 0.7,
    "jitter": 0.003,
    "send_buffer": 1e5,
}


def test_constants_that_are_not_given_keep_their_values():
    network = Network.on(KINDS["torus"], **ALL_CONSTANTS)
    for name, value in ALL_CONSTANTS.items():
        changed = {"link": 0.25} if isinstance(value, dict) else 0.125
        other = network.with_constants(**{name: changed})
        assert {key: getattr(other, key) for key in ALL_CONSTANTS} == ALL_CONSTANTS | {name: changed}
        assert other.router is network.router


@st.composite
def exchanges(draw):
    """A small topology of any kind, constants, a sparse traffic matrix with sizes over many powers of ten, a schedule."""
    built = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    constants = {
        "per_message": draw(st.sampled_from([0.0, 1e-6, 1e-3])),
        "per_exchange": draw(st.sampled_from([0.0, 1e-5])),
        "seed": draw(st.integers(0, 3)),
    }
    ranks = st.integers(0, built.num_ranks - 1)
    size = st.one_of(st.sampled_from([1.0, 1e6]), st.floats(1e-3, 1e12))
    messages = draw(st.lists(st.tuples(ranks, ranks, size), max_size=12))
    matrix = blocks(built.num_ranks, {(a, b): value for a, b, value in messages})
    options = {
        "schedule": draw(st.sampled_from(["direct", "pairwise"])),
        "order": draw(st.sampled_from(["naive", "shifted", "rail", "random"])),
    }
    return Network.on(built, **constants), matrix, options


@settings(max_examples=100)
@given(exchange=exchanges())
def test_no_exchange_beats_its_bound(exchange):
    network, matrix, options = exchange
    phases = phases_of(network, [matrix], **options)
    result = exchange_time(network, phases)  # raises when it is below, too
    assert result.duration >= lower_bound(network, phases) * (1 - 1e-9)
    assert result.bound == lower_bound(network, phases)
    assert result.duration == result.finish.max()


@given(exchange=exchanges())
def test_messages_of_one_phase_arrive_when_a_slow_reference_says(exchange):
    network, matrix, options = exchange
    (flows,) = phases_of(network, [matrix], order=options["order"])
    env = simpy.Environment()
    engine = Engine(env, network)
    (opened,) = engine.open_all([flows])
    for rank in range(network.topology.num_ranks):
        enter_exchange(engine, [opened], rank, at=0.0)
    env.run()
    np.testing.assert_allclose(opened.arrival, fluid_finish(network, flows), rtol=1e-9)


@given(exchange=exchanges())
def test_every_link_carries_exactly_the_bytes_of_its_flows(exchange):
    network, matrix, options = exchange
    phases = phases_of(network, [matrix], **options)
    num_links = network.topology.num_links
    result = exchange_time(network, phases, record_links=True)
    moments = [moment for moment, _ in result.link_use]
    rates = [use * network.capacity for _, use in result.link_use]
    expected = sum((link_load(flows, num_links) for flows in phases), np.zeros(num_links))
    carried = np.zeros(num_links)
    for rate, start, stop in zip(rates, moments, moments[1:], strict=False):
        assert np.all(rate <= network.capacity * (1 + 1e-9))
        carried += rate * (stop - start)
    if rates:
        assert not rates[-1].any()  # at the end nothing is in flight
    # a moment is known to 1e-12 of the clock: what a link carries in that time may be missing
    slack = 1e-11 * network.capacity * max(moments, default=0.0)
    assert np.all(abs(carried - expected) <= 1e-9 * expected + slack)


@given(exchange=exchanges(), factor=st.sampled_from([0.5, 8.0, 1024.0]))
def test_bytes_and_bandwidths_that_grow_together_leave_every_time_as_it_was(exchange, factor):
    network, matrix, options = exchange
    kinds = dict.fromkeys(network.topology.link_kinds, factor)
    wider = network.with_constants(efficiency=kinds)
    np.testing.assert_allclose(
        timed(wider, matrix * factor, **options).finish, timed(network, matrix, **options).finish, rtol=1e-9
    )


@given(sizes=st.lists(st.floats(0, 1e9, allow_subnormal=False), min_size=25, max_size=25), order=st.permutations(range(5)))
def test_renumbering_the_ranks_of_a_star_renumbers_their_times(sizes, order):
    network = Network.on(KINDS["star"])
    matrix = np.array(sizes).reshape(5, 5)
    np.fill_diagonal(matrix, 0)
    renumbered = matrix[np.ix_(order, order)]
    np.testing.assert_allclose(timed(network, renumbered).finish, timed(network, matrix).finish[list(order)], rtol=1e-9)


def test_the_same_exchange_gives_the_same_floats():
    matrix = np.random.default_rng(0).uniform(1, 1e6, (8, 8))
    network = Network.on(KINDS["fat_tree"], per_message=1e-6)
    first, again = (timed(network, matrix, order="random", seed=2) for _ in range(2))
    np.testing.assert_array_equal(first.finish, again.finish)
    assert first.rate_changes == again.rate_changes


def test_an_answer_below_the_bound_is_refused_as_a_bug(monkeypatch):
    monkeypatch.setattr("smoes_sim.network.exchange.lower_bound", lambda network, phases: 2.5)
    with pytest.raises(SimulationError, match=r"took 1\.0 s, below its bound of 2\.5 s: please report"):
        timed(on_star(2), blocks(2, {(0, 1): 10}))
