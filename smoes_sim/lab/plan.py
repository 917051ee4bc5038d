"""Plan of a lab: a topology as namespaces and wires with exactly the routes that predictions use. Needs no root.

Every device, NIC and switch becomes a network namespace that forwards IP packets; a NIC or switch that only forwards between
two neighbours is merged with its links into one wire. Bridges would need a tree; static routes do not: each namespace knows
the next wire of every (source, destination) pair, so rails, fat trees with ECMP, tori and meshes work.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from smoes_sim.errors import TopologyError
from smoes_sim.lab.scaling import choose_scale, narrowest, scaled_topology
from smoes_sim.topology import Router, Topology, TopologySpec, build

MOST_RANKS = 64
"""Largest number of ranks of a lab on one machine."""
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One direction of a wire.

    Attributes:
        bandwidth: Bytes of payload per second; None if no route crosses it. A fatpipe gets the sum of what its pairs can
            reach elsewhere: it does not limit them, but avoids bursts, which the kernel would drop.
        latency: Seconds.
        pairs: Ranks (source, destination) whose traffic crosses it.
    """

    bandwidth: float | None
    latency: float
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """A pair of virtual Ethernet ends between two vertices.

    Attributes:
        name: The interface at both ends.
        ends: Vertices of the topology.
        channels: From the first end to the second, and back.
    """

    name: str
    ends: Pair
    channels: tuple[Channel, Channel]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRank:
    """Place of a rank in a lab.

    Attributes:
        rank: 0 .. R - 1.
        node: Node in the topology.
        local_rank: Index in the node.
        namespace: Network namespace; in a plan without the lab's prefix.
        address: IPv4 address.
        interface: Network interface with this address.
        bandwidth: Largest rate out of the rank, over all its wires, bytes per second.
    """

    rank: int
    node: int
    local_rank: int
    namespace: str
    address: str
    interface: str
    bandwidth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPlan:
    """Everything needed to build a lab.

    Attributes:
        topology: The topology with the rates as built; predictions use this.
        scale: Rates as built divided by the rates of the original topology.
        seed: Seed of the choice among equal routes.
        load: Sum of the bandwidths of all channels that can be busy at once, B/s.
        left_out: Parts of the topology that are not built, in words.
        ranks: The ranks, in order.
        namespaces: Name (without the lab's prefix) of every vertex that is built.
        wires: The links.
        next_wire: For (vertex, source, destination): index of the next wire of the route.
    """

    topology: Topology
    scale: float
    seed: int
    load: float
    left_out: tuple[str, ...]
    ranks: tuple[LabRank, ...]
    namespaces: dict[int, str]
    wires: tuple[Wire, ...]
    next_wire: dict[tuple[int, int, int], int]


def plan_lab(
    topology: Topology | TopologySpec, *, scale: float | None = None, seed: int = 0, has_delay: bool = False
) -> LabPlan:
    """Namespaces, wires, rates and routes for a topology.

    Args:
        topology: Any kind.
        scale: Factor on all rates; default: chosen so that the machine can carry all links at once.
        seed: Seed of the choice among equal routes; the same as that of the prediction.
        has_delay: Whether the kernel can delay packets (netem); without it latencies are zero, and listed as left out.

    Raises:
        TopologyError: If it cannot be built faithfully, with the reason and the number.
    """
    asked = topology if isinstance(topology, Topology) else build(topology, name=topology.kind)
    if asked.num_ranks > MOST_RANKS or asked.num_ranks < 2:
        raise TopologyError(
            f"{asked.name}: {asked.num_ranks} ranks: a lab on one machine has 2 to {MOST_RANKS}. Use a part of the topology."
        )
    if asked.routing == "split":
        raise TopologyError(
            f"{asked.name}: routing: split divides a flow, but a connection takes one route. Use routing: hash."
        )
    pairs = [(a, b) for a in range(asked.num_ranks) for b in range(asked.num_ranks) if a != b]
    compiled = Router(asked, seed=seed).compile(*(np.array(ends) for ends in zip(*pairs, strict=True)))
    routes = {pair: compiled.of(flow) for flow, pair in enumerate(pairs)}
    _check_fatpipes(asked, routes)
    segments = _merge(asked, routes)
    crossing = _segments_of(routes, segments)
    factor, load = choose_scale(asked, segments, crossing, scale=scale)
    scaled, left_out = scaled_topology(asked, factor, has_delay=has_delay)
    return _assemble(scaled, segments, crossing, scale=factor, seed=seed, load=load, left_out=left_out)


def _check_fatpipes(topology: Topology, routes: dict[Pair, list[int]]) -> None:
    """Refuse fatpipes that are the narrowest link of a route: they limit each flow by itself, which no queue can do."""
    for (a, b), links in routes.items():
        ids = np.array(links)
        shared = topology.link_shared[ids]
        narrowest = topology.link_bandwidth[ids[shared]].min(initial=np.inf)
        if (topology.link_bandwidth[ids[~shared]] < narrowest).any():
            link = int(ids[~shared][topology.link_bandwidth[ids[~shared]].argmin()])
            raise TopologyError(
                f"{topology.name}: from rank {a} to {b} the narrowest link is the fatpipe {topology.link_name(link)}: a lab "
                "can divide a rate among flows, not give it to each. Make it shared, or another link on the route as narrow."
            )


