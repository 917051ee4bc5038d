"""The topology of a lab as an ordinary topology file."""

from __future__ import annotations

from collections import defaultdict
from io import BytesIO
from typing import Any

from ruamel.yaml import YAML

from smoes_sim.lab.plan import LabPlan
from smoes_sim.topology import Topology
from smoes_sim.units import print_bandwidth, print_duration


def graph_file(plan: LabPlan) -> bytes:
    """YAML of kind ``graph``: vertices and links in their order, so that the same of several equal routes is chosen."""
    topology = plan.topology
    about = f"Lab of {topology.name}: rates x {plan.scale:g}" + "".join(f"; without {what}" for what in plan.left_out)
    document = {"kind": "graph", "description": about, "routing": topology.routing} | _vertices(topology)
    document["links"] = [_link(topology, link) for link in range(topology.num_links)]
    yaml = YAML(typ="rt", pure=True)  # keeps the order of keys
    yaml.default_flow_style = None  # lists of words and mappings of words on one line
    yaml.width = 120
    stream = BytesIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _vertices(topology: Topology) -> dict[str, Any]:
    named: dict[str, list[str]] = defaultdict(list)
    for name, kind in zip(topology.vertex_names, topology.vertex_kinds, strict=True):
        named[kind].append(name)
    nodes: list[list[str]] = [[] for _ in range(topology.num_nodes)]
    for rank, node in enumerate(topology.node_of_rank.tolist()):
        nodes[node].append(topology.vertex_names[rank])
    return {"devices": named["device"], "nodes": nodes, "nics": named["nic"], "switches": named["switch"]}


def _link(topology: Topology, link: int) -> dict[str, Any]:
    return {
        "from": topology.vertex_names[topology.link_source[link]],
        "to": topology.vertex_names[topology.link_target[link]],
        "kind": topology.link_kinds[topology.link_kind[link]],
        "bandwidth": print_bandwidth(float(topology.link_bandwidth[link])),
        "latency": print_duration(float(topology.link_latency[link])),
        "sharing": "shared" if topology.link_shared[link] else "fatpipe",
        "duplex": False,
    }
