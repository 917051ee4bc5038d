"""How routing depends on modality: expert counts, the modality specialisation index, load inequality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.routing.trace import TEXT, RoutingTrace


def expert_counts(trace: RoutingTrace, tokens: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Routed tokens of each expert, shape (L, E); empty slots (-1) are not counted.

    Args:
        trace: The routing.
        tokens: Mask of the tokens to count, shape (T,); None: all.
    """
    ids = trace.expert_ids if tokens is None else trace.expert_ids[tokens]
    layer = np.broadcast_to(np.arange(trace.num_layers)[None, :, None], ids.shape)
    kept = ids >= 0
    keys = layer[kept] * trace.num_experts + ids[kept]
    counts = np.bincount(keys, minlength=trace.num_layers * trace.num_experts)
    return counts.reshape(trace.num_layers, trace.num_experts)


def text_share(trace: RoutingTrace) -> NDArray[np.float64]:
    """Text share of each expert's attribution, normalised by modality, shape (L, E); NaN for an unused expert.

    ``c_m = C_m / sum_e C_m`` and ``c_text / (c_text + c_vision)``: our reading of Eq. 18 of the SMoES paper, of which the
    project's notes have only the words. An expert that takes 1% of text and 3% of vision tokens has share 0.25.
    """
    text = expert_counts(trace, trace.modality == TEXT).astype(np.float64)
    vision = expert_counts(trace, trace.is_vision).astype(np.float64)
    text /= np.maximum(text.sum(axis=1, keepdims=True), 1)
    vision /= np.maximum(vision.sum(axis=1, keepdims=True), 1)
    total = text + vision
    return np.divide(text, total, out=np.full(total.shape, np.nan), where=total > 0)


def modality_specialisation(trace: RoutingTrace) -> NDArray[np.float64]:
    """Modality specialisation index of each layer, shape (L,): the mean over used experts of ``2 |share - 0.5|``.

    0 if every expert is used equally by text and vision, 1 if none is used by both; NaN without text or without vision,
    or in a layer without routed tokens.
    """
    if not (trace.modality == TEXT).any() or not trace.is_vision.any():
        return np.full(trace.num_layers, np.nan)
    deviation = 2 * np.abs(text_share(trace) - 0.5)
    used = (~np.isnan(deviation)).sum(axis=1)
    return np.divide(np.nansum(deviation, axis=1), used, out=np.full(len(used), np.nan), where=used > 0)


def gini(load: NDArray[np.integer] | NDArray[np.floating]) -> float:
    """Gini coefficient of a load: 0 if all are equal, towards 1 if one has everything.

    Example:
        >>> round(gini(np.array([1, 1, 2])), 4)
        0.1667
    """
    ordered = np.sort(np.asarray(load, dtype=np.float64).ravel())
    total = ordered.sum()
    if total == 0:
        return 0.0
    size = len(ordered)
    return float((2 * np.arange(1, size + 1) - size - 1) @ ordered / (size * total))
