from __future__ import annotations

import numpy as np
import pytest
from lab_topologies import TEXTS, small, spec_of
from reference import all_pairs

from smoes_sim.errors import TopologyError
from smoes_sim.lab import plan_lab
from smoes_sim.lab.graph_file import graph_file
from smoes_sim.topology import Router, build
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.yaml_files import Document

every_kind = pytest.mark.parametrize("name", TEXTS)


def routes_of(topology, seed=0):
    source, destination = all_pairs(topology.num_ranks)
    routes = Router(topology, seed=seed).compile(source, destination)
    return {(a, b): routes.of(flow) for flow, (a, b) in enumerate(zip(source.tolist(), destination.tolist(), strict=True))}


def walk(plan, source, destination):
    """Channels that a pair crosses when every vertex hands on as planned."""
    here, channels = source, []
    while here != destination:
        wire = plan.wires[plan.next_wire[here, source, destination]]
        end = wire.ends.index(here)
        channels.append(wire.channels[end])
        here = wire.ends[1 - end]
        assert len(channels) <= len(plan.namespaces)
    return channels


@every_kind
@pytest.mark.parametrize("seed", [0, 5])
def test_every_pair_crosses_channels_as_narrow_and_as_late_as_its_route(name, seed):
    plan = plan_lab(small(name), scale=1.0, seed=seed, has_delay=True)
    for (a, b), links in routes_of(plan.topology, seed).items():
        channels = walk(plan, a, b)
        shared = [link for link in links if plan.topology.link_shared[link]]
        widths = [channel.bandwidth for channel in channels if channel.bandwidth is not None]
        assert min(widths) == min(plan.topology.link_bandwidth[shared])
        assert sum(channel.latency for channel in channels) == pytest.approx(plan.topology.link_latency[links].sum())


@every_kind
def test_pairs_share_a_channel_exactly_where_their_routes_share_a_link(name):
    plan = plan_lab(small(name), scale=1.0)
    routes = routes_of(plan.topology)
    for wire in plan.wires:
        for channel in wire.channels:
            common = set.intersection(*(set(routes[pair]) for pair in channel.pairs)) if channel.pairs else set()
            alike = {pair for pair, links in routes.items() if common and common <= set(links)}
            assert alike == set(channel.pairs)


@every_kind
def test_the_file_of_a_lab_has_its_routes_and_rates(name):
    plan = plan_lab(small(name), scale=0.5)
    text = graph_file(plan).decode()
    read = build(Document(text, name="lab.yaml").validate(TopologyFile).root, name="lab")
    for pair, links in routes_of(plan.topology).items():
        again = routes_of(read)[pair]
        assert [read.link_name(link) for link in again] == [plan.topology.link_name(link) for link in links]
        np.testing.assert_array_equal(read.link_bandwidth[again], plan.topology.link_bandwidth[links])
        np.testing.assert_array_equal(read.link_bandwidth[again], small(name).link_bandwidth[links] / 2)
    np.testing.assert_array_equal(read.node_of_rank, plan.topology.node_of_rank)


def test_a_nic_of_one_rank_is_part_of_its_wire_and_a_shared_one_is_a_place_of_its_own():
    per_rank, per_node = plan_lab(small("nic_per_rank")), plan_lab(small("nic_per_node"))
    assert not any("nic" in per_rank.topology.vertex_names[vertex] for vertex in per_rank.namespaces)
    nics = [vertex for vertex in per_node.namespaces if "nic" in per_node.topology.vertex_names[vertex]]
    assert len(nics) == 2
    # NIC 60 Mb/s and the link from leaf to core 30 Mb/s are one wire: 3 x 3 pairs leave, as many enter
    (trunk,) = [wire for wire in per_node.wires if set(wire.ends) == set(nics)]
    assert [(channel.bandwidth * 8e-6, len(channel.pairs)) for channel in trunk.channels] == [(30, 9), (30, 9)]


def test_a_fatpipe_is_no_narrower_than_what_its_pairs_get_and_wide_where_they_part():
    plan = plan_lab(small("nic_per_node"))
    buses = [wire for wire in plan.wires if wire.ends[0] == 0 and "nic" in plan.topology.vertex_names[wire.ends[1]]]
    # a rank's three flows to the other node meet in the trunk of 30 Mb/s
    assert [channel.bandwidth * 8e-6 for wire in buses for channel in wire.channels] == [30, 30]
    text = (
        "kind: graph\ndevices: [a, b, c]\nnics: [n]\nlinks:\n- {from: a, to: n, bandwidth: 100 Mb/s, sharing: fatpipe}\n"
        "- {from: n, to: b, bandwidth: 20 Mb/s}\n- {from: n, to: c, bandwidth: 50 Mb/s}"
    )
    forked = plan_lab(spec_of(text), scale=1.0)
    # a sends 20 + 50 Mb/s; what b and c send meets in links of their own
    (bus,) = [wire for wire in forked.wires if 0 in wire.ends]
    assert [channel.bandwidth * 8e-6 for channel in bus.channels] == [70, 70]


def test_ranks_say_where_they_live():
    ranks = plan_lab(small("nic_per_rank")).ranks
    assert [(rank.rank, rank.node, rank.local_rank, rank.address) for rank in ranks] == [
        (0, 0, 0, "10.77.0.1"),
        (1, 0, 1, "10.77.0.2"),
        (2, 1, 0, "10.77.0.3"),
        (3, 1, 1, "10.77.0.4"),
    ]
    assert {rank.bandwidth for rank in ranks} == {(200e6 + 50e6) / 8}


def test_a_spec_is_taken_as_well_as_a_topology():
    assert plan_lab(spec_of(TEXTS["star"])).wires == plan_lab(small("star")).wires


def test_what_is_left_out_is_said_and_gone_from_the_topology():
    text = (
        "kind: star\nranks: 3\nlink: {bandwidth: 1 Gb/s, latency: 7 us, incast: {flows: 1, efficiency: 0.5, source: a test}}"
    )
    plan = plan_lab(spec_of(text), scale=0.1)
    assert [what.split(":")[0] for what in plan.left_out] == ["latency (up to 7 us a link)", "incast (of 3 links)"]
    assert not plan.topology.link_latency.any()
    assert np.isinf(plan.topology.incast_flows).all()
    kept = plan_lab(spec_of(text), scale=0.1, has_delay=True)
    assert set(kept.topology.link_latency) == {7e-6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: star\nranks: 65\nlink: {bandwidth: 1 Gb/s}", "65 ranks: a lab on one machine has 2 to 64"),
        ("kind: star\nranks: 1\nlink: {bandwidth: 1 Gb/s}", "1 ranks: a lab on one machine has 2 to 64"),
        (TEXTS["fat_tree"] + "\nrouting: split", "routing: split divides a flow"),
        (
            "kind: graph\ndevices: [a, b]\nswitches: [s]\nlinks:\n- {from: a, to: s, bandwidth: 1 Gb/s, sharing: fatpipe}\n"
            "- {from: b, to: s, bandwidth: 2 Gb/s}",
            r"from rank 0 to 1 the narrowest link is the fatpipe a -> s: .* Make it shared",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(text, message):
    with pytest.raises(TopologyError, match=message):
        plan_lab(spec_of(text))
