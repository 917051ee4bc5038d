from __future__ import annotations

from collections import Counter

import networkx as nx
import numpy as np
import pytest
from build_from import DRAGONFLY, EVERY_KIND, NODES, PODS, RACKS, SOCKETS, TORUS, TREE, graph, mesh, star, topology

from smoes_sim.errors import ConfigError, TopologyError
from smoes_sim.topology import Router

GB = 1e9


def links(built):
    """Every directed link: (source name, target name) -> list of (GB/s, us, shared)."""
    found = {}
    for link in range(built.num_links):
        ends = built.vertex_names[built.link_source[link]], built.vertex_names[built.link_target[link]]
        value = (
            float(built.link_bandwidth[link]) / GB,
            round(float(built.link_latency[link]) * 1e6, 9),
            bool(built.link_shared[link]),
        )
        found.setdefault(ends, []).append(value)
    return found


def vertices(built, kind):
    return [name for name, this in zip(built.vertex_names, built.vertex_kinds, strict=True) if this == kind]


@pytest.mark.parametrize("name", EVERY_KIND)
def test_ranks_come_first_and_every_link_has_one_back_of_the_same_kind(name):
    built = topology(EVERY_KIND[name])
    assert built.vertex_kinds[: built.num_ranks] == ("device",) * built.num_ranks
    assert "device" not in built.vertex_kinds[built.num_ranks :]
    assert len(set(built.vertex_names)) == len(built.vertex_names)
    found = links(built)
    for (a, b), values in found.items():
        assert a != b
        assert found[b, a] == values


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_topology_is_frozen_and_its_graph_says_the_same(name):
    built = topology(EVERY_KIND[name])
    with pytest.raises(ValueError, match="read-only"):
        built.link_bandwidth[0] = 1.0
    with pytest.raises(nx.NetworkXError, match="Frozen"):
        built.graph.remove_node(0)
    for source, target, link, data in built.graph.edges(keys=True, data=True):
        assert (source, target) == (built.link_source[link], built.link_target[link])
        assert data["bandwidth"] == built.link_bandwidth[link]
        assert data["kind"] == built.link_kinds[built.link_kind[link]]
    assert built.graph.number_of_edges() == built.num_links
    assert sum(built.count_kinds().values()) == built.num_links


def test_a_star_joins_every_rank_to_one_switch():
    built = topology(star(4, bandwidth="400 Gb/s", latency="2 us"))
    assert (built.num_ranks, built.num_nodes) == (4, 4)
    expected = {(f"node{rank}.device0", "switch"): [(50.0, 2.0, True)] for rank in range(4)}
    assert links(built) == expected | {(b, a): value for (a, b), value in expected.items()}


def test_a_mesh_has_a_link_for_every_ordered_pair_and_no_switch():
    built = topology(mesh(4))
    assert built.num_links == 4 * 3
    assert Counter(zip(built.link_source.tolist(), built.link_target.tolist(), strict=True)) == Counter(
        (a, b) for a in range(4) for b in range(4) if a != b
    )
    assert built.vertex_kinds == ("device",) * 4
    assert built.num_nodes == 1


def test_two_level_joins_nodes_by_a_nic_per_rank():
    built = topology(NODES)
    # 8 ranks, 8 NICs, 2 node switches, 1 fabric; 8 joins each of rank-switch, rank-NIC and NIC-fabric, both ways
    assert (built.num_ranks, built.num_nodes) == (8, 2)
    assert built.count_kinds() == {"host-bus": 16, "infiniband": 16, "nvlink": 16}
    assert (len(vertices(built, "nic")), len(vertices(built, "switch"))) == (8, 3)
    assert built.node_of_rank.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert built.index_in_node.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    found = links(built)
    assert found["node1.device2", "node1.nvlink"] == [(400.0, 1.0, True)]
    assert found["node1.device2", "node1.nic2"] == [(50.0, 0.0, False)]  # the host bus is no bottleneck
    assert found["node1.nic2", "fabric"] == [(50.0, 2.0, True)]


def test_two_level_oversubscription_thins_what_leaves_a_node():
    built = topology(NODES + "fabric: {oversubscription: 4, latency: 3 us}")
    found = links(built)
    # 4 NICs of 50 GB/s enter a leaf, a quarter of their 200 GB/s leaves it
    assert found["node0.leaf", "fabric"] == found["fabric", "node1.leaf"] == [(50.0, 3.0, True)]
    assert found["node0.nic3", "node0.leaf"] == [(50.0, 2.0, True)]
    assert built.num_links == 48 + 2 * 2


