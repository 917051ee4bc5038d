"""Laws that relate the answers to two inputs, whatever the answers are; each on every path through the solver."""

from __future__ import annotations

import numpy as np
import pytest
from build_from import EVERY_KIND, graph, star, topology
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import INFINITE, problem_from, problem_of, random_problem, side_by_side

from smoes_sim.network import Network, exchange_time, phases_of
from smoes_sim.traffic.skewed import zipf_matrix

FEW, MANY = 1, 170
"""Cases side by side: solved by arrays, or some 600 flows: by compiled loops, after a look for symmetry."""
FIELDS = ("routes", "size", "ready", "ceiling", "share")
"""What a problem says of each flow."""


@st.composite
def runs(draw):
    """A problem with starts and ceilings, small and with split flows or large, and randomness of its own."""
    rng, count = np.random.default_rng(draw(st.integers(0, 2**32))), draw(st.sampled_from([FEW, MANY]))
    orders, is_split = draw(st.sampled_from([0, 3])), count == FEW and draw(st.booleans())
    return side_by_side([random_problem(rng, orders=orders, is_split=is_split) for _ in range(count)]), rng


def laws(examples):
    """Few examples: one of many flows holds hundreds of cases."""
    return settings(max_examples=examples)


def ends(problem, **options):
    return problem.solve(**options).drained


def same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-11)


# names


@laws(8)
@given(run=runs())
def test_flows_may_come_in_any_order(run):
    problem, rng = run
    order = rng.permutation(len(problem.routes)).tolist()
    mixed = problem._replace(**{field: [getattr(problem, field)[f] for f in order] for field in FIELDS})
    same(ends(mixed), ends(problem)[order])


@laws(8)
@given(run=runs())
def test_links_may_have_any_numbers_and_routes_any_order(run):
    problem, rng = run
    number = rng.permutation(len(problem.capacity))
    turn = [rng.permutation(len(route)) for route in problem.routes]
    renumbered = problem._replace(
        routes=[number[route][new].tolist() for route, new in zip(problem.routes, turn, strict=True)],
        share=[np.array(share)[new].tolist() for share, new in zip(problem.share, turn, strict=True)],
        capacity=[problem.capacity[old] for old in np.argsort(number)],
    )
    same(ends(renumbered), ends(problem))


UNIQUE_ROUTES = {
    "star": star(5, latency="1 us"),
    "two_level": EVERY_KIND["two_level"],
    "graph": graph(
        "a, b, c, d, e",
        *("a p", "b p", "c q", "d q, bandwidth: 2 GB/s", "e q", "p q, bandwidth: 1.5 GB/s"),
        switches="p, q",
    ),
}


def renamed(order):
    """The graph above with its ranks in another order."""
    text = UNIQUE_ROUTES["graph"]
    return text.replace("[a, b, c, d, e]", f"[{', '.join('abcde'[old] for old in order)}]")


@given(order=st.permutations(range(5)), seed=st.integers(0, 99))
def test_ranks_of_a_graph_may_have_any_numbers(order, seed):
    matrix = zipf_matrix(5, 1e9, exponent=1, seed=seed, per_source=True)
    expected = finish(topology(UNIQUE_ROUTES["graph"]), matrix)
    same(finish(topology(renamed(order)), matrix[np.ix_(order, order)]), expected[list(order)])


@given(nodes=st.permutations(range(2)), seats=st.permutations(range(4)), seed=st.integers(0, 99))
def test_nodes_and_seats_in_them_may_have_any_numbers(nodes, seats, seed):
    built = topology(UNIQUE_ROUTES["two_level"])
    matrix = zipf_matrix(8, 1e9, exponent=1, seed=seed, per_source=True)
    order = [4 * node + seat for node in nodes for seat in seats]
    same(finish(built, matrix[np.ix_(order, order)]), finish(built, matrix)[order])


