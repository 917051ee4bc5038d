"""Alike flows are solved as one only where that is exact: against a reference that never looks for symmetry.

Symmetry is looked for above 500 flows, so every case has more.
"""

from __future__ import annotations

import numpy as np
import pytest
from build_from import DRAGONFLY, EVERY_KIND, NODES, PODS, RACKS, SOCKETS, TREE, mesh, star, topology
from reference import float_fluid, problem_from, problem_of

from smoes_sim.network import Network, phases_of
from smoes_sim.traffic.skewed import uniform_matrix

LARGER = {
    "star": star(24, latency="1 us"),
    "mesh": mesh(24),
    "two_level": NODES.replace("nodes: 2", "nodes: 6"),
    "two_level_thin": NODES.replace("nodes: 2", "nodes: 6") + "fabric: {oversubscription: 4, latency: 3 us}",
    "two_level_mesh": NODES.replace("nodes: 2", "nodes: 6").replace("latency: 1 us", "latency: 1 us, wiring: mesh"),
    "two_level_shared_nic": NODES.replace("nodes: 2", "nodes: 6").replace("infiniband,", "infiniband, per: node,"),
    "scale_up_domain": RACKS.replace("ranks_per_rack: 4", "ranks_per_rack: 12"),
    "rail_optimized": PODS.replace("ranks_per_node: 2", "ranks_per_node: 6"),
    "fat_tree": TREE.replace("ranks_per_node: 2", "ranks_per_node: 6"),
    "torus": "{kind: torus, shape: [4, 3, 2], link: {bandwidth: 100 GB/s, latency: 1 us}}",
    "dragonfly": DRAGONFLY.replace("ranks_per_router: 2", "ranks_per_router: 3"),
    "pcie_tree": SOCKETS.replace("ranks_per_socket: 2", "ranks_per_socket: 6"),
}
"""24 to 30 ranks of each kind that is generated: 552 to 870 messages."""
ALIKE = {"star", "mesh", "two_level", "two_level_thin", "two_level_shared_nic", "scale_up_domain"}
"""Kinds of which the routes are as symmetric as the wiring; a hash chooses among equal routes on the others."""


def uniform(name):
    network = Network.on(topology(LARGER[name]))
    (flows,) = phases_of(network, [uniform_matrix(network.topology.num_ranks, 2.0**26)])
    assert len(flows) > 500
    return problem_from(network, flows, np.zeros(len(flows)))


def agree(problem, rtol=1e-11):
    ours = problem.solve()
    np.testing.assert_allclose(ours.drained, float_fluid(problem), rtol=rtol)
    return ours


def test_every_generated_kind_is_here():
    assert set(LARGER) == {name for name in EVERY_KIND if not name.startswith("graph")}


@pytest.mark.parametrize("name", LARGER)
def test_a_uniform_exchange_ends_as_without_a_look_for_symmetry(name):
    ours = agree(uniform(name))
    if name in ALIKE:
        assert ours.solves <= 4  # one for each kind of message that ends apart


@pytest.mark.parametrize("name", LARGER)
def test_one_message_a_billionth_larger_ends_later_and_the_others_no_earlier(name):
    problem = uniform(name)
    even = problem.solve().drained
    problem.size[100] *= 1 + 1e-9
    uneven = agree(problem, rtol=1e-13).drained
    # at the end it is alone with 1e-9 of its bytes, at 1 to 144 times the rate that it had
    assert even[100] * (1 + 1e-12) < uneven[100] < even[100] * (1 + 1e-8)
    assert np.all(uneven >= even * (1 - 1e-12))


@pytest.mark.parametrize("factor", [0.5, 1 - 1e-9, 1 + 1e-9, 2.0])
@pytest.mark.parametrize("name", ["star", "two_level_thin", "torus"])
def test_one_link_that_differs_is_seen(name, factor):
    problem = uniform(name)
    problem.capacity[problem.routes[7][0]] *= factor
    agree(problem, rtol=1e-13)


@pytest.mark.parametrize(
    ("field", "value", "later"),
    [
        ("ready", 1e-12, 1e-12 / 23),  # it misses a 23rd of 50 GB/s for 1e-12 s, and makes up for it alone at 50 GB/s
        ("ceiling", 50e9 / 23 * (1 - 1e-9), 1e-9 * 23 * 2.0**26 / 24 / 50e9),  # 1e-9 slower all the time
    ],
    ids=["ready", "ceiling"],
)
def test_one_flow_that_starts_late_or_is_limited_is_seen(field, value, later):
    problem = uniform("star")
    even = problem.solve().drained[5]
    getattr(problem, field)[5] = value
    assert agree(problem, rtol=1e-13).drained[5] - even == pytest.approx(later, rel=1e-2)


