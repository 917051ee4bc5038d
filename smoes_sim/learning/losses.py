"""Losses on the router of one layer, usable with any router; sum them over the layers. All are scalars.

The full softmax probabilities, shape (..., E), carry the gradient; chosen experts (-1 for an empty slot) and scores do not.
All losses are computed in at least single precision.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from smoes_sim.learning.bins import routed_counts

Reading = Literal["printed", "within"]
"""Form of the bin balance loss: as printed in the paper, or with load and probability renormalised within each bin."""
_KL_FLOOR = 1e-6
"""Lower limit of shares in an unbounded divergence; keeps its gradient finite in single precision."""


def balance_loss(probabilities: Tensor, expert_ids: Tensor) -> Tensor:
    """Standard balance loss ``E sum_e f_e P_e`` over all EXPERTS; 1 when even, E when one expert receives everything.

    f_e is the share of routed tokens of expert e, P_e its mean probability (Switch Transformer, arXiv 2101.03961).

    Args:
        probabilities: Router probabilities, shape (..., E).
        expert_ids: Chosen experts, shape (..., K).
    """
    load, mass = _load_and_mass(probabilities, expert_ids)
    return load.numel() * (load * mass).sum()


def split_balance_loss(probabilities: Tensor, expert_ids: Tensor, modality: Tensor, allowed: Tensor) -> Tensor:
    """Standard balance loss of each modality over the EXPERTS that it may use, mean over the modalities present.

    For hard and hybrid routing: a balance over all experts would demand what the split forbids.

    Args:
        probabilities: Router probabilities, zero where an expert is not allowed, shape (..., E).
        expert_ids: Chosen experts, shape (..., K).
        modality: 0 text, anything else vision, shape (...).
        allowed: Experts that each modality may use, shape (M, E).
    """
    g = probabilities.reshape(-1, probabilities.shape[-1])
    ids, label = expert_ids.reshape(-1, expert_ids.shape[-1]), (modality.reshape(-1) != 0).long()
    losses = [
        balance_loss(g[label == m], ids[label == m]) * allowed[m].sum() / allowed.shape[1]
        for m in range(len(allowed))
        if (label == m).any()
    ]
    return torch.stack(losses).mean()


def bin_balance_loss(probabilities: Tensor, expert_ids: Tensor, bins: Tensor, *, reading: Reading = "printed") -> Tensor:
    """Bin balance loss of SMoES ``sum_k N_B sum_(e in B_k) f_e P_e``, with ``N_B = E / N_bins``.

    ``printed`` (the formula as printed) balances all EXPERTS of the layer: the outer sum covers every expert once, so it
    equals :func:`balance_loss` / N_bins for any bins. ``within`` renormalises f and P within each bin and so balances the
    experts WITHIN each bin only; the load ACROSS bins is free, and bins may collapse. It is N_bins when even.

    Args:
        probabilities: Router probabilities, shape (..., E).
        expert_ids: Chosen experts, shape (..., K).
        bins: Bin of each expert, shape (E,); all bins have the same size.
        reading: Form of the loss; the paper describes ``within`` and prints ``printed``.
    """
    load, mass = _load_and_mass(probabilities, expert_ids)
    num_bins = int(bins.max()) + 1
    if reading == "within":
        tiny = torch.finfo(mass.dtype).tiny
        load = load / _bin_sums(load, bins, num_bins).clamp_min(tiny)[bins]
        mass = mass / _bin_sums(mass, bins, num_bins).clamp_min(tiny)[bins]
    return load.numel() / num_bins * (load * mass).sum()


def device_balance_loss(probabilities: Tensor, expert_ids: Tensor, device: Tensor) -> Tensor:
    """Device-level balance loss of DeepSeekMoE, ``sum_i f'_i P'_i``, over DEVICES, not within one; 1 when even.

    ``f'_i`` is the mean over the experts of device i of ``E`` times their share of routed tokens, ``P'_i`` the sum of their
    mean probabilities (DeepSeekMoE, arXiv 2401.06066). It is the balance across bins that the loss of SMoES lacks.

    Args:
        probabilities: Router probabilities, shape (..., E).
        expert_ids: Chosen experts, shape (..., K).
        device: Device (or bin) of each expert, shape (E,).
    """
    load, mass = _load_and_mass(probabilities, expert_ids)
    num_devices = int(device.max()) + 1
    held = torch.bincount(device, minlength=num_devices).to(load.dtype)
    mean_load = load.numel() * _bin_sums(load, device, num_devices) / held.clamp_min(1)
    return (mean_load * _bin_sums(mass, device, num_devices)).sum()


def modality_by_bin(probabilities: Tensor, scores: Tensor, bins: Tensor) -> Tensor:
    """Joint distribution of modality and bin in each sequence, ``P(m, B_k)``, shape (B, M, bins).

    ``S_mk = sum_(e in B_k) sum_j M_jm g_je / (N_B sum_j M_jm)``, normalised to one. With a full softmax each modality has
    half of the mass, whatever its number of tokens. A modality whose scores are all zero gives a row of zeros.

    Args:
        probabilities: Router probabilities g, shape (B, T, E).
        scores: Modality scores M, shape (B, T, M).
        bins: Bin of each expert, shape (E,).
    """
    g = _precise(probabilities)
    weight = scores.to(g.dtype)
    by_expert = weight.transpose(1, 2) @ g
    num_bins = int(bins.max()) + 1
    by_bin = by_expert.new_zeros(*by_expert.shape[:2], num_bins).index_add(2, bins, by_expert)
    mass = weight.sum(dim=1)[..., None]
    share = torch.where(mass > 0, by_bin / mass.clamp_min(torch.finfo(g.dtype).tiny), 0.0)
    return share / share.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)


def mutual_information(joint: Tensor) -> Tensor:
    """Mutual information of the last two axes of a joint distribution, nats, shape (...); 0 log 0 = 0.

    Example:
        >>> mutual_information(torch.tensor([[0.5, 0.0], [0.0, 0.5]]))
        tensor(0.6931)
    """
    product = joint.sum(dim=-1, keepdim=True) * joint.sum(dim=-2, keepdim=True)
    tiny = torch.finfo(joint.dtype).tiny
    terms = joint * (joint.clamp_min(tiny) / product.clamp_min(tiny)).log()
    return terms.sum(dim=(-2, -1))


def inter_bin_loss(
    probabilities: Tensor, scores: Tensor, bins: Tensor, *, is_used: Tensor | None = None, minimum_mass: float = 1.0
) -> Tensor:
    """Inter-bin loss of SMoES, ``- mean_i I_i(M; B)``, nats: drives modalities into different bins; in [-ln 2, 0] for two.

    With a full softmax I is the Jensen-Shannon divergence between the bins of text and of vision. Its gradient vanishes
    where the two are equal. Sequences without one of the modalities are skipped (the printed formula is 0/0 there): those
    in which the scores of a modality sum to less than ``minimum_mass`` tokens, and those that ``is_used`` excludes (a
    Gaussian score gives every token some of both, so pass :func:`smoes_sim.learning.bins.modality_presence`).

    Args:
        probabilities: Router probabilities, shape (B, T, E).
        scores: Modality scores, shape (B, T, M).
        bins: Bin of each expert, shape (E,).
        is_used: Sequences to use, shape (B,), or None for all.
        minimum_mass: Smallest sum of the scores of a modality, tokens.

    Returns:
        A scalar; 0 with a gradient of 0 if every sequence is skipped.
    """
    joint = modality_by_bin(probabilities, scores, bins)
    return -_mean_over(mutual_information(joint), _usable(scores, is_used, minimum_mass))


def inter_bin_kl_like(
    probabilities: Tensor, scores: Tensor, bins: Tensor, *, is_used: Tensor | None = None, minimum_mass: float = 1.0
) -> Tensor:
    """Minus the mean symmetric KL divergence between the bins of text and of vision, nats: an ablation of SMoES.

    Replaces :func:`inter_bin_loss` and has the same arguments; unlike it, it is unbounded below. The exact form in the
    paper could not be read. Bins (0.75, 0.25) and (0.25, 0.75) give -ln 3 = -1.0986.
    """
    joint = modality_by_bin(probabilities, scores, bins)
    conditional = joint / joint.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)
    return -_mean_over(_symmetric_kl(conditional), _usable(scores, is_used, minimum_mass))


def smar_like_loss(probabilities: Tensor, modality: Tensor, *, low: float = 1.5, high: float = 2.0) -> Tensor:
    """Distance (nats) of the symmetric KL divergence between the modalities' mean router distributions from [low, high].

    As SMAR: separates the modalities over EXPERTS up to a limit, without bins. The band is the one that reviews of SMAR
    (arXiv 2506.06406) quote; the paper's exact loss could not be read. 0 with a gradient of 0 if a modality is missing.

    Args:
        probabilities: Shape (..., E).
        modality: 0 text, anything else vision, shape (...).
        low: Lower end of the band, nats.
        high: Upper end of the band, nats.
    """
    g = _precise(probabilities).reshape(-1, probabilities.shape[-1])
    is_vision = modality.reshape(-1) != 0
    if is_vision.all() or not is_vision.any():
        return 0.0 * g.sum()
    means = torch.stack([g[~is_vision].mean(dim=0), g[is_vision].mean(dim=0)])
    distance = _symmetric_kl(means)
    return (low - distance).clamp_min(0) + (distance - high).clamp_min(0)


def _symmetric_kl(pair: Tensor) -> Tensor:
    """``KL(p|q) + KL(q|p)`` of two distributions stacked on the second-last axis, nats, shape (...)."""
    p, q = pair.clamp_min(_KL_FLOOR).unbind(dim=-2)
    return ((p - q) * (p.log() - q.log())).sum(dim=-1)


def _usable(scores: Tensor, is_used: Tensor | None, minimum_mass: float) -> Tensor:
    has_mass = (scores.detach().sum(dim=1) >= minimum_mass).all(dim=-1)
    return has_mass if is_used is None else has_mass & is_used


def _mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp_min(1)


def _load_and_mass(probabilities: Tensor, expert_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Share of routed tokens of each expert and its mean probability, shape (E,) each."""
    g = _precise(probabilities).reshape(-1, probabilities.shape[-1])
    labels = torch.zeros(expert_ids.shape[:-1], dtype=torch.long, device=expert_ids.device)
    counts = routed_counts(expert_ids, labels, num_experts=g.shape[1])[0].to(g.dtype)
    return counts / counts.sum().clamp_min(1), g.sum(dim=0) / max(len(g), 1)


def _bin_sums(values: Tensor, bins: Tensor, num_bins: int) -> Tensor:
    return values.new_zeros(num_bins).index_add(0, bins, values)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
