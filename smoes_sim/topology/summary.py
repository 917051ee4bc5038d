"""A summary of a topology: what ``smoes-sim topology show`` prints."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smoes_sim.display.result import Result
from smoes_sim.display.tables import WIDTH, Table, pairs, seconds
from smoes_sim.topology.graph import Topology
from smoes_sim.topology.metrics import Bisection, bisection, diameter
from smoes_sim.units import print_bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkKind:
    """All links of one kind.

    Attributes:
        kind: Name, such as ``nvlink4``.
        count: Number of directed links.
        bandwidth: Their different bandwidths of one direction, B/s, sorted.
        latency: Their different latencies, seconds, sorted.
    """

    kind: str
    count: int
    bandwidth: Sequence[float]
    latency: Sequence[float]


@dataclass(frozen=True, kw_only=True, repr=False)
class TopologySummary(Result):
    """Size, distance and capacity of a topology.

    Attributes:
        topology: The topology.
        diameter: Number of links on the longest route.
        bisection: Capacity between two halves of the nodes.
        link_kinds: Links by kind.
        sources: Source of each number, by its dotted path in the file.
    """

    topology: Topology
    diameter: int
    bisection: Bisection
    link_kinds: Sequence[LinkKind]
    sources: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``topology show``."""
        topology = self.topology
        return {
            "name": topology.name,
            "kind": topology.kind,
            "device": topology.device,
            "devices": topology.num_ranks,
            "nodes": topology.num_nodes,
            "vertices": len(topology.vertex_names),
            "links": topology.num_links,
            "diameter": self.diameter,
            "bisection_Bps": self.bisection.bandwidth,
            "bisection_cut": self.bisection.cut,
            "link_kinds": self.records(),
            "sources": dict(self.sources),
        }

    def records(self) -> list[dict[str, Any]]:
        """One row per kind of link; bandwidths in B/s, latencies in seconds."""
        return [
            {
                "kind": kind.kind,
                "count": kind.count,
                "bandwidth_Bps": list(kind.bandwidth),
                "latency_s": list(kind.latency),
            }
            for kind in self.link_kinds
        ]

    def tables(self) -> Sequence[Table]:
        """Size and distance, links by kind, and sources."""
        topology, middle = self.topology, self.bisection
        about = {
            "name": topology.name,
            "kind": topology.kind,
            **({"accelerator": topology.device} if topology.device else {}),
            "ranks": str(topology.num_ranks),
            "nodes": str(topology.num_nodes),
            "directed links": str(topology.num_links),
            "diameter (links)": str(self.diameter),
            "bisection": print_bandwidth(float(f"{middle.bandwidth:.6g}")) + (f", {middle.cut}" if middle.cut else ""),
        }
        rows = [
            [
                kind.kind,
                str(kind.count),
                " ".join(print_bandwidth(rate) for rate in kind.bandwidth),
                " ".join(seconds(value) for value in kind.latency),
            ]
            for kind in self.link_kinds
        ]
        links = Table(header=["links", "number", "bandwidth, one direction", "latency"], rows=rows, left=4)
        notes = [line for number, source in self.sources.items() for line in _wrapped(f"{number}: {source}")]
        return [pairs(about), links, *([Table(title="Sources of the numbers", notes=notes)] if notes else [])]


def _wrapped(text: str) -> list[str]:
    """Lines of at most the width of a table, the first one less indented."""
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def summarise(topology: Topology, *, sources: Mapping[str, str] | None = None) -> TopologySummary:
    """Measure a topology.

    Args:
        topology: The topology.
        sources: Source of each number, from its file.

    Example:
        >>> from smoes_sim.topology import find_topology
        >>> summary = summarise(find_topology("2x8-h100-ndr400"))
        >>> summary.diameter, summary.bisection.cut
        (4, 'node 0 to node 1')
    """
    kinds = []
    for index, kind in enumerate(topology.link_kinds):
        chosen = topology.link_kind == index
        rates, latency = topology.link_bandwidth[chosen], topology.link_latency[chosen]
        kinds.append(
            LinkKind(
                kind=kind,
                count=int(chosen.sum()),
                bandwidth=sorted({float(rate) for rate in rates}),
                latency=sorted({float(value) for value in latency}),
            )
        )
    return TopologySummary(
        topology=topology,
        diameter=diameter(topology),
        bisection=bisection(topology),
        link_kinds=kinds,
        sources=sources or {},
    )
