from __future__ import annotations

import numpy as np
import pytest
from build_from import EVERY_KIND, topology
from hypothesis import given
from hypothesis import strategies as st
from reference import all_pairs, check_max_min, flows_as_lists, lexicographic_max_min, progressive_filling

from smoes_sim.network import Network, max_min_rates

INFINITE = float("inf")


def rates_of(routes, capacity, ceiling=None):
    """The function under test, on lists."""
    offsets = np.concatenate([[0], np.cumsum([len(route) for route in routes])]).astype(np.int64)
    links = np.array([link for route in routes for link in route], dtype=np.int32)
    limit = None if ceiling is None else np.array(ceiling, dtype=float)
    return max_min_rates(offsets, links, np.array(capacity, dtype=float), ceiling=limit)


@st.composite
def cases(draw, most_flows=8, with_ceilings=True):
    """Routes over a few links, whole capacities (so that ties happen), and a ceiling for some flows."""
    num_links = draw(st.integers(1, 6))
    capacity = draw(st.lists(st.integers(1, 12), min_size=num_links, max_size=num_links))
    route = st.lists(st.integers(0, num_links - 1), min_size=1, max_size=3, unique=True)
    routes = draw(st.lists(route, min_size=1, max_size=most_flows))
    limit = st.one_of(st.just(INFINITE), st.integers(1, 12).map(lambda value: value / 2))
    ceiling = draw(st.lists(limit, min_size=len(routes), max_size=len(routes))) if with_ceilings else None
    return routes, capacity, ceiling


def test_two_flows_share_a_link_equally():
    assert rates_of([[0], [0]], [10]).tolist() == [5, 5]


def test_what_a_flow_cannot_use_goes_to_the_other():
    # b crosses a link of 4, so a gets the other 6 of 10
    assert rates_of([[0], [0, 1]], [10, 4]).tolist() == [6, 4]


def test_a_chain_of_bottlenecks_fills_from_the_narrowest_up():
    # link 0 (3, flows a b): 1.5 each; link 1 (6, flows b c): c gets 4.5; link 2 (10, flows c d): d gets 5.5
    assert rates_of([[0], [0, 1], [1, 2], [2]], [3, 6, 10]).tolist() == [1.5, 1.5, 4.5, 5.5]


def test_a_flow_at_its_ceiling_leaves_the_rest_to_others():
    # 12 over three flows is 4 each; a stops at 1, so b and c get 5.5
    assert rates_of([[0], [0], [0]], [12], [1, INFINITE, INFINITE]).tolist() == [1, 5.5, 5.5]


def test_a_flow_with_only_a_ceiling_runs_at_it_and_one_with_nothing_is_unlimited():
    assert rates_of([[], [], [0]], [7], [3, INFINITE, INFINITE]).tolist() == [3, INFINITE, 7]


def test_no_flows_have_no_rates():
    assert rates_of([], [1]).shape == (0,)


def test_flows_that_saturate_together_get_the_same_rate_to_the_last_digit():
    # 10 / 3 is not a float; a tie must not split by rounding
    rates = rates_of([[0], [0], [0], [1], [1], [1], [2], [2], [2]], [10, 10, 10])
    assert len(set(rates.tolist())) == 1


@given(case=cases())
def test_rates_keep_the_rules_of_max_min_fairness(case):
    routes, capacity, ceiling = case
    check_max_min(rates_of(routes, capacity, ceiling), routes, capacity, ceiling)


@given(case=cases())
def test_rates_equal_those_of_progressive_filling_in_fractions(case):
    routes, capacity, ceiling = case
    np.testing.assert_allclose(
        rates_of(routes, capacity, ceiling), progressive_filling(routes, capacity, ceiling), rtol=1e-11
    )


@given(case=cases(most_flows=4))
def test_rates_equal_those_of_linear_programming(case):
    routes, capacity, ceiling = case
    np.testing.assert_allclose(
        rates_of(routes, capacity, ceiling), lexicographic_max_min(routes, capacity, ceiling), rtol=1e-5
    )


@given(case=cases(), factor=st.sampled_from([1e-6, 3.0, 1e9, 1e12]))
def test_rates_scale_with_the_capacities(case, factor):
    routes, capacity, ceiling = case
    scaled = rates_of(routes, [c * factor for c in capacity], [c * factor for c in ceiling])
    np.testing.assert_allclose(scaled, rates_of(routes, capacity, ceiling) * factor, rtol=1e-11)


@given(case=cases(), seed=st.integers(0, 1000))
def test_rates_do_not_depend_on_the_order_of_flows(case, seed):
    routes, capacity, ceiling = case
    order = np.random.default_rng(seed).permutation(len(routes))
    shuffled = rates_of([routes[f] for f in order], capacity, [ceiling[f] for f in order])
    np.testing.assert_allclose(shuffled, rates_of(routes, capacity, ceiling)[order], rtol=1e-11)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_all_pairs_of_a_topology_share_it_fairly(name):
    network = Network.on(topology(EVERY_KIND[name]))
    source, destination = all_pairs(network.topology.num_ranks)
    flows = network.messages(source, destination, np.ones(len(source)))
    rates = max_min_rates(flows.routes.offsets, flows.routes.links, network.capacity, ceiling=flows.ceiling)
    routes, capacity, ceiling = flows_as_lists(flows), network.capacity.tolist(), flows.ceiling.tolist()
    check_max_min(rates, routes, capacity, ceiling)
    np.testing.assert_allclose(rates, progressive_filling(routes, capacity, ceiling), rtol=1e-11)


def test_the_validator_refuses_rates_that_are_not_max_min():
    routes, capacity = [[0], [0, 1]], [10.0, 4.0]
    check_max_min([6, 4], routes, capacity)
    for wrong, reason in (([5, 4], "could have more"), ([7, 3], "could have more"), ([7, 4], "carries 11")):
        with pytest.raises(AssertionError, match=reason):
            check_max_min(wrong, routes, capacity)
    with pytest.raises(AssertionError, match="above its ceiling"):
        check_max_min([6, 4], routes, capacity, [5.0, INFINITE])
