"""One MoE layer whose experts live on several ranks: dispatch, experts, combine, and shared experts at home."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smoes_sim.distributed.dispatch import LayerPlan, Transport, combine, dispatch
from smoes_sim.distributed.experts import GroupedExperts
from smoes_sim.distributed.patterns import Counts, RowExchange


class CountedExchange:
    """An exchange that counts the bytes it sends.

    Attributes:
        moved: For each exchange since :meth:`take`, the bytes to and from each rank, int64 (2, R).
    """

    def __init__(self, exchange: RowExchange) -> None:
        self._exchange = exchange
        self.moved: list[NDArray[np.int64]] = []

    def __call__(
        self,
        send: Tensor,
        send_counts: Counts,
        receive_counts: Counts,
        *,
        out: Tensor | None = None,
        counts: Sequence[Counts] | None = None,
    ) -> Tensor:
        """Exchange rows and count their bytes."""
        received = self._exchange(send, send_counts, receive_counts, out=out, counts=counts)
        self.moved.append(np.array([send_counts, receive_counts], dtype=np.int64) * send.element_size() * send.shape[1])
        return received

    def take(self) -> list[NDArray[np.int64]]:
        """Bytes of the exchanges since the last call."""
        moved, self.moved = self.moved, []
        return moved


class ExpertParallelLayer(nn.Module):
    """``y = shared(x) + sum over experts of weight * expert(x)`` for the tokens at home on this rank.

    The three steps can be called one by one to time them; :meth:`forward` does them all. Gradients flow through the
    exchanges to tokens and experts; routing weights are those of the trace and have none.

    Args:
        experts: The rank's own experts.
        shared: Shared experts as one network, on every rank; None without.
        transport: Sends rows between ranks.
    """

    def __init__(self, experts: GroupedExperts, shared: GroupedExperts | None, transport: Transport) -> None:
        super().__init__()
        self.experts, self.shared, self._transport = experts, shared, transport

    def dispatch(self, x: Tensor, plan: LayerPlan) -> Tensor:
        """Rows that arrive, (N, D), for tokens (T, D)."""
        return dispatch(x, plan, self._transport)

    def run_experts(self, rows: Tensor, plan: LayerPlan) -> Tensor:
        """Weighted sum of the rank's experts for each row, float32 (N, D)."""
        weight = plan.weight.to(rows.dtype)
        out = self.experts(rows.index_select(0, plan.row), plan.expert_counts, weight)
        return torch.zeros(rows.shape, dtype=torch.float32, device=rows.device).index_add(0, plan.row, out.float())

    def combine(self, partial: Tensor, plan: LayerPlan) -> Tensor:
        """Sums of the rank's own tokens, float32 (T, D)."""
        return combine(partial, plan, self._transport)

    def run_shared(self, x: Tensor) -> Tensor | None:
        """Output of the shared experts, (T, D); None without."""
        return None if self.shared is None else self.shared(x, [len(x)])

    def forward(self, x: Tensor, plan: LayerPlan) -> Tensor:
        """Outputs of tokens (T, D), in their type; shared experts run before dispatch, as ``overlap: none`` predicts."""
        shared = self.run_shared(x)
        y = self.combine(self.run_experts(self.dispatch(x, plan), plan), plan).to(x.dtype)
        return y if shared is None else y + shared
