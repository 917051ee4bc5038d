"""Input at the edge of what the fluid model is for: it ends, warns of nothing, and says what it must."""

from __future__ import annotations

import numpy as np
import pytest
from build_from import graph, star, topology
from reference import INFINITE, exact_fluid, float_fluid, problem_from, problem_of

from smoes_sim.errors import SimulationError, TopologyError
from smoes_sim.network import Network, exchange_time, phases_of
from smoes_sim.network.fluid.solve import fluid_times
from smoes_sim.traffic.skewed import zipf_matrix

TEN = Network.on(topology(star(10, bandwidth="10 B/s")))
TOLERANCES = pytest.mark.parametrize("tolerance", [0.0, 1e-3])
TWO_PATHS = pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "arrays"])


def star_of(ranks, size, **more):
    """All pairs of a star of 50 GB/s ports: port out of rank i is link i, into rank j is link ranks + j."""
    source, destination = np.nonzero(~np.eye(ranks, dtype=bool))
    routes = np.column_stack([source, ranks + destination]).tolist()
    return problem_of(routes, size, [50e9] * (2 * ranks), **more)


def finish(network, matrix, **options):
    return exchange_time(network, phases_of(network, [matrix]), **options)


# nothing, one, all


def test_no_flows_at_all_take_no_time():
    none = fluid_times(np.array([0]), np.empty(0, np.int32), np.empty(0), np.array([1.0]))
    assert (none.makespan, none.lower_bound, none.error_bound, len(none.drained)) == (0, 0, 0, 0)


def test_one_rank_alone_has_nothing_to_wait_for():
    assert finish(Network.on(topology(star(1))), np.array([[1e9]])).finish.tolist() == [0]


@TWO_PATHS
@TOLERANCES
def test_flows_without_bytes_end_when_they_are_ready_and_slow_no_other_flow_down(compiled, tolerance):
    # every second of 6,000 flows on a link of 10 B/s is empty; the 3,000 of 1 B share it: 300 s
    size, ready = [0, 1] * 3000, [7, 0] * 3000
    ours = problem_of([[0]] * 6000, size, [10], ready=ready).solve(compiled=compiled, tolerance=tolerance)
    np.testing.assert_allclose(ours.drained[::2], 7, rtol=0)
    np.testing.assert_allclose(ours.drained[1::2], 300, rtol=1e-12)


@TOLERANCES
def test_only_flows_without_bytes(tolerance):
    ours = problem_of([[0]] * 3000, [0] * 3000, [10], ready=list(range(3000))).solve(tolerance=tolerance)
    assert ours.drained.tolist() == list(range(3000))


def test_flows_without_links_take_what_their_ceiling_takes():
    lone = problem_of([[], [], [0]], [30, 30, 30], [10], ready=[1, 2, 3], ceiling=[5, INFINITE, INFINITE])
    assert lone.solve().drained.tolist() == [7, 2, 6]


@TOLERANCES
@pytest.mark.parametrize("ranks", [10, 2101])
def test_all_to_one_and_one_to_all_are_held_by_one_port(ranks, tolerance):
    # ranks - 1 flows of 1, 2, 3, ... B through one port of 10 B/s; the others have 1 port each
    count = ranks - 1
    size = list(range(1, ranks))
    ours = problem_of([[0, 1 + f] for f in range(count)], size, [10] * ranks).solve(tolerance=tolerance)
    assert ours.makespan == pytest.approx(count * ranks / 2 / 10, rel=1e-9)
    if tolerance == 0:
        # flow k ends when the shorter ones are through and as much of each longer one
        size = np.arange(1, ranks)
        np.testing.assert_allclose(ours.drained, (np.cumsum(size) + size * (count - size)) / 10, rtol=1e-9)


@pytest.mark.parametrize("towards", [True, False], ids=["all to one", "one to all"])
def test_all_to_one_through_a_topology(towards):
    matrix = np.zeros((10, 10))
    matrix[1:, 0] = 20
    times = finish(TEN, matrix if towards else matrix.T).finish
    np.testing.assert_allclose(times, 18, rtol=1e-12)  # 9 x 20 B through a port of 10 B/s


# many equal ones


