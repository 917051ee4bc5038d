"""Which devices, NICs and switches are there, and which links join them?

Main type: :class:`Topology`, frozen after building. ``specs`` (and ``node_link``) describe the files, ``generators`` build
them, ``routes`` gives pairs of ranks their link ids (``core`` finds shortest routes, ``split`` divides flows over equal
ones), ``metrics`` and ``summary`` measure, ``picture`` draws. Neighbours: ``network`` above. Independent of experts and
tokens.
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