def test_a_uniform_exchange_on_a_torus_that_divides_its_flows_ends_everywhere_at_once():
    # all ranks of a torus are equivalent, and so are all routes to one offset if none is chosen by a hash
    network = Network.on(topology(LARGER["torus"].replace("}}", "}, routing: split}")))
    (flows,) = phases_of(network, [uniform_matrix(24, 2.0**26)])
    drained = agree(problem_from(network, flows, np.zeros(len(flows)))).drained.reshape(24, 23)
    np.testing.assert_allclose(np.sort(drained, axis=1), np.tile(np.sort(drained[0]), (24, 1)), rtol=1e-11)


# partitions that look the same


def regular(rng, *, left, degree):
    """A flow for each edge of a random bipartite graph in which every link carries ``degree`` flows; seldom symmetric."""
    ends = np.stack([(np.arange(left) + shift) % left for shift in range(degree)], axis=1)
    names = rng.permutation(left)
    for _ in range(4 * left * degree):  # swap the ends of two edges where that makes no edge twice
        a, b = rng.integers(0, left, 2)
        i, j = rng.integers(0, degree, 2)
        if ends[a, i] not in ends[b] and ends[b, j] not in ends[a]:
            ends[a, i], ends[b, j] = ends[b, j], ends[a, i]
    return [[link, left + int(names[end])] for link in range(left) for end in ends[link]]


@pytest.mark.parametrize("seed", range(3))
def test_links_with_equally_many_flows_are_one_class_even_without_a_symmetry(seed):
    # no renumbering maps one flow to another, yet each has 1/20 of both its links: 40 B at 1 B/s
    routes = regular(np.random.default_rng(seed), left=40, degree=20)
    ours = problem_of(routes, [40] * 800, [20] * 80).solve()
    np.testing.assert_allclose(ours.drained, 40, rtol=1e-13)
    assert ours.solves == 1


@pytest.mark.parametrize("seed", range(3))
def test_one_odd_flow_breaks_the_class_of_a_regular_graph(seed):
    rng = np.random.default_rng(seed)
    problem = problem_of(regular(rng, left=40, degree=20), [40] * 800, [20] * 80)
    problem.size[int(rng.integers(800))] = 39
    ours = agree(problem)
    assert len(np.unique(np.round(ours.drained, 9))) > 1


def test_a_hexagon_and_two_triangles_look_alike_and_are():
    # colours cannot tell six links in one ring from two rings of three; max-min rates need not either
    def ring(first, length):
        return [[first + i, first + (i + 1) % length] for i in range(length)]

    routes = [
        route for copy in range(60) for route in (*ring(12 * copy, 6), *ring(12 * copy + 6, 3), *ring(12 * copy + 9, 3))
    ]
    np.testing.assert_allclose(problem_of(routes, [3] * 720, [2] * 720).solve().drained, 3, rtol=1e-13)
    cut = problem_of(routes, [3] * 720, [2] * 720)
    cut.capacity[0] = 1  # in one of 60 hexagons
    np.testing.assert_allclose(cut.solve().drained, agree(cut).drained, rtol=1e-13)


@pytest.mark.parametrize("length", [600, 601])
def test_a_long_ring_with_one_odd_link_is_not_taken_for_an_even_one(length):
    # what differs is 300 links away for some flows, further than colours are passed on
    routes = [[link, (link + 1) % length] for link in range(length)]
    ring = problem_of(routes, [3] * length, [2] * length)
    ring.capacity[length // 2] = 1
    agree(ring)
    drained = ring.solve().drained
    assert drained[length // 2] == pytest.approx(6, rel=1e-12)  # 1 B/s for two flows of 3 B
    assert drained[0] == pytest.approx(3, rel=1e-12)


def test_links_of_one_width_with_nine_ten_and_eleven_flows_are_three_classes():
    count = np.tile([9, 10, 11], 20)
    routes = [[link] for link in range(60) for _ in range(count[link])]
    ours = problem_of(routes, [7] * len(routes), [1] * 60).solve()
    np.testing.assert_allclose(ours.drained, 7.0 * np.repeat(count, count), rtol=1e-13)
    assert ours.solves <= 3


def test_flows_that_cross_alike_links_in_other_company_are_kept_apart():
    # each link of 12 B/s carries 6 flows and each flow crosses two; those of a wide and a narrow one differ
    rng = np.random.default_rng(7)
    problem = problem_of(regular(rng, left=100, degree=6), [12] * 600, [12] * 200)
    for link in rng.permutation(200)[:100]:
        problem.capacity[link] = 6
    ours = agree(problem)
    narrow = [any(problem.capacity[link] == 6 for link in route) for route in problem.routes]
    assert np.all(ours.drained[narrow] >= 12 - 1e-9)


def test_equal_starts_written_as_two_zeros_are_equal():
    ready = [0.0, -0.0] * 300
    ours = problem_of([[0]] * 600, [1] * 600, [600], ready=ready).solve()
    assert (ours.makespan, ours.solves) == (pytest.approx(1, rel=1e-13), 1)
