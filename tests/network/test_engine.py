"""The engine on SimPy's clock: windows against every change, announcements, split routes and incast by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import simpy
from build_from import star, topology

from smoes_sim.network import Engine, Network, enter_exchange, exchange_time, finish_exchange, phases_of
from smoes_sim.network.fluid.active_flows import ActiveFlows
from smoes_sim.network.fluid.problem import Block, Links
from smoes_sim.network.fluid.waterfill import ONE, ArrayWaterfill
from smoes_sim.traffic.skewed import zipf_matrix

SHARED_NICS = """
kind: two_level
nodes: 4
ranks_per_node: 8
scale_up: {kind: nvlink4, bandwidth: 450 GB/s, latency: 1 us}
nic: {kind: infiniband, per: node, bandwidth: 400 Gb/s, latency: 2 us}
fabric: {oversubscription: 2}
"""


def chain(network, layers, work, *, tolerance):
    """Ranks compute ``work[layer, rank]`` and exchange, layer by layer; seconds until each is done."""
    env = simpy.Environment()
    engine = Engine(env, network, [flows for phases in layers for flows in phases], tolerance=tolerance)
    opened = [engine.open_all(phases) for phases in layers]
    finish = np.zeros(network.topology.num_ranks)

    def run(rank):
        for layer, phases in enumerate(opened):
            enter_exchange(engine, phases, rank, at=env.now + work[layer, rank])
            yield env.timeout(work[layer, rank])
            yield from finish_exchange(engine, phases, rank)
        finish[rank] = env.now

    for rank in range(len(finish)):
        env.process(run(rank))
    env.run()
    return finish, engine


@pytest.mark.parametrize("text", [star(32), SHARED_NICS], ids=["star", "shared NICs"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_ranks_that_come_late_end_within_the_tolerance_of_the_exact_engine(text, tolerance):
    network = Network.on(topology(text))
    ranks, rng = network.topology.num_ranks, np.random.default_rng(0)
    layers = [phases_of(network, [zipf_matrix(ranks, 2**22, exponent=0.3, seed=seed, per_source=True)]) for seed in range(4)]
    work = rng.uniform(0, 1e-4, (4, ranks))
    exact, engine = chain(network, layers, work, tolerance=0.0)
    assert not engine.used_windows
    close, engine = chain(network, layers, work, tolerance=tolerance)
    assert engine.used_windows
    assert abs(close.max() / exact.max() - 1) < tolerance
    assert abs(close / exact - 1).max() < 5 * tolerance


def test_a_surprise_waits_for_the_end_of_a_window_and_is_counted():
    network = Network.on(topology(star(32)))
    big, small = (phases_of(network, [zipf_matrix(32, 2**24, exponent=e, seed=1, per_source=True)]) for e in (1, 0))
    env = simpy.Environment()
    engine = Engine(env, network, [*big, *small], tolerance=0.04)
    (first,), (second,) = engine.open_all(big[:1]), engine.open_all(small[:1])
    for rank in range(32):
        enter_exchange(engine, [first], rank, at=0.0)

    def surprise():
        yield env.timeout(1.0000001e-5)
        enter_exchange(engine, [second], 0, at=env.now)

    env.process(surprise())
    env.run()
    assert 0 < engine.lateness < 0.2 * first.arrival.max()
    assert np.isfinite(second.arrival[big[0].source == 0]).all()


def test_an_exchange_of_several_phases_prints_how_far_windows_may_be_off():
    network = Network.on(topology(SHARED_NICS.replace("nodes: 4", "nodes: 5")))
    matrix = zipf_matrix(40, 2**22, exponent=0.5, seed=0, per_source=True)
    phases = phases_of(network, [matrix], schedule="hierarchical")
    exact = exchange_time(network, phases)
    close = exchange_time(network, phases, tolerance=1e-3)
    assert exact.error_bound == 0.0
    assert 0.0 < close.error_bound <= 1e-3
    assert close.duration == pytest.approx(exact.duration, rel=1e-3)


def finish_times(links, *, routes, size, weight=ONE):
    active = ActiveFlows(links, ArrayWaterfill(), window=0.0, exact_below=0)
    offsets = np.concatenate([[0], np.cumsum([len(route) for route in routes])])
    active.add(
        Block(
            offsets=offsets,
            links=np.array(list(itertools.chain.from_iterable(routes)), dtype=np.int32),
            weight=weight,
            size=np.array(size, dtype=float),
            ceiling=np.full(len(size), np.inf),
        )
    )
    active.ready[:] = 0.0
    times = np.empty(len(size))
    while (event := active.next_event()) is not None:
        times[event.ids] = event.times
        active.advance(event, event.end)
    return times


def test_more_flows_than_a_port_takes_well_slow_each_other_down():
    # 10 B/s, above 2 flows 40% of it. Flows of 4, 8 and 12 B: at 4/3 B/s each until 3 s; then 10 B/s again for two with
    # 4 and 8 left: 5 each until 3.8, then 10 for the last 4: 4.2 s. Without incast 1.2, 2.0 and 2.4
    links = Links(capacity=np.array([10.0]), incast_flows=np.array([2.0]), incast_efficiency=np.array([0.4]))
    assert finish_times(links, routes=[[0]] * 3, size=[4, 8, 12]) == pytest.approx([3, 3.8, 4.2])
    assert finish_times(Links.without_incast(links.capacity), routes=[[0]] * 3, size=[4, 8, 12]) == pytest.approx(
        [1.2, 2, 2.4]
    )


def test_a_flow_that_is_split_uses_each_link_by_its_share():
    # half of flow a over each of two links of 10, all of flow b over the first: levels rise together to r with
    # r / 2 + r = 10, so both run at 20/3; b (20 B) ends at 3 s, when a has 40 - 20 left, which runs at 20: 4 s
    links = Links.without_incast(np.array([10.0, 10.0]))
    times = finish_times(links, routes=[[0, 1], [0]], size=[40, 20], weight=np.array([0.5, 0.5, 1.0]))
    assert times == pytest.approx([4, 3])


INCAST = """
kind: star
ranks: 4
link: {bandwidth: 10 B/s, incast: {flows: 2, efficiency: 0.4, source: "made up"}}
"""


def test_a_topology_file_limits_incast_into_ranks_only():
    # 1, 2 and 3 send to 0: as above. 0 sends to all: no port has more than one flow in, so 24 B at 10 B/s: 2.4 s
    network = Network.on(topology(INCAST))
    many_to_one, one_to_many = np.zeros((2, 4, 4))
    many_to_one[1:, 0] = one_to_many[0, 1:] = [4, 8, 12]
    assert exchange_time(network, phases_of(network, [many_to_one])).finish == pytest.approx([4.2, 3, 3.8, 4.2])
    assert exchange_time(network, phases_of(network, [one_to_many])).duration == pytest.approx(2.4)


def test_incast_is_the_same_for_a_million_flows_and_for_a_few():
    # 40 ranks send equal blocks to all: 39 flows into each port, 40% of it, in one solution of 1,560 flows and in phases
    text = INCAST.replace("ranks: 4", "ranks: 40")
    network, free = (Network.on(topology(t)) for t in (text, text.replace("0.4", "1.0")))
    matrix = np.full((40, 40), 10.0)
    slow, fast = (exchange_time(n, phases_of(n, [matrix])).duration for n in (network, free))
    assert fast == pytest.approx(39)
    assert slow == pytest.approx(39 / 0.4)


SPLIT_RAILS = """
kind: rail_optimized
routing: split
nodes: 12
ranks_per_node: 4
scale_up: {kind: nvlink4, bandwidth: 450 GB/s}
nic: {kind: infiniband, per: rank, bandwidth: 400 Gb/s}
fabric: {nodes_per_pod: 2, spines: 4, oversubscription: 4}
"""


def test_split_routes_in_windows_end_when_they_do_exactly():
    network = Network.on(topology(SPLIT_RAILS))
    phases = phases_of(network, [zipf_matrix(48, 2**22, exponent=0.3, seed=0, per_source=True)])  # 2,256 messages
    exact, close = exchange_time(network, phases), exchange_time(network, phases, tolerance=1e-3)
    assert exact.bound <= exact.duration * (1 + 1e-9)
    np.testing.assert_allclose(close.finish, exact.finish, rtol=2e-3)
    hashed = Network.on(topology(SPLIT_RAILS.replace("split", "hash")))
    collided = exchange_time(hashed, phases_of(hashed, [np.full((48, 48), 2**16)])).duration
    spread = exchange_time(network, phases_of(network, [np.full((48, 48), 2**16)])).duration
    assert spread < collided  # a hash puts several flows on one spine
