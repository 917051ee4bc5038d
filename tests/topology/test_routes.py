from __future__ import annotations

import re
from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
from build_from import DRAGONFLY, EVERY_KIND, HOSTS, NODES, PARALLEL, PODS, TORUS, TREE, graph, mesh, star, topology
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import graphs
from reference import all_pairs, check_route, hops_by_networkx

from smoes_sim.errors import TopologyError
from smoes_sim.topology import Router, Topology


def routes_of(built, *, seed=0):
    source, destination = all_pairs(built.num_ranks)
    return source, destination, Router(built, seed=seed).compile(source, destination)


def named(built, source, destination, *, seed=0):
    """One route by the names of its vertices."""
    route = Router(built, seed=seed).compile(np.array([source]), np.array([destination])).of(0)
    return [built.vertex_names[source], *(built.vertex_names[built.link_target[link]] for link in route)]


@pytest.mark.parametrize("name", EVERY_KIND)
@pytest.mark.parametrize("seed", [0, 7])
def test_every_route_leads_from_its_source_to_its_destination_without_a_gap_or_a_device(name, seed):
    built = topology(EVERY_KIND[name])
    source, destination, routes = routes_of(built, seed=seed)
    for flow, (a, b) in enumerate(zip(source, destination, strict=True)):
        check_route(built, a, b, routes.of(flow))


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_route_is_as_short_as_networkx_finds(name):
    built = topology(EVERY_KIND[name])
    source, destination, routes = routes_of(built)
    expected = [hops_by_networkx(built, a)[b] for a, b in zip(source.tolist(), destination.tolist(), strict=True)]
    assert np.diff(routes.offsets).tolist() == expected


@pytest.mark.parametrize("name", ["torus", "fat_tree", "dragonfly", "graph"])
def test_the_same_seed_gives_the_same_routes_and_another_seed_others(name):
    built = topology(EVERY_KIND[name])
    first, again = (routes_of(built, seed=3)[2] for _ in range(2))
    np.testing.assert_array_equal(first.links, again.links)
    np.testing.assert_array_equal(first.offsets, again.offsets)
    assert any(not np.array_equal(first.links, routes_of(built, seed=seed)[2].links) for seed in range(4, 8))


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_route_does_not_depend_on_which_others_are_compiled_with_it(name):
    built = topology(EVERY_KIND[name])
    source, destination, together = routes_of(built)
    router = Router(built)
    for flow in reversed(range(len(source))):
        assert router.compile(source[flow : flow + 1], destination[flow : flow + 1]).of(0) == together.of(flow)


def test_routes_take_the_hops_of_their_kind():
    assert named(topology(star(3)), 0, 2) == ["node0.device0", "switch", "node2.device0"]
    assert named(topology(mesh(3)), 0, 2) == ["node0.device0", "node0.device2"]
    nodes = topology(NODES)
    assert named(nodes, 0, 3) == ["node0.device0", "node0.nvlink", "node0.device3"]
    assert named(nodes, 0, 7) == ["node0.device0", "node0.nic0", "fabric", "node1.nic3", "node1.device3"]


def test_ranks_of_one_node_never_use_the_nic_that_they_share():
    built = topology(NODES.replace("infiniband,", "infiniband, per: node,"))
    # device - nvlink - device and device - NIC - device have the same number of links
    for seed in range(8):
        assert named(built, 0, 3, seed=seed) == ["node0.device0", "node0.nvlink", "node0.device3"]


def test_ranks_of_one_rail_meet_at_their_rail_and_others_at_a_spine():
    built = topology(PODS)
    # rank 0 is node 0 index 0; rank 2 is node 1 index 0, of the same pod; rank 3 is on the other rail; rank 6 in pod 1
    assert named(built, 0, 2)[2:-2] == ["pod0.rail0"]
    across = named(built, 0, 3)[2:-2]
    assert (across[0], across[1][:5], across[2]) == ("pod0.rail0", "spine", "pod0.rail1")
    between = named(built, 0, 6)[2:-2]
    assert (between[0], between[1][:5], between[2]) == ("pod0.rail0", "spine", "pod1.rail0")


def test_a_nic_between_two_switches_forwards():
    built = topology(HOSTS)
    assert named(built, 0, 3) == ["a", "p", "n", "f", "m", "q", "d"]
    assert named(built, 0, 1) == ["a", "p", "b"]


def test_two_nics_may_be_joined_by_a_cable():
    built = topology(graph("a, b", "a n", "n m", "m b", nics="n, m"))
    assert named(built, 0, 1) == ["a", "n", "m", "b"]
    assert named(built, 1, 0) == ["b", "m", "n", "a"]


def test_devices_on_nothing_but_a_common_nic_meet_there():
    assert named(topology(graph("a, b", "a n", "n b", nics="n")), 0, 1) == ["a", "n", "b"]


def test_a_rank_with_two_nics_uses_both():
    built = topology(graph("a, b, c", "a n", "a m", "n s", "m s", "b s", "c s", nics="n, m", switches="s"))
    ways = {named(built, 0, destination, seed=seed)[1] for destination in (1, 2) for seed in range(16)}
    assert ways == {"n", "m"}