def _merge(topology: Topology, routes: dict[Pair, list[int]]) -> list[tuple[int, ...]]:
    """Links that every route crosses together, in order of travel; a list of such segments covers all links in use."""
    used = sorted({link for links in routes.values() for link in links})
    ends: dict[tuple[int, ...], Pair] = {
        (link,): (int(topology.link_source[link]), int(topology.link_target[link])) for link in used
    }
    for vertex in range(topology.num_ranks, len(topology.vertex_names)):
        into = [(segment, a) for segment, (a, b) in ends.items() if b == vertex]
        out = [(segment, b) for segment, (a, b) in ends.items() if a == vertex]
        neighbours = {other for _, other in into + out}
        sources, targets = [a for _, a in into], [b for _, b in out]
        if len(neighbours) != 2 or len(set(sources)) != len(sources) or len(set(targets)) != len(targets):
            continue
        onward = [(left, a, right, b) for left, a in into for right, b in out if a != b]
        if len(onward) != len(into) or len(onward) != len(out):
            continue
        for left, a, right, b in onward:
            del ends[left], ends[right]
            ends[left + right] = (a, b)
    return sorted(ends)


def _segments_of(routes: dict[Pair, list[int]], segments: list[tuple[int, ...]]) -> dict[Pair, list[int]]:
    """Indices of the segments of each route."""
    first = {segment[0]: index for index, segment in enumerate(segments)}
    return {pair: [first[link] for link in links if link in first] for pair, links in routes.items()}


def _assemble(
    topology: Topology,
    segments: list[tuple[int, ...]],
    crossing: dict[Pair, list[int]],
    *,
    scale: float,
    seed: int,
    load: float,
    left_out: tuple[str, ...],
) -> LabPlan:
    source = [int(topology.link_source[segment[0]]) for segment in segments]
    pairs_on: dict[int, list[Pair]] = defaultdict(list)
    for pair, indices in crossing.items():
        for index in indices:
            pairs_on[index].append(pair)
    widths = _widths(topology, segments, crossing)
    channels = [
        Channel(
            bandwidth=widths[index],
            latency=float(topology.link_latency[list(segment)].sum()),
            pairs=tuple(sorted(pairs_on[index])),
        )
        for index, segment in enumerate(segments)
    ]
    wires, wire_of = _pair_up(topology, segments, channels)
    next_wire = {(source[index], *pair): wire_of[index] for pair, indices in crossing.items() for index in indices}
    vertices = sorted({end for wire in wires for end in wire.ends})
    namespaces = {vertex: f"r{vertex}" if vertex < topology.num_ranks else f"s{vertex}" for vertex in vertices}
    return LabPlan(
        topology=topology,
        scale=scale,
        seed=seed,
        load=load,
        left_out=left_out,
        ranks=tuple(_rank(topology, rank, wires) for rank in range(topology.num_ranks)),
        namespaces=namespaces,
        wires=wires,
        next_wire=next_wire,
    )


def _widths(topology: Topology, segments: list[tuple[int, ...]], crossing: dict[Pair, list[int]]) -> list[float]:
    """B/s of every segment."""
    widths = [narrowest(topology, segment) for segment in segments]
    binding: dict[int, set[int]] = defaultdict(set)
    for indices in crossing.values():
        tightest = min(indices, key=lambda index: widths[index])
        for index in indices:
            binding[index].add(tightest)
    return [
        width if np.isfinite(width) else sum(widths[other] for other in binding[index]) for index, width in enumerate(widths)
    ]


def _pair_up(
    topology: Topology, segments: list[tuple[int, ...]], channels: list[Channel]
) -> tuple[tuple[Wire, ...], dict[int, int]]:
    """Two opposite segments share a wire, as its directions are independent; also the wire of each segment."""
    between: dict[Pair, list[int]] = defaultdict(list)
    for index, segment in enumerate(segments):
        between[int(topology.link_source[segment[0]]), int(topology.link_target[segment[-1]])].append(index)
    idle = Channel(bandwidth=None, latency=0.0, pairs=())
    wires: list[Wire] = []
    wire_of: dict[int, int] = {}
    for a, b in sorted({(min(ends), max(ends)) for ends in between}):
        for there, back in zip_longest(between.get((a, b), []), between.get((b, a), [])):
            wire_of |= {index: len(wires) for index in (there, back) if index is not None}
            directions = [idle if index is None else channels[index] for index in (there, back)]
            wires.append(Wire(name=f"w{len(wires)}", ends=(a, b), channels=(directions[0], directions[1])))
    return tuple(wires), wire_of


def _rank(topology: Topology, rank: int, wires: tuple[Wire, ...]) -> LabRank:
    own = [wire for wire in wires if rank in wire.ends]
    leaving = [wire.channels[wire.ends.index(rank)].bandwidth for wire in own]
    return LabRank(
        rank=rank,
        node=int(topology.node_of_rank[rank]),
        local_rank=int(topology.index_in_node[rank]),
        namespace=f"r{rank}",
        address=f"10.77.0.{rank + 1}",
        interface=own[0].name,
        bandwidth=sum(bandwidth for bandwidth in leaving if bandwidth is not None),
    )


def usual_wire(plan: LabPlan, vertex: int) -> dict[int, int]:
    """For each destination reached through a vertex: the wire that most sources take from there."""
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for (here, _, destination), wire in plan.next_wire.items():
        if here == vertex:
            votes[destination][wire] += 1
    return {destination: min(count, key=lambda wire: (-count[wire], wire)) for destination, count in sorted(votes.items())}
