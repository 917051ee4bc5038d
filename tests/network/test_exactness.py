"""Max-min rates and fluid times against slow references, on thousands of small cases and some larger ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from build_from import DRAGONFLY, EVERY_KIND, NODES, PARALLEL, PODS, TREE, star, topology
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    bytes_carried,
    check_max_min,
    exact_fluid,
    float_fluid,
    max_min_by_programming,
    problem_from,
    problem_of,
    progressive_filling,
    random_problem,
    side_by_side,
)

from smoes_sim.network import Network, exchange_time, phases_of
from smoes_sim.network.fluid.solve import fluid_times
from smoes_sim.traffic.skewed import zipf_matrix

KINDS = {name: topology(text) for name, text in EVERY_KIND.items()}
THIN = NODES.replace("ranks_per_node: 4", "ranks_per_node: 8") + "fabric: {oversubscription: 4, latency: 3 us}"
RAIL = PODS.replace("ranks_per_node: 2", "ranks_per_node: 8")
TORUS = "{kind: torus, shape: [4, 7, 2], link: {bandwidth: 100 GB/s, latency: 1 us}}"
MEDIUM = {
    "star": star(25),
    "two_level 4:1": THIN.replace("nodes: 2", "nodes: 3"),
    "rail": RAIL.replace("nodes: 4", "nodes: 3"),
    "torus": TORUS.replace("7, 2]", "6, 1]"),
    "dragonfly": DRAGONFLY.replace("ranks_per_router: 2", "ranks_per_router: 3"),
}
LARGE = {
    "star": star(56),
    "two_level 4:1": THIN.replace("nodes: 2", "nodes: 7"),
    "rail": RAIL.replace("nodes: 4", "nodes: 7").replace("per_pod: 2", "per_pod: 4"),
    "torus": TORUS,
    "dragonfly": DRAGONFLY.replace("groups: 5", "groups: 7").replace("routers_per_group: 2", "routers_per_group: 4"),
}
"""56 ranks, 3,080 messages: 1,032 more than the last ones that windows leave to the exact solution."""


def many(count, seed, **options):
    rng = np.random.default_rng(seed)
    return [random_problem(rng, **options) for _ in range(count)]


def in_fractions(problems):
    """Exact finish times of all flows, rounded once."""
    return np.array([float(end) for problem in problems for end in exact_fluid(problem)])


def skewed(network, *, seed=0, exponent=1.0, per_source=True):
    ranks = network.topology.num_ranks
    return phases_of(network, [zipf_matrix(ranks, 64e6, exponent=exponent, seed=seed, per_source=per_source)])


# rates


def test_rates_of_four_thousand_cases_are_those_of_linear_programming():
    problems = many(4000, seed=1, is_timed=False)
    ours = np.concatenate([problem.rates() for problem in problems])
    np.testing.assert_allclose(ours, max_min_by_programming(problems), rtol=1e-6)


@pytest.mark.parametrize("orders", [0, 9])
def test_rates_of_thousands_of_cases_are_those_of_filling_in_fractions(orders):
    for problem in many(2000, seed=2 + orders, orders=orders, is_timed=False):
        exact = progressive_filling(problem.routes, problem.capacity, problem.ceiling)
        np.testing.assert_allclose(problem.rates(), exact, rtol=1e-13)


@pytest.mark.parametrize("orders", [0, 9])
def test_rates_of_thousands_of_larger_cases_keep_the_rules(orders):
    for problem in many(1000, seed=4 + orders, most_flows=30, most_links=12, orders=orders, is_timed=False):
        check_max_min(problem.rates(), problem.routes, problem.capacity, problem.ceiling)


def test_linear_programming_knows_a_chain_of_bottlenecks():
    # link 0 (3, flows a b): 1.5 each; link 1 (6, flows b c): c gets 4.5; link 2 (10, flows c d): d stops at its ceiling
    chain = problem_of([[0], [0, 1], [1, 2], [2]], [1] * 4, [3, 6, 10], ceiling=[np.inf, np.inf, np.inf, 5])
    assert max_min_by_programming([chain, chain]).tolist() == pytest.approx([1.5, 1.5, 4.5, 5] * 2, rel=1e-9)


@given(count=st.integers(1, 12), width=st.integers(1, 5), capacity=st.floats(1e-3, 1e12))
def test_parallel_links_are_shared_by_the_flows_on_each_alone(count, width, capacity):
    # every flow enters by a port of its own, wide enough; flow f takes cable f modulo width
    routes = [[width + f, f % width] for f in range(count)]
    rates = problem_of(routes, [1] * count, [capacity] * width + [2 * capacity] * count).rates()
    on = np.bincount(np.arange(count) % width, minlength=width)
    np.testing.assert_allclose(rates, capacity / on[np.arange(count) % width], rtol=1e-13)


# fluid times


@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("orders", [0, 9])
def test_hundreds_of_cases_drain_when_fractions_say(orders, is_split):
    problems = many(300, seed=6 + orders, orders=orders, is_split=is_split)
    for problem, exact in zip(problems, np.split(in_fractions(problems), ends_of(problems)), strict=True):
        ours = problem.solve()
        np.testing.assert_allclose(ours.drained, exact, rtol=1e-12)
        assert ours.error_bound == 0
        assert ours.makespan >= ours.lower_bound * (1 - 1e-12)


def ends_of(problems):
    return np.cumsum([len(problem.routes) for problem in problems])[:-1]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "arrays"])
@pytest.mark.parametrize(("orders", "is_split"), [(0, False), (9, False), (9, True)])
def test_cases_side_by_side_drain_as_each_alone(orders, is_split, compiled):
    # more flows than are solved by arrays alone, so the compiled loops and the search for symmetry see them too
    problems = many(300, seed=20 + orders, orders=orders, is_split=is_split)
    ours = side_by_side(problems).solve(compiled=compiled)
    np.testing.assert_allclose(ours.drained, in_fractions(problems), rtol=1e-11)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "arrays"])
def test_many_split_flows_share_the_cable_that_carries_most_of_them(compiled):
    # flow i has i bytes, half of which cross cable 0 of 1 B/s and a quarter cable 1: 501 * 502 / 2 / 2 = 62875.5 s
    count = 501
    split = problem_of([[0, 1]] * count, list(range(1, count + 1)), [1, 1], share=[[0.5, 0.25]] * count)
    assert split.solve(compiled=compiled).makespan == pytest.approx(62875.5, rel=1e-12)


@st.composite
def timed_problems(draw):
    seed = draw(st.integers(0, 2**32))
    options = {"orders": draw(st.sampled_from([0, 2])), "is_split": draw(st.booleans())}
    return random_problem(np.random.default_rng(seed), most_flows=8, most_links=6, **options)


@given(problem=timed_problems())
def test_every_flow_gets_its_bytes_between_its_start_and_its_end(problem):
    drained = problem.solve().drained
    np.testing.assert_allclose(bytes_carried(problem, drained), problem.size, rtol=1e-9)
    assert np.all(drained >= problem.ready)


def test_a_flow_split_over_two_cables_is_limited_by_the_narrower_half():
    # half of a takes a cable of 2 B/s, half one of 10, which b shares: a has 4 B/s, b what is left of the wide one, 8
    split = problem_of([[0, 1], [1]], [8, 32], [2, 10], share=[[0.5, 0.5], [1]])
    assert split.solve().drained.tolist() == pytest.approx([2, 3.6], rel=1e-12)  # b: 16 B by 2 s, 16 more at 10 B/s
    assert [float(end) for end in exact_fluid(split)] == [2, 3.6]


def test_the_integral_of_rates_betrays_wrong_ends():
    # 10 and 30 B on 10 B/s end at 2 and 4 s; at 2 and 4.5 s the second would get 10 + 25 B
    problem = problem_of([[0], [0]], [10, 30], [10])
    assert bytes_carried(problem, np.array([2.0, 4.0])).tolist() == [10, 30]
    assert bytes_carried(problem, np.array([2.0, 4.5])).tolist() == [10, 35]


DIVIDED = {
    "rail": PODS + "routing: split",
    "fat tree": TREE + "routing: split",
    "torus": "{kind: torus, shape: [4, 2, 2], link: {bandwidth: 100 GB/s, latency: 1 us}, routing: split}",
    "parallel": PARALLEL + "\nrouting: split",
}


@pytest.mark.parametrize("name", [*EVERY_KIND, *(f"{name}, divided" for name in DIVIDED)])
def test_exchanges_on_every_kind_of_topology_drain_when_a_dense_reference_says(name):
    kind, _, is_divided = name.partition(", ")
    network = Network.on(topology(DIVIDED[kind]) if is_divided else KINDS[name])
    (flows,) = skewed(network, exponent=0.7)
    assert (flows.routes.share is not None) == bool(is_divided)
    problem = problem_from(network, flows, np.random.default_rng(3).integers(0, 10, len(flows)) * 1e-4)
    drained = problem.solve().drained
    np.testing.assert_allclose(drained, float_fluid(problem), rtol=1e-11)
    np.testing.assert_allclose(bytes_carried(problem, drained), problem.size, rtol=1e-9)


@pytest.mark.parametrize("name", ["star", "two_level 4:1", "rail", "torus", "dragonfly"])
def test_compiled_loops_and_arrays_and_the_dense_reference_agree(name):
    # 24 to 30 ranks: more than the 500 flows below which nothing is compiled; starts are staggered as by an overhead
    network = Network.on(topology(MEDIUM[name]))
    (flows,) = skewed(network)
    ready = np.random.default_rng(5).integers(0, 20, len(flows)) * 1e-5
    fast, slow = (solve(network, flows, ready=ready, compiled=compiled) for compiled in (True, False))
    np.testing.assert_allclose(fast.drained, slow.drained, rtol=1e-9)
    assert len(flows) > 500
    assert fast.lower_bound == slow.lower_bound <= fast.makespan * (1 + 1e-12)
    problem = problem_from(network, flows, ready)
    np.testing.assert_allclose(fast.drained, float_fluid(problem), rtol=1e-9)


@pytest.mark.parametrize("cases", [1, 170], ids=["few", "many"])
def test_links_that_deliver_less_under_many_flows_agree_with_the_reference(cases):
    rng = np.random.default_rng(9)
    for _ in range(170 // cases):
        problem = side_by_side([random_problem(rng, orders=3) for _ in range(cases)])
        most = rng.integers(1, 4, len(problem.capacity)).astype(float)
        efficiency = rng.integers(1, 5, len(problem.capacity)) / 4
        ours = problem.solve(incast_flows=most, incast_efficiency=efficiency)
        np.testing.assert_allclose(ours.drained, float_fluid(problem, most=most, efficiency=efficiency), rtol=1e-11)


def solve(network, flows, **options):
    routes = flows.routes
    return fluid_times(routes.offsets, routes.links, flows.size, network.capacity, ceiling=flows.ceiling, **options)


# windows

SKEWS = [(exponent, per_source) for exponent in (0.3, 1.0) for per_source in (False, True)]
TOLERANCE = 1e-4
FACTOR = 2.0
"""The makespan may be off by this many printed bounds: a bound is the difference to windows twice as wide."""
EARLY = 0.5
"""A rank may be told its end this wrongly, relatively: windows promise the last end only."""


@cache
def both(name, exponent, per_source):
    """An exchange, exact and in windows."""
    network = Network.on(topology(LARGE[name]))
    phases = skewed(network, seed=1, exponent=exponent, per_source=per_source)
    return exchange_time(network, phases), exchange_time(network, phases, tolerance=TOLERANCE)


def worst_of(name, error):
    """Largest of an error over the skews of a topology, printed."""
    found = {skew: float(error(*both(name, *skew))) for skew in SKEWS}
    skew, worst = max(found.items(), key=lambda item: item[1])
    print(f"{name}: worst {worst:.1e} at Zipf({skew[0]}), {'per source' if skew[1] else 'shared'}")  # noqa: T201 - for -s
    return worst


@pytest.mark.parametrize("name", LARGE)
def test_windows_keep_the_makespan_within_the_tolerance(name):
    assert worst_of(name, lambda exact, windows: abs(windows.duration / exact.duration - 1)) <= TOLERANCE


@pytest.mark.parametrize("name", LARGE)
def test_windows_keep_the_makespan_within_twice_the_printed_bound(name):
    def excess(exact, windows):
        return abs(windows.duration / exact.duration - 1) - FACTOR * windows.error_bound

    assert worst_of(name, excess) <= 1e-12


def test_two_windows_that_agree_by_chance_are_not_believed():
    # windows of 0.2 and 0.1 give -3.0e-3 and -3.5e-3 and agree within 1e-3; 0.05 gives -2.8e-4
    network = Network.on(topology(LARGE["dragonfly"]))
    phases = skewed(network, seed=2, exponent=0.3, per_source=False)
    exact, windows = exchange_time(network, phases), exchange_time(network, phases, tolerance=1e-3)
    assert windows.duration == pytest.approx(exact.duration, rel=1e-3)


@pytest.mark.parametrize("name", LARGE)
def test_windows_tell_no_rank_a_wrong_end_by_more_than_is_stated(name):
    assert worst_of(name, lambda exact, windows: np.max(abs(windows.finish / exact.finish - 1))) <= EARLY


# determinism

SCRIPT = """
import numpy as np
from test_exactness import digest
print(digest())
"""


def digest():
    """Hash of the bytes of small, exact, compiled and windowed answers."""
    answer = hashlib.sha256()
    for name in ("two_level_thin", "dragonfly"):
        answer.update(exchange_time(*small(KINDS[name])).finish.tobytes())
    network = Network.on(topology(star(48)))
    (flows,) = skewed(network, seed=2)
    for tolerance in (0.0, 1e-3):
        answer.update(solve(network, flows, tolerance=tolerance).drained.tobytes())
    return answer.hexdigest()


def small(built):
    network = Network.on(built, per_message=1e-6)
    return network, skewed(network)


def test_another_process_with_another_hash_and_more_threads_gives_the_same_bytes():
    environment = {**os.environ, "PYTHONHASHSEED": "4242", "NUMBA_NUM_THREADS": "2"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == digest()
