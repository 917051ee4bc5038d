from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from build_from import EVERY_KIND, NODES, PODS, TREE, star, topology

from smoes_sim.exchanges import alltoall
from smoes_sim.network import Network, exchange_time, link_load, phases_of
from smoes_sim.network.even import even_exchange_time
from smoes_sim.network.hot import use_over_time

ODD = {
    "three_nodes": NODES.replace("nodes: 2", "nodes: 3"),
    "pods_of_two_and_one": PODS.replace("nodes: 4", "nodes: 5"),
    "tree_with_a_part_group": TREE.replace("nodes: 4", "nodes: 5"),
    "thin_tree": TREE.replace("oversubscription: 2", "oversubscription: 5"),
    "incast": star(9).replace("latency", "incast: {flows: 4, efficiency: 0.5, source: a test}, latency"),
    "slow_scale_up": NODES.replace("400 GB/s", "20 GB/s"),
    "torus_3x3": "{kind: torus, shape: [3, 3], link: {bandwidth: 100 GB/s, latency: 1 us}}",
}
FIGURES = {
    "nominal": {},
    "costs": {"per_exchange": 7e-6, "half_size": {"infiniband": 4096.0, "link": 512.0}, "efficiency": {"nvlink": 0.7}},
}


def by_flows(network, block, **options):
    ranks = network.topology.num_ranks
    phases = phases_of(network, [np.full((ranks, ranks), block)])
    return exchange_time(network, phases, **options), link_load(phases[0], network.topology.num_links)


@pytest.mark.parametrize("figures", FIGURES)
@pytest.mark.parametrize("kind", EVERY_KIND | ODD)
def test_flows_of_equal_ranks_give_the_time_of_all_flows(kind, figures):
    split = replace(topology((EVERY_KIND | ODD)[kind]), routing="split")
    network = Network.on(split, **FIGURES[figures])
    found = even_exchange_time(network, 1e6)
    if found is None:  # graphs without symmetry: the flows of all ranks are no gain
        assert kind in {"graph_hosts"}
        return
    expected, load = by_flows(network, 1e6)
    assert found.duration == pytest.approx(expected.duration, rel=1e-12)
    assert found.bound == pytest.approx(expected.bound, rel=1e-12)
    assert found.num_flows == expected.num_flows
    assert found.load == pytest.approx(load, rel=1e-12)


def test_hashed_routes_are_timed_where_there_is_one_shortest_route():
    found = even_exchange_time(Network.on(topology(NODES)), 1e6)
    # 4 blocks of 1e6 B leave a NIC of 50 GB/s in 80 us; the way takes 2 us to the fabric and 2 us from it
    assert found.duration == pytest.approx(84e-6)


def test_hashed_routes_with_a_choice_are_not_timed():
    assert even_exchange_time(Network.on(topology(PODS)), 1e6) is None


@pytest.mark.parametrize("constants", [{"per_message": 1e-6}, {"jitter": 1e-3}, {"send_buffer": 1e5}])
def test_constants_that_depend_on_order_are_not_timed(constants):
    assert even_exchange_time(Network.on(topology(star(8)), **constants), 1e6) is None


def test_use_of_links_is_recorded_for_every_link():
    network = Network.on(replace(topology(PODS), routing="split"))
    found = even_exchange_time(network, 1e6, record_links=True)
    for link in np.flatnonzero(network.topology.link_shared):
        steps = np.array(use_over_time(np.array([link]), found.link_use, found.duration))
        carried = float(np.diff(steps[:, 0]) @ steps[:-1, 1]) * network.capacity[link]
        assert carried == pytest.approx(found.load[link], rel=1e-9)


@pytest.mark.parametrize("fidelity", ["fluid", "bound"])
def test_alltoall_prints_the_same_with_and_without_a_list_of_flows(fidelity, monkeypatch):
    network = replace(topology(NODES.replace("nodes: 2", "nodes: 6")), routing="split")
    short = alltoall(network, size="1M", links=4, fidelity=fidelity, tolerance=0)
    monkeypatch.setattr("smoes_sim.exchanges.timing.even_exchange_time", lambda *_, **__: None)
    assert str(short) == str(alltoall(network, size="1M", links=4, fidelity=fidelity, tolerance=0))