@TWO_PATHS
@TOLERANCES
def test_a_hundred_thousand_identical_flows_end_together(compiled, tolerance):
    ours = problem_of([[0]] * 100_000, [1e6] * 100_000, [1e9]).solve(compiled=compiled, tolerance=tolerance)
    assert len(np.unique(ours.drained)) == 1
    assert ours.makespan == pytest.approx(100, rel=1e-12)
    assert ours.solves <= 2


@TWO_PATHS
def test_equal_ends_of_unequal_flows_are_one_end(compiled):
    # 300 links of 1, 2, ... B/s, each with two flows of as many bytes: all end at 2 s, though no two links are equal
    capacity = list(range(1, 301))
    routes, size = [[link] for link in range(300) for _ in range(2)], [float(c) for c in capacity for _ in range(2)]
    ours = problem_of(routes, size, capacity).solve(compiled=compiled)
    np.testing.assert_allclose(ours.drained, 2, rtol=1e-13)
    assert ours.solves <= 2


def test_thirds_do_not_drift():
    # 3 flows a link, each a byte longer than the one before; a third is no float, and 400 ends come one after the other
    links, flows = 3, 400
    routes = [[link] for link in range(links) for _ in range(flows)]
    ours = problem_of(routes, list(range(1, flows + 1)) * links, [3] * links).solve()
    size = np.arange(1, flows + 1)
    expected = (np.cumsum(size) + size * (flows - size)) / 3
    np.testing.assert_allclose(ours.drained, np.tile(expected, links), rtol=1e-13)


# scales


@pytest.mark.parametrize(
    ("ranks", "tolerance", "compiled"),
    [(24, 0.0, True), (24, 0.0, False), (50, 0.0, True), (50, 1e-3, True), (50, 1e-3, False)],
)
def test_a_thousandth_of_a_byte_beside_a_petabyte(ranks, tolerance, compiled):
    # 18 orders of size on one star
    size = 10.0 ** np.random.default_rng(0).uniform(-3, 15, ranks * (ranks - 1))
    ours = star_of(ranks, size.tolist()).solve(compiled=compiled, tolerance=tolerance)
    assert np.isfinite(ours.drained).all()
    assert np.all(ours.drained >= size / 50e9 * (1 - 1e-12))
    sent = np.bincount(np.repeat(np.arange(ranks), ranks - 1), weights=size)
    # the busiest port decides, up to what fair sharing loses elsewhere
    assert sent.max() / 50e9 <= ours.makespan * (1 + 1e-12)
    assert ours.makespan == pytest.approx(ours.lower_bound, rel=1e-2)


def test_sizes_and_capacities_over_many_orders_are_exact():
    rng = np.random.default_rng(1)
    size = [int(10 ** rng.uniform(0, 15)) for _ in range(30)]
    problem = star_of(6, size)._replace(capacity=[int(10 ** rng.uniform(3, 12)) for _ in range(12)])
    np.testing.assert_allclose(problem.solve().drained, [float(end) for end in exact_fluid(problem)], rtol=1e-12)


@TOLERANCES
def test_rates_nine_orders_apart(tolerance):
    # one slow rank, at 50 B/s, of 60 at 50 GB/s: its 2 x 59 flows take 59e6 / 50 s, the others what they take without it
    ranks = 60
    problem = star_of(ranks, [1e6] * (ranks * (ranks - 1)))
    for link in (0, ranks):
        problem.capacity[link] = 50.0
    ours = problem.solve(tolerance=tolerance)
    is_slow = np.array([0 in route or ranks in route for route in problem.routes])
    np.testing.assert_allclose(ours.drained[is_slow], 59e6 / 50, rtol=1e-9)
    # 58 fast flows a port share 50 GB/s less the 50/59 B/s that the slow one takes
    np.testing.assert_allclose(ours.drained[~is_slow], 58e6 / (50e9 - 50 / 59), rtol=1e-9)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_smallest_and_the_largest_units_change_nothing(factor):
    base = star_of(8, [float(size) for size in np.random.default_rng(2).integers(1, 9, 56)])
    scaled = base._replace(size=[size * factor for size in base.size])
    np.testing.assert_allclose(scaled.solve().drained, base.solve().drained * factor, rtol=1e-12)


# time


