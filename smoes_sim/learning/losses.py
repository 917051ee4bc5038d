"""Losses on one layer's router, each usable with any router; sum them over layers.

Full softmax probabilities, shape (..., E), carry the gradient; chosen experts (slots of -1 are none) and scores do not.
All are computed in at least single precision.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from smoes_sim.learning.bins import routed_counts

Reading = Literal["printed", "within"]
"""How the bin balance loss is read: as printed, or with load and probability renormalised inside each bin."""
_KL_FLOOR = 1e-6
"""Smallest share in a divergence that has no bound: keeps its gradient finite in single precision."""


def balance_loss(probabilities: Tensor, expert_ids: Tensor) -> Tensor:
    """Ordinary balance ``E sum_e f_e P_e``: balances all EXPERTS against each other; 1 when even, E when one takes all.

    f_e is the share of routed tokens that go to e, P_e the mean probability of e (Switch Transformer, arXiv 2101.03961).

    Args:
        probabilities: Shape (..., E).
        expert_ids: Shape (..., K).
    """
    load, mass = _load_and_mass(probabilities, expert_ids)
    return load.numel() * (load * mass).sum()


def split_balance_loss(probabilities: Tensor, expert_ids: Tensor, modality: Tensor, allowed: Tensor) -> Tensor:
    """Ordinary balance of each modality over the EXPERTS that it may use, mean over modalities that are present.

    What hard and hybrid routing need: a balance over all experts would ask for what the split forbids.

    Args:
        probabilities: Zero where an expert is not allowed, shape (..., E).
        expert_ids: Shape (..., K).
        modality: 0 text, anything else vision, shape (...).
        allowed: Shape (M, E).
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
    """SMoES's bin balance ``sum_k N_B sum_(e in B_k) f_e P_e``, with ``N_B = E / N_bins``.

    ``printed`` (the formula as it stands) balances all EXPERTS of the layer: the outer sum covers every expert once, so it
    is exactly :func:`balance_loss` / N_bins whatever the bins. ``within`` renormalises f and P inside each bin, balances
    experts INSIDE each bin only, and leaves the load ACROSS bins free: bins may collapse; N_bins when even.

    Args:
        probabilities: Shape (..., E).
        expert_ids: Shape (..., K).
        bins: Bin of each expert, equally many each, shape (E,).
        reading: See above; the paper describes the second and prints the first.
    """
    load, mass = _load_and_mass(probabilities, expert_ids)
    num_bins = int(bins.max()) + 1
    if reading == "within":
        tiny = torch.finfo(mass.dtype).tiny
        load = load / _bin_sums(load, bins, num_bins).clamp_min(tiny)[bins]
        mass = mass / _bin_sums(mass, bins, num_bins).clamp_min(tiny)[bins]
    return load.numel() / num_bins * (load * mass).sum()


def device_balance_loss(probabilities: Tensor, expert_ids: Tensor, device: Tensor) -> Tensor:
    """DeepSeekMoE's device-level balance ``sum_i f'_i P'_i``: balances DEVICES, not the experts of one; 1 when even.

    ``f'_i`` is the mean over the experts of device i of ``E`` times their share of routed tokens, ``P'_i`` the sum of their
    mean probabilities (DeepSeekMoE, arXiv 2401.06066). This is the balance across bins that SMoES's own loss lacks.

    Args:
        probabilities: Shape (..., E).
        expert_ids: Shape (..., K).
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
    half of the mass, however many tokens it has. A modality without any score gives a row of zeros.

    Args:
        probabilities: g, shape (B, T, E).
        scores: M, shape (B, T, M).
        bins: Shape (E,).
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
    """Mutual information of the last two axes of a joint distribution, in nats, shape (...); 0 log 0 = 0.

    ((1/2, 0), (0, 1/2)): ln 2 = 0.6931.
    """
    product = joint.sum(dim=-1, keepdim=True) * joint.sum(dim=-2, keepdim=True)
    tiny = torch.finfo(joint.dtype).tiny
    terms = joint * (joint.clamp_min(tiny) / product.clamp_min(tiny)).log()
    return terms.sum(dim=(-2, -1))


def inter_bin_loss(
    probabilities: Tensor, scores: Tensor, bins: Tensor, *, is_used: Tensor | None = None, minimum_mass: float = 1.0
) -> Tensor:
    """SMoES's inter-bin loss ``- mean_i I_i(M; B)``: drives modalities into different bins, in [-ln 2, 0] for two.

    With a full softmax I is the Jensen-Shannon divergence between the bins of text and of vision. Its gradient vanishes
    where the two are equal. Sequences that lack a modality carry no information and are skipped (0/0 as printed): those
    where a modality's scores sum to less than ``minimum_mass`` tokens, and those that ``is_used`` leaves out (a
    Gaussian score gives every token some of both, so pass :func:`smoes_sim.learning.bins.modality_presence`).

    Args:
        probabilities: Shape (B, T, E).
        scores: Shape (B, T, M).
        bins: Shape (E,).
        is_used: Shape (B,), or None for all.
        minimum_mass: In tokens.

    Returns:
        A scalar; 0 with a gradient of 0 if every sequence is skipped.
    """
    joint = modality_by_bin(probabilities, scores, bins)
    return -_mean_over(mutual_information(joint), _usable(scores, is_used, minimum_mass))


def inter_bin_kl_like(
    probabilities: Tensor, scores: Tensor, bins: Tensor, *, is_used: Tensor | None = None, minimum_mass: float = 1.0
) -> Tensor:
    """The ablation's inter-bin KL: minus the mean symmetric KL divergence between the bins of text and of vision.

    Takes the place of :func:`inter_bin_loss`; unlike it, unbounded below. The paper's exact form could not be read.
    Arguments as there. (0.75, 0.25) against (0.25, 0.75): - ln 3 = -1.0986.
    """
    joint = modality_by_bin(probabilities, scores, bins)
    conditional = joint / joint.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)
    return -_mean_over(_symmetric_kl(conditional), _usable(scores, is_used, minimum_mass))


def smar_like_loss(probabilities: Tensor, modality: Tensor, *, low: float = 1.5, high: float = 2.0) -> Tensor:
    """SMAR's tolerance band: how far the symmetric KL of the modalities' mean router distributions is outside [low, high].

    Drives EXPERTS apart between modalities, but only so far; knows no bins. The band is the one that reviews of SMAR
    (arXiv 2506.06406) quote; the paper's exact loss could not be read. 0 with a gradient of 0 if a modality is missing.

    Args:
        probabilities: Shape (..., E).
        modality: 0 text, anything else vision, shape (...).
        low: In nats.
        high: In nats.
    """
    g = _precise(probabilities).reshape(-1, probabilities.shape[-1])
    is_vision = modality.reshape(-1) != 0
    if is_vision.all() or not is_vision.any():
        return 0.0 * g.sum()
    means = torch.stack([g[~is_vision].mean(dim=0), g[is_vision].mean(dim=0)])
    distance = _symmetric_kl(means)
    return (low - distance).clamp_min(0) + (distance - high).clamp_min(0)


def _symmetric_kl(pair: Tensor) -> Tensor:
    """``KL(p|q) + KL(q|p)`` of two distributions stacked on the second-last axis, shape (...)."""
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