def test_forty_ranks_of_a_star_may_have_any_numbers():
    # 1,560 messages: past the 1,000 up to which SimPy's clock is used
    built, order = topology(star(40, latency="1 us")), np.random.default_rng(0).permutation(40)
    matrix = zipf_matrix(40, 1e9, exponent=1, seed=1, per_source=True)
    same(finish(built, matrix[np.ix_(order, order)]), finish(built, matrix)[order])


def finish(built, matrix):
    network = Network.on(built)
    return exchange_time(network, phases_of(network, [matrix])).finish


# units


@laws(8)
@given(run=runs(), factor=st.sampled_from([1e-6, 0.5, 3.0, 1e9]))
def test_bytes_and_bandwidths_that_grow_together_leave_every_end(run, factor):
    problem, _ = run
    scaled = problem._replace(
        **{field: [value * factor for value in getattr(problem, field)] for field in ("size", "capacity", "ceiling")}
    )
    same(ends(scaled), ends(problem))


@laws(8)
@given(run=runs(), factor=st.sampled_from([0.25, 2.0, 1e3]))
def test_faster_links_and_earlier_starts_shrink_all_of_time(run, factor):
    problem, _ = run
    faster = problem._replace(
        capacity=[value * factor for value in problem.capacity],
        ceiling=[value * factor for value in problem.ceiling],
        ready=[value / factor for value in problem.ready],
    )
    same(ends(faster), ends(problem) / factor)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_twice_the_bandwidth_takes_half_the_time_without_latency(name):
    built = topology(EVERY_KIND[name])
    network = Network.on(built)
    (flows,) = phases_of(network, [zipf_matrix(built.num_ranks, 1e9, exponent=1, seed=0, per_source=True)])
    problem = problem_from(network, flows, np.zeros(len(flows)))
    twice = problem._replace(capacity=[2 * c for c in problem.capacity], ceiling=[2 * c for c in problem.ceiling])
    same(ends(twice), ends(problem) / 2)


@laws(8)
@given(run=runs(), delay=st.sampled_from([1, 10]))
def test_a_delay_of_all_ranks_delays_every_time(run, delay):
    problem, _ = run
    later = problem._replace(ready=[moment + delay for moment in problem.ready])
    np.testing.assert_allclose(ends(later), ends(problem) + delay, rtol=1e-10)


# what is not there


@laws(8)
@given(run=runs())
def test_an_unused_link_changes_nothing(run):
    problem, _ = run
    wider = problem._replace(capacity=[1e-3, *problem.capacity, 1e12], routes=[[x + 1 for x in r] for r in problem.routes])
    assert ends(wider).tobytes() == ends(problem).tobytes()


@laws(8)
@given(run=runs())
def test_a_link_as_wide_as_all_before_it_changes_nothing(run):
    # four times as wide, as a link may carry a quarter of a flow that crosses this one whole
    problem, _ = run
    backbone = len(problem.capacity)
    behind = problem._replace(
        capacity=[*problem.capacity, 4 * sum(problem.capacity)],
        routes=[[*route, backbone] for route in problem.routes],
        share=[[*share, 1] for share in problem.share],
    )
    same(ends(behind), ends(problem))


@laws(8)
@given(run=runs())
def test_a_ceiling_is_a_link_of_ones_own(run):
    problem, _ = run
    first = len(problem.capacity)
    limited = [f for f, ceiling in enumerate(problem.ceiling) if ceiling < INFINITE]
    own = {f: first + i for i, f in enumerate(limited)}
    linked = problem._replace(
        capacity=[*problem.capacity, *(problem.ceiling[f] for f in limited)],
        routes=[[*route, own[f]] if f in own else route for f, route in enumerate(problem.routes)],
        share=[[*share, 1] if f in own else share for f, share in enumerate(problem.share)],
        ceiling=[INFINITE] * len(problem.routes),
    )
    same(ends(linked), ends(problem))


