"""Build a :class:`Topology` from the spec of its kind."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from smoes_sim.topology.graph import Builder, Topology
from smoes_sim.topology.specs import (
    DragonflySpec,
    FatTreeSpec,
    GraphSpec,
    LinkSpec,
    MeshSpec,
    NicSpec,
    PcieTreeSpec,
    PortSpec,
    RailOptimizedSpec,
    ScaleUpDomainSpec,
    ScaleUpSpec,
    StarSpec,
    TopologySpec,
    TorusSpec,
    TwoLevelSpec,
)


def build(spec: TopologySpec, *, name: str) -> Topology:
    """The topology that a spec describes.

    Args:
        spec: Content of a topology file.
        name: Name of the topology.

    Raises:
        TopologyError: If two ranks have no route.
    """
    builder = Builder()
    _BUILDERS[spec.kind](builder, spec)
    return builder.build(name=name, kind=spec.kind, routing=spec.routing, device=spec.device)


def _join(builder: Builder, a: int, b: int, link: LinkSpec, *, share: float = 1.0) -> None:
    builder.join(a, b, bandwidth=link.bandwidth * share, latency=link.latency, kind=link.kind)


def _plug(builder: Builder, port: int, switch: int, link: PortSpec) -> None:
    """Join a rank or NIC to a switch, with the incast limit in the direction from the switch."""
    _join(builder, port, switch, link)
    _limit_incast(builder, port, link)


def _limit_incast(builder: Builder, port: int, link: PortSpec) -> None:
    if link.incast is not None:
        builder.limit_incast(port, flows=link.incast.flows, efficiency=link.incast.efficiency)


def _star(builder: Builder, spec: StarSpec) -> None:
    builder.ranks(nodes=spec.ranks, per_node=1)
    switch = builder.switch("switch")
    for rank in range(spec.ranks):
        _plug(builder, rank, switch, spec.link)


def _mesh(builder: Builder, spec: MeshSpec) -> None:
    builder.ranks(nodes=1, per_node=spec.ranks)
    _full_mesh(builder, range(spec.ranks), spec.link)


def _full_mesh(builder: Builder, vertices: range, link: LinkSpec) -> None:
    builder.join_all(vertices, bandwidth=link.bandwidth, latency=link.latency, kind=link.kind)


def _nodes(builder: Builder, *, nodes: int, per_node: int, link: ScaleUpSpec | LinkSpec, kind: str = "node") -> None:
    """Add ranks and the scale-up links inside each node."""
    builder.ranks(nodes=nodes, per_node=per_node)
    for node in range(nodes):
        members = range(node * per_node, (node + 1) * per_node)
        if isinstance(link, ScaleUpSpec) and link.wiring == "mesh":
            _full_mesh(builder, members, link)
        elif per_node > 1:
            switch = builder.switch(f"{kind}{node}.{link.kind}")
            for rank in members:
                _join(builder, rank, switch, link)


def _nics(builder: Builder, nic: NicSpec, *, nodes: int, per_node: int) -> list[list[int]]:
    """The NICs of every node, joined to their ranks; the host bus is assumed to be no bottleneck (fatpipe)."""
    count = per_node if nic.per == "rank" else 1
    found = [[builder.nic(f"node{node}.nic{index}") for index in range(count)] for node in range(nodes)]
    for node in range(nodes):
        for index in range(per_node):
            builder.join(
                node * per_node + index,
                found[node][index % count],
                bandwidth=nic.bandwidth,
                latency=0.0,
                kind="host-bus",
                shared=False,
            )
    return found


def _fabric(builder: Builder, nics: list[list[int]], nic: NicSpec, *, oversubscription: float, latency: float) -> None:
    """Add one switch over all NICs; with oversubscription also a leaf switch per node below it."""
    core = builder.switch("fabric")
    for node, members in enumerate(nics):
        above = core
        if oversubscription != 1:
            above = builder.switch(f"node{node}.leaf")
            uplink = nic.bandwidth * len(members) / oversubscription
            builder.join(above, core, bandwidth=uplink, latency=latency, kind=nic.kind)
        for member in members:
            _plug(builder, member, above, nic)


def _two_level(builder: Builder, spec: TwoLevelSpec) -> None:
    _nodes(builder, nodes=spec.nodes, per_node=spec.ranks_per_node, link=spec.scale_up)
    nics = _nics(builder, spec.nic, nodes=spec.nodes, per_node=spec.ranks_per_node)
    _fabric(builder, nics, spec.nic, oversubscription=spec.fabric.oversubscription, latency=spec.fabric.latency)


def _scale_up_domain(builder: Builder, spec: ScaleUpDomainSpec) -> None:
    _nodes(builder, nodes=spec.racks, per_node=spec.ranks_per_rack, link=spec.scale_up, kind="rack")
    if spec.nic is not None and spec.racks > 1:
        nics = _nics(builder, spec.nic, nodes=spec.racks, per_node=spec.ranks_per_rack)
        _fabric(builder, nics, spec.nic, oversubscription=spec.fabric.oversubscription, latency=spec.fabric.latency)


def _rail_optimized(builder: Builder, spec: RailOptimizedSpec) -> None:
    _nodes(builder, nodes=spec.nodes, per_node=spec.ranks_per_node, link=spec.scale_up)
    nics = _nics(builder, spec.nic, nodes=spec.nodes, per_node=spec.ranks_per_node)
    spines = [builder.switch(f"spine{index}") for index in range(spec.fabric.spines)]
    for pod in range(math.ceil(spec.nodes / spec.fabric.nodes_per_pod)):
        members = nics[pod * spec.fabric.nodes_per_pod : (pod + 1) * spec.fabric.nodes_per_pod]
        uplink = spec.nic.bandwidth * len(members) / spec.fabric.oversubscription / len(spines)
        for rail in range(len(nics[0])):
            switch = builder.switch(f"pod{pod}.rail{rail}")
            for node_nics in members:
                _plug(builder, node_nics[rail], switch, spec.nic)
            for spine in spines:
                builder.join(switch, spine, bandwidth=uplink, latency=spec.fabric.latency, kind=spec.nic.kind)


def _fat_tree(builder: Builder, spec: FatTreeSpec) -> None:
    _nodes(builder, nodes=spec.nodes, per_node=spec.ranks_per_node, link=spec.scale_up)
    nics = _nics(builder, spec.nic, nodes=spec.nodes, per_node=spec.ranks_per_node)
    # a group is the switches at its top and the capacity that leaves it upwards
    groups: list[tuple[list[int], float]] = [([nic], spec.nic.bandwidth) for node in nics for nic in node]
    latency = spec.nic.latency
    for level, rule in enumerate(spec.levels, start=1):
        last = level == len(spec.levels)
        size = len(groups) if last else rule.down
        above: list[tuple[list[int], float]] = []
        for number, start in enumerate(range(0, len(groups), size)):
            members = groups[start : start + size]
            switches = [builder.switch(f"level{level}.group{number}.switch{i}") for i in range(rule.switches)]
            for (lower, capacity), switch in itertools.product(members, switches):
                for vertex in lower:
                    share = capacity / (len(lower) * len(switches))
                    builder.join(vertex, switch, bandwidth=share, latency=latency, kind=spec.nic.kind)
                    if level == 1:
                        _limit_incast(builder, vertex, spec.nic)
            above.append((switches, sum(capacity for _, capacity in members) / rule.oversubscription))
        groups, latency = above, rule.latency


def _torus(builder: Builder, spec: TorusSpec) -> None:
    num_ranks = math.prod(spec.shape)
    builder.ranks(nodes=num_ranks, per_node=1)
    routers = [builder.switch(f"router{rank}") for rank in range(num_ranks)]
    injection = spec.link.bandwidth * 2 * len(spec.shape)
    for rank, router in enumerate(routers):
        builder.join(rank, router, bandwidth=injection, latency=0.0, kind="injection")
    strides = [math.prod(spec.shape[axis + 1 :]) for axis in range(len(spec.shape))]
    for position in itertools.product(*(range(length) for length in spec.shape)):
        here = sum(at * stride for at, stride in zip(position, strides, strict=True))
        for at, length, stride in zip(position, spec.shape, strides, strict=True):
            if length > 2 or (length == 2 and at == 0):
                there = here + (((at + 1) % length) - at) * stride
                _join(builder, routers[here], routers[there], spec.link)


def _dragonfly(builder: Builder, spec: DragonflySpec) -> None:
    per_group = spec.routers_per_group
    builder.ranks(nodes=spec.groups * per_group, per_node=spec.ranks_per_router)
    routers = [[builder.switch(f"group{group}.router{index}") for index in range(per_group)] for group in range(spec.groups)]
    for router, rank in itertools.product(range(spec.groups * per_group), range(spec.ranks_per_router)):
        _join(builder, router * spec.ranks_per_router + rank, routers[router // per_group][router % per_group], spec.link)
    for members in routers:
        _full_mesh(builder, range(members[0], members[-1] + 1), spec.local)
    others = spec.groups - 1
    if others == 0:
        return
    rounds = per_group * spec.global_.per_router // others
    for group, step, number in itertools.product(range(spec.groups), range(1, spec.groups), range(rounds)):
        peer = (group + step) % spec.groups
        if peer > group:  # port `step - 1` here meets port `others - step` there, once per pair and round
            here = (number * others + step - 1) // spec.global_.per_router
            there = (number * others + others - step) // spec.global_.per_router
            _join(builder, routers[group][here], routers[peer][there], spec.global_)


def _pcie_tree(builder: Builder, spec: PcieTreeSpec) -> None:
    per_node = spec.sockets * spec.ranks_per_socket
    builder.ranks(nodes=spec.nodes, per_node=per_node)
    fabric = builder.switch("fabric") if spec.nodes > 1 else -1
    for node in range(spec.nodes):
        roots = [builder.switch(f"node{node}.socket{socket}") for socket in range(spec.sockets)]
        for index in range(per_node):
            _join(builder, node * per_node + index, roots[index // spec.ranks_per_socket], spec.pcie)
        if spec.host is not None:
            for a, b in itertools.combinations(roots, 2):
                _join(builder, a, b, spec.host)
        if spec.nic is not None and spec.nodes > 1:
            _plug(builder, roots[0], fabric, spec.nic)


def _graph(builder: Builder, spec: GraphSpec) -> None:
    groups = spec.nodes or [spec.devices]
    node_of = {device: node for node, members in enumerate(groups) for device in members}
    vertex = {device: builder.rank(node=node_of[device], name=device) for device in spec.devices}
    vertex |= {name: builder.nic(name) for name in spec.nics}
    vertex |= {name: builder.switch(name) for name in spec.switches}
    switches = set(spec.switches)
    for link in spec.links:
        builder.join(
            vertex[link.from_],
            vertex[link.to],
            bandwidth=link.bandwidth,
            latency=link.latency,
            kind=link.kind,
            shared=link.sharing == "shared",
            duplex=link.duplex,
        )
        _limit_incast(builder, vertex[link.to if link.from_ in switches else link.from_], link)


_BUILDERS: dict[str, Callable[[Builder, Any], None]] = {
    "star": _star,
    "mesh": _mesh,
    "two_level": _two_level,
    "scale_up_domain": _scale_up_domain,
    "rail_optimized": _rail_optimized,
    "fat_tree": _fat_tree,
    "torus": _torus,
    "dragonfly": _dragonfly,
    "pcie_tree": _pcie_tree,
    "graph": _graph,
}