def test_two_level_can_share_one_nic_a_node_and_mesh_its_ranks():
    built = topology(NODES.replace("infiniband,", "infiniband, per: node,").replace("1 us", "1 us, wiring: mesh"))
    # 2 nodes x 4 x 3 pairs; 8 ranks on 2 NICs; 2 NICs on the fabric
    assert built.count_kinds() == {"host-bus": 16, "infiniband": 4, "nvlink": 24}
    assert vertices(built, "nic") == ["node0.nic0", "node1.nic0"]
    assert vertices(built, "switch") == ["fabric"]


def test_two_level_thins_a_shared_nic_by_one_nic():
    text = NODES.replace("infiniband,", "infiniband, per: node,") + "fabric: {oversubscription: 2}"
    assert links(topology(text))["node0.leaf", "fabric"] == [(25.0, 0.0, True)]  # 1 x 50 / 2


def test_a_node_of_one_rank_has_no_scale_up_switch():
    built = topology(NODES.replace("ranks_per_node: 4", "ranks_per_node: 1"))
    assert vertices(built, "switch") == ["fabric"]
    assert built.num_links == 2 * 4


def test_a_single_rack_has_only_its_scale_up_switch():
    built = topology(
        "{kind: scale_up_domain, ranks_per_rack: 8, scale_up: {kind: nvlink5, bandwidth: 900 GB/s, latency: 0.3 us}}"
    )
    assert (built.num_ranks, built.num_nodes, built.num_links) == (8, 1, 16)
    assert links(built)["rack0.nvlink5", "node0.device7"] == [(900.0, 0.3, True)]


def test_two_racks_are_joined_by_a_nic_per_rank():
    built = topology(RACKS + "fabric: {oversubscription: 2}")
    assert built.num_nodes == 2
    # 4 x 50 GB/s / 2
    assert links(built)["fabric", "node1.leaf"] == [(100.0, 0.0, True)]
    assert built.count_kinds() == {"host-bus": 16, "infiniband": 16 + 4, "nvlink": 16}


def test_rails_join_nics_of_one_index_in_a_pod_and_spines_join_rails():
    built = topology(PODS)
    found = links(built)
    assert built.num_ranks == 8
    for node in range(4):
        for index in range(2):
            assert found[f"node{node}.nic{index}", f"pod{node // 2}.rail{index}"] == [(50.0, 2.0, True)]
    # a rail switch of a pod takes in 2 NICs of 50 GB/s; half of that leaves, over 2 spines: 100 / 2 / 2 = 25
    uplinks = {ends: value for ends, value in found.items() if ends[1].startswith("spine")}
    assert uplinks == {
        (f"pod{pod}.rail{rail}", f"spine{spine}"): [(25.0, 3.0, True)]
        for pod in range(2)
        for rail in range(2)
        for spine in range(2)
    }
    assert built.count_kinds() == {"host-bus": 16, "infiniband": 16 + 16, "nvlink": 16}


def test_the_last_pod_of_a_rail_network_may_be_smaller():
    built = topology(PODS.replace("nodes: 4", "nodes: 3"))
    found = links(built)
    assert found["pod0.rail1", "spine0"] == [(25.0, 3.0, True)]
    assert found["pod1.rail1", "spine0"] == [(12.5, 3.0, True)]  # one NIC: 50 / 2 / 2
    assert ("node2.nic1", "pod1.rail1") in found


def test_a_fat_tree_spreads_each_group_over_its_switches_and_thins_what_leaves_it():
    built = topology(TREE)
    found = links(built)
    # a NIC's 50 GB/s goes to 2 parallel switches: 25 each
    assert found["node0.nic1", "level1.group0.switch1"] == [(25.0, 2.0, True)]
    assert found["node3.nic0", "level1.group1.switch0"] == [(25.0, 2.0, True)]
    # 4 x 50 GB/s enter a group, half leaves it, from 2 switches to 1: 50 each
    assert found["level1.group1.switch0", "level2.group0.switch0"] == [(50.0, 3.0, True)]
    # 8 NICs x 2 switches and 2 groups x 2 switches x 1 switch, both ways
    assert built.count_kinds() == {"host-bus": 16, "infiniband": 32 + 8, "nvlink": 16}


def test_a_fat_tree_may_have_any_number_of_levels():
    text = TREE[: TREE.index("levels")] + (
        "levels:\n  - {down: 2, latency: 4 us}\n  - {down: 2, switches: 2, oversubscription: 4, latency: 5 us}\n"
        "  - {down: 2, switches: 4}\n"
    )
    found = links(topology(text))
    # level 1: 4 groups of 2 NICs take in 100; nothing is thinned; to 2 switches: 100 / 2
    assert found["level1.group3.switch0", "level2.group1.switch1"] == [(50.0, 4.0, True)]
    # level 2: 2 groups take in 200; 50 leaves, from 2 switches to 4: 50 / 2 / 4
    assert found["level2.group1.switch1", "level3.group0.switch3"] == [(6.25, 5.0, True)]


