"""Hold predictions against measurements: how wrong are we, by family?

This first form has no fit: it takes every ``alltoall`` row, finds the shipped topology with the row's nodes, ranks and
nominal link rates, and predicts with those rates and nothing else. What is missing (protocols, launch, efficiency) shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from smoes_sim.measurements import Measurement, measured_time
from smoes_sim.metrics import relative_error
from smoes_sim.network import Network, exchange_time, phases_of
from smoes_sim.skew import uniform_matrix
from smoes_sim.topology import TopologySpec, find_spec, find_topology, topology_names

_SAME_RATE = 0.01
"""Nominal rates within this, relatively, are the same link (535.5 GB/s is 7 x 76.5)."""
_LARGE = 2**20
"""Bytes per rank from which bandwidth, not start-up, should rule: families are split here."""
Key = tuple[int, int, float | None, float | None]


def validate(rows: Sequence[Measurement]) -> dict[str, Any]:
    """Predict what can be predicted.

    Returns:
        ``families`` (n, median, mean, 90th percentile and largest absolute relative error), ``rows``, ``skipped`` with
        reasons, and ``calibrated_on``, which is None: nothing was fitted.
    """
    predicted: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    networks: dict[str, Network] = {}
    for row in rows:
        reason, name = _match(row)
        measured = measured_time(row)
        if reason or measured is None or row.size is None:
            skipped.append({"id": row.id, "reason": reason or "neither a time nor an algbw or busbw with a size"})
            continue
        if name not in networks:
            networks[name] = Network(topology=find_topology(name))
        network = networks[name]
        matrix = uniform_matrix(network.topology.num_ranks, row.size)
        duration = exchange_time(network, phases_of(network, [matrix])).duration
        predicted.append(
            {
                "id": row.id,
                "family": f"alltoall {name}, {'>=' if row.size >= _LARGE else '<'} 1 MiB",
                "size_bytes": row.size,
                "measured_s": measured,
                "predicted_s": duration,
                "relative_error": relative_error(duration, measured),
            }
        )
    families = sorted({row["family"] for row in predicted})
    return {
        "families": {
            name: _errors([row["relative_error"] for row in predicted if row["family"] == name]) for name in families
        },
        "rows": predicted,
        "skipped": skipped,
        "calibrated_on": None,
    }


def _errors(errors: list[float]) -> dict[str, float]:
    absolute = np.abs(errors)
    return {
        "n": len(errors),
        "median_ape": float(np.median(absolute)),
        "mape": float(absolute.mean()),
        "p90_ape": float(np.percentile(absolute, 90)),
        "max_ape": float(absolute.max()),
    }


def _match(row: Measurement) -> tuple[str, str]:
    """Why a row cannot be predicted (empty if it can), and the topology that matches it."""
    if row.mode != "alltoall":
        return f"mode {row.mode} needs a library model", ""
    nic = row.nic_bandwidth if row.nodes > 1 else None
    for name, key in _shipped_keys().items():
        if key[:2] == (row.nodes, row.ranks_per_node) and _same(key[2], row.intra_bandwidth) and _same(key[3], nic):
            return "", name
    rate = f"{row.intra_bandwidth / 1e9:g} GB/s" if row.intra_bandwidth else "no rate"
    return f"no shipped topology of {row.nodes} x {row.ranks_per_node} ranks with {rate} inside a node", ""


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= _SAME_RATE * max(a, b)


@cache
def _shipped_keys() -> dict[str, Key]:
    """Nodes, ranks per node, rate inside a node and NIC rate per rank of every shipped topology that has them."""
    found = {name: _key(find_spec(name)) for name in topology_names()}
    return {name: key for name, key in found.items() if key is not None}


def _key(spec: TopologySpec) -> Key | None:
    if spec.kind == "mesh":
        return 1, spec.ranks, spec.link.bandwidth * (spec.ranks - 1), None
    if spec.kind == "scale_up_domain" and spec.racks == 1:
        return 1, spec.ranks_per_rack, spec.scale_up.bandwidth, None
    if spec.kind == "two_level":
        peers = spec.ranks_per_node - 1 if spec.scale_up.wiring == "mesh" else 1
        nic = spec.nic.bandwidth / (1 if spec.nic.per == "rank" else spec.ranks_per_node)
        return spec.nodes, spec.ranks_per_node, spec.scale_up.bandwidth * peers, nic
    return None
