from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from lab_topologies import TEXTS, needs_root, small
from test_lab_plan import routes_of

from smoes_sim.lab import Lab, plan_lab
from smoes_sim.lab.check import TOLERANCE, LabCheck, check_lab, covering_pairs, fair_rates
from smoes_sim.lab.graph_file import graph_file
from smoes_sim.lab.probe import flows_under_way

every_kind = pytest.mark.parametrize("name", TEXTS)


@every_kind
def test_the_flows_of_a_check_cross_every_link_that_any_route_does(name):
    topology, routes = small(name), routes_of(small(name))
    crossed = {link for pair in covering_pairs(topology, seed=0) for link in routes[pair]}
    assert crossed == {link for links in routes.values() for link in links}


def test_a_star_is_checked_by_one_flow_out_of_and_into_every_rank():
    assert sorted(covering_pairs(small("star"), seed=0)) == [(0, 1), (1, 2), (2, 3), (3, 0)]


def test_promised_rates_are_fair_shares_of_the_links():
    topology = small("nic_per_node")
    # 3 + 3 ranks; three flows leave node 0 over 60 Mb/s of NIC and 30 Mb/s of core, one stays on 100 Mb/s of scale-up
    rates = fair_rates(topology, [(0, 3), (1, 4), (2, 5), (0, 1)], seed=0)
    np.testing.assert_allclose(rates * 8e-6, [10, 10, 10, 100])


def made(measured, *, alone=None, busy=0.5):
    pairs = ((0, 1), (1, 0))
    return LabCheck(pairs=pairs, promised=np.array([10e6, 10e6]), measured=np.array(measured), busy=busy, alone=alone or {})


def test_the_verdict_names_the_worst_flow_and_why():
    assert made([10e6, 9.8e6]).verdict() == (
        "2 flows over every link at once: worst rank 1 -> 0, 78.4 of 80.0 Mb/s (-2.0%); processors 50% busy: ok (within 3%)"
    )
    limit = made([10e6, 5e6], alone={(1, 0): -0.004}, busy=0.99)
    assert not limit.is_passed
    assert limit.verdict().endswith("99% busy: the processor is the limit, alone it is 0.4% off. Use a smaller --scale.")
    assert "alone it is still 50.0% off, so the link itself is" in made([10e6, 5e6], alone={(1, 0): -0.5}).verdict()
    assert not made([11e6, 10e6], alone={}).is_passed  # too fast is as wrong


@needs_root
@pytest.mark.parametrize("name", ["nic_per_node", "rails", "one_way_ring"])
def test_no_flow_gets_more_than_was_promised_and_every_one_something(name):
    # how close it comes from below depends on what else the machine does; lab up measures that, and refuses. From the very
    # start no busy machine can make it more: what arrives late arrives at the same rate
    with Lab.up(plan_lab(small(name), scale=1.0)) as lab:
        pairs = covering_pairs(small(name), seed=0)
        with flows_under_way(lab, pairs, warm_up=0.0) as meter:
            rates, busy = meter.measure(0.5)
            later = rates
            while not (later > 0).all():
                later, _ = meter.measure(0.5)
        total = dict.fromkeys(pairs, 0.0)
        assert 0 <= busy <= 1
        load = dict.fromkeys(range(small(name).num_links), 0.0)
        routes = routes_of(small(name))
        for pair, rate in zip(total, rates, strict=True):
            for link in routes[pair]:
                load[link] += rate
        topology = small(name)
        shared = [link for link in load if topology.link_shared[link]]
        assert max(load[link] / topology.link_bandwidth[link] for link in shared) < 1.1


@needs_root
def test_a_lab_that_is_half_as_fast_as_its_file_says_is_refused(monkeypatch):
    monkeypatch.setattr("smoes_sim.lab.check._PERIODS", 1)
    monkeypatch.setattr("smoes_sim.lab.check._SHORTEST", 0.2)
    plan = plan_lab(small("star"), scale=0.5)
    with Lab.up(plan) as lab:
        twice = dataclasses.replace(plan.topology, link_bandwidth=plan.topology.link_bandwidth * 2)
        lab.topology_file.write_bytes(graph_file(dataclasses.replace(plan, topology=twice)))
        checked = check_lab(lab)
    assert not checked.is_passed
    assert (checked.errors < -TOLERANCE).all()
    assert min(checked.alone.values()) < -0.4
    assert "alone it is still" in checked.verdict()
