"""Topologies for tests, written as people write them."""

from __future__ import annotations

from smoes_sim.topology import Topology, build
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.yaml_files import Document

NODES = """
kind: two_level
nodes: 2
ranks_per_node: 4
scale_up: {kind: nvlink, bandwidth: 400 GB/s, latency: 1 us}
nic: {kind: infiniband, bandwidth: 50 GB/s, latency: 2 us}
"""
PODS = """
kind: rail_optimized
nodes: 4
ranks_per_node: 2
scale_up: {kind: nvlink, bandwidth: 400 GB/s, latency: 1 us}
nic: {kind: infiniband, bandwidth: 50 GB/s, latency: 2 us}
fabric: {nodes_per_pod: 2, spines: 2, oversubscription: 2, latency: 3 us}
"""
TREE = """
kind: fat_tree
nodes: 4
ranks_per_node: 2
scale_up: {kind: nvlink, bandwidth: 400 GB/s, latency: 1 us}
nic: {kind: infiniband, bandwidth: 50 GB/s, latency: 2 us}
levels:
  - {down: 4, switches: 2, oversubscription: 2, latency: 3 us}
  - {down: 2}
"""
TORUS = "{kind: torus, shape: [4, 2, 1], link: {bandwidth: 100 GB/s, latency: 1 us}}"
DRAGONFLY = """
kind: dragonfly
groups: 5
routers_per_group: 2
ranks_per_router: 2
link: {kind: edge, bandwidth: 25 GB/s, latency: 1 us}
local: {kind: local, bandwidth: 25 GB/s, latency: 2 us}
global: {kind: global, bandwidth: 25 GB/s, latency: 3 us, per_router: 2}
"""
SOCKETS = """
kind: pcie_tree
nodes: 2
sockets: 2
ranks_per_socket: 2
pcie: {kind: pcie, bandwidth: 32 GB/s, latency: 1 us}
host: {kind: upi, bandwidth: 20 GB/s, latency: 2 us}
nic: {kind: ethernet, bandwidth: 10 GB/s, latency: 3 us}
"""
RACKS = """
kind: scale_up_domain
racks: 2
ranks_per_rack: 4
scale_up: {kind: nvlink, bandwidth: 900 GB/s, latency: 1 us}
nic: {kind: infiniband, bandwidth: 50 GB/s, latency: 2 us}
"""


def star(ranks: int, *, bandwidth: str = "50 GB/s", latency: str = "0 us") -> str:
    return f"{{kind: star, ranks: {ranks}, link: {{bandwidth: {bandwidth}, latency: {latency}}}}}"


def mesh(ranks: int, *, bandwidth: str = "64 GB/s", latency: str = "1 us") -> str:
    return f"{{kind: mesh, ranks: {ranks}, link: {{bandwidth: {bandwidth}, latency: {latency}}}}}"


def graph(devices: str, *links: str, nics: str = "", switches: str = "", more: str = "") -> str:
    """An explicit graph; a link is ``a b`` or ``a b, field: value``, at 1 GB/s unless said otherwise."""
    lines = [f"kind: graph\ndevices: [{devices}]\nnics: [{nics}]\nswitches: [{switches}]\n{more}\nlinks:"]
    for link in links:
        ends, _, fields = link.partition(", ")
        a, b = ends.split()
        rate = "" if "bandwidth" in fields else ", bandwidth: 1 GB/s"
        lines.append(f"  - {{from: {a}, to: {b}{rate}{', ' * bool(fields)}{fields}}}")
    return "\n".join(lines) if links else "\n".join(lines) + " []"


PARALLEL = graph(  # two links between the switches, and one wider pair of switches beside them
    "a, b, c, d",
    "a p",
    "b p",
    "c q",
    "d q",
    "p q, bandwidth: 3 GB/s",
    "p q",
    "p r",
    "r q",
    switches="p, q, r",
)
HOSTS = graph(  # PCIe switch, NIC, fabric: the NIC stands between two switches
    "a, b, c, d",
    *("a p", "b p", "p n, bandwidth: 4 GB/s", "n f, bandwidth: 2 GB/s"),
    *("f m, bandwidth: 2 GB/s", "m q, bandwidth: 4 GB/s", "q c", "q d"),
    nics="n, m",
    switches="p, q, f",
    more="nodes: [[a, b], [c, d]]",
)
EVERY_KIND = {
    "star": star(5, latency="1 us"),
    "mesh": mesh(5),
    "two_level": NODES,
    "two_level_thin": NODES + "fabric: {oversubscription: 4, latency: 3 us}",
    "two_level_mesh": NODES.replace("latency: 1 us", "latency: 1 us, wiring: mesh"),
    "two_level_shared_nic": NODES.replace("infiniband,", "infiniband, per: node,"),
    "scale_up_domain": RACKS,
    "rail_optimized": PODS,
    "fat_tree": TREE,
    "torus": TORUS,
    "dragonfly": DRAGONFLY,
    "pcie_tree": SOCKETS,
    "graph": PARALLEL,
    "graph_hosts": HOSTS,
}
"""A small topology of each kind, and of what differs within a kind."""


def topology(text: str, *, name: str = "test") -> Topology:
    return build(Document(text, name=f"{name}.yaml").validate(TopologyFile).root, name=name)
