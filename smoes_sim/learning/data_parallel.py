"""Sums over data-parallel ranks, for statistics of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of a tensor over the ranks of the default process group; the tensor itself without a group.

    A collective: every rank must call it equally often, whatever its part of the batch contains.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total
