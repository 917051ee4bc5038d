"""Experts of one rank, run group by group without padding, and their reproducible weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


class GroupedExperts(nn.Module):
    """Gated feed-forward networks (SwiGLU) of one rank; each row goes through one of them.

    Unlike ``smoes_sim.learning.experts``, which pads all experts to the largest load for one batched product, work here is
    that of the rows alone, as in serving engines: a skewed load must cost what it costs.

    Attributes:
        rise: Gate and up projections side by side, shape (n, D, 2 F).
        fall: Down projections, shape (n, F, D).
    """

    def __init__(self, rise: Tensor, fall: Tensor) -> None:
        super().__init__()
        self.rise, self.fall = nn.Parameter(rise), nn.Parameter(fall)

    def forward(self, rows: Tensor, counts: Sequence[int], weight: Tensor | None = None) -> Tensor:
        """Outputs of rows (N, D) that are ordered by expert, ``counts`` of each; an expert without rows is not touched.

        ``weight`` (N,) multiplies what goes into the down projection, which is narrower than the outputs and gives the same.
        """
        parts, first = [], 0
        for expert, part in enumerate(rows.split(list(counts))):
            if len(part):
                gate, up = (part @ self.rise[expert]).chunk(2, dim=-1)
                inner = functional.silu(gate) * up
                if weight is not None:
                    inner = inner * weight[first : first + len(part), None]
                parts.append(inner @ self.fall[expert])
            first += len(part)
        return torch.cat(parts) if parts else rows


def seeded_experts(
    experts: NDArray[np.int64], *, seed: int, layer: int, hidden: int, inner: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weights of some experts of a layer, the same wherever they are made: ``rise`` (n, D, 2 F) and ``fall`` (n, F, D).

    Normal with variance one over the number of inputs, so that outputs of normal inputs have a deviation of 0.6.
    """
    rise = torch.empty(len(experts), hidden, 2 * inner, dtype=dtype)
    fall = torch.empty(len(experts), inner, hidden, dtype=dtype)
    for index, expert in enumerate(experts.tolist()):
        generator = seeded_generator(seed, layer, expert)
        rise[index] = torch.randn(hidden, 2 * inner, generator=generator) / hidden**0.5
        fall[index] = torch.randn(inner, hidden, generator=generator) / inner**0.5
    return rise, fall


def seeded_generator(*key: int) -> torch.Generator:
    """A generator for a key of non-negative integers."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
