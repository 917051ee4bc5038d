"""Statistics of the whole batch when it is spread over data-parallel ranks."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks of the default process group; the values themselves without one.

    Every rank must call this equally often, whatever its part of the batch holds.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total
