"""Rules that choose experts (top-k and its alternatives), and rules that skip experts at inference.

Every rule takes full softmax probabilities and returns :class:`Chosen`; -1 is an empty slot.
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
    """Chosen experts of N tokens.

    Attributes:
        expert_ids: Chosen experts, shape (N, K); -1 for an empty slot.
        weights: Routing weights, shape (N, K); 0 for an empty slot.
    """

    expert_ids: Tensor
    weights: Tensor


def take_top_k(probabilities: Tensor, top_k: int) -> Chosen:
    """The k most probable experts; their weights are renormalised to sum to one.

    Example:
        >>> take_top_k(torch.tensor([[0.3, 0.5, 0.2]]), 2).expert_ids
        tensor([[1, 0]])
    """
    weights, ids = probabilities.topk(top_k, dim=-1)
    return Chosen(ids, weights / weights.sum(dim=-1, keepdim=True))


def allowed_experts(rule: Literal["hard", "hybrid"], num_experts: int) -> Tensor:
    """Experts that each modality may use, shape (M, E), True where allowed.

    ``hard``: the first half is for text, the second for vision. ``hybrid`` (MoIIE, arXiv 2508.09779): the first quarter is
    for text, the last for vision, the half between them for both.

    Raises:
        ConfigError: If the number of experts does not divide by 2 (``hard``) or 4 (``hybrid``).
    """
    parts = 2 if rule == "hard" else 4
    if num_experts % parts:
        raise ConfigError(
            f"{num_experts} experts do not divide by {parts}, which selection {rule} needs. Use a multiple of {parts}."
        )
    own = num_experts // parts
    allowed = torch.zeros(NUM_MODALITIES, num_experts, dtype=torch.bool)
    allowed[0, : num_experts - own] = True
    allowed[1, own:] = True
    return allowed


def take_device_limited(probabilities: Tensor, top_k: int, *, num_groups: int, kept_groups: int) -> Chosen:
    """Top-k within the best groups, so that a token is sent to at most ``kept_groups`` devices.

    The score of a group is its largest probability (DeepSeek-V2, arXiv 2405.04434, section 2.2.2); groups are equal runs
    of experts.
    """
    by_group = probabilities.view(len(probabilities), num_groups, -1)
    best = by_group.amax(dim=-1).topk(kept_groups, dim=-1).indices
    is_kept = torch.zeros_like(by_group[..., 0], dtype=torch.bool).scatter(-1, best, True)
    return take_top_k(torch.where(is_kept[..., None], by_group, 0.0).flatten(-2), top_k)


def take_group_balanced(probabilities: Tensor, top_k: int, *, num_groups: int) -> Chosen:
    """Top-(k / groups) within every group, so that every device receives the same number of routed tokens.

    MoGE of Pangu Pro (arXiv 2505.21411). Weights are renormalised over all groups.
    """
    by_group = probabilities.view(len(probabilities), num_groups, -1)
    weights, local = by_group.topk(top_k // num_groups, dim=-1)
    first = torch.arange(num_groups, device=local.device)[:, None] * by_group.shape[-1]
    flat = weights.flatten(-2)
    return Chosen((local + first).flatten(-2), flat / flat.sum(dim=-1, keepdim=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A rule that chooses experts, with its parameters.

    Attributes:
        rule: Name of the rule.
        num_experts: Number of experts, E.
        top_k: Experts per token, K.
        num_groups: Number of groups, for ``device_limited`` and ``group_balanced``.
        kept_groups: Number of groups that a token may use, for ``device_limited``.
    """

    rule: Rule
    num_experts: int
    top_k: int
    num_groups: int = 1
    kept_groups: int = 1

    def __post_init__(self) -> None:
        """Check that experts, groups and top-k fit together.

        Raises:
            ConfigError: If the experts do not divide into the groups, or top_k does not fit them.
        """
        size = self.num_experts // self.num_groups
        if self.num_experts % self.num_groups:
            raise ConfigError(f"{self.num_experts} experts do not divide into {self.num_groups} groups. Use a divisor.")
        if self.rule == "group_balanced" and self.top_k % self.num_groups:
            raise ConfigError(f"top_k = {self.top_k} does not divide over {self.num_groups} groups. Use a multiple.")
        if self.rule == "device_limited" and not self.top_k <= self.kept_groups * size <= self.num_experts:
            raise ConfigError(
                f"{self.kept_groups} of {self.num_groups} groups of {size} experts cannot hold top_k = {self.top_k}. "
                "Keep more groups."
            )

    @property
    def allowed(self) -> Tensor | None:
        """Experts that each modality may use, shape (M, E); None if every expert is allowed."""
        return allowed_experts(self.rule, self.num_experts) if self.rule in {"hard", "hybrid"} else None

    def choose(self, probabilities: Tensor) -> Chosen:
        """Chosen experts from probabilities (N, E), in which forbidden experts have zero."""
        if self.rule == "device_limited":
            return take_device_limited(probabilities, self.top_k, num_groups=self.num_groups, kept_groups=self.kept_groups)
        if self.rule == "group_balanced":
            return take_group_balanced(probabilities, self.top_k, num_groups=self.num_groups)
        return take_top_k(probabilities, self.top_k)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipByImportance:
    """Skip experts whose importance is below the threshold of the token's modality, as MoDES (arXiv 2511.15690).

    The importance is ``alpha * weight`` with alpha the importance of the layer. Unlike the paper (hence ``modes_like``), the
    weights of the remaining experts are not renormalised, and the thresholds are quantiles instead of a frontier search.

    Attributes:
        layer_importance: alpha.
        thresholds: Thresholds for text and for vision.
    """

    layer_importance: float
    thresholds: tuple[float, float]

    def __call__(self, chosen: Chosen, modality: Tensor) -> Chosen:
        """Remaining experts, shape (N, K); a token may lose all of them."""
        limit = chosen.weights.new_tensor(self.thresholds)[(modality != 0).long()]
        is_kept = self.layer_importance * chosen.weights >= limit[:, None]
        return Chosen(chosen.expert_ids.masked_fill(~is_kept, -1), chosen.weights * is_kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipByRatio:
    """Skip slot j where ``w_j < beta_j w_1``, as NAEE does for the second of two experts (arXiv 2402.14800).

    Beyond the paper (hence ``naee_like``): with more than two experts each slot has its own beta, the median of
    ``w_j / w_1`` in the layer; the remaining weights are renormalised.

    Attributes:
        ratios: beta of each slot in order of weight, K numbers; the first is 0.
    """

    ratios: tuple[float, ...]

    def __call__(self, chosen: Chosen, modality: Tensor) -> Chosen:
        """Remaining experts, shape (N, K), by descending weight; the first always remains."""
        del modality
        weights, order = chosen.weights.sort(dim=-1, descending=True, stable=True)
        is_kept = weights >= weights.new_tensor(self.ratios) * weights[:, :1]
        kept = weights * is_kept
        ids = chosen.expert_ids.gather(-1, order).masked_fill(~is_kept, -1)
        return Chosen(ids, kept / kept.sum(dim=-1, keepdim=True))


Skip = SkipByImportance | SkipByRatio
