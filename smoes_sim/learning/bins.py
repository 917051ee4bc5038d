"""Bins of experts of equal size, by the share of text that each expert receives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smoes_sim.errors import ConfigError
from smoes_sim.learning.data_parallel import sum_over_ranks
from smoes_sim.learning.scores import NUM_MODALITIES, hard_scores


def routed_counts(expert_ids: Tensor, modality: Tensor, *, num_experts: int) -> Tensor:
    """Number of routed tokens per modality and expert, shape (M, E), float64; slots of -1 are not counted.

    Args:
        expert_ids: Chosen experts, shape (..., K).
        modality: 0 text, anything else vision, shape (...).
        num_experts: E.
    """
    labels = (modality.reshape(-1, 1) != 0).long().expand(-1, expert_ids.shape[-1])
    ids = expert_ids.reshape(-1, expert_ids.shape[-1])
    kept = ids >= 0
    keys = labels[kept] * num_experts + ids[kept]
    counts = torch.zeros(NUM_MODALITIES * num_experts, dtype=torch.float64, device=ids.device)
    counts.index_add_(0, keys, torch.ones_like(keys, dtype=torch.float64))
    return counts.view(NUM_MODALITIES, num_experts)


class ExpertBins(nn.Module):
    """Bins of the experts of one layer, from running counts.

    ``C <- beta C + (1 - beta) C_batch`` per modality and expert, ``f_spec = C_text / (C_text + C_vision)``; adaptive bins
    sort the experts by f_spec and cut them into equal runs, so that bin 0 is the most visual; fixed bins keep the model's
    order. Counts use hard labels and are all-reduced over the data-parallel ranks. A modality that is absent from a batch
    keeps its counts; the order does not depend on the number of tokens of a modality. The paper does not state how often
    bins are updated; here at every call of :meth:`assignment`. Keep this module in full precision if the model is in half.

    Args:
        num_experts: Number of experts, E.
        num_bins: Number of bins; divides E.
        decay: beta; 0.99 in the paper.
        is_adaptive: False for bins in the model's order.

    Raises:
        ConfigError: If the experts do not divide into the bins.
    """

    counts: Tensor

    def __init__(self, num_experts: int, num_bins: int, *, decay: float = 0.99, is_adaptive: bool = True) -> None:
        super().__init__()
        if num_bins < 1 or num_experts % num_bins:
            raise ConfigError(f"{num_experts} experts do not divide into {num_bins} bins. Use a divisor of {num_experts}.")
        self.num_bins = num_bins
        self.decay = decay
        self.is_adaptive = is_adaptive
        self.register_buffer("counts", torch.zeros(NUM_MODALITIES, num_experts, dtype=torch.float64))

    @torch.no_grad()
    def update(self, expert_ids: Tensor, modality: Tensor) -> None:
        """Update the counts with one batch: chosen experts (..., K) and modality labels (...)."""
        fresh = sum_over_ranks(routed_counts(expert_ids, modality, num_experts=self.counts.shape[1]))
        present = fresh.sum(dim=1, keepdim=True) > 0
        self.counts.copy_(torch.where(present, torch.lerp(fresh, self.counts, self.decay), self.counts))

    def text_share(self) -> Tensor:
        """f_spec of each expert, shape (E,); 0.5 for an unused expert."""
        total = self.counts.sum(dim=0)
        return torch.where(total > 0, self.counts[0] / total.clamp_min(1e-300), 0.5)

    def assignment(self) -> Tensor:
        """Bin of each expert, shape (E,); experts of equal share stay in the model's order."""
        size = self.counts.shape[1]
        rank = torch.arange(size, device=self.counts.device)
        if self.is_adaptive:
            rank = torch.empty_like(rank).scatter_(0, torch.argsort(self.text_share(), stable=True), rank)
        return rank // (size // self.num_bins)


def modality_presence(modality: Tensor) -> Tensor:
    """Whether each sequence has tokens of every modality, shape (B,), from labels (B, T)."""
    return (hard_scores(modality).sum(dim=1) > 0).all(dim=-1)
