from __future__ import annotations

import json
import re

import networkx as nx
import numpy as np
import pytest
from build_from import PODS, star, topology

from smoes_sim.errors import ConfigError, TopologyError
from smoes_sim.topology import Router, find_topology
from smoes_sim.units import print_bandwidth, print_duration

FIELDS = {"bandwidth": "2 GB/s", "latency": "3 us", "kind": "cable"}


def small(**more):
    """Two devices on a switch, undirected."""
    nodes = [{"id": 0, "kind": "device"}, {"id": 1, "kind": "device"}, {"id": "s", "kind": "switch"}]
    edges = [{"source": 0, "target": "s"} | FIELDS, {"source": "s", "target": 1} | FIELDS]
    return {"directed": False, "multigraph": True, "graph": {}, "nodes": nodes, "edges": edges} | more


def read(tmp_path, data):
    path = tmp_path / "mine.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return find_topology(str(path))


def written_by_networkx(built, **options):
    """Any topology as networkx writes its graph, with units."""
    graph = nx.MultiDiGraph(routing=built.routing)
    for vertex, (name, kind) in enumerate(zip(built.vertex_names, built.vertex_kinds, strict=True)):
        host = {"node": int(built.node_of_rank[vertex])} if kind == "device" else {}
        graph.add_node(vertex, name=name, kind=kind, **host)
    for a, b, data in built.graph.edges(data=True):
        quantities = {"bandwidth": print_bandwidth(data["bandwidth"]), "latency": print_duration(data["latency"])}
        graph.add_edge(a, b, kind=data["kind"], sharing=data["sharing"], **quantities)
    return nx.node_link_data(graph, **options)


@pytest.mark.parametrize("options", [{"edges": "edges"}, {"edges": "links"}])
def test_what_networkx_writes_is_the_same_topology(tmp_path, options):
    built = topology(PODS + "routing: split")
    again = read(tmp_path, written_by_networkx(built, **options))
    assert again.vertex_kinds[: again.num_ranks] == ("device",) * built.num_ranks
    assert again.routing == "split"
    np.testing.assert_array_equal(again.node_of_rank, built.node_of_rank)

    def wires(one):
        names = [one.vertex_names[v] for v in range(len(one.vertex_names))]
        columns = zip(one.link_source, one.link_target, one.link_bandwidth, one.link_latency, one.link_shared, strict=True)
        return sorted((names[a], names[b], *rest) for a, b, *rest in columns)

    assert wires(again) == wires(built)


def test_an_undirected_edge_is_a_link_each_way(tmp_path):
    built = read(tmp_path, small())
    assert (built.kind, built.num_ranks, built.num_nodes, built.num_links) == ("graph", 2, 1, 4)
    assert built.vertex_names == ("0", "1", "s")
    assert set(built.link_bandwidth.tolist()) == {2e9}
    assert Router(built).compile(np.array([0]), np.array([1])).sum_of(built.link_latency).tolist() == pytest.approx([6e-6])


def test_json_with_a_kind_is_an_ordinary_topology_file(tmp_path):
    assert read(tmp_path, '{"kind": "star", "ranks": 3, "link": {"bandwidth": "50 GB/s"}}').num_links == 6
    assert topology(star(3)).num_links == 6


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("[", r"mine\.json:1:2: is not JSON: .*\. Fix this line\."),
        ("[]", r"mine\.json:1:1: is not a mapping"),
        ("[" * 100_000, r"mine\.json: is nested too deeply"),
        ("{}", r'mine\.json: the key "directed" is missing'),
        (small(nodes=[{"id": 0, "kind": "gpu"}]), r'mine\.json: nodes\.0\.kind = "gpu" is unknown'),
        (small(nodes=[{"id": 0, "kind": "device", "rack": 1}]), r'mine\.json: unknown key "rack"'),
        (small(edges=[{"source": 0, "target": "s"}]), r'mine\.json: the key "bandwidth" is missing in links\.0'),
        (small(edges=[{"source": 0} | FIELDS]), r'mine\.json: the key "to" is missing in links\.0'),
        (small(edges=[{"source": 0, "target": "t"} | FIELDS]), r'mine\.json: a link ends at "t"'),
        (small(edges=[{"source": 0, "target": 0} | FIELDS]), r'mine\.json: a link leads from "0" to itself'),
        (
            small(edges=[{"source": 0, "target": 1, "bandwidth": 2e9}]),
            r"mine\.json: links\.0\.bandwidth = 2000000000\.0 has no unit of bandwidth",
        ),
        (small(nodes=[{"id": 0, "kind": "switch"}], edges=[]), r"mine\.json: devices = \[\]: list should have at least 1"),
    ],
)
def test_a_broken_file_is_refused_with_the_rule(tmp_path, data, expected):
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path, data)


def test_ranks_without_a_route_are_named(tmp_path):
    where = re.escape(str(tmp_path / "mine.json"))
    with pytest.raises(TopologyError, match=rf"^{where}: mine: rank 0 \(0\) has no route to rank 1 \(1\)"):
        read(tmp_path, small(edges=small()["edges"][:1]))
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
        find_topology("none.json")
