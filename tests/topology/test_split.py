from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
from build_from import EVERY_KIND, NODES, PARALLEL, PODS, TORUS, TREE, graph, mesh, star, topology
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_graphs import graphs
from reference import all_pairs

from smoes_sim.errors import TopologyError
from smoes_sim.topology import Router, split
from smoes_sim.topology.metrics import diameter

SPLIT = "\nrouting: split\n"


def divided(text):
    """A topology whose flows are split; ``text`` is a block or one mapping in braces."""
    return topology(text[:-1] + ", routing: split}" if text.startswith("{") else text + SPLIT)


def spread(built, source, destination):
    """The share of one flow on each link, by the names of its ends; parallel links add up to a list."""
    routes = Router(built).compile(np.array([source]), np.array([destination]))
    found = defaultdict(list)
    for link, share in zip(routes.links.tolist(), routes.share.tolist(), strict=True):
        found[built.vertex_names[built.link_source[link]], built.vertex_names[built.link_target[link]]].append(share)
    return dict(found)


def by_hand(built, source, destination):
    """Share of each link in exact fractions and the largest latency: breadth first from the end, then divide.

    A NIC under one switch is two vertices here, one on the way up and one on the way down.
    """
    kinds, ends = built.vertex_kinds, list(zip(built.link_source.tolist(), built.link_target.tolist(), strict=True))
    around = defaultdict(lambda: defaultdict(set))
    for a, b in ends:
        around[a][b].add("out")
        around[b][a].add("in")

    def turns(vertex):
        beyond = [v for v in around[vertex] if kinds[v] != "device"]
        one_switch = len(beyond) == 1 and kinds[beyond[0]] == "switch" and len(around[vertex][beyond[0]]) == 2
        return kinds[vertex] != "nic" or not one_switch

    links = defaultdict(list)
    for link, (a, b) in enumerate(ends):
        if a != destination and b != source and all(kinds[v] != "device" or v in (source, destination) for v in (a, b)):
            tail = a if turns(a) else (a, "down" if kinds[b] == "device" else "up")
            head = b if turns(b) else (b, "up" if kinds[a] == "device" else "down")
            links[tail].append((link, head))
    left, frontier = {destination: 0}, {destination}
    while frontier:
        frontier = {a for a, found in links.items() if a not in left and any(b in frontier for _, b in found)}
        left |= dict.fromkeys(frontier, max(left.values()) + 1)
    share, latest, on = {source: Fraction(1)}, {source: 0.0}, defaultdict(Fraction)
    for vertex in sorted(left, key=left.__getitem__, reverse=True):
        if vertex not in share or vertex == destination:
            continue
        nearer = [(link, b) for link, b in links[vertex] if left.get(b) == left[vertex] - 1]
        for link, b in nearer:
            part = share[vertex] / len(nearer)
            on[link] += part
            share[b] = share.get(b, 0) + part
            latest[b] = max(latest.get(b, 0.0), latest[vertex] + float(built.link_latency[link]))
    return on, latest[destination]


def check_against_hand(built):
    source, destination = all_pairs(built.num_ranks)
    routes = Router(built).compile(source, destination)
    latency = routes.sum_of(built.link_latency)
    for flow, (a, b) in enumerate(zip(source.tolist(), destination.tolist(), strict=True)):
        here = slice(routes.offsets[flow], routes.offsets[flow + 1])
        links, share = routes.links[here].tolist(), routes.share[here].tolist()
        expected, latest = by_hand(built, a, b)
        assert len(set(links)) == len(links)
        assert dict(zip(links, share, strict=True)) == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-12)
        assert latency[flow] == pytest.approx(latest, rel=1e-12)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_every_vertex_divides_what_it_has_evenly_over_its_links_that_lead_nearer(name):
    check_against_hand(divided(EVERY_KIND[name]))


@settings(max_examples=100)
@given(text=graphs())
def test_any_graph_is_divided_evenly(text):
    try:
        built = divided(text)
    except TopologyError:
        assume(False)
    check_against_hand(built)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_no_vertex_keeps_or_makes_bytes(name):
    built = divided(EVERY_KIND[name])
    source, destination = all_pairs(built.num_ranks)
    routes = Router(built).compile(source, destination)
    flow = np.repeat(np.arange(len(routes)), np.diff(routes.offsets))
    balance = np.zeros((len(routes), len(built.vertex_names)))
    np.add.at(balance, (flow, built.link_target[routes.links]), routes.share)
    np.add.at(balance, (flow, built.link_source[routes.links]), -routes.share)
    expected = np.zeros_like(balance)
    expected[np.arange(len(routes)), destination] = 1
    expected[np.arange(len(routes)), source] = -1
    np.testing.assert_allclose(balance, expected, atol=1e-12)


