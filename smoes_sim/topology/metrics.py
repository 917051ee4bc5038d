"""What a topology can do: size, distance, capacity across its middle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import networkx as nx
import numpy as np

from smoes_sim.topology.graph import Topology
from smoes_sim.topology.routes import Router

_MANY = 512
"""Above this many ranks the diameter is measured from a sample of sources."""


def diameter(topology: Topology) -> int:
    """Links on the longest route between two ranks; above 512 ranks from 512 evenly spread sources."""
    num_ranks = topology.num_ranks
    if num_ranks == 1:
        return 0
    sources = np.unique(np.linspace(0, num_ranks - 1, min(_MANY, num_ranks)).astype(int))
    source = np.repeat(sources, num_ranks)
    destination = np.tile(np.arange(num_ranks), len(sources))
    away = source != destination
    one_each = replace(topology, routing="hash")
    routes = Router(one_each).compile(source[away], destination[away])
    return int(np.diff(routes.offsets).max())


def bisection(topology: Topology) -> float:
    """Bytes per second from the lower half of the ranks to the upper half: the largest flow between them, B/s.

    Devices do not forward. For a star of 4 ranks at 50 GB/s: 2 * 50 = 100 GB/s.
    """
    num_ranks = topology.num_ranks
    if num_ranks == 1:
        return 0.0
    half = num_ranks // 2
    graph = nx.DiGraph()
    for link in range(topology.num_links):
        source, target = int(topology.link_source[link]), int(topology.link_target[link])
        leaving = ("out", source) if source < num_ranks else source
        entering = ("in", target) if target < num_ranks else target
        capacity = float(topology.link_bandwidth[link])
        known = graph.get_edge_data(leaving, entering, {"capacity": 0.0})["capacity"]
        graph.add_edge(leaving, entering, capacity=known + capacity)
    for rank in range(half):
        graph.add_edge("source", ("out", rank))
    for rank in range(half, num_ranks):
        graph.add_edge(("in", rank), "sink")
    return float(nx.maximum_flow_value(graph, "source", "sink"))


def describe(topology: Topology) -> dict[str, Any]:
    """What ``topology show`` prints, by JSON key."""
    kinds = []
    for index, kind in enumerate(topology.link_kinds):
        chosen = topology.link_kind == index
        rates, latency = topology.link_bandwidth[chosen], topology.link_latency[chosen]
        kinds.append(
            {
                "kind": kind,
                "count": int(chosen.sum()),
                "bandwidth_Bps": sorted({float(rate) for rate in rates}),
                "latency_s": sorted({float(value) for value in latency}),
            }
        )
    return {
        "name": topology.name,
        "kind": topology.kind,
        "devices": topology.num_ranks,
        "nodes": topology.num_nodes,
        "vertices": len(topology.vertex_names),
        "links": topology.num_links,
        "diameter": diameter(topology),
        "bisection_Bps": bisection(topology),
        "link_kinds": kinds,
    }
