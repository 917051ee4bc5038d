"""The same layer in one process, in slow and simple code: the reference for the distributed one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def feed_forward(x: Tensor, rise: Tensor, fall: Tensor) -> Tensor:
    """One gated feed-forward network on one token, (D,)."""
    gate, up = (x @ rise).chunk(2)
    return (functional.silu(gate) * up) @ fall


def reference_layer(
    x: Tensor,
    expert_ids: Tensor,
    weights: Tensor,
    experts: tuple[Tensor, Tensor],
    shared: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Outputs of all tokens, a loop over tokens and slots.

    Args:
        x: Tokens, shape (T, D).
        expert_ids: Expert of each slot, -1 for none, shape (T, K).
        weights: Routing weights, shape (T, K).
        experts: ``rise`` (E, D, 2 F) and ``fall`` (E, F, D) of all experts.
        shared: The same of the shared experts as one network, (1, D, 2 F) and (1, F, D), or None.

    Returns:
        Shape (T, D).
    """
    rows = []
    for token, ids, weight in zip(x, expert_ids.tolist(), weights, strict=True):
        y = torch.zeros_like(token)
        for slot, expert in enumerate(ids):
            if expert >= 0:
                y = y + weight[slot] * feed_forward(token, experts[0][expert], experts[1][expert])
        if shared is not None:
            y = y + feed_forward(token, shared[0][0], shared[1][0])
        rows.append(y)
    return torch.stack(rows) if rows else x
