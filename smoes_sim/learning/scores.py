"""How much of each modality a token carries in a layer: scores in [0, 1] that sum to one over modalities.

Three estimators: hard (the token's own label), attention-accumulated (local, mixes as attention mixes) and Gaussian
(global, from running statistics of the hidden states). Detach what they are given: a model that can move its scores
can raise the mutual information without specialising anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from smoes_sim.learning.data_parallel import sum_over_ranks

NUM_MODALITIES = 2
"""Text and vision; other visual codes of a trace (video) count as vision."""
_SMALLEST_VARIANCE = 1e-6


def hard_scores(modality: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """One for a token's own modality, zero for the other, shape (..., M).

    Args:
        modality: 0 text, anything else vision, shape (...).
        dtype: Type of the result.
    """
    return functional.one_hot((modality != 0).long(), NUM_MODALITIES).to(dtype)


def attended_scores(attention: Tensor, scores: Tensor) -> Tensor:
    """What a token's attention brings in: ``sum_j' Attn_jj' M_j'``, shape (B, T, M).

    Args:
        attention: Attention map averaged over heads, rows sum to one, shape (B, T, T); or per head, (B, H, T, T), and it
            is averaged here.
        scores: Scores before this layer, shape (B, T, M).
    """
    mean = attention.mean(dim=1) if attention.dim() == 4 else attention
    return mean.to(scores.dtype) @ scores


def attend_with_scores(
    query: Tensor, key: Tensor, value: Tensor, scores: Tensor, *, mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention and :func:`attended_scores` in one pass that never stores a map.

    ``sum_j' A_jj' M_j'`` is attention's own output for the value M, so the scores travel as extra channels of the value.
    On devices whose fused kernels need equal head sizes PyTorch falls back to its composed kernel.

    Args:
        query: Shape (B, H, T, d).
        key: Shape (B, H, T, d).
        value: Shape (B, H, T, d).
        scores: Scores before this layer, shape (B, T, M).
        mask: True where attention is allowed, broadcastable to (B, H, T, T).
        is_causal: Instead of a mask.

    Returns:
        Output of attention, shape (B, H, T, d), and attended scores, shape (B, T, M).
    """
    extra = scores.to(value.dtype)[:, None].expand(-1, value.shape[1], -1, -1)
    wide = functional.scaled_dot_product_attention(
        query, key, torch.cat([value, extra], dim=-1), attn_mask=mask, is_causal=is_causal
    )
    output, carried = wide[..., : value.shape[-1]], wide[..., value.shape[-1] :]
    return output, carried.mean(dim=1).to(scores.dtype)


def accumulate_scores(scores: Tensor, attended: Tensor, *, residual: Tensor, attention_output: Tensor) -> Tensor:
    """Scores after a layer's attention, shape (B, T, M).

    ``M' = (|a| Mt + |x| M) / (|a| + |x|)``, which mirrors ``x' = x + a``: x the residual stream before attention, a what
    attention adds to it, Mt the attended scores. The norms are read as L2 over the hidden dimension; the paper's notes
    do not say which, nor whether x is before or after normalisation.

    Args:
        scores: M, shape (B, T, M).
        attended: Mt, shape (B, T, M).
        residual: x, shape (B, T, D).
        attention_output: a, shape (B, T, D).

    Example:
        |x| = 3, |a| = 1, M = (1, 0), Mt = (0, 1): (0.75, 0.25).
    """
    precise = torch.promote_types(residual.dtype, torch.float32)
    kept = torch.linalg.vector_norm(residual.to(precise), dim=-1, keepdim=True)
    added = torch.linalg.vector_norm(attention_output.to(precise), dim=-1, keepdim=True)
    share = added / (kept + added).clamp_min(torch.finfo(precise).tiny)
    return torch.lerp(scores, attended.to(scores.dtype), share.to(scores.dtype))


class GaussianScores(nn.Module):
    """Scores from one diagonal Gaussian per modality over a layer's hidden states.

    ``LL_m = -1/2 sum_d (log s2_md + (x_d - mu_md)^2 / s2_md)``, ``M_m = softmax_m(LL_m / tau)``, ``tau = 0.5 D``.

    The running statistics are a RECONSTRUCTION: the paper's three lines could not be read. With the batch mean and variance
    (mu_b, v_b) of a modality and ``delta = mu_b - mu``: ``mu += (1 - beta) delta`` and ``s2 = beta s2 + (1 - beta) v_b +
    beta (1 - beta) delta^2``, the exact variance of the ``beta : 1 - beta`` mixture. The first batch of a modality sets
    its statistics; a modality that a batch lacks keeps them; one that was never seen scores 0 (all equal if none was).

    Keep the module in full precision when the model is in half: its decay needs more than 8 bits.

    Args:
        hidden: D.
        decay: beta; 0.99 in the paper.
        num_modalities: M.
    """

    mean: Tensor
    variance: Tensor
    is_seen: Tensor

    def __init__(self, hidden: int, *, decay: float = 0.99, num_modalities: int = NUM_MODALITIES) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(num_modalities, hidden))
        self.register_buffer("variance", torch.ones(num_modalities, hidden))
        self.register_buffer("is_seen", torch.zeros(num_modalities, dtype=torch.bool))

    @torch.no_grad()
    def update(self, states: Tensor, modality: Tensor) -> None:
        """Take one batch into account; under ``torch.distributed`` the batch of all ranks together.

        Args:
            states: Hidden states that the router sees, shape (..., D).
            modality: Hard label of each, 0 text, anything else vision, shape (...).
        """
        x = states.reshape(-1, states.shape[-1]).double()
        labels = hard_scores(modality.reshape(-1), dtype=torch.float64)
        sums = torch.stack([labels.sum(0)[:, None].expand(-1, x.shape[1]), labels.T @ x, labels.T @ x.square()])
        count, first, second = sum_over_ranks(sums)
        present = count[:, 0] > 0
        batch_mean = first / count.clamp_min(1)
        batch_variance = (second / count.clamp_min(1) - batch_mean.square()).clamp_min(0)
        delta = batch_mean - self.mean
        old = torch.where(self.is_seen, self.decay, 0.0)[:, None].double()
        mean = self.mean + (1 - old) * delta
        variance = old * self.variance + (1 - old) * batch_variance + old * (1 - old) * delta.square()
        self.mean.copy_(torch.where(present[:, None], mean, self.mean.double()))
        self.variance.copy_(torch.where(present[:, None], variance, self.variance.double()))
        self.is_seen |= present

    def forward(self, states: Tensor) -> Tensor:
        """Scores of hidden states (..., D), shape (..., M), in at least single precision."""
        x = states.to(torch.promote_types(states.dtype, torch.float32))
        variance = self.variance.to(x.dtype).clamp_min(_SMALLEST_VARIANCE)
        distance = (x[..., None, :] - self.mean.to(x.dtype)).square() / variance
        likelihood = -0.5 * (variance.log() + distance).sum(dim=-1)
        known = self.is_seen | ~self.is_seen.any()
        tau = 0.5 * x.shape[-1]
        return (likelihood / tau).masked_fill(~known, -torch.inf).softmax(dim=-1)