def test_a_torus_joins_each_router_to_its_neighbours_once():
    built = topology(TORUS)
    # shape 4 x 2 x 1: 2 rings of 4 links, 4 pairs that are joined once, nothing along the last dimension
    assert built.count_kinds() == {"injection": 2 * 8, "link": 2 * (2 * 4 + 4)}
    found = links(built)
    # rank = 2 * x + y; x = 3 wraps round to x = 0
    assert ("router7", "router1") in found
    assert ("router0", "router1") in found
    assert ("router1", "router2") not in found
    assert all(len(values) == 1 for values in found.values())
    # a rank can drive both directions of all 3 dimensions: 6 x 100 GB/s
    assert found["node5.device0", "router5"] == [(600.0, 0.0, True)]


@pytest.mark.parametrize(
    ("shape", "joins"),
    [([1], 0), ([2], 1), ([3], 3), ([2, 2], 4), ([3, 3], 18), ([4, 4, 4], 192), ([2, 3, 1], 3 + 6), ([1, 1, 5], 5)],
)
def test_a_torus_has_a_link_per_rank_and_dimension_but_one_of_size_2_only_half_and_of_size_1_none(shape, joins):
    built = topology(f"{{kind: torus, shape: {shape}, link: {{kind: ici, bandwidth: 1 GB/s}}}}")
    assert built.num_ranks == np.prod(shape)
    assert built.count_kinds().get("ici", 0) == 2 * joins


@pytest.mark.parametrize(
    ("groups", "routers", "ports", "per_pair"),
    [
        (5, 2, 2, 1),  # 4 ports meet 4 other groups
        (4, 3, 2, 2),  # 6 ports, 3 other groups: twice
        (4, 8, 3, 8),  # 24 ports, 3 other groups: 8 times
        (6, 4, 3, 2),  # 12 ports, 5 other groups: twice, 2 ports stay free
        (2, 1, 1, 1),
        (9, 4, 2, 1),
        (1, 3, 1, 0),
    ],
)
def test_a_dragonfly_joins_every_pair_of_groups_equally(groups, routers, ports, per_pair):
    text = DRAGONFLY.replace("groups: 5", f"groups: {groups}").replace(
        "routers_per_group: 2", f"routers_per_group: {routers}"
    )
    built = topology(text.replace("per_router: 2}", f"per_router: {ports}}}"))
    assert built.num_ranks == groups * routers * 2
    pairs, used = Counter(), Counter()
    for (a, b), values in links(built).items():
        group_a, group_b = a.partition(".")[0], b.partition(".")[0]
        if group_a.startswith("group") and group_b.startswith("group") and group_a != group_b:
            pairs[group_a, group_b] += len(values)
            used[a] += len(values)
    names = [f"group{group}" for group in range(groups)]
    assert pairs == Counter({(a, b): per_pair for a in names for b in names if a != b and per_pair})
    assert max(used.values(), default=0) <= ports


def test_a_dragonfly_meshes_the_routers_of_a_group():
    built = topology(DRAGONFLY.replace("routers_per_group: 2", "routers_per_group: 4"))
    # 5 groups of 4 routers: 6 pairs each, both ways; 40 ranks
    assert built.count_kinds()["local"] == 5 * 6 * 2
    assert built.count_kinds()["edge"] == 40 * 2
    # ports: 8 a group over 4 other groups: every pair of groups twice: 10 pairs x 2 x both ways
    assert built.count_kinds()["global"] == 40
    assert links(built)["node3.device1", "group0.router3"] == [(25.0, 1.0, True)]


def test_a_pcie_tree_hangs_ranks_on_sockets_and_the_nic_on_the_first():
    built = topology(SOCKETS)
    assert (built.num_ranks, built.num_nodes) == (8, 2)
    found = links(built)
    assert found["node1.device1", "node1.socket0"] == [(32.0, 1.0, True)]
    assert found["node1.device2", "node1.socket1"] == [(32.0, 1.0, True)]
    assert found["node1.socket0", "node1.socket1"] == [(20.0, 2.0, True)]
    assert found["node1.socket0", "fabric"] == [(10.0, 3.0, True)]
    assert built.count_kinds() == {"ethernet": 4, "pcie": 16, "upi": 4}


def test_a_graph_is_taken_as_it_is_written():
    built = topology(
        graph(
            "a, b",
            "a s, bandwidth: 2 GB/s, latency: 3 us, kind: up, duplex: false",
            "s a, bandwidth: 4 GB/s, kind: down, duplex: false",
            "b n, sharing: fatpipe",
            "n s",
            nics="n",
            switches="s",
            more="nodes: [[b], [a]]",
        )
    )
    assert built.vertex_names == ("a", "b", "n", "s")
    assert built.vertex_kinds == ("device", "device", "nic", "switch")
    assert built.node_of_rank.tolist() == [1, 0]  # nodes in the order of `nodes`, ranks in the order of `devices`
    assert links(built) == {
        ("a", "s"): [(2.0, 3.0, True)],
        ("s", "a"): [(4.0, 0.0, True)],
        ("b", "n"): [(1.0, 0.0, False)],
        ("n", "b"): [(1.0, 0.0, False)],
        ("n", "s"): [(1.0, 0.0, True)],
        ("s", "n"): [(1.0, 0.0, True)],
    }


