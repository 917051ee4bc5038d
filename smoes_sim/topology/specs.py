"""The topology files: one model per ``kind``, each field in the units people use."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from smoes_sim.topology.graph import Routing
from smoes_sim.units import Bandwidth, Duration
from smoes_sim.yaml_files import Spec

Count = Annotated[int, Field(ge=1)]
Ratio = Annotated[float, Field(gt=0)]


class LinkSpec(Spec):
    """A link with the same bandwidth in each direction; the directions do not share it."""

    kind: str = Field(
        "link",
        description="Name of the link's kind; efficiencies are fitted per kind. Default link.",
        examples=["nvlink4", "infiniband"],
    )
    bandwidth: Bandwidth = Field(description="Nominal bandwidth of one direction, bits or bytes per second.")
    latency: Duration = Field(0.0, description="Time that a byte travels on this link, ns to s. Default 0 s.")


class IncastSpec(Spec):
    """The loss when many senders send to one receiver: above a number of flows its link delivers less than its capacity.

    Drop-tail switches lose packets and TCP waits; lossless switches pause (PFC, DCQCN). No value fits all, so each has a
    source.
    """

    flows: Annotated[
        int,
        Field(ge=1, description="Number of flows to one receiver that still get all of its link's capacity.", examples=[8]),
    ]
    efficiency: Annotated[
        float,
        Field(gt=0, le=1, description="Share of the capacity, in (0, 1], that more flows get together.", examples=[0.6]),
    ]
    source: Annotated[
        str,
        Field(min_length=1, description="Source of both numbers.", examples=["assumed: a drop-tail switch without ECN"]),
    ]


class PortSpec(LinkSpec):
    """A link to a switch, with the cost of incast in the direction from the switch."""

    incast: IncastSpec | None = Field(
        None,
        description="Loss of capacity towards a receiver of many flows. Default none.",
        examples=[{"flows": 8, "efficiency": 0.6, "source": "assumed: a drop-tail switch without ECN"}],
    )


class ScaleUpSpec(LinkSpec):
    """Links inside a node: to a switch (bandwidth per rank) or to every peer (bandwidth per pair of ranks)."""

    wiring: Literal["switch", "mesh"] = Field(
        "switch",
        description="switch: each rank has a link to one switch; mesh: each pair of ranks has a link. Default switch.",
        examples=["mesh"],
    )


class NicSpec(PortSpec):
    """A NIC and its link to the fabric: one per rank, or one that the ranks of a node share."""

    per: Literal["rank", "node"] = Field(
        "rank",
        description="rank: one NIC for each rank; node: one NIC for all ranks of a node. Default rank.",
        examples=["node"],
    )


class FabricSpec(Spec):
    """The network above the NICs of the nodes."""

    oversubscription: Ratio = Field(
        1,
        description="Capacity below the leaf switch of a node over capacity above it; 1 is non-blocking. Default 1.",
        examples=[2],
    )
    latency: Duration = Field(0.0, description="Time of the extra link above a leaf, ns to s. Default 0 s.")


class _TopologySpec(Spec):
    name: str | None = Field(
        None,
        description="Name in results. Default: that of the file, or the kind of a topology written in place.",
        examples=["two-orin-10gbe"],
    )
    description: str = Field(
        "", description="What it is, in one line, for lists. Default empty.", examples=["Two nodes of 8 H100 SXM"]
    )
    sources: dict[str, str] = Field(
        default_factory=dict,
        description="Source of each number: dotted path of the number -> document or assumption. Default empty.",
        examples=[{"link.bandwidth": "nominal rate of 10 Gb Ethernet"}],
    )
    routing: Routing = Field(
        "hash",
        description="Where routes are equally short: hash sends a flow over one of them, chosen by a seeded hash; "
        "split divides it evenly over all. Default hash.",
        examples=["split"],
    )
    device: str | None = Field(
        None,
        description="Accelerator of every rank: a name of `smoes-sim list devices`. Default none: any accelerator.",
        examples=["h100-sxm"],
    )


class StarSpec(_TopologySpec):
    """Every rank on one non-blocking switch; a route crosses two links."""

    kind: Literal["star"] = Field(description="Every rank on one switch.", examples=["star"])
    ranks: Count = Field(description="Number of ranks.", examples=[4])
    link: PortSpec = Field(
        description="Link of each rank to the switch.", examples=[{"bandwidth": "50 GB/s", "latency": "1 us"}]
    )


class MeshSpec(_TopologySpec):
    """A link between every pair of ranks, as with xGMI."""

    kind: Literal["mesh"] = Field(description="A link between every pair of ranks.", examples=["mesh"])
    ranks: Count = Field(description="Number of ranks.", examples=[8])
    link: LinkSpec = Field(description="Link of each pair.", examples=[{"kind": "xgmi", "bandwidth": "64 GB/s"}])


class TwoLevelSpec(_TopologySpec):
    """Nodes of ranks: scale-up links inside a node, NICs and a fabric between nodes."""

    kind: Literal["two_level"] = Field(description="Nodes with scale-up links, NICs and one fabric.", examples=["two_level"])
    nodes: Count = Field(description="Number of nodes.", examples=[2])
    ranks_per_node: Count = Field(description="Number of ranks in each node.", examples=[8])
    scale_up: ScaleUpSpec = Field(
        description="Links inside a node.", examples=[{"kind": "nvlink4", "bandwidth": "450 GB/s", "latency": "1 us"}]
    )
    nic: NicSpec = Field(
        description="NICs and their links to the fabric.", examples=[{"kind": "infiniband", "bandwidth": "400 Gb/s"}]
    )
    fabric: FabricSpec = Field(
        FabricSpec(), description="Network above the NICs. Default non-blocking.", examples=[{"oversubscription": 2}]
    )


class ScaleUpDomainSpec(_TopologySpec):
    """Racks whose ranks share one scale-up switch fabric, as in an NVL72; several racks need NICs."""

    kind: Literal["scale_up_domain"] = Field(
        description="Racks of ranks on one scale-up fabric each.", examples=["scale_up_domain"]
    )
    racks: Count = Field(1, description="Number of racks. Default 1.", examples=[2])
    ranks_per_rack: Count = Field(description="Number of ranks in each rack.", examples=[72])
    scale_up: LinkSpec = Field(
        description="Link of each rank to the fabric of its rack.", examples=[{"kind": "nvlink5", "bandwidth": "900 GB/s"}]
    )
    nic: NicSpec | None = Field(
        None,
        description="NICs between racks; needed for several racks. Default none.",
        examples=[{"kind": "infiniband", "bandwidth": "400 Gb/s"}],
    )
    fabric: FabricSpec = Field(
        FabricSpec(), description="Network above the NICs. Default non-blocking.", examples=[{"oversubscription": 2}]
    )

    @model_validator(mode="after")
    def _racks_are_joined(self) -> ScaleUpDomainSpec:
        if self.racks > 1 and self.nic is None:
            raise ValueError(f"racks = {self.racks} have no network between them. Add nic: {{bandwidth: ...}}.")
        return self


class RailFabricSpec(Spec):
    """Rail switches join the NICs of one index in a pod; spines join the rail switches."""

    nodes_per_pod: Count = Field(description="Number of nodes whose NICs of one index share a rail switch.", examples=[32])
    spines: Count = Field(1, description="Number of spine switches. Default 1.", examples=[16])
    oversubscription: Ratio = Field(
        1, description="Capacity below a rail switch over capacity above it; 1 is non-blocking. Default 1.", examples=[2]
    )
    latency: Duration = Field(0.0, description="Time of a link between rail switch and spine, ns to s. Default 0 s.")


class RailOptimizedSpec(_TopologySpec):
    """Nodes whose NICs of equal index share a switch (rail); other rails are reached through spines."""

    kind: Literal["rail_optimized"] = Field(
        description="Nodes with one switch per rail, and spines.", examples=["rail_optimized"]
    )
    nodes: Count = Field(description="Number of nodes.", examples=[16])
    ranks_per_node: Count = Field(description="Number of ranks in each node.", examples=[8])
    scale_up: ScaleUpSpec = Field(
        description="Links inside a node.", examples=[{"kind": "nvlink4", "bandwidth": "450 GB/s", "latency": "1 us"}]
    )
    nic: NicSpec = Field(
        description="NICs and their links to the rail switches.", examples=[{"kind": "infiniband", "bandwidth": "400 Gb/s"}]
    )
    fabric: RailFabricSpec = Field(description="Rail switches and spines.", examples=[{"nodes_per_pod": 32, "spines": 16}])


class LevelSpec(Spec):
    """A level of a fat tree: groups of ``down`` members under ``switches`` parallel switches."""

    down: Count = Field(description="Number of members (NICs, or groups of the level below) in a group.", examples=[32])
    switches: Count = Field(1, description="Number of parallel switches above a group. Default 1.", examples=[8])
    oversubscription: Ratio = Field(
        1, description="Capacity into a group from below over capacity upwards; 1 is non-blocking. Default 1.", examples=[2]
    )
    latency: Duration = Field(0.0, description="Time of a link from this level to the next, ns to s. Default 0 s.")


class FatTreeSpec(_TopologySpec):
    """Nodes of ranks under a tree of switches with any number of levels, each with its own oversubscription."""

    kind: Literal["fat_tree"] = Field(description="Nodes under a tree of switches.", examples=["fat_tree"])
    nodes: Count = Field(description="Number of nodes.", examples=[128])
    ranks_per_node: Count = Field(description="Number of ranks in each node.", examples=[8])
    scale_up: ScaleUpSpec = Field(
        description="Links inside a node.", examples=[{"kind": "nvlink4", "bandwidth": "450 GB/s", "latency": "1 us"}]
    )
    nic: NicSpec = Field(
        description="NICs and their links to the lowest level.", examples=[{"kind": "infiniband", "bandwidth": "400 Gb/s"}]
    )
    levels: Annotated[list[LevelSpec], Field(min_length=1)] = Field(
        description="Levels of switches from below; the last one joins all groups, whatever its `down` is.",
        examples=[[{"down": 32}, {"down": 32, "switches": 16}]],
    )


class TorusSpec(_TopologySpec):
    """A torus of any dimension, one rank per router."""

    kind: Literal["torus"] = Field(description="A torus with one rank per router.", examples=["torus"])
    shape: Annotated[list[Count], Field(min_length=1)] = Field(
        description="Number of routers along each axis.", examples=[[4, 4, 4]]
    )
    link: LinkSpec = Field(
        description="Link between neighbours on an axis.", examples=[{"kind": "ici", "bandwidth": "100 GB/s"}]
    )


class GlobalLinkSpec(LinkSpec):
    """Links between the groups of a dragonfly."""

    per_router: Count = Field(description="Number of global links of each router.", examples=[3])


class DragonflySpec(_TopologySpec):
    """Groups of fully meshed routers; global links join every pair of groups."""

    kind: Literal["dragonfly"] = Field(description="Groups of meshed routers with global links.", examples=["dragonfly"])
    groups: Count = Field(description="Number of groups.", examples=[4])
    routers_per_group: Count = Field(description="Number of routers in each group.", examples=[8])
    ranks_per_router: Count = Field(description="Number of ranks on each router.", examples=[4])
    link: LinkSpec = Field(
        description="Link of each rank to its router.", examples=[{"kind": "slingshot", "bandwidth": "200 Gb/s"}]
    )
    local: LinkSpec = Field(
        description="Link between two routers of a group.", examples=[{"kind": "slingshot", "bandwidth": "200 Gb/s"}]
    )
    global_: Annotated[GlobalLinkSpec, Field(alias="global")] = Field(
        description="Links between groups.",
        examples=[{"kind": "slingshot", "bandwidth": "200 Gb/s", "per_router": 3}],
    )

    @model_validator(mode="after")
    def _groups_are_joined(self) -> DragonflySpec:
        ports = self.routers_per_group * self.global_.per_router
        if ports < self.groups - 1:
            raise ValueError(
                f"routers_per_group * global.per_router = {ports} global links cannot reach the other "
                f"{self.groups - 1} groups. Use more links per router or fewer groups."
            )
        return self


class PcieTreeSpec(_TopologySpec):
    """Ranks under root complexes of sockets that a host link joins; one NIC per node hangs on socket 0."""

    kind: Literal["pcie_tree"] = Field(description="Ranks on PCIe under the sockets of nodes.", examples=["pcie_tree"])
    nodes: Count = Field(1, description="Number of nodes. Default 1.", examples=[2])
    sockets: Count = Field(description="Number of sockets in each node.", examples=[2])
    ranks_per_socket: Count = Field(description="Number of ranks under each socket.", examples=[4])
    pcie: LinkSpec = Field(
        description="Link of each rank to its socket.", examples=[{"kind": "pcie4", "bandwidth": "31 GB/s"}]
    )
    host: LinkSpec | None = Field(
        None,
        description="Link between two sockets; needed for several sockets. Default none.",
        examples=[{"kind": "upi", "bandwidth": "22 GB/s"}],
    )
    nic: NicSpec | None = Field(
        None,
        description="NIC of each node; needed for several nodes. Default none.",
        examples=[{"kind": "ethernet", "bandwidth": "100 Gb/s"}],
    )

    @model_validator(mode="after")
    def _parts_are_joined(self) -> PcieTreeSpec:
        if self.sockets > 1 and self.host is None:
            raise ValueError(f"sockets = {self.sockets} have no link between them. Add host: {{bandwidth: ...}}.")
        if self.nodes > 1 and self.nic is None:
            raise ValueError(f"nodes = {self.nodes} have no network between them. Add nic: {{bandwidth: ...}}.")
        return self


class EdgeSpec(PortSpec):
    """A link of an explicit graph, between two vertices by name."""

    from_: Annotated[str, Field(alias="from")] = Field(description="Name of the vertex at one end.", examples=["gpu0"])
    to: str = Field(description="Name of the vertex at the other end.", examples=["switch"])
    sharing: Literal["shared", "fatpipe"] = Field(
        "shared",
        description="shared: flows share the bandwidth; fatpipe: each flow may have all of it. Default shared.",
        examples=["fatpipe"],
    )
    duplex: bool = Field(
        True, description="Whether there is a link back with a bandwidth of its own. Default true.", examples=[False]
    )


def _check_incast(link: EdgeSpec, *, switches: set[str]) -> None:
    """Raise ValueError unless incast, if given, is of a shared link that leads from a switch to a device or NIC."""
    receivers = [end for end in (link.from_, link.to) if end not in switches]
    is_downward = len(receivers) == 1 and (link.duplex or link.to in receivers)
    if link.incast is not None and not (is_downward and link.sharing == "shared"):
        raise ValueError(
            f'incast on the link from "{link.from_}" to "{link.to}": it belongs to a shared link that leads from a switch '
            "to a device or NIC. Leave it out."
        )


class GraphSpec(_TopologySpec):
    """An explicit graph; ranks are in the order of ``devices``."""

    kind: Literal["graph"] = Field(description="An explicit graph of named vertices.", examples=["graph"])
    devices: Annotated[list[str], Field(min_length=1)] = Field(
        description="Names of the devices; their order is that of the ranks.", examples=[["gpu0", "gpu1"]]
    )
    nodes: list[list[str]] | None = Field(
        None, description="Devices of each node. Default: all in one node.", examples=[[["gpu0"], ["gpu1"]]]
    )
    nics: list[str] = Field(
        default_factory=list, description="Names of the NICs. Default none.", examples=[["nic0", "nic1"]]
    )
    switches: list[str] = Field(
        default_factory=list, description="Names of the switches. Default none.", examples=[["switch"]]
    )
    links: list[EdgeSpec] = Field(
        description="Links between vertices.", examples=[[{"from": "gpu0", "to": "gpu1", "bandwidth": "50 GB/s"}]]
    )

    @model_validator(mode="after")
    def _names_are_known(self) -> GraphSpec:
        names = Counter([*self.devices, *self.nics, *self.switches])
        doubled = sorted(name for name, times in names.items() if times > 1)
        if doubled:
            raise ValueError(f'"{doubled[0]}" names two vertices. Every device, NIC and switch needs its own name.')
        switches = set(self.switches)
        for link in self.links:
            for end in (link.from_, link.to):
                if end not in names:
                    raise ValueError(f'a link ends at "{end}", which is no device, NIC or switch. Declare it.')
            if link.from_ == link.to:
                raise ValueError(f'a link leads from "{link.from_}" to itself. Leave it out.')
            _check_incast(link, switches=switches)
        if self.nodes is not None and sorted(itertools.chain.from_iterable(self.nodes)) != sorted(self.devices):
            raise ValueError("nodes must name every device exactly once. Leave nodes out for a single node.")
        return self


TopologySpec = Annotated[
    StarSpec
    | MeshSpec
    | TwoLevelSpec
    | ScaleUpDomainSpec
    | RailOptimizedSpec
    | FatTreeSpec
    | TorusSpec
    | DragonflySpec
    | PcieTreeSpec
    | GraphSpec,
    Field(discriminator="kind"),
]
"""Any topology file."""
