from __future__ import annotations

import numpy as np
import pytest
from build_from import EVERY_KIND, NODES, PODS, TREE, star, topology
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import float_fluid, problem_of, random_problem, side_by_side

from smoes_sim.network import Network, bounds, exchange_bounds, exchange_duration, exchange_time, lower_bound, phases_of
from smoes_sim.network.fluid.certificate import ends_are_exact, latest_ends
from smoes_sim.network.fluid.problem import Block, Links, Problem
from smoes_sim.traffic.skewed import uniform_matrix, zipf_matrix


def arrays_of(problem, *, most=None, efficiency=None):
    offsets, links, size, capacity = problem.arrays()
    share = np.array([float(part) for flow in problem.share for part in flow])
    block = Block(offsets=offsets, links=links, weight=share, size=size, ceiling=np.array(problem.ceiling, dtype=float))
    on = Links.without_incast(capacity)
    if most is not None:
        on = Links(capacity=capacity, incast_flows=most, incast_efficiency=efficiency)
    return Problem(flows=block, ready=np.array(problem.ready, dtype=float), links=on)


def test_the_bound_adds_up_the_slowest_link_for_every_byte_of_a_flow():
    # link 0 of 10 B/s: flows of 10, 30 B; link 1 of 4 B/s: flows of 30, 5 B. Up to 5 B 2/4 s a byte, then 1/4 up to 30 B
    # (link 0 needs 2/10 up to 10 B): 2.5 s for 5 B, 3.75 s for 10 B, 8.75 s for 30 B; all of them from 1 s on
    problem = problem_of([[0], [0, 1], [1]], [10, 30, 5], [10, 4], ready=[0, 1, 0])
    assert latest_ends(arrays_of(problem)).tolist() == pytest.approx([4.75, 9.75, 3.5], rel=1e-12)


def test_a_ceiling_counts_as_a_link_of_one_flow():
    # 10 B at no more than 2 B/s: 5 s
    assert latest_ends(arrays_of(problem_of([[0]], [10], [10], ceiling=[2.0]))).tolist() == [5.0]


@given(seed=st.integers(0, 2**32))
def test_no_flow_ends_later_than_its_bound_and_exact_ones_end_at_it(seed):
    rng = np.random.default_rng(seed)
    is_split, is_timed, has_incast = (bool(rng.integers(2)) for _ in range(3))
    problem = random_problem(rng, most_flows=12, orders=int(rng.choice([0, 2])), is_split=is_split, is_timed=is_timed)
    limits = {}
    if has_incast:
        count = len(problem.capacity)
        limits = {"most": rng.integers(1, 4, count).astype(float), "efficiency": rng.integers(1, 5, count) / 4}
    ours = arrays_of(problem, **limits)
    latest, ends = latest_ends(ours), float_fluid(problem, **limits)
    assert np.all(ends <= latest * (1 + 1e-9))
    is_exact = ends_are_exact(ours, latest)
    np.testing.assert_allclose(latest[is_exact], ends[is_exact], rtol=1e-9)


@given(seed=st.integers(0, 2**32))
def test_the_bound_by_arrays_is_the_compiled_one(seed):
    rng = np.random.default_rng(seed)
    problem = arrays_of(side_by_side([random_problem(rng, most_flows=40, is_split=True) for _ in range(6)]))
    assume(len(problem.ready) > 56)  # fewer are never compiled
    np.testing.assert_allclose(latest_ends(problem), latest_ends(problem, compiled=False), rtol=1e-12)


THIN = NODES.replace("ranks_per_node: 4", "ranks_per_node: 8") + "fabric: {oversubscription: 4, latency: 3 us}"
NETWORKS = {**EVERY_KIND, "thin": THIN, "split rail": PODS + "routing: split", "split tree": TREE + "routing: split"}


@pytest.mark.parametrize("name", NETWORKS)
def test_exchanges_lie_between_their_bounds(name):
    network = Network.on(topology(NETWORKS[name]), per_message=1e-6, jitter=1e-5, half_size={"ethernet": 1e4})
    ranks = network.topology.num_ranks
    for matrix in (uniform_matrix(ranks, 1e6), zipf_matrix(ranks, 1e6, exponent=1, seed=2, per_source=True)):
        (flows,) = phases_of(network, [matrix])
        low, high = exchange_bounds(network, flows)
        duration = exchange_time(network, [flows]).duration
        assert low * (1 - 1e-9) <= duration <= high * (1 + 1e-9)
        assert low >= lower_bound(network, [flows])


def test_equal_blocks_are_exact_although_messages_over_one_link_have_other_latencies():
    # a message to the same pod arrives before one to the other pod, and both share the sender's port until it runs dry
    network = Network.on(topology(PODS + "routing: split"))
    (flows,) = phases_of(network, [uniform_matrix(network.topology.num_ranks, 1e6)])
    low, high = exchange_bounds(network, flows)
    assert len(set(flows.latency.tolist())) > 1
    assert low == pytest.approx(high, rel=1e-12)
    assert exchange_time(network, [flows]).duration == pytest.approx(high, rel=1e-12)


@pytest.fixture
def large():
    return Network.on(topology(star(24)))  # 552 messages: more than the 500 that are always solved


def skewed(network, *, per_source):
    return phases_of(network, [zipf_matrix(24, 1e6, exponent=1, seed=2, per_source=per_source)])


def test_bounds_that_coincide_are_the_answer_and_nothing_is_solved(large, monkeypatch):
    phases = skewed(large, per_source=False)
    exact = exchange_time(large, phases).duration
    monkeypatch.setattr(bounds, "exchange_time", None)
    found = exchange_duration(large, phases)
    assert (found.error_kind, found.error_bound) == ("exact", 0)
    assert found.duration == pytest.approx(exact, rel=1e-9)


def test_bounds_within_the_tolerance_are_the_answer_with_half_their_distance(large, monkeypatch):
    phases = skewed(large, per_source=True)
    low, high = exchange_bounds(large, phases[0])
    exact = exchange_time(large, phases).duration
    monkeypatch.setattr(bounds, "exchange_time", None)
    found = exchange_duration(large, phases, tolerance=0.5)
    assert found.error_kind == "certified"
    assert found.error_bound == pytest.approx((high - low) / (high + low))
    assert abs(exact / found.duration - 1) <= found.error_bound


def test_bounds_far_apart_leave_a_measured_error(large):
    phases = skewed(large, per_source=True)
    found, solved = exchange_duration(large, phases, tolerance=1e-3), exchange_time(large, phases, tolerance=1e-3)
    assert (found.error_kind, found.error_bound, found.duration) == ("measured", solved.error_bound, solved.duration)
