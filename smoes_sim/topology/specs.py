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
    """A link, one direction; both directions exist and do not share."""

    kind: str = "link"
    bandwidth: Bandwidth
    latency: Duration = 0.0


class IncastSpec(Spec):
    """What many senders to one receiver cost: above a number of flows, its link delivers only a part of its capacity.

    Drop-tail switches lose packets and TCP waits; lossless ones pause (PFC, DCQCN). No value fits all, so each has a source.
    """

    flows: Annotated[int, Field(ge=1, description="Flows in flight towards the receiver that still get all of its link.")]
    efficiency: Annotated[float, Field(gt=0, le=1, description="Part of the capacity that more flows get together.")]
    source: Annotated[str, Field(min_length=1, description="Where both numbers are from.")]


class PortSpec(LinkSpec):
    """A link to a switch, with what incast costs in the direction from the switch."""

    incast: IncastSpec | None = None


class ScaleUpSpec(LinkSpec):
    """Links inside a node: to a switch (bandwidth per rank) or to every peer (bandwidth per pair)."""

    wiring: Literal["switch", "mesh"] = "switch"


class NicSpec(PortSpec):
    """A NIC and its link to the fabric; one per rank, or one that the ranks of a node share."""

    per: Literal["rank", "node"] = "rank"


class FabricSpec(Spec):
    """The network above the NICs: capacity below a node's leaf over capacity above it, and latency per extra hop."""

    oversubscription: Ratio = 1
    latency: Duration = 0.0


class _TopologySpec(Spec):
    description: str = ""
    sources: dict[str, str] = Field(default_factory=dict, description="Dotted path of a number -> where it is from.")
    routing: Routing = Field("hash", description="Equal routes: one by seeded hash, or evenly over all.")


class StarSpec(_TopologySpec):
    """Every rank on one non-blocking switch; a route crosses two links."""

    kind: Literal["star"]
    ranks: Count
    link: PortSpec


class MeshSpec(_TopologySpec):
    """A link of its own between every pair of ranks (xGMI-like)."""

    kind: Literal["mesh"]
    ranks: Count
    link: LinkSpec


class TwoLevelSpec(_TopologySpec):
    """Nodes of ranks: scale-up links inside, NICs and a fabric between."""

    kind: Literal["two_level"]
    nodes: Count
    ranks_per_node: Count
    scale_up: ScaleUpSpec
    nic: NicSpec
    fabric: FabricSpec = FabricSpec()


class ScaleUpDomainSpec(_TopologySpec):
    """Racks whose ranks share one scale-up switch fabric (NVL72-like); several racks need NICs."""

    kind: Literal["scale_up_domain"]
    racks: Count = 1
    ranks_per_rack: Count
    scale_up: LinkSpec
    nic: NicSpec | None = None
    fabric: FabricSpec = FabricSpec()

    @model_validator(mode="after")
    def _racks_are_joined(self) -> ScaleUpDomainSpec:
        if self.racks > 1 and self.nic is None:
            raise ValueError(f"racks = {self.racks} have no network between them. Add nic: {{bandwidth: ...}}.")
        return self


class RailFabricSpec(Spec):
    """Rail switches join NICs of one index in a pod; spines join the rail switches."""

    nodes_per_pod: Count
    spines: Count = 1
    oversubscription: Ratio = 1
    latency: Duration = 0.0


class RailOptimizedSpec(_TopologySpec):
    """Nodes whose NICs of equal index share a switch (rail); other rails are reached through spines."""

    kind: Literal["rail_optimized"]
    nodes: Count
    ranks_per_node: Count
    scale_up: ScaleUpSpec
    nic: NicSpec
    fabric: RailFabricSpec


class LevelSpec(Spec):
    """A level of a fat tree: groups of ``down`` members under ``switches`` parallel switches."""

    down: Annotated[int, Field(ge=1, description="Members (NICs, or groups of the level below) in a group.")]
    switches: Count = 1
    oversubscription: Annotated[float, Field(gt=0, description="Capacity into a group from below over that upwards.")] = 1
    latency: Duration = 0.0


class FatTreeSpec(_TopologySpec):
    """Nodes of ranks under a tree of switches, any levels, each with its own oversubscription."""

    kind: Literal["fat_tree"]
    nodes: Count
    ranks_per_node: Count
    scale_up: ScaleUpSpec
    nic: NicSpec
    levels: Annotated[list[LevelSpec], Field(min_length=1)]


class TorusSpec(_TopologySpec):
    """A torus of any dimension, one rank per router."""

    kind: Literal["torus"]
    shape: Annotated[list[Count], Field(min_length=1)]
    link: LinkSpec


class GlobalLinkSpec(LinkSpec):
    """Links between groups of a dragonfly."""

    per_router: Count


class DragonflySpec(_TopologySpec):
    """Groups of fully meshed routers; global links join every pair of groups."""

    kind: Literal["dragonfly"]
    groups: Count
    routers_per_group: Count
    ranks_per_router: Count
    link: LinkSpec
    local: LinkSpec
    global_: Annotated[GlobalLinkSpec, Field(alias="global")]

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
    """Ranks under root complexes of sockets joined by a host link; a NIC per node hangs on socket 0."""

    kind: Literal["pcie_tree"]
    nodes: Count = 1
    sockets: Count
    ranks_per_socket: Count
    pcie: LinkSpec
    host: LinkSpec | None = None
    nic: NicSpec | None = None

    @model_validator(mode="after")
    def _parts_are_joined(self) -> PcieTreeSpec:
        if self.sockets > 1 and self.host is None:
            raise ValueError(f"sockets = {self.sockets} have no link between them. Add host: {{bandwidth: ...}}.")
        if self.nodes > 1 and self.nic is None:
            raise ValueError(f"nodes = {self.nodes} have no network between them. Add nic: {{bandwidth: ...}}.")
        return self


class EdgeSpec(PortSpec):
    """A link of an explicit graph, by vertex names; duplex unless said otherwise."""

    from_: Annotated[str, Field(alias="from")]
    to: str
    sharing: Literal["shared", "fatpipe"] = "shared"
    duplex: bool = True


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
    """An explicit graph: ranks in the order of ``devices``."""

    kind: Literal["graph"]
    devices: Annotated[list[str], Field(min_length=1)]
    nodes: list[list[str]] | None = Field(None, description="Which devices share a node; all in one when left out.")
    nics: list[str] = Field(default_factory=list)
    switches: list[str] = Field(default_factory=list)
    links: list[EdgeSpec]

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
