"""Rows of a measurements table, made for a test."""

from __future__ import annotations

from typing import Any

from smoes_sim.libraries.system import SystemCase, system_case
from smoes_sim.measurements import Measurement


def row(**columns: Any) -> Measurement:
    """8 H100-like ranks that exchange 64 MiB with NCCL, changed by ``columns``."""
    usual: dict[str, Any] = {
        "id": "row",
        "system": "8x Test",
        "nodes": 1,
        "ranks_per_node": 8,
        "intra_link": "NVLink4+NVSwitch",
        "intra_bandwidth": 450e9,
        "library": "NCCL 2.29.2",
        "mode": "alltoall",
        "op": "alltoall",
        "size": 2.0**26,
    }
    return Measurement(**(usual | columns))


def case(**columns: Any) -> SystemCase:
    """The case of such a row."""
    found = system_case(row(**columns))
    assert isinstance(found, SystemCase), found
    return found