@laws(8)
@given(run=runs())
def test_flows_without_bytes_change_nothing(run):
    problem, rng = run
    count = len(problem.routes)
    chosen = rng.integers(0, count, count).tolist()
    ghosts = problem_of([problem.routes[f] for f in chosen], [0] * count, [], share=[problem.share[f] for f in chosen])
    haunted = problem._replace(**{field: [*getattr(problem, field), *getattr(ghosts, field)] for field in FIELDS})
    assert ends(haunted)[:count].tobytes() == ends(problem).tobytes()


@laws(8)
@given(run=runs())
def test_a_stranger_on_other_links_changes_nothing(run):
    problem, rng = run
    stranger = random_problem(rng)
    same(ends(side_by_side([problem, stranger]))[: len(problem.routes)], ends(problem))


# parts


@laws(8)
@given(run=runs(), parts=st.integers(2, 4))
def test_an_exchange_of_which_every_flow_is_cut_in_equal_parts_ends_as_before(run, parts):
    # the law: ALL flows, their ceilings too; every count grows by the same factor, so each part gets that share of its flow
    problem, _ = run
    same(ends(in_parts(problem, parts)), np.repeat(ends(problem), parts))


@laws(8)
@given(run=runs(), parts=st.integers(2, 4))
def test_equal_flows_that_are_merged_end_as_before(run, parts):
    # the same law backwards: an exchange that consists of equal flows in equal numbers is one of their sums
    problem, rng = run
    many = in_parts(problem, parts)
    order = rng.permutation(len(many.routes)).tolist()
    mixed = many._replace(**{field: [getattr(many, field)[f] for f in order] for field in FIELDS})
    same(ends(mixed), np.repeat(ends(problem), parts)[order])


def in_parts(problem, parts):
    """Every flow as several of equal size on the same route, under as many ceilings of equal height."""
    cut = problem._replace(
        size=[size / parts for size in problem.size], ceiling=[ceiling / parts for ceiling in problem.ceiling]
    )
    return cut._replace(**{field: [value for value in getattr(cut, field) for _ in range(parts)] for field in FIELDS})


def test_cutting_only_one_flow_gives_it_more():
    # why all must be cut: 60 B each on 12 B/s end at 10 s; in halves, a has two shares of three, 8 B/s, and ends at 7.5 s
    assert ends(problem_of([[0], [0]], [60, 60], [12])).tolist() == [10, 10]
    assert ends(problem_of([[0], [0], [0]], [30, 30, 60], [12])).tolist() == pytest.approx([7.5, 7.5, 10], rel=1e-12)


def test_a_link_as_two_cables_that_every_flow_uses_equally_is_the_link():
    # even splitting: half of each flow on each of two cables of half the width
    rng = np.random.default_rng(5)
    for problem in (random_problem(rng, orders=3) for _ in range(100)):
        cables = problem._replace(
            capacity=[value / 2 for value in problem.capacity for _ in range(2)],
            routes=[[cable for link in route for cable in (2 * link, 2 * link + 1)] for route in problem.routes],
            share=[[0.5] * (2 * len(route)) for route in problem.routes],
        )
        same(ends(cables), ends(problem))


def test_windows_obey_the_laws_as_the_exact_solution_does():
    # 2,450 messages in windows: units of two, so that every float keeps its digits, and a link that no message crosses
    network = Network.on(topology(star(50)))
    (flows,) = phases_of(network, [zipf_matrix(50, 1e9, exponent=0.3, seed=3, per_source=True)])
    problem = problem_from(network, flows, np.zeros(len(flows)))
    expected = ends(problem, tolerance=1e-2)
    faster = problem._replace(capacity=[2 * c for c in problem.capacity])
    assert ends(faster, tolerance=1e-2).tobytes() == (expected / 2).tobytes()
    wider = problem._replace(capacity=[*problem.capacity, 1.0])
    assert ends(wider, tolerance=1e-2).tobytes() == expected.tobytes()
