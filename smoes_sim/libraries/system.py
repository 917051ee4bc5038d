"""From a measured row to the input of a library model: topology, transport classes, family and software.

Names in the table are free text, so rules interpret them: the class of a link is the generation that its name states or,
without one, the generation with the nearest nominal rate. New systems of known kinds need no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from smoes_sim.measurements import Measurement
from smoes_sim.network import Network
from smoes_sim.topology import Topology, build
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.units import print_bandwidth

NOMINAL = {
    "nvlink2": 150e9,
    "nvlink3": 300e9,
    "nvlink4": 450e9,
    "nvlink5": 900e9,
    "nvlink5_mnnvl": 900e9,
    "pcie3": 15.75e9,
    "pcie4": 31.5e9,
    "pcie5": 63e9,
    "pcie6": 121e9,
}
"""Rate per device and direction in B/s for rows that state none (NVIDIA data sheets; PCI-SIG rates of 16 lanes)."""
SOFTWARE = {
    "hybrid_ep": r"hybrid.?ep",
    "uccl_ep": r"uccl",
    "mori_ep": r"mori",
    "trtllm": r"tensorrt|trt.?llm",
    "deepep": r"deep.?ep",
    "rccl": r"rccl",
    "nccl": r"nccl",
    "mpi": r"mpi|ucx",
    "gloo": r"gloo",
}
"""Software by the first pattern that matches the library's name; without a match ``generic``."""
_NETWORKS = {
    "efa": r"\befa",
    "slingshot": r"slingshot|cassini|cxi",
    "roce": r"roce|pollara|thor|broadcom|spectrum",
    "infiniband": r"infiniband|\bib\b|ndr|hdr|xdr|quantum",
    "ethernet": r"ethernet|tcp|gbe",
}
_FAMILIES = {
    "sendrecv": "sendrecv",
    "alltoall_rdma": "rdma_alltoall",
    "ep_normal": "ep_normal",
    "ep_low_latency": "ep_low_latency",
}
_HOST_LINK = 22e9
"""Rate between two sockets in B/s: that of NCCL for Sapphire Rapids (NVIDIA/nccl src/graph/topo.h@069a3d4, SRP_QPI_BW)."""
_MOST_RANKS = 2048
"""Largest number of ranks of a case: routing their all-to-all takes 7 s and 1 GB."""
_UNDER_ONE_SWITCH, _UNDER_ONE_SOCKET = 2, 4
"""Number of devices under one PCIe switch and on one socket, as in common 8-device servers; rows do not state it."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a row cannot be predicted."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemLayout:
    """The facts from which the topology of a row is built; equal layouts share one network.

    Attributes:
        nodes: Number of nodes.
        per_node: Number of ranks per node.
        intra: Transport class inside a node.
        rate: Nominal rate of a rank inside its node, B/s.
        peer_links: Number of links that share that rate where every pair of ranks has its own; 0 with a switch.
        inter: Transport class between nodes; None if there is one node.
        nic_rate: Nominal rate of a rank's NIC, B/s.
    """

    nodes: int
    per_node: int
    intra: str
    rate: float
    peer_links: int
    inter: str | None
    nic_rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemCase:
    """A row, ready for a library model.

    Attributes:
        row: The measured columns.
        layout: The facts from which its topology is built.
        family: ``nccl_alltoall``, ``pairwise_alltoall``, ``sendrecv``, ``rdma_alltoall``, ``ep_normal``, ``ep_low_latency``.
        software: ``nccl``, ``rccl``, ``mpi``, ``gloo``, ``rdma``, ``deepep``, ``uccl_ep``, ``mori_ep``, ``hybrid_ep``,
            ``trtllm`` or ``generic``.
        system: Hardware and software, regardless of the number of ranks and nodes; systems are left out as a whole.
        intra: Transport class inside a node: ``nvlink4``, ``nvlink5_mnnvl``, ``xgmi``, ``pcie4``, ``shm``, ``other``.
        inter: Transport class between nodes; None if there is one node.
    """

    row: Measurement
    layout: SystemLayout
    family: str
    software: str
    system: str
    intra: str
    inter: str | None

    @property
    def network(self) -> Network:
        """The row's topology at nominal rates, each link's kind its transport class; one object for equal layouts."""
        return network_of(self.layout)

    @property
    def topology(self) -> Topology:
        """The row's topology at nominal rates."""
        return self.network.topology

    @property
    def num_ranks(self) -> int:
        """Number of ranks, R."""
        return self.row.nodes * self.row.ranks_per_node


