"""Every kind at its smallest, at odd sizes and at 4,096 ranks, and rules that hold whatever the parameters."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from build_from import DRAGONFLY, graph, mesh, star, topology
from hypothesis import given
from hypothesis import strategies as st
from reference import all_pairs, check_route, hops_by_networkx
from scipy.stats import chisquare

from smoes_sim.errors import TopologyError
from smoes_sim.topology import Router
from smoes_sim.topology.metrics import bisection, diameter

PARTS = "\nscale_up: {bandwidth: 400 GB/s, latency: 1 us}\nnic: {bandwidth: 50 GB/s, latency: 2 us}\n"
SHARED = PARTS.replace("50 GB/s", "50 GB/s, per: node")
MESHED = PARTS.replace("400 GB/s", "400 GB/s, wiring: mesh")
LINK = "link: {bandwidth: 1 GB/s}"


def two_level(nodes, per_node, parts=PARTS, thin="1"):
    return f"kind: two_level\nnodes: {nodes}\nranks_per_node: {per_node}{parts}fabric: {{oversubscription: {thin}}}\n"


def rails(nodes, per_node, pod, spines=1, *, parts=PARTS, thin="1"):
    fabric = f"fabric: {{nodes_per_pod: {pod}, spines: {spines}, oversubscription: {thin}}}\n"
    return f"kind: rail_optimized\nnodes: {nodes}\nranks_per_node: {per_node}{parts}{fabric}"


def tree(nodes, per_node, *levels, parts=PARTS):
    rows = ", ".join(f"{{down: {down}, switches: {switches}, oversubscription: {thin}}}" for down, switches, thin in levels)
    return f"kind: fat_tree\nnodes: {nodes}\nranks_per_node: {per_node}{parts}levels: [{rows}]\n"


def racks(number, per_rack):
    return f"kind: scale_up_domain\nracks: {number}\nranks_per_rack: {per_rack}{PARTS}"


def torus(*shape):
    return f"{{kind: torus, shape: {list(shape)}, {LINK}}}"


def dragonfly(groups, routers, ranks, ports):
    links = f"{LINK}\nlocal: {{bandwidth: 1 GB/s}}\nglobal: {{bandwidth: 1 GB/s, per_router: {ports}}}\n"
    return f"kind: dragonfly\ngroups: {groups}\nrouters_per_group: {routers}\nranks_per_router: {ranks}\n{links}"


def sockets(nodes, per_node, per_socket):
    links = "pcie: {bandwidth: 4 GB/s}\nhost: {bandwidth: 2 GB/s}\nnic: {bandwidth: 1 GB/s}\n"
    return f"kind: pcie_tree\nnodes: {nodes}\nsockets: {per_node}\nranks_per_socket: {per_socket}\n{links}"


@pytest.mark.parametrize(
    ("text", "ranks", "nodes", "hops", "gigabytes"),
    [  # nodes, the most links of a route, GB/s from the first half of the nodes (or ranks) to the rest
        (star(1), 1, 1, 0, 0),
        (mesh(2), 2, 1, 1, 64),
        (two_level(1, 1), 1, 1, 0, 0),
        (two_level(1, 4), 4, 1, 2, 2 * 400 + 2 * 50),  # a fabric of its own joins the NICs of a single node
        (two_level(4, 1, thin="0.5"), 4, 4, 6, 2 * 50),  # wider above the leaf: the NICs are the limit
        (two_level(2, 1, MESHED), 2, 2, 4, 50),
        (two_level(2, 3, SHARED), 6, 2, 4, 50),
        (rails(1, 1, 4), 1, 1, 0, 0),
        (rails(1, 4, 4), 4, 1, 2, 2 * 400 + 2 * 50),
        (rails(5, 1, 2, spines=3, thin="0.5"), 5, 5, 6, 2 * 50),
        (rails(4, 2, 1), 8, 4, 6, 4 * 50),  # pods of one node: rails meet only at the spine
        (rails(3, 2, 2, parts=SHARED), 6, 3, 6, 50),  # the NIC of node 0; node 1 is not divided
        (racks(1, 1), 1, 1, 0, 0),
        (racks(3, 1), 3, 3, 4, 50),
        (tree(1, 2, (4, 1, 1)), 2, 1, 2, 400 + 50),
        (tree(3, 1, (1, 1, 1), (1, 1, 1)), 3, 3, 6, 50),  # the last level takes all, whatever it says
        (tree(7, 1, (3, 1, "0.5"), (2, 2, 1), (9, 1, 1)), 7, 7, 8, 3 * 50),
        (torus(1), 1, 1, 0, 0),
        (torus(2), 2, 2, 3, 1),
        (torus(1, 2, 3), 6, 6, 4, 3),
        (DRAGONFLY.replace("groups: 5", "groups: 1"), 4, 2, 3, 25),
        (dragonfly(1, 1, 1, 1), 1, 1, 0, 0),
        (dragonfly(2, 1, 2, 3), 4, 2, 3, 2),  # three parallel global links, but only two ranks to feed them
        (sockets(1, 1, 1), 1, 1, 0, 0),
        (sockets(3, 3, 1), 9, 3, 6, 1),  # the NIC of node 0; node 1 is not divided
    ],
)
def test_the_smallest_and_oddest_of_a_kind_are_what_they_say(text, ranks, nodes, hops, gigabytes):
    built = topology(text)
    assert (built.num_ranks, built.num_nodes) == (ranks, nodes)
    assert (diameter(built), bisection(built).bandwidth) == (hops, pytest.approx(gigabytes * 1e9))


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (star(1), ""),
        (mesh(5), "ranks 0-1 to ranks 2-4"),
        (two_level(3, 4), "node 0 to nodes 1-2"),
        (two_level(2, 4), "node 0 to node 1"),
        (two_level(5, 1), "nodes 0-1 to nodes 2-4"),
    ],
)
def test_a_bisection_divides_nodes_and_names_its_halves(text, cut):
    assert bisection(topology(text)).cut == cut


counts = functools.partial(st.integers, 1)
parts = st.sampled_from([PARTS, SHARED, MESHED])
thin = st.sampled_from(["0.5", "1", "3"])
levels = st.lists(st.tuples(counts(4), counts(3), thin), min_size=1, max_size=3)
ports = st.integers(2, 3)  # two links a router reach the other groups below
KINDS = {
    "star": st.builds(star, counts(9)),
    "mesh": st.builds(mesh, counts(9)),
    "two_level": st.builds(two_level, counts(4), counts(4), parts, thin),
    "rail_optimized": st.builds(rails, counts(5), counts(3), counts(4), counts(3), parts=parts, thin=thin),
    "scale_up_domain": st.builds(racks, counts(4), counts(4)),
    "fat_tree": st.builds(
        lambda nodes, per, which, some: tree(nodes, per, *some, parts=which), counts(6), counts(2), parts, levels
    ),
    "torus": st.lists(counts(5), min_size=1, max_size=3).map(lambda shape: torus(*shape)),
    "dragonfly": st.builds(dragonfly, counts(3), counts(3), counts(2), ports),
    "pcie_tree": st.builds(sockets, counts(3), counts(3), counts(3)),
}
A_TOPOLOGY = st.one_of(*KINDS.values())


@given(text=A_TOPOLOGY, seed=st.integers(0, 3))
def test_routes_of_every_kind_are_whole_and_as_short_as_networkx_finds(text, seed):
    built = topology(text)
    source, destination = all_pairs(min(built.num_ranks, 24))
    routes = Router(built, seed=seed).compile(source, destination)
    hops = {rank: hops_by_networkx(built, rank) for rank in set(source.tolist())}
    for flow, (a, b) in enumerate(zip(source.tolist(), destination.tolist(), strict=True)):
        check_route(built, a, b, routes.of(flow))
        assert len(routes.of(flow)) == hops[a][b]


@given(text=A_TOPOLOGY)
def test_split_flows_of_every_kind_are_conserved_and_take_only_shortest_routes(text):
    built = topology(text[:-1] + ", routing: split}" if text.startswith("{") else text + "routing: split")
    source, destination = all_pairs(min(built.num_ranks, 24))
    routes = Router(built).compile(source, destination)
    flow = np.repeat(np.arange(len(routes)), np.diff(routes.offsets))
    balance = np.zeros((len(routes), len(built.vertex_names)))
    np.add.at(balance, (flow, built.link_target[routes.links]), routes.share)
    np.add.at(balance, (flow, built.link_source[routes.links]), -routes.share)
    expected = np.zeros_like(balance)
    expected[np.arange(len(routes)), destination] += 1
    expected[np.arange(len(routes)), source] -= 1
    np.testing.assert_allclose(balance, expected, atol=1e-12)
    one_each = Router(topology(text)).compile(source, destination)
    np.testing.assert_allclose(np.bincount(flow, weights=routes.share), np.diff(one_each.offsets), rtol=1e-12)
    passed = built.link_target[routes.links] != np.repeat(destination, np.diff(routes.offsets))
    assert (built.link_target[routes.links][passed] >= built.num_ranks).all()


def spread_over(built, seed, *, into):
    """How many of the routes of all pairs enter each combination of the vertices whose names start with ``into``."""
    source, destination = all_pairs(built.num_ranks)
    routes = Router(built, seed=seed).compile(source, destination)
    flow = np.repeat(np.arange(len(routes)), np.diff(routes.offsets))
    key = np.zeros(len(routes), dtype=np.int64)
    for place, start in enumerate(into):
        chosen = [vertex for vertex, name in enumerate(built.vertex_names) if name.startswith(start)]
        number = np.full(len(built.vertex_names), -1)
        number[chosen] = np.arange(len(chosen))
        entered = number[built.link_target[routes.links]]
        key[flow[entered >= 0]] += (entered[entered >= 0] + 1) * 100**place
    used = key[key >= 100 ** (len(into) - 1)]
    return np.unique(used, return_counts=True)[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("text", "into", "choices"),
    [
        # 4 pods of 4 nodes: all pairs but those of one pod and rail cross one of 8 spines
        (rails(16, 4, 4, spines=8), ["spine"], 8),
        # 6 leaves of 8 nodes under 5 switches that are no power of two
        (tree(48, 1, (8, 1, 1), (9, 5, 1)), ["level2"], 5),
        # routes over the top choose 4 times: the choice of a top switch must not follow from that of the one below
        (tree(64, 1, (4, 1, 1), (4, 3, 1), (4, 4, 1)), ["level3"], 4),
    ],
)
def test_the_hash_uses_equal_routes_as_evenly_as_dice(text, into, choices, seed):
    counts_of = spread_over(topology(text), seed, into=into)
    assert len(counts_of) == choices
    # 1 in 10,000 dice is less even
    assert chisquare(counts_of).pvalue > 1e-4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_hash_chooses_at_one_switch_says_nothing_about_the_next(seed):
    # two groups of 32 nodes; leaves of 4 under 3 switches, under 4 at the top, down over 3 again: 3 x 4 x 3 combinations
    built = topology(tree(64, 1, (4, 1, 1), (8, 3, 1), (2, 4, 1)))
    up = [f"level2.group0.switch{number}" for number in range(3)]
    down = [f"level2.group1.switch{number}" for number in range(3)]
    assert set(up + down) <= set(built.vertex_names)
    source, destination = (side.ravel() for side in np.meshgrid(np.arange(32), np.arange(32, 64)))
    routes = Router(built, seed=seed).compile(source, destination)
    names = [[built.vertex_names[built.link_target[link]] for link in routes.of(flow)] for flow in range(len(routes))]
    chosen = [tuple(name for name in route if name.startswith(("level2", "level3"))) for route in names]
    kinds, times = np.unique(np.array(chosen), axis=0, return_counts=True)
    assert len(kinds) == 3 * 4 * 3
    assert chisquare(times).pvalue > 1e-4


@pytest.mark.parametrize(
    "text",
    [
        star(4096),
        two_level(512, 8),
        two_level(512, 8, MESHED),
        rails(512, 8, 32, spines=16),
        racks(64, 64),
        tree(512, 8, (32, 1, 1), (8, 8, 2), (16, 16, 1)),
        dragonfly(32, 16, 8, 4),
        sockets(512, 2, 4),
    ],
)
def test_4096_ranks_are_built_and_routed(text):
    built = topology(text)
    assert built.num_ranks == 4096
    source = np.arange(4096)
    routes = Router(built).compile(source, (source + 2048) % 4096)
    ends = routes.links[routes.offsets[1:] - 1]
    np.testing.assert_array_equal(built.link_target[ends], (source + 2048) % 4096)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (mesh(6000), r"35994000 or more links are more than 33554432\. Use fewer\."),
        (star(2**20 + 1), rf"{2**20 + 1} x 1 ranks are more than {2**20}\. Use fewer\."),
        (torus(1024, 1024, 2), rf"{2**21} x 1 ranks are more than"),
        (rails(1, 1, 1, spines=2**23), r"ranks, NICs and switches are more than 4194304\. Use fewer\."),
    ],
)
def test_more_than_memory_is_likely_to_hold_is_refused_before_it_is_tried(text, rule):
    with pytest.raises(TopologyError, match=rule):
        topology(text)


def test_of_many_ranks_the_first_two_without_a_route_are_named():
    links = [f"d{number} s{number // 50}" for number in range(100)]
    with pytest.raises(TopologyError, match=r"rank 0 \(d0\) has no route to rank 50 \(d50\)"):
        topology(graph(", ".join(f"d{number}" for number in range(100)), *links, switches="s0, s1"))