def test_routes_follow_the_direction_of_one_way_links():
    built = topology(
        graph("x, y", *(f"{ends}, duplex: false" for ends in ("x s", "s t", "t y", "y u", "u x")), switches="s, t, u")
    )
    assert named(built, 0, 1) == ["x", "s", "t", "y"]
    assert named(built, 1, 0) == ["y", "u", "x"]


def test_equal_routes_of_a_fat_tree_are_used_equally():
    # 8 spines over 8 leaves of 4 single-rank nodes: 32 * 28 = 896 pairs cross a spine, 112 each if spread evenly; a
    # binomial count has a standard deviation of sqrt(896 / 8 * 7 / 8) = 9.9, so 5 of them are 50
    text = TREE[: TREE.index("levels")].replace("nodes: 4", "nodes: 32").replace("ranks_per_node: 2", "ranks_per_node: 1")
    built = topology(text + "levels:\n  - {down: 4}\n  - {down: 8, switches: 8}\n")
    _, _, routes = routes_of(built)
    spine = [built.vertex_names[vertex] for vertex in built.link_target[routes.links]]
    used = Counter(name for name in spine if name.startswith("level2"))
    assert len(used) == 8
    assert sum(used.values()) == 896
    assert all(abs(count - 112) < 50 for count in used.values())


def test_the_choice_at_one_hop_tells_nothing_of_the_choice_at_the_next():
    # a - p - {q, r} - s - {t, u} - v - b: with one hash for both hops only 2 of the 4 combinations would be seen
    built = topology(
        graph(
            "a, b",
            *("a p", "p q", "p r", "q s", "r s", "s t", "s u", "t v", "u v", "v b"),
            switches="p, q, r, s, t, u, v",
        )
    )
    seen = Counter((route[2], route[4]) for seed in range(200) for route in [named(built, 0, 1, seed=seed)])
    assert set(seen) == {("q", "t"), ("q", "u"), ("r", "t"), ("r", "u")}
    assert min(seen.values()) > 20  # 50 expected, standard deviation 6


def test_parallel_links_share_the_flows_between_two_switches():
    built = topology(PARALLEL)
    parallel = {
        link
        for link in range(built.num_links)
        if (built.vertex_names[built.link_source[link]], built.vertex_names[built.link_target[link]]) == ("p", "q")
    }
    assert len(parallel) == 2
    used = Counter()
    for seed in range(50):
        routes = Router(built, seed=seed).compile(np.array([0, 0, 1, 1]), np.array([2, 3, 2, 3]))
        assert np.diff(routes.offsets).tolist() == [3] * 4  # never over r, which is a link longer
        used.update(routes.links.tolist())
    # 200 routes: 100 each, standard deviation 7
    assert all(60 < used[link] < 140 for link in parallel)


def test_parallel_links_between_two_devices_are_both_used():
    built = topology(graph("a, b", "a b", "a b"))
    used = {Router(built, seed=seed).compile(np.array([0]), np.array([1])).of(0)[0] for seed in range(16)}
    assert used == {link for link in range(4) if built.link_source[link] == 0}


def test_a_torus_route_is_the_sum_of_the_shorter_way_round_each_ring():
    built = topology("{kind: torus, shape: [5, 4], link: {bandwidth: 1 GB/s}}")
    source, destination, routes = routes_of(built)
    x, y = abs(source // 4 - destination // 4), abs(source % 4 - destination % 4)
    # one link in, one out
    np.testing.assert_array_equal(np.diff(routes.offsets), 2 + np.minimum(x, 5 - x) + np.minimum(y, 4 - y))


def test_a_dragonfly_route_stays_in_its_group_and_goes_to_another_by_the_fewest_links():
    built = topology(DRAGONFLY)
    source, destination, routes = routes_of(built)
    kinds = [[built.link_kinds[built.link_kind[link]] for link in routes.of(flow)] for flow in range(len(routes))]
    inside = source // 4 == destination // 4  # 2 routers of 2 ranks a group
    for route, within in zip(kinds, inside, strict=True):
        assert ("global" in route) == (not within)
        assert route[0] == route[-1] == "edge"
        assert len(route) <= 5  # edge, local, global, local, edge


def test_the_latency_of_a_route_is_the_sum_of_its_links():
    built = topology(NODES)
    routes = Router(built).compile(np.array([0, 0]), np.array([1, 5]))
    # 2 NVLinks of 1 us; a host bus, 2 InfiniBand links of 2 us, a host bus
    assert routes.sum_of(built.link_latency).tolist() == pytest.approx([2e-6, 4e-6], rel=1e-12)


def test_no_pairs_have_no_routes():
    nothing = np.empty(0, dtype=np.int64)
    assert len(Router(topology(TORUS)).compile(nothing, nothing)) == 0


@settings(max_examples=100)
@given(text=graphs(), seed=st.integers(0, 3))
def test_any_graph_is_either_routed_on_shortest_routes_or_refused_for_a_pair_without_one(text, seed):
    try:
        built = topology(text)
    except TopologyError as error:
        a, b = (int(number) for number in re.findall(r"rank (\d+) \(", str(error)))
        with patch.object(Topology, "check_connected"):
            assert b not in hops_by_networkx(topology(text), a)
        return
    source, destination, routes = routes_of(built, seed=seed)
    for flow, (a, b) in enumerate(zip(source.tolist(), destination.tolist(), strict=True)):
        check_route(built, a, b, routes.of(flow))
        assert len(routes.of(flow)) == hops_by_networkx(built, a)[b]
