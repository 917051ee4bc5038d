from __future__ import annotations

import numpy as np
import pytest
from build_from import star, topology
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import random_problem, side_by_side

from smoes_sim.errors import SimulationError
from smoes_sim.network import Network, exchange_time, phases_of
from smoes_sim.network.fluid.prepared import PreparedRoutes
from smoes_sim.network.fluid.solve import fluid_times, last_difference
from smoes_sim.network.fluid.waterfill import ArrayWaterfill, CompiledWaterfill
from smoes_sim.topology import find_topology
from smoes_sim.traffic.skewed import uniform_matrix, zipf_matrix


def exchange(name, matrix):
    network = Network.on(find_topology(name))
    (flows,) = phases_of(network, [matrix])
    return network, flows


def solve(network, flows, **options):
    routes = flows.routes
    return fluid_times(routes.offsets, routes.links, flows.size, network.capacity, ceiling=flows.ceiling, **options)


def test_two_flows_share_a_link_until_one_ends():
    # 10 and 30 B on a link of 10 B/s: 5 B/s each until 2 s; then 10 B/s for the 20 B left: 4 s
    result = fluid_times(np.array([0, 1, 2]), np.array([0, 0]), np.array([10.0, 30.0]), np.array([10.0]))
    np.testing.assert_allclose(result.drained, [2, 4])
    assert (result.error_bound, result.lower_bound) == (0, 4)


def test_a_flow_that_is_ready_later_starts_later():
    # alone until 1 s (10 B gone, 20 left); then 5 B/s each: the other's 10 B end at 3 s; the last 10 B at 10 B/s: 4 s
    result = fluid_times(
        np.array([0, 1, 2]), np.array([0, 0]), np.array([30.0, 10.0]), np.array([10.0]), ready=np.array([0.0, 1.0])
    )
    np.testing.assert_allclose(result.drained, [4, 3])


def test_the_lower_bound_counts_from_when_the_first_flow_of_a_link_is_ready():
    # 60 B on a link of 10 B/s, none before 3 s: 9 s. Each flow alone: 3 + 3 and 4 + 3 s. Both end at 9 s at the earliest
    result = fluid_times(
        np.array([0, 1, 2]), np.array([0, 0]), np.array([30.0, 30.0]), np.array([10.0]), ready=np.array([3.0, 4.0])
    )
    assert result.lower_bound == pytest.approx(9)
    assert result.makespan == pytest.approx(9)


def test_a_solution_is_compared_with_the_two_before_it():
    assert last_difference([1.003, 1.0, 1.0]) == pytest.approx(0.003)
    assert last_difference([1.0, 1.002, 1.001]) == pytest.approx(0.001 / 1.001)
    assert last_difference([1.0, 1.0]) == np.inf


def test_flows_without_bytes_or_links_end_when_they_are_ready():
    result = fluid_times(
        np.array([0, 1, 1]), np.array([0]), np.array([0.0, 5.0]), np.array([10.0]), ready=np.array([2.0, 3.0])
    )
    np.testing.assert_allclose(result.drained, [2, 3])


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_solution_is_that_of_the_engine(seed):
    # 8 x 7 = 56 messages: the engine shares at every change on SimPy's clock, an independent loop
    network, flows = exchange("8x-h100", zipf_matrix(8, 1e6, exponent=1, seed=seed, per_source=True))
    alone = exchange_time(network, [flows])
    assert (solve(network, flows).drained + flows.latency).max() == pytest.approx(alone.duration, rel=1e-9)


def test_compiled_loops_and_arrays_agree():
    network, flows = exchange("2x8-h100-ndr400", zipf_matrix(16, 1e7, exponent=0.5, seed=1, per_source=True))
    both = [np.tile(flows.routes.links, 3), np.tile(np.diff(flows.routes.offsets), 3)]
    offsets = np.concatenate([[0], np.cumsum(both[1])])
    size = np.concatenate([flows.size, flows.size * 1.5, flows.size * 0.3])
    fast, slow = (fluid_times(offsets, both[0], size, network.capacity, compiled=compiled) for compiled in (True, False))
    np.testing.assert_allclose(fast.drained, slow.drained, rtol=1e-9)


@given(seed=st.integers(0, 2**32))
def test_the_compiled_loop_over_all_events_agrees_with_arrays(seed):
    rng = np.random.default_rng(seed)
    options = {"orders": int(rng.choice([0, 2])), "is_split": bool(rng.integers(2))}
    problem = side_by_side([random_problem(rng, most_flows=20, most_links=8, **options) for _ in range(12)])
    assume(len(problem.size) > 56)  # fewer are never compiled
    fast, slow = (problem.solve(compiled=compiled) for compiled in (True, False))
    np.testing.assert_allclose(fast.drained, slow.drained, rtol=1e-12)


def test_a_given_window_solves_once_and_measures_no_error():
    # 6320 messages; of the solutions that a tolerance takes three or more of, the first has the window 0.4
    network = Network.on(topology(star(80)))
    (flows,) = phases_of(network, [zipf_matrix(80, 1e6, exponent=0.5, seed=3, per_source=True)])
    once, often = solve(network, flows, window=0.4), solve(network, flows, tolerance=1e-3)
    assert np.isnan(once.error_bound)
    assert once.solves < often.solves
    assert once.makespan == pytest.approx(often.makespan, rel=1e-2)


def test_a_given_window_of_few_flows_is_exact():
    network, flows = exchange("2x8-h100-ndr400", zipf_matrix(16, 1e7, exponent=0.5, seed=1, per_source=True))
    wide, exact = solve(network, flows, window=0.4), solve(network, flows)  # 240 messages
    assert wide.error_bound == 0
    assert wide.drained.tobytes() == exact.drained.tobytes()


