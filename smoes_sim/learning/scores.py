"""Modality scores of tokens in a layer: values in [0, 1] that sum to one over the modalities.

Three estimators: hard (the token's own label), attention (accumulated along attention; local) and Gaussian (from running
statistics of the hidden states; global). Detach their inputs: a model that can change its scores can raise the mutual
information without specialised experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from smoes_sim.learning.data_parallel import sum_over_ranks

NUM_MODALITIES = 2
"""Text and vision; every code of a trace other than text counts as vision."""
_SMALLEST_VARIANCE = 1e-6


def hard_scores(modality: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scores of one for a token's own modality and zero for the other, shape (..., M).

    Args:
        modality: 0 text, anything else vision, shape (...).
        dtype: Element type of the result.
    """
    return functional.one_hot((modality != 0).long(), NUM_MODALITIES).to(dtype)


def attended_scores(attention: Tensor, scores: Tensor) -> Tensor:
    """Attention-weighted mean of the scores, ``sum_j' Attn_jj' M_j'``, shape (B, T, M).

    Args:
        attention: Attention map averaged over heads, shape (B, T, T), or per head, (B, H, T, T); rows sum to one.
        scores: Scores before this layer, shape (B, T, M).
    """
    mean = attention.mean(dim=1) if attention.dim() == 4 else attention
    return mean.to(scores.dtype) @ scores


def attend_with_scores(
    query: Tensor, key: Tensor, value: Tensor, scores: Tensor, *, mask: Tensor | None = None, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention and :func:`attended_scores` in one pass, without storing an attention map.

    ``sum_j' A_jj' M_j'`` is the output of attention for the value M, so the scores are appended as channels of the value.
    Where fused kernels need equal head sizes, PyTorch falls back to its composed kernel.

    Args:
        query: Queries, shape (B, H, T, d).
        key: Keys, shape (B, H, T, d).
        value: Values, shape (B, H, T, d).
        scores: Scores before this layer, shape (B, T, M).
        mask: True where attention is allowed, broadcastable to (B, H, T, T).
        is_causal: Use a causal mask; then ``mask`` must be None.

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

    ``M' = (|a| Mt + |x| M) / (|a| + |x|)``, in analogy to ``x' = x + a``: x is the residual stream before attention, a
    the output of attention, Mt the attended scores. The norms are L2 over the hidden dimension here; the paper does not
    state the norm, nor whether x is taken before or after normalisation.

    Args:
        scores: M, shape (B, T, M).
        attended: Mt, shape (B, T, M).
        residual: x, shape (B, T, D).
        attention_output: a, shape (B, T, D).

    Example:
        |x| = 3 and |a| = 1:

        >>> x, a = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> text, vision = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> accumulate_scores(text, vision, residual=x, attention_output=a)
        tensor([[[0.7500, 0.2500]]])
    """
    precise = torch.promote_types(residual.dtype, torch.float32)
    kept = torch.linalg.vector_norm(residual.to(precise), dim=-1, keepdim=True)
    added = torch.linalg.vector_norm(attention_output.to(precise), dim=-1, keepdim=True)
    share = added / (kept + added).clamp_min(torch.finfo(precise).tiny)
    return torch.lerp(scores, attended.to(scores.dtype), share.to(scores.dtype))


class GaussianScores(nn.Module):
    """Scores from one diagonal Gaussian per modality over the hidden states of a layer.

    ``LL_m = -1/2 sum_d (log s2_md + (x_d - mu_md)^2 / s2_md)``, ``M_m = softmax_m(LL_m / tau)``, ``tau = 0.5 D``.

    The update of the statistics is a RECONSTRUCTION: the three lines of the paper could not be read. With batch mean and
    variance (mu_b, v_b) of a modality and ``delta = mu_b - mu``: ``mu += (1 - beta) delta`` and
    ``s2 = beta s2 + (1 - beta) v_b + beta (1 - beta) delta^2``, the exact variance of the
    ``beta : 1 - beta`` mixture. The first batch of a modality sets its statistics; a modality absent from a batch keeps
    them; one that never occurred scores 0 (all equal if none occurred).

    Keep this module in full precision if the model is in half: the decay needs more than 8 bits.

    Args:
        hidden: Hidden size, D.
        decay: beta; 0.99 in the paper.
        num_modalities: Number of modalities, M.
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
        """Update the statistics with one batch; under ``torch.distributed`` with the batches of all ranks.

        Args:
            states: Hidden states at the router's input, shape (..., D).
            modality: Label of each token, 0 text, anything else vision, shape (...).
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
        """Scores of hidden states (..., D), shape (..., M), at least in single precision."""
        x = states.to(torch.promote_types(states.dtype, torch.float32))
        variance = self.variance.to(x.dtype).clamp_min(_SMALLEST_VARIANCE)
        distance = (x[..., None, :] - self.mean.to(x.dtype)).square() / variance
        likelihood = -0.5 * (variance.log() + distance).sum(dim=-1)
        known = self.is_seen | ~self.is_seen.any()
        tau = 0.5 * x.shape[-1]
        return (likelihood / tau).masked_fill(~known, -torch.inf).softmax(dim=-1)