@pytest.mark.parametrize(
    ("text", "a", "b"),
    [
        (graph("left, right"), "0 (left)", "1 (right)"),
        (graph("x, y, z", "x y", "y z"), "0 (x)", "2 (z)"),  # a device does not forward
        (graph("x, y", "x y, duplex: false"), "1 (y)", "0 (x)"),
        (graph("x, y, z", "x s", "y s", "z t", switches="s, t"), "0 (x)", "2 (z)"),
        (graph("x, y", "x s, duplex: false", "s t, duplex: false", "t y, duplex: false", switches="s, t"), "1 (y)", "0 (x)"),
        (graph("x, y", "x n", "y m", nics="n, m"), "0 (x)", "1 (y)"),
    ],
)
def test_a_graph_that_does_not_join_two_ranks_is_refused_naming_both(text, a, b):
    with pytest.raises(TopologyError) as caught:
        topology(text, name="mine")
    assert str(caught.value).startswith(f"mine: rank {a} has no route to rank {b}: every pair needs one.")


def test_a_graph_whose_switches_lead_only_one_way_is_joined_by_a_loop():
    built = topology(
        graph(
            "x, y",
            *(f"{ends}, duplex: false" for ends in ("x s", "s t", "t y", "y u", "u x")),
            switches="s, t, u",
        )
    )
    assert built.num_links == 5


@pytest.mark.parametrize("text", [graph("only"), star(1), mesh(1)])
def test_a_single_rank_is_a_topology(text):
    assert topology(text).num_ranks == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RACKS[: RACKS.index("nic")], r"racks = 2 have no network between them\. Add nic"),
        (SOCKETS[: SOCKETS.index("nic")], r"nodes = 2 have no network between them\. Add nic"),
        (SOCKETS.replace("host:", "description: x #"), r"sockets = 2 have no link between them\. Add host"),
        (
            DRAGONFLY.replace("groups: 5", "groups: 6"),
            r"routers_per_group \* global\.per_router = 4 global links cannot reach the other 5 groups",
        ),
        (graph("a, b, a"), '"a" names two vertices'),
        (graph("a, b", nics="b"), '"b" names two vertices'),
        (graph("a, b", "a c"), 'a link ends at "c", which is no device, NIC or switch'),
        (graph("a, b", "a b", more="nodes: [[a]]"), "nodes must name every device exactly once"),
        (star(0), r"ranks = 0: input should be greater than or equal to 1"),
        (star(2, bandwidth="0 GB/s"), '"0 GB/s" is zero'),
        (TORUS.replace("[4, 2, 1]", "[4, 0]"), r"shape\.1 = 0: input should be greater than or equal to 1"),
        (TREE[: TREE.index("levels")] + "levels: []", r"levels = \[\]: list should have at least 1 item"),
        (NODES + "fabric: {oversubscription: 0}", r"fabric\.oversubscription = 0: input should be greater than 0"),
    ],
)
def test_a_topology_that_makes_no_sense_is_refused_with_the_rule(text, expected):
    with pytest.raises(ConfigError, match=rf"^test\.yaml:\d+:\d+: .*{expected}"):
        topology(text)


@pytest.mark.parametrize("name", EVERY_KIND)
def test_the_first_ranks_keep_their_routes(name):
    whole = topology(EVERY_KIND[name])
    for ranks in range(1, whole.num_ranks + 1):
        part = whole.first(ranks)
        assert part.vertex_names[:ranks] == whole.vertex_names[:ranks]
        assert "device" not in part.vertex_kinds[ranks:]
        assert {ends: values for ends, values in links(whole).items() if ends in links(part)} == links(part)
        source, destination = np.nonzero(~np.eye(ranks, dtype=bool))
        if len(source):
            part.check_connected()
            lengths = [np.diff(Router(built).compile(source, destination).offsets).tolist() for built in (part, whole)]
            assert lengths[0] == lengths[1]


def test_a_part_of_a_cluster_loses_what_leads_nowhere():
    part = topology(NODES).first(1)
    assert vertices(part, "switch") == vertices(part, "nic") == []
    whole = topology(NODES)
    assert links(whole.first(whole.num_ranks)) == links(whole)


def test_more_ranks_than_there_are_cannot_take_part():
    with pytest.raises(TopologyError, match=r"has 4 ranks, not 5\. Use 1\.\.4\."):
        topology("kind: star\nranks: 4\nlink: {bandwidth: 1 GB/s}\n").first(5)
