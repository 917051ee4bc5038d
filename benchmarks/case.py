"""What can be asked for: an all-to-all on a fabric. Imports nothing heavy, so that who asks stays small."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

_NODE = {"scale_up": {"kind": "nvlink4", "bandwidth": "450 GB/s"}, "nic": {"kind": "infiniband", "bandwidth": "50 GB/s"}}

Fabric = Literal["star", "two_level", "fat_tree", "rail", "torus", "dragonfly"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An all-to-all.

    Attributes:
        fabric: Wiring, with numbers as in :func:`topology_spec`.
        ranks: How many; a multiple of 64 but for the star.
        zipf: Exponent of destinations' popularity; 0 is uniform.
        per_source: Whether each rank has popular destinations of its own.
        tolerance: Relative error aimed at; 0 is exact.
        chunk: Bytes through FIFO ports at a time instead of fluid, infinite for whole messages.
        store: Whether a switch forwards whole chunks only (as ASTRA-sim does) instead of packets.
        whole_bytes: Round sizes to bytes, which SimGrid and ASTRA-sim need.
        split: Whether equal routes share every message evenly, instead of one by hash each (which breaks symmetry).
        skip: Every how many-th destination counts: 1 for all, 4 for a quarter of the flows.
    """

    fabric: Fabric
    ranks: int
    zipf: float = 1.0
    per_source: bool = True
    tolerance: float = 1e-4
    chunk: float | None = None
    store: bool = False
    whole_bytes: bool = False
    split: bool = False
    skip: int = 1

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON, which has no infinity."""
        fields = asdict(self)
        return fields | {"chunk": str(self.chunk) if self.chunk is not None else None}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Case:
        """The other way."""
        return Case(**fields | {"chunk": float(fields["chunk"]) if fields["chunk"] is not None else None})


def topology_spec(fabric: Fabric, ranks: int) -> dict[str, Any]:
    """A topology file of 50 GB/s NICs or ports, without latency, so that peers see the same network.

    Nodes hold 8 ranks. ``two_level`` and ``fat_tree`` are oversubscribed 4:1 (the latter above groups of 4 nodes),
    ``rail`` is non-blocking, ``dragonfly`` has groups of 64 with as much local as global capacity per rank, 25 GB/s a link.
    """
    link = {"bandwidth": "50 GB/s"}
    half = {"bandwidth": "25 GB/s"}
    nodes = {"nodes": ranks // 8, "ranks_per_node": 8} | _NODE
    specs: dict[Fabric, dict[str, Any]] = {
        "star": {"kind": "star", "ranks": ranks, "link": link},
        "two_level": {"kind": "two_level", "fabric": {"oversubscription": 4}} | nodes,
        "fat_tree": {
            "kind": "fat_tree",
            "levels": [{"down": 32, "switches": 4, "oversubscription": 4}, {"down": max(1, ranks // 32), "switches": 4}],
        }
        | nodes,
        "rail": {"kind": "rail_optimized", "fabric": {"nodes_per_pod": min(32, ranks // 8), "spines": 4}} | nodes,
        "torus": {"kind": "torus", "shape": _torus_shape(ranks), "link": link},
        "dragonfly": {
            "kind": "dragonfly", "groups": ranks // 64, "routers_per_group": 16, "ranks_per_router": 4,
            "link": half, "local": half, "global": half | {"per_router": 4},
        },
    }  # fmt: skip
    return specs[fabric]


def _torus_shape(ranks: int) -> list[int]:
    """Three sides, as equal as powers of two allow."""
    exponent = int(math.log2(ranks))
    return [2 ** ((exponent + side) // 3) for side in range(3)]
