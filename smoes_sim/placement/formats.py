"""Placements and expert counts in the files of serving engines.

SGLang takes ``--init-expert-location FILE.json`` (sgl-project/sglang ``python/sglang/srt/eplb/expert_location.py``): either
``{"physical_to_logical_map": [[...], ...]}``, the expert in each slot, which is also what EPLB's ``rebalance_experts``
returns (deepseek-ai/EPLB ``eplb.py``), or ``{"logical_count": [[...], ...]}``, on which the server runs EPLB itself. The
server passes on every key of the file, so there must be no other. Its rows are *all* hidden layers, dense ones included,
and slot p is on rank ``p // (slots / ranks)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError
from smoes_sim.placement.expert_placement import ExpertPlacement
from smoes_sim.placement.layout import expert_layout
from smoes_sim.yaml_files import write_bytes

_MAP = "physical_to_logical_map"


def write_placement(placement: ExpertPlacement, path: Path, *, moe_layers: Sequence[int], num_layers: int) -> None:
    """Write the expert in each slot of each hidden layer; dense layers get the experts in order.

    Args:
        placement: Slots of each MoE layer, ordered by rank.
        path: JSON file.
        moe_layers: Index of each MoE layer in the model, L of them.
        num_layers: Hidden layers of the model.

    Raises:
        PlacementError: If the slots are not ordered by rank, ranks have different numbers of them, or there are several EP
            groups.
    """
    if placement.num_groups > 1:
        raise PlacementError(
            f"{placement.num_ranks} ranks form {placement.num_groups} EP groups; a file describes one. "
            f"Use {placement.ep_size} ranks."
        )
    sizes = np.bincount(placement.slot_rank)
    if len(set(sizes.tolist())) > 1:
        raise PlacementError(
            f"{sizes.sum()} slots on {placement.ep_size} ranks are {sizes.min()} or {sizes.max()} on each; the file format "
            "has equally many. Use spare slots (--rule eplb --spare 1), or a number of ranks that divides them."
        )
    if (np.diff(placement.slot_rank) < 0).any():
        raise PlacementError("slot_rank is not ascending: the file format needs slots ordered by rank. Sort the slots.")
    num_slots = placement.physical_to_logical_map.shape[1]
    rows = np.tile(np.arange(num_slots) % (int(placement.physical_to_logical_map.max()) + 1), (num_layers, 1))
    rows[list(moe_layers)] = placement.physical_to_logical_map
    write_bytes(path, orjson.dumps({_MAP: rows.tolist()}) + b"\n")


def write_counts(counts: NDArray[np.int64], path: Path) -> None:
    """Write the routed tokens of each expert, shape (layers, E), for a server that runs EPLB on them."""
    write_bytes(path, orjson.dumps({"logical_count": counts.tolist()}) + b"\n")


def read_counts(path: Path) -> NDArray[np.int64]:
    """Routed tokens of each expert, shape (layers, E), from a file that :func:`write_counts` wrote.

    Raises:
        PlacementError: If the file cannot be read, or is not ``{"logical_count": [[...], ...]}``.
    """
    try:
        content: Any = orjson.loads(path.read_bytes())
    except OSError as error:
        raise PlacementError(f"{path}: cannot be read ({error.strerror or error}). Check the path and its rights.") from None
    except orjson.JSONDecodeError as error:
        raise PlacementError(f"{path}: is not JSON ({error}). Fix the file.") from None
    rows = content.get("logical_count") if isinstance(content, dict) else None
    if not _is_table_of_counts(rows):
        raise PlacementError(
            f'{path}: is not {{"logical_count": [[...], ...]}}, one row per layer, one count >= 0 per expert. '
            "`smoes-sim trace export --counts` writes such a file."
        )
    return np.array(rows, dtype=np.int64)


def _is_table_of_counts(rows: Any) -> bool:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        return False
    return len({len(row) for row in rows}) == 1 and all(type(count) is int and count >= 0 for row in rows for count in row)


def all_layers(values: NDArray[np.int64], *, moe_layers: Sequence[int], num_layers: int) -> NDArray[np.int64]:
    """Rows of the MoE layers, and zeros for the other layers, shape (num_layers, E)."""
    rows = np.zeros((num_layers, values.shape[1]), dtype=np.int64)
    rows[list(moe_layers)] = values
    return rows


def read_placement(
    path: Path,
    *,
    moe_layers: Sequence[int],
    num_experts: int,
    num_ranks: int,
    ep_size: int | None = None,
    expert_tensor: int = 1,
) -> ExpertPlacement:
    """Placement of a file that has a row for each hidden layer or for each MoE layer.

    Args:
        path: JSON file with a ``physical_to_logical_map``.
        moe_layers: Index of each MoE layer in the model, L of them.
        num_experts: E.
        num_ranks: R.
        ep_size: Ranks of an EP group, over which the slots are divided equally, in order. None: all.
        expert_tensor: Ranks that share each expert.

    Raises:
        PlacementError: If the file cannot be read, a layer lacks an expert, or the slots do not divide over the ranks.
    """
    try:
        layout = expert_layout(num_experts, num_ranks=num_ranks, ep_size=ep_size or num_ranks, expert_tensor=expert_tensor)
        order = _order(_map_of(path), moe_layers=moe_layers, num_experts=num_experts)
        slots = order.shape[1]
        if slots % layout.holders:
            sharing = "" if expert_tensor == 1 else f" (every {expert_tensor} share their slots)"
            raise PlacementError(
                f"{slots} slots do not divide over {layout.ep_size} ranks{sharing}. Use a divisor of {slots}, of which "
                "parallelism.expert makes groups."
            )
        sizes = np.full(layout.holders, slots // layout.holders)
        return ExpertPlacement(
            physical_to_logical_map=order,
            slot_rank=layout.slot_ranks(sizes),
            num_groups=layout.num_groups,
            expert_tensor=expert_tensor,
        )
    except PlacementError as error:
        raise error.at(str(path)) from None


def _map_of(path: Path) -> list[list[int]]:
    try:
        content: Any = orjson.loads(path.read_bytes())
    except OSError as error:
        raise PlacementError(f"cannot be read ({error.strerror or error}). Check the path and its rights.") from None
    except orjson.JSONDecodeError as error:
        raise PlacementError(f"is not JSON ({error}). Fix the file.") from None
    rows = content.get(_MAP) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise PlacementError(
            f"has no {_MAP} with a row of experts per layer. `smoes-sim trace export --placement` writes one."
        )
    if any(type(expert) is not int for row in rows for expert in row):
        raise PlacementError(f"{_MAP} holds a value that is not an integer. Fix the file.")
    return rows


def _order(rows: list[list[int]], *, moe_layers: Sequence[int], num_experts: int) -> NDArray[np.int64]:
    """Expert in each slot of each MoE layer, shape (L, S)."""
    if len(rows) != len(moe_layers):
        if len(rows) <= max(moe_layers):
            raise PlacementError(
                f"{_MAP} has {len(rows)} layers; the model has {len(moe_layers)} MoE layers, the last with index "
                f"{max(moe_layers)}. Give a row for each MoE layer, or for each hidden layer."
            )
        rows = [rows[layer] for layer in moe_layers]
    slots = len(rows[0])
    for layer, row in zip(moe_layers, rows, strict=True):
        if set(row) != set(range(num_experts)):
            raise PlacementError(
                f"layer {layer}: must hold each expert 0 to {num_experts - 1}, and no other. Is it this model's file?"
            )
        if len(row) != slots:
            raise PlacementError(
                f"layer {layer}: has {len(row)} slots, layer {moe_layers[0]} has {slots}: all need the same number. "
                "Fix the file."
            )
    return np.array(rows, dtype=np.int64)