def test_a_negative_window_is_refused():
    with pytest.raises(SimulationError, match=r"window = -0.4: .* >= 0"):
        fluid_times(np.array([0, 1]), np.array([0]), np.array([1.0]), np.array([1.0]), window=-0.4)


@given(seed=st.integers(0, 2**32))
def test_prepared_routes_give_the_same_times_whatever_was_solved_before(seed):
    rng = np.random.default_rng(seed)
    problem = side_by_side([random_problem(rng, most_flows=20, most_links=8, is_split=True) for _ in range(4)])
    offsets, links, size, capacity = problem.arrays()
    share = np.array([float(part) for flow in problem.share for part in flow])
    routes = PreparedRoutes(offsets, links, capacity, share=share, ceiling=np.array(problem.ceiling))
    size[rng.random(len(size)) < 0.2] = 0  # no bytes: ends when it is ready
    ready = np.array(problem.ready, dtype=float)
    first = routes.drained(size, ready)
    routes.drained(rng.random(len(size)))
    assert routes.drained(size, ready).tobytes() == first.tobytes()
    np.testing.assert_allclose(first, problem._replace(size=size.tolist()).solve(compiled=False).drained, rtol=1e-12)


@pytest.mark.parametrize("has_idle_flows", [False, True])
def test_prepared_routes_with_windows_give_what_one_solution_gives(has_idle_flows):
    network = Network.on(topology(star(40)))
    (flows,) = phases_of(network, [zipf_matrix(40, 1e6, exponent=0.5, seed=3, per_source=True)])
    size = np.where(np.arange(len(flows)) % 3 > 0, flows.size, 0.0) if has_idle_flows else flows.size
    routes = PreparedRoutes(flows.routes.offsets, flows.routes.links, network.capacity)
    drained = fluid_times(flows.routes.offsets, flows.routes.links, size, network.capacity, window=0.4).drained
    for _ in range(2):
        np.testing.assert_allclose(routes.drained(size, window=0.4), drained, rtol=1e-12)


def test_flows_that_share_no_link_end_after_their_size_over_their_rate():
    # 40 B over links of 20 and 10 B/s: 4 s. 30 B, half over 5 B/s, ceiling 6 B/s: 5 s after 1 s. No link: ceiling 3 B/s
    routes = PreparedRoutes(
        np.array([0, 2, 3, 3]),
        np.array([0, 1, 2]),
        np.array([20.0, 10.0, 5.0]),
        share=np.array([1.0, 1.0, 0.5]),
        ceiling=np.array([np.inf, 6.0, 3.0]),
    )
    assert routes.drained(np.array([40.0, 30.0, 6.0]), np.array([0.0, 1.0, 2.0])).tolist() == [4.0, 6.0, 4.0]


def test_prepared_routes_refuse_sizes_that_are_not_numbers():
    routes = PreparedRoutes(np.array([0, 1]), np.array([0]), np.array([1.0]))
    with pytest.raises(SimulationError, match=r"size between nan and nan: finite and >= 0"):
        routes.drained(np.array([np.nan]))
    with pytest.raises(SimulationError, match=r"2 sizes and 1 ready times: there are 1 flows"):
        routes.drained(np.ones(2), np.ones(1))


@pytest.mark.parametrize("tool", [ArrayWaterfill(), CompiledWaterfill()])
@pytest.mark.parametrize("has_shares", [False, True])
def test_a_link_serves_each_of_its_flows_up_to_the_bytes_of_the_one_that_ends(tool, has_shares):
    rng = np.random.default_rng(3)
    link, full = rng.integers(0, 5, 40), rng.integers(1, 6, 40) * 1e6  # with ties
    share = rng.random(40) if has_shares else np.ones(1)
    each = np.broadcast_to(share, 40)
    shares = np.bincount(link, weights=each, minlength=5) + 0.5  # and half a flow that does not end
    same = link[:, None] == link
    expected = (same * each * np.minimum(full, full[:, None])).sum(axis=1) + 0.5 * full
    assert tool.served(link, full, share, shares) == pytest.approx(expected, rel=1e-12)


def test_windows_stay_within_the_tolerance_of_the_exact_makespan():
    network = Network.on(topology(star(80)))  # 6320 messages; rails and others with 3080 in test_exactness
    (flows,) = phases_of(network, [zipf_matrix(80, 1e7, exponent=1, seed=0, per_source=True)])
    exact, windows = solve(network, flows), solve(network, flows, tolerance=1e-4)
    assert windows.solves < exact.solves / 4
    assert windows.makespan == pytest.approx(exact.makespan, rel=1e-4)
    assert windows.makespan >= windows.lower_bound * (1 - 1e-9)


def test_a_uniform_exchange_collapses_to_the_bound():
    # 128 ranks, 16,256 equal messages: a handful of classes, so a handful of sharings, exactly the bound
    network, flows = exchange("h100-rail-16", uniform_matrix(128, 2.0**26))
    result = solve(network, flows)
    assert result.solves < 20
    assert result.error_bound == 0
    assert result.makespan == pytest.approx(result.lower_bound, rel=1e-9)


def test_equal_inputs_give_equal_bytes():
    network, flows = exchange("2x8-h100-ndr400", zipf_matrix(16, 1e7, exponent=1, seed=2, per_source=False))
    assert solve(network, flows).drained.tobytes() == solve(network, flows).drained.tobytes()
