"""What is wired to what?

:class:`Topology` is the answer; ``specs`` (and ``node_link``) are the files, ``generators`` build them, ``routes`` turn
pairs of ranks into link ids (``core`` finds the ways, ``split`` divides over them), ``metrics`` measure distance and
capacity, ``picture`` draws. Knows nothing of experts or tokens.
"""

from smoes_sim.topology.generators import build
from smoes_sim.topology.graph import Builder, Topology
from smoes_sim.topology.routes import Router, Routes
from smoes_sim.topology.shipped import find_spec, find_topology, topology_names
from smoes_sim.topology.specs import TopologySpec

__all__ = [
    "Builder",
    "Router",
    "Routes",
    "Topology",
    "TopologySpec",
    "build",
    "find_spec",
    "find_topology",
    "topology_names",
]