def system_case(row: Measurement) -> SystemCase | Skip:
    """The case of a row, or the reason why there is none."""
    if row.mode not in {*_FAMILIES, "alltoall"}:
        return Skip(f'mode "{row.mode}" has no library model')
    if row.nodes > 1 and scale_up_class(row.inter_link, row.nic_bandwidth).startswith("nvlink"):
        row = replace(row, nodes=1, ranks_per_node=row.num_ranks)  # trays of one scale-up domain are no nodes to a library
    if row.nodes * row.ranks_per_node < 2:
        return Skip("one rank sends nothing")
    if row.num_ranks > _MOST_RANKS:
        return Skip(f"{row.num_ranks} ranks: every pair is routed, so at most {_MOST_RANKS} ranks are possible")
    intra = scale_up_class(row.intra_link, row.intra_bandwidth)
    rate = row.intra_bandwidth or NOMINAL.get(intra)
    if row.ranks_per_node > 1 and not rate:
        return Skip(f'intra_GBps is empty and "{row.intra_link}" has no known nominal rate')
    inter = scale_out_class(row.inter_link) if row.nodes > 1 else None
    if inter is not None and not row.nic_bandwidth:
        return Skip(f'nic_Gbps is empty, and "{row.inter_link}" does not state a rate')
    software = "rdma" if row.mode == "alltoall_rdma" else software_of(row.library)
    return SystemCase(
        row=row,
        layout=SystemLayout(
            nodes=row.nodes,
            per_node=row.ranks_per_node,
            intra=intra,
            rate=rate or 1.0,
            peer_links=_peer_links(row, intra),
            inter=inter,
            nic_rate=row.nic_bandwidth or 0.0,
        ),
        family=_family(row),
        software=software,
        system=f"{hardware_of(row.system)}, {software}",
        intra=intra,
        inter=inter,
    )


def software_of(library: str) -> str:
    """The software that a library's name denotes; ``generic`` if it is unknown."""
    name = library.lower()
    return next((software for software, pattern in SOFTWARE.items() if re.search(pattern, name)), "generic")


def scale_up_class(link: str, bandwidth: float | None) -> str:
    """Transport class of a link inside a node, by its name, or by its rate in B/s where the name has no generation."""
    name = re.sub(r"\b(?:no|not the) nvlink", "", link.lower())
    if re.search(r"mnnvl|nvl72|nvl36|multi.?node nvlink", name):
        return "nvlink5_mnnvl"
    if re.search(r"shm|host.?memory|no p2p", name):
        return "shm"
    for kind, pattern in (("nvlink", r"nvlink[ -]?(\d)?"), ("pcie", r"pcie[ -]?(?:gen ?)?(\d)?")):
        found = re.search(pattern, name)
        if found:
            return f"{kind}{found[1]}" if found[1] else _nearest_generation(kind, bandwidth)
    return "xgmi" if re.search(r"xgmi|infinity", name) else "other"


def _nearest_generation(kind: str, bandwidth: float | None) -> str:
    rates = {name: rate for name, rate in NOMINAL.items() if name.startswith(kind)}
    return min(rates, key=lambda name: abs(rates[name] - (bandwidth or 0.0)))


def scale_out_class(link: str) -> str:
    """Transport class of a network between nodes, by its name; ``other`` if it is unknown."""
    name = link.lower()
    if re.search(r"not named|no gpudirect", name):
        return "other"
    return next((kind for kind, pattern in _NETWORKS.items() if re.search(pattern, name)), "other")


