"""Which experts a router may choose: plain top-k and its rivals, and skipping at inference.

Every rule takes full softmax probabilities and gives :class:`Chosen`; a slot of -1 is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smoes_sim.errors import ConfigError
from smoes_sim.learning.scores import NUM_MODALITIES

Rule = Literal["top_k", "hard", "hybrid", "device_limited", "group_balanced"]


class Chosen(NamedTuple):
    """Experts of each token and how their outputs are weighed.

    Attributes:
        expert_ids: Shape (N, K), -1 for none.
        weights: Shape (N, K), 0 for none.
    """

    expert_ids: Tensor
    weights: Tensor


def take_top_k(probabilities: Tensor, top_k: int) -> Chosen:
    """The k most probable experts, weights renormalised to one."""
    weights, ids = probabilities.topk(top_k, dim=-1)
    return Chosen(ids, weights / weights.sum(dim=-1, keepdim=True))


def allowed_experts(rule: Literal["hard", "hybrid"], num_experts: int) -> Tensor:
    """Which experts each modality may use, shape (M, E).

    ``hard``: the first half belongs to text, the second to vision. ``hybrid`` (MoIIE, arXiv 2508.09779): a quarter each,
    and the half between them is shared.

    Raises:
        ConfigError: If the experts do not divide.
    """
    parts = 2 if rule == "hard" else 4
    if num_experts % parts:
        raise ConfigError(f"{num_experts} experts do not divide by {parts}, which selection {rule} needs.")
    own = num_experts // parts
    allowed = torch.zeros(NUM_MODALITIES, num_experts, dtype=torch.bool)
    allowed[0, : num_experts - own] = True
    allowed[1, own:] = True
    return allowed


def take_device_limited(probabilities: Tensor, top_k: int, *, num_groups: int, kept_groups: int) -> Chosen:
    """Top-k inside the best groups only, so that no token leaves for more than ``kept_groups`` devices.

    A group is scored by its largest probability (DeepSeek-V2, arXiv 2405.04434, section 2.2.2); groups are equal runs of
    experts.
    """
    by_group = probabilities.view(len(probabilities), num_groups, -1)
    best = by_group.amax(dim=-1).topk(kept_groups, dim=-1).indices
    is_kept = torch.zeros_like(by_group[..., 0], dtype=torch.bool).scatter(-1, best, True)
    return take_top_k(torch.where(is_kept[..., None], by_group, 0.0).flatten(-2), top_k)


def take_group_balanced(probabilities: Tensor, top_k: int, *, num_groups: int) -> Chosen:
    """Top-(k / groups) inside every group, weights renormalised over all: every device gets equally many routed tokens.

    MoGE of Pangu Pro (arXiv 2505.21411).
    """
    by_group = probabilities.view(len(probabilities), num_groups, -1)
    weights, local = by_group.topk(top_k // num_groups, dim=-1)
    first = torch.arange(num_groups, device=local.device)[:, None] * by_group.shape[-1]
    flat = weights.flatten(-2)
    return Chosen((local + first).flatten(-2), flat / flat.sum(dim=-1, keepdim=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A rule and its parameters.

    Attributes:
        rule: How experts are chosen.
        num_experts: E.
        top_k: K.
        num_groups: Groups of ``device_limited`` and ``group_balanced``.
        kept_groups: Groups a token may use under ``device_limited``.
    """

    rule: Rule
    num_experts: int
    top_k: int
    num_groups: int = 1
    kept_groups: int = 1

    def __post_init__(self) -> None:
        """Check that the groups fit.

        Raises:
            ConfigError: With the numbers that do not fit.
        """
        size = self.num_experts // self.num_groups
        if self.num_experts % self.num_groups:
            raise ConfigError(f"{self.num_experts} experts do not divide into {self.num_groups} groups.")
        if self.rule == "group_balanced" and self.top_k % self.num_groups:
            raise ConfigError(f"top_k = {self.top_k} does not divide over {self.num_groups} groups. Use a multiple.")
        if self.rule == "device_limited" and not self.top_k <= self.kept_groups * size <= self.num_experts:
            raise ConfigError(
                f"{self.kept_groups} of {self.num_groups} groups of {size} experts cannot hold top_k = {self.top_k}."
            )

    @property
    def allowed(self) -> Tensor | None:
        """Experts that each modality may use, (M, E), or None for all."""
        return allowed_experts(self.rule, self.num_experts) if self.rule in {"hard", "hybrid"} else None

    def choose(self, probabilities: Tensor) -> Chosen:
        """Experts of each token from probabilities (N, E), in which experts that are not allowed are zero."""
        if self.rule == "device_limited":
            return take_device_limited(probabilities, self.top_k, num_groups=self.num_groups, kept_groups=self.kept_groups)
        if self.rule == "group_balanced":
            return take_group_balanced(probabilities, self.top_k, num_groups=self.num_groups)
        return take_top_k(probabilities, self.top_k)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipByImportance:
    """Skips experts whose importance is under their modality's threshold, as MoDES does (arXiv 2511.15690).

    ``s = alpha * weight`` with alpha how much the layer matters. ``_like``: the weights of what stays are kept as they are,
    and the thresholds are quantiles instead of the paper's frontier search.

    Attributes:
        layer_importance: alpha.
        thresholds: Of text and of vision.
    """

    layer_importance: float
    thresholds: tuple[float, float]

    def __call__(self, chosen: Chosen, modality: Tensor) -> Chosen:
        """What is left of the chosen experts, shape (N, K); a token may lose all."""
        limit = chosen.weights.new_tensor(self.thresholds)[(modality != 0).long()]
        is_kept = self.layer_importance * chosen.weights >= limit[:, None]
        return Chosen(chosen.expert_ids.masked_fill(~is_kept, -1), chosen.weights * is_kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipByRatio:
    """Skips slot j where ``w_j < beta_j w_1``, as NAEE does for the second of two experts (arXiv 2402.14800).

    ``_like``: with more than two experts each slot has its own beta, the layer's median of ``w_j / w_1``; what stays is
    renormalised.

    Attributes:
        ratios: beta of each slot in order of weight, K numbers; the first is 0.
    """

    ratios: tuple[float, ...]

    def __call__(self, chosen: Chosen, modality: Tensor) -> Chosen:
        """What is left of the chosen experts, shape (N, K); the best always stays."""
        del modality
        weights, order = chosen.weights.sort(dim=-1, descending=True, stable=True)
        is_kept = weights >= weights.new_tensor(self.ratios) * weights[:, :1]
        kept = weights * is_kept
        ids = chosen.expert_ids.gather(-1, order).masked_fill(~is_kept, -1)
        return Chosen(ids, kept / kept.sum(dim=-1, keepdim=True))


Skip = SkipByImportance | SkipByRatio