@TOLERANCES
def test_starts_far_apart_are_exchanges_apart(tolerance):
    # 2,450 flows that start at 0, 1 hour, 2 hours, ...: each is alone, and takes its bytes / 50 GB/s
    ranks, hour = 50, 3600.0
    size = np.random.default_rng(3).uniform(1e12, 2e12, ranks * (ranks - 1))
    starts = (np.arange(len(size)) * hour).tolist()
    ours = star_of(ranks, size.tolist(), ready=starts).solve(tolerance=tolerance)
    np.testing.assert_allclose(ours.drained - starts, size / 50e9, rtol=1e-6)
    assert ours.makespan == ours.drained[-1]


@pytest.mark.parametrize("start", [1.0, 1e3, 1e6])
def test_a_late_start_delays_every_end_by_as_much(start):
    # up to what a moment can be told apart at that hour: 1e-12 of the clock for each of 8 ends one after the other
    rng = np.random.default_rng(4)
    size = rng.uniform(1, 1e6, 56).tolist()
    ours, late = (star_of(8, size, ready=[moment] * 56).solve() for moment in (0.0, start))
    np.testing.assert_allclose(late.drained, ours.drained + start, rtol=0, atol=8e-12 * start)


@pytest.mark.parametrize("start", [1.0, 1e3])
def test_windows_that_start_late_end_late(start):
    size = (np.random.default_rng(0).random(50 * 49) * 1e6 + 1).tolist()
    ours, late = (star_of(50, size, ready=[moment] * len(size)).solve(tolerance=1e-2) for moment in (0.0, start))
    assert np.all(late.drained > start)
    assert late.makespan == pytest.approx(start + ours.makespan, rel=1e-12)


def test_windows_lose_no_flow_that_all_but_ends_in_them():
    # alone on links of 50 GB/s, a second into a pass: one flow of 50 us, so that a window is 10 us; 1,000 that end in it;
    # 1,999 that end 3e-17 s after it, when (1 + 1e-5) - 1 is 7e-17 s more than 1e-5
    duration = np.concatenate([[5e-5], np.linspace(5e-6, 6e-6, 1000), 1e-5 * (1 + 3e-12 + np.linspace(0, 1e-13, 1999))])
    size, count = (duration * 50e9).tolist(), len(duration)
    alone = problem_of([[f] for f in range(count)], size, [50e9] * count, ready=[1.0] * count)
    np.testing.assert_allclose(alone.solve(tolerance=1e-2).drained, 1 + duration, rtol=1e-12)


def test_an_end_and_a_start_at_one_moment_do_not_overlap():
    # a has 10 B/s alone until 1 s, when b starts: neither ever shares
    meeting = problem_of([[0], [0]], [10, 10], [10], ready=[0, 1])
    assert meeting.solve().drained.tolist() == [1, 2]


# wiring


def test_parallel_links_between_switches_agree_with_the_reference():
    ranks = [f"r{i}" for i in range(6)]
    links = [f"{rank} p, bandwidth: 9 B/s" for rank in ranks[:3]] + [f"{rank} q, bandwidth: 9 B/s" for rank in ranks[3:]]
    cables = ["p q, bandwidth: 2 B/s"] * 3
    network = Network.on(topology(graph(", ".join(ranks), *links, *cables, switches="p, q")))
    (flows,) = phases_of(network, [zipf_matrix(6, 100.0, exponent=1, seed=0, per_source=True)])
    problem = problem_from(network, flows, np.zeros(len(flows)))
    np.testing.assert_allclose(problem.solve().drained, float_fluid(problem), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (graph("a, b, c", "a s", "b s", switches="s"), "c"),
        (graph("a, b, c, d", "a p", "b p", "c q", "d q", switches="p, q"), "a.*c|c.*a"),
        (graph("a, b", "a b, duplex: false"), "b.*a"),
    ],
    ids=["a rank on nothing", "two islands", "no way back"],
)
def test_ranks_without_a_route_are_refused_by_name(text, named):
    with pytest.raises(TopologyError, match=named):
        Network.on(topology(text)).messages(*np.array([[1], [0]]), np.array([1.0]))


# nonsense


@pytest.mark.parametrize("field", ["size", "ready", "ceiling", "capacity"])
@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_numbers_without_a_meaning_are_refused(field, value):
    with pytest.raises(SimulationError, match=rf"{field}\[0\] = {value}"):
        problem_of([[0]], [1], [1])._replace(**{field: [value]}).solve()