def hardware_of(system: str) -> str:
    """The hardware in a system's name, without counts and the text in brackets (site, domain, cloud).

    Example:
        >>> hardware_of("8x NVIDIA A100-SXM4-80GB"), hardware_of("2 x 8x MI355X (sites A and B)")
        ('A100-SXM4-80GB', 'MI355X')
    """
    name = re.sub(r"\([^)]*\)", " ", system)
    name = re.sub(r"\b\d+ ?x(?= )|\bper node\b|\bnodes?\b|\bnvidia\b", " ", name, flags=re.IGNORECASE)
    return " ".join(name.split()) or "unnamed"


def _family(row: Measurement) -> str:
    if row.mode == "alltoall":
        return "pairwise_alltoall" if software_of(row.library) in {"mpi", "gloo"} else "nccl_alltoall"
    return _FAMILIES[row.mode]


def _peer_links(row: Measurement, intra: str) -> int:
    """Number of links that share a device's rate where every pair of ranks has its own; 0 with a switch."""
    name = row.intra_link.lower()
    is_mesh = intra == "xgmi" or (re.search(r"mesh|fully.connected|all.to.all", name) and "nvswitch" not in name)
    if not is_mesh:
        return 0
    stated = re.search(r"(\d+)\s*(?:links?)?\s*x\s*[\d.]+", name)
    return max(int(stated[1]) if stated and intra == "xgmi" else 0, row.ranks_per_node - 1)


@lru_cache(maxsize=256)
def network_of(layout: SystemLayout) -> Network:
    """The network of a layout at nominal rates, cached by the value of the layout."""
    link: dict[str, Any] = {"kind": layout.intra, "bandwidth": print_bandwidth(layout.rate / max(layout.peer_links, 1))}
    spec: dict[str, Any]
    if layout.inter is not None:
        scale_up = {**link, "wiring": "mesh" if layout.peer_links else "switch"}
        nic = {"kind": layout.inter, "bandwidth": print_bandwidth(layout.nic_rate)}
        spec = {"kind": "two_level", "nodes": layout.nodes, "ranks_per_node": layout.per_node}
        spec |= {"scale_up": scale_up, "nic": nic}
    elif layout.intra.startswith("pcie") and layout.per_node > _UNDER_ONE_SWITCH:
        spec = _pcie_box(layout.per_node, layout.intra, link["bandwidth"])
    elif layout.peer_links:
        spec = {"kind": "mesh", "ranks": layout.per_node, "link": link}
    else:
        spec = {"kind": "star", "ranks": layout.per_node, "link": link}
    name = " ".join(filter(None, (f"{layout.nodes} x {layout.per_node}", layout.intra, layout.inter)))
    return Network.on(build(TopologyFile.model_validate(spec).root, name=name))


def _pcie_box(devices: int, kind: str, bandwidth: str) -> dict[str, Any]:
    """A graph with pairs of devices under PCIe switches, and switches under the root complexes of one or two sockets.

    Links through a root complex (``root``) and between sockets (``host``) are classes of their own: peer writes that a
    switch passes at line rate are split and throttled there.
    """
    names = [f"device{index}" for index in range(devices)]
    switches = [f"switch{index}" for index in range(-(-devices // _UNDER_ONE_SWITCH))]
    sockets = ["socket0"] if devices <= _UNDER_ONE_SOCKET else ["socket0", "socket1"]
    links = [
        {"from": name, "to": switches[index // _UNDER_ONE_SWITCH], "kind": kind, "bandwidth": bandwidth}
        for index, name in enumerate(names)
    ]
    links += [
        {"from": name, "to": sockets[index * len(sockets) // len(switches)], "kind": "root", "bandwidth": bandwidth}
        for index, name in enumerate(switches)
    ]
    if len(sockets) > 1:
        links.append({"from": sockets[0], "to": sockets[1], "kind": "host", "bandwidth": print_bandwidth(_HOST_LINK)})
    return {"kind": "graph", "devices": names, "switches": [*switches, *sockets], "links": links}
