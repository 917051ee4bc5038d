from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from build_from import EVERY_KIND, NODES, PODS, graph, star, topology
from hypothesis import given
from hypothesis import strategies as st
from reference import flows_as_lists

from smoes_sim.network import Network, exchange_time, link_load, lower_bound, phases_of


def on_star(ranks, *, latency="0 us", **constants):
    return Network.on(topology(star(ranks, bandwidth="10 B/s", latency=latency)), **constants)


def bound_of(network, *stages, **options):
    return lower_bound(network, phases_of(network, stages, **options))


def test_the_busiest_link_must_carry_its_bytes():
    # 30 + 20 bytes leave rank 0 through a port of 10; 30 + 10 enter rank 1
    matrix = np.array([[0, 30, 20], [0, 0, 0], [0, 10, 0]])
    assert bound_of(on_star(3), matrix) == pytest.approx(5.0, rel=1e-12)


def test_the_last_byte_of_a_link_still_has_to_travel():
    # 5 s and 2 links of 0.25 s
    matrix = np.array([[0, 30, 20], [0, 0, 0], [0, 10, 0]])
    assert bound_of(on_star(3, latency="250 ms"), matrix) == pytest.approx(5.5, rel=1e-12)


def test_a_shared_link_adds_only_the_least_latency_of_its_flows():
    # a -> b goes over 1 B/s and 1 s, a -> c over 1 B/s and 9 s; both through a's port of 1 B/s
    built = topology(
        graph(
            "a, b, c",
            *("a s, bandwidth: 1 B/s", "s b, bandwidth: 100 B/s, latency: 1 s", "s c, bandwidth: 100 B/s, latency: 9 s"),
            switches="s",
        )
    )
    network = Network.on(built)
    # 20 bytes through the port: 20 + 1 s if the slow one goes first; 10 bytes of a -> c alone: 10 + 9 = 19 s
    assert bound_of(network, np.array([[0, 10, 10], [0, 0, 0], [0, 0, 0]])) == pytest.approx(21.0, rel=1e-12)
    # 2 bytes to c and 1 to b: the port needs 3 + 1 s, the message to c 2 + 9
    assert bound_of(network, np.array([[0, 1, 2], [0, 0, 0], [0, 0, 0]])) == pytest.approx(11.0, rel=1e-12)


def test_a_message_must_pass_its_narrowest_link_even_a_fatpipe():
    built = topology(graph("a, b", "a s, bandwidth: 2 B/s, sharing: fatpipe", "b s, bandwidth: 8 B/s", switches="s"))
    assert bound_of(Network.on(built), np.array([[0, 10], [0, 0]])) == pytest.approx(5.0, rel=1e-12)


def test_a_sender_pays_for_one_message_after_the_other():
    # rank 0 posts 3 messages of 1 byte, 2 s each: the last leaves its hands at 6 s, which is more than 2 s and 0.3 s
    matrix = np.zeros((4, 4))
    matrix[0, 1:] = 1
    assert bound_of(on_star(4, per_message=2.0), matrix) == pytest.approx(6.0, rel=1e-12)
    # with 100 bytes each: nothing moves before the first is paid, 2 + 300 / 10
    assert bound_of(on_star(4, per_message=2.0), matrix * 100) == pytest.approx(32.0, rel=1e-12)


def test_entering_the_exchange_comes_on_top_even_with_nothing_to_send():
    network = on_star(2, per_exchange=3.0, per_message=1.0)
    assert bound_of(network, np.zeros((2, 2))) == 3.0
    assert bound_of(network, np.array([[0, 10], [0, 0]])) == pytest.approx(3 + 1 + 1, rel=1e-12)


def test_phases_add_up_on_the_links_that_they_share():
    # rounds of 20, 20 and 20 bytes through each port of 10: 6 s, however they are cut into phases
    matrix = np.full((4, 4), 20.0)
    assert bound_of(on_star(4), matrix, schedule="pairwise") == bound_of(on_star(4), matrix) == pytest.approx(6.0)
    assert bound_of(on_star(4), matrix, matrix) == pytest.approx(12.0)


