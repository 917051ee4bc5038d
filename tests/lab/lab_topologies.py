"""Small topologies of every kind, and whether a lab can be built here."""

from __future__ import annotations

import pytest

from smoes_sim.lab.namespaces import why_not
from smoes_sim.topology import build
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.yaml_files import Document

needs_root = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
TEXTS = {
    "star": "kind: star\nranks: 4\nlink: {bandwidth: 100 Mb/s}",
    "nic_per_rank": (
        "kind: two_level\nnodes: 2\nranks_per_node: 2\nscale_up: {bandwidth: 200 Mb/s}\nnic: {bandwidth: 50 Mb/s}"
    ),
    "nic_per_node": (
        "kind: two_level\nnodes: 2\nranks_per_node: 3\nscale_up: {bandwidth: 100 Mb/s}\n"
        "nic: {bandwidth: 60 Mb/s, per: node}\nfabric: {oversubscription: 2}"
    ),
    "rails": (
        "kind: rail_optimized\nnodes: 4\nranks_per_node: 2\nscale_up: {bandwidth: 100 Mb/s}\nnic: {bandwidth: 40 Mb/s}\n"
        "fabric: {nodes_per_pod: 2, spines: 2}"
    ),
    "fat_tree": (
        "kind: fat_tree\nnodes: 8\nranks_per_node: 1\nscale_up: {bandwidth: 100 Mb/s}\nnic: {bandwidth: 40 Mb/s}\n"
        "levels: [{down: 2, switches: 2}, {down: 2, switches: 2}, {down: 2, switches: 2}]"
    ),
    "torus": "kind: torus\nshape: [3, 3]\nlink: {bandwidth: 20 Mb/s}",
    "mesh": "kind: mesh\nranks: 4\nlink: {bandwidth: 20 Mb/s}",
    "dragonfly": (
        "kind: dragonfly\ngroups: 3\nrouters_per_group: 2\nranks_per_router: 1\nlink: {bandwidth: 40 Mb/s}\n"
        "local: {bandwidth: 40 Mb/s}\nglobal: {bandwidth: 40 Mb/s, per_router: 1}"
    ),
    "pcie_tree": (
        "kind: pcie_tree\nnodes: 2\nsockets: 2\nranks_per_socket: 2\npcie: {bandwidth: 80 Mb/s}\n"
        "host: {bandwidth: 60 Mb/s}\nnic: {bandwidth: 50 Mb/s}"
    ),
    "one_way_ring": (
        "kind: graph\ndevices: [a, b, c]\nswitches: [x, y, z]\nlinks:\n"
        "- {from: a, to: x, bandwidth: 20 Mb/s}\n- {from: b, to: y, bandwidth: 20 Mb/s}\n"
        "- {from: c, to: z, bandwidth: 20 Mb/s}\n- {from: x, to: y, bandwidth: 30 Mb/s, duplex: false}\n"
        "- {from: y, to: z, bandwidth: 30 Mb/s, duplex: false}\n- {from: z, to: x, bandwidth: 30 Mb/s, duplex: false}"
    ),
}


def spec_of(text):
    return Document(text, name="test.yaml").validate(TopologyFile).root


def small(name):
    return build(spec_of(TEXTS[name]), name=name)
