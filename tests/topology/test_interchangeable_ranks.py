from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from build_from import EVERY_KIND, NODES, graph, star, topology
from networkx.algorithms.isomorphism import DiGraphMatcher

from smoes_sim.topology.symmetry import find_symmetry


def orbit_sizes(labels):
    return sorted(np.bincount(labels).tolist())


def test_ranks_of_a_star_are_equal_and_so_are_links_of_a_direction():
    found = find_symmetry(topology(star(6)))
    assert orbit_sizes(found.rank_class) == [6]
    assert orbit_sizes(found.link_class) == [6, 6]


def test_a_slower_link_is_not_equal_to_the_others():
    one = topology(star(6))
    slower = find_symmetry(replace(one, link_bandwidth=np.where(np.arange(12) == 4, 1e9, one.link_bandwidth)))
    assert orbit_sizes(slower.rank_class) == [1] * 6  # no rotation of all ranks keeps the slow link


def test_nodes_of_unequal_size_are_equal_inside_only_where_blocks_fit():
    # 2 nodes of 4 ranks, of which 6 are left: pairs 0-1, 2-3 and 4-5 can be exchanged only if they stay in their node
    found = find_symmetry(topology(NODES).first(6))
    assert set(found.rank_class[:4]).isdisjoint(found.rank_class[4:])


@pytest.mark.parametrize("kind", ["star", "mesh", "two_level", "two_level_mesh", "pcie_tree", "graph", "torus"])
def test_equal_ranks_are_exchanged_by_an_automorphism_of_the_graph(kind):
    # an independent search for isomorphisms that map the first rank of an orbit to each other one
    built = topology(EVERY_KIND[kind])
    wiring = nx.DiGraph()
    wiring.add_nodes_from((v, {"what": what, "mark": 0}) for v, what in enumerate(built.vertex_kinds))
    ends = zip(built.link_source.tolist(), built.link_target.tolist(), strict=True)
    figures = zip(built.link_bandwidth.tolist(), built.link_latency.tolist(), strict=True)
    for (a, b), (bandwidth, latency) in zip(ends, figures, strict=True):
        seen = wiring.edges[a, b]["what"] if wiring.has_edge(a, b) else ()
        wiring.add_edge(a, b, what=tuple(sorted([*seen, (bandwidth, latency)])))
    rank_class = find_symmetry(built).rank_class
    for rank, label in enumerate(rank_class.tolist()):
        ours, theirs = wiring.copy(), wiring.copy()
        ours.nodes[int(np.argmax(rank_class == label))]["mark"] = theirs.nodes[rank]["mark"] = 1
        match = DiGraphMatcher(ours, theirs, lambda a, b: a == b, lambda a, b: a == b)
        assert match.is_isomorphic()


def test_a_graph_without_symmetry_has_every_rank_alone():
    lines = ("a s, bandwidth: 1 GB/s", "b s, bandwidth: 2 GB/s", "c s, bandwidth: 3 GB/s")
    found = find_symmetry(topology(graph("a, b, c", *lines, switches="s")))
    assert orbit_sizes(found.rank_class) == [1, 1, 1]
    assert orbit_sizes(found.link_class) == [1] * 6