def test_a_thin_fabric_bounds_what_leaves_the_nodes():
    network = Network.on(topology(NODES + "fabric: {oversubscription: 4}"))
    # each node sends 4 ranks x 4 ranks x 50 GB through 4 x 50 / 4 = 50 GB/s: 16 s; a NIC needs 4 x 50 / 50 = 4 s
    assert bound_of(network, np.full((8, 8), 50e9)) == pytest.approx(16.0, rel=1e-5)
    full = Network.on(topology(NODES))
    assert bound_of(full, np.full((8, 8), 50e9)) == pytest.approx(4.0, rel=1e-5)


def test_efficiency_counts_in_the_bound():
    assert bound_of(on_star(2, efficiency={"link": 0.5}), np.array([[0, 10], [0, 0]])) == pytest.approx(2.0)


def test_a_message_that_is_split_passes_each_link_as_much_faster():
    one, both = np.zeros((8, 8)), np.zeros((8, 8))
    one[0, 6] = both[0, 6] = both[2, 4] = 50e9
    hashed, split = (Network.on(topology(PODS + more)) for more in ("", "routing: split"))
    # one uplink of 25 GB/s carries all of it, or two half each: as fast as the NICs of 50 GB/s
    assert bound_of(hashed, one) == pytest.approx(2.0, rel=1e-4)
    assert bound_of(split, one) == pytest.approx(1.0, rel=1e-4)
    # a second message from the same rail to the same pod: both uplinks carry half of each
    assert bound_of(split, both) == pytest.approx(2.0, rel=1e-4)


def test_a_split_message_may_use_several_fatpipes_and_waits_for_the_longest_route():
    links = ("a n, bandwidth: 2 B/s, sharing: fatpipe", "a m, bandwidth: 4 B/s, sharing: fatpipe, latency: 3 s")
    rest = ("n s, bandwidth: 100 B/s", "m s, bandwidth: 100 B/s", "s b, bandwidth: 100 B/s")
    network = Network.on(topology(graph("a, b", *links, *rest, nics="n, m", switches="s", more="routing: split")))
    flows = network.messages(np.array([0]), np.array([1]), np.array([8.0]))
    # half over each: the one of 2 B/s lets the whole have 4 B/s
    assert flows.ceiling.tolist() == [4.0]
    assert flows.routes.share.tolist() == [0.5, 0.5, 1.0]
    assert flows.latency.tolist() == [3.0]
    assert lower_bound(network, [flows]) == pytest.approx(8 / 4 + 3, rel=1e-12)


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize("routing", ["hash", "split"])
def test_link_load_counts_the_bytes_of_every_route(name, routing):
    network = Network.on(replace(topology(EVERY_KIND[name]), routing=routing))
    ranks = network.topology.num_ranks
    (flows,) = phases_of(network, [np.arange(ranks**2, dtype=float).reshape(ranks, ranks)])
    expected = np.zeros(network.topology.num_links)
    for flow, (size, route) in enumerate(zip(flows.size, flows_as_lists(flows), strict=True)):
        for place, link in enumerate(route, start=flows.routes.offsets[flow]):
            expected[link] += size if routing == "hash" else size * flows.routes.share[place]
    np.testing.assert_allclose(link_load(flows, network.topology.num_links), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["star", "mesh", "scale_up_domain", "two_level", "two_level_thin", "pcie_tree"])
def test_an_equal_exchange_reaches_its_bound_where_the_busiest_link_never_idles(name):
    network = Network.on(topology(EVERY_KIND[name]))
    ranks = network.topology.num_ranks
    result = exchange_time(network, phases_of(network, [np.full((ranks, ranks), 1e9)]))
    # latencies of some us in some tens of ms are all that may be missing
    assert result.bound <= result.duration * (1 + 1e-9)
    assert result.duration == pytest.approx(result.bound, rel=1e-3)


@given(sizes=st.lists(st.integers(0, 10**9), min_size=3, max_size=3))
def test_a_star_of_one_sender_or_one_receiver_reaches_its_bound(sizes):
    network = on_star(4)
    matrix = np.zeros((4, 4))
    matrix[0, 1:] = sizes
    for traffic in (matrix, matrix.T):
        result = exchange_time(network, phases_of(network, [traffic]))
        assert result.duration == pytest.approx(sum(sizes) / 10, rel=1e-9)
        assert result.bound == pytest.approx(result.duration, rel=1e-9)