def test_spines_share_a_flow_equally():
    # 2 spines above the rails: half each, up and down
    assert spread(divided(PODS), 0, 6) == {
        ("node0.device0", "node0.nic0"): [1.0],
        ("node0.nic0", "pod0.rail0"): [1.0],
        ("pod0.rail0", "spine0"): [0.5],
        ("pod0.rail0", "spine1"): [0.5],
        ("spine0", "pod1.rail0"): [0.5],
        ("spine1", "pod1.rail0"): [0.5],
        ("pod1.rail0", "node3.nic0"): [1.0],
        ("node3.nic0", "node3.device0"): [1.0],
    }


def test_a_nic_divides_over_its_leaves_before_each_leaf_does():
    found = spread(divided(TREE), 0, 7)
    # a NIC on two leaves, each with one link up: 1/2 each, all of it through the top switch
    assert found["node0.nic0", "level1.group0.switch1"] == [0.5]
    assert found["level1.group0.switch0", "level2.group0.switch0"] == [0.5]
    assert found["node3.nic1", "node3.device1"] == [1.0]


def test_it_is_switches_that_divide_not_routes():
    # 3 routes from a to b: a-s-t-v-b, a-s-u-v-b over either of two links: t and u get half each, not 1/3 and 2/3
    built = divided(graph("a, b", "a s", "s t", "s u", "t v", "u v", "u v", "v b", switches="s, t, u, v"))
    found = spread(built, 0, 1)
    assert (found["s", "t"], found["t", "v"]) == ([0.5], [0.5])
    assert (found["s", "u"], found["u", "v"]) == ([0.5], [0.25, 0.25])


def test_a_rank_divides_over_its_nics_and_over_parallel_links():
    two_nics = divided(graph("a, b", "a n", "a m", "n s", "m s", "m s", "b s", nics="n, m", switches="s"))
    # half over each NIC; m has two cables
    assert spread(two_nics, 0, 1) == {
        ("a", "n"): [0.5],
        ("a", "m"): [0.5],
        ("n", "s"): [0.5],
        ("m", "s"): [0.25, 0.25],
        ("s", "b"): [1.0],
    }
    # the switch has three links that lead nearer: a third each
    back = spread(two_nics, 1, 0)
    assert back["s", "n"] == pytest.approx([1 / 3])
    assert back["s", "m"] == pytest.approx([1 / 3, 1 / 3])
    assert back["m", "a"] == pytest.approx([2 / 3])
    assert spread(divided(graph("a, b", "a b", "a b")), 0, 1) == {("a", "b"): [0.5, 0.5]}


def test_a_ring_of_four_is_crossed_both_ways():
    found = spread(divided("{kind: torus, shape: [4], link: {bandwidth: 1 GB/s}}"), 0, 2)
    assert found["router0", "router1"] == found["router3", "router2"] == [0.5]


def test_the_last_byte_comes_over_the_longest_of_the_equal_routes():
    # s-t-v costs 1 + 5, s-u-v 4 + 1: 6 us, although the slowest first and second links add up to 9
    links = ("a s", "s t, latency: 1 us", "t v, latency: 5 us", "s u, latency: 4 us", "u v, latency: 1 us", "v b")
    built = divided(graph("a, b", *links, switches="s, t, u, v"))
    routes = Router(built).compile(np.array([0]), np.array([1]))
    assert routes.sum_of(built.link_latency).tolist() == pytest.approx([6e-6], rel=1e-12)


def test_without_equal_routes_splitting_changes_nothing():
    for text in (star(4, latency="1 us"), mesh(4), NODES):
        source, destination = all_pairs(topology(text).num_ranks)
        hashed, routes = (Router(build(text)).compile(source, destination) for build in (topology, divided))
        assert hashed.share is None
        np.testing.assert_array_equal(hashed.links, routes.links)
        np.testing.assert_array_equal(routes.share, 1.0)
        latency = topology(text).link_latency
        np.testing.assert_allclose(routes.sum_of(latency), hashed.sum_of(latency), rtol=1e-12)


@pytest.mark.parametrize("text", [TORUS, PARALLEL, PODS])
def test_flows_that_are_spread_in_parts_are_the_same(text):
    built = divided(text)
    source, destination = all_pairs(built.num_ranks)
    whole = Router(built).compile(source, destination)
    with patch.object(split, "_FLOWS", 5), patch("smoes_sim.topology.routes._SCRATCH", 60):
        parts = Router(built).compile(source, destination)
        np.testing.assert_array_equal(parts.sum_of(built.link_latency), whole.sum_of(built.link_latency))
    for name in ("offsets", "links", "share", "hop"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_no_pairs_have_no_entries():
    nothing = np.empty(0, dtype=np.int64)
    routes = Router(divided(TORUS)).compile(nothing, nothing)
    assert (len(routes), len(routes.links), len(routes.share)) == (0, 0, 0)
    assert len(routes.sum_of(np.zeros(100))) == 0


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda shape: np.prod(shape) > 1))
def test_the_diameter_counts_the_links_of_one_route(shape):
    text = f"{{kind: torus, shape: {shape}, link: {{bandwidth: 1 GB/s}}}}"
    # one link in, one out, and half way round each ring
    assert diameter(topology(text)) == diameter(divided(text)) == 2 + sum(length // 2 for length in shape)
