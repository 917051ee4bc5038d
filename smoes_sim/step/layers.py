"""The layers of a forward pass, in order, and which of them are simulated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from smoes_sim.models import ModelShape


class PassLayer(NamedTuple):
    """A layer of a pass.

    Attributes:
        number: Its index in the model.
        moe: Its row among the exchanges and expert times; None for a dense layer.
        kind: Row of its attention among the attention times.
    """

    number: int
    moe: int | None
    kind: int = 0


def pass_layers(model: ModelShape, moe_layers: Sequence[int] | None = None) -> list[PassLayer]:
    """All dense layers of a model and some of its MoE layers, in order.

    Args:
        model: Says which layers are MoE layers.
        moe_layers: Indices of the MoE layers in the model, ascending, one for each row of the exchanges. Default: all.

    Example:
        >>> from smoes_sim.models import find_model
        >>> model = find_model("deepseek-v3")  # three dense layers, then 58 MoE layers
        >>> [tuple(layer) for layer in pass_layers(model, moe_layers=[3, 60])]
        [(0, None, 0), (1, None, 0), (2, None, 0), (3, 0, 0), (60, 1, 0)]
    """
    all_moe = model.moe_layer_indices
    rows = {layer: row for row, layer in enumerate(all_moe if moe_layers is None else moe_layers)}
    dense = set(range(model.layers)) - set(all_moe)
    return [PassLayer(layer, rows.get(layer), model.attention_kinds[layer]) for layer in sorted(dense | set(rows))]


def some_layers(layers: Sequence[PassLayer], rows: Sequence[int]) -> list[PassLayer]:
    """The dense layers of a pass and the MoE layers of some ``rows``."""
    kept = set(rows)
    return [layer for layer in layers if layer.moe is None or layer.moe in kept]
