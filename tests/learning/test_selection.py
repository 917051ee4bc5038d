from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smoes_sim.errors import ConfigError
from smoes_sim.learning.losses import balance_loss, split_balance_loss
from smoes_sim.learning.selection import (
    Chosen,
    Selection,
    SkipByImportance,
    SkipByRatio,
    allowed_experts,
    take_device_limited,
    take_group_balanced,
    take_top_k,
)

G = torch.tensor([[0.30, 0.05, 0.20, 0.19, 0.01, 0.02, 0.03, 0.20]])


def random_probabilities(seed: int = 0) -> Tensor:
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def test_top_k_renormalises() -> None:
    chosen = take_top_k(G, 2)
    assert chosen.expert_ids[0, 0] == 0
    torch.testing.assert_close(chosen.weights, torch.tensor([[0.6, 0.4]]))


def test_device_limited_stays_in_the_best_group() -> None:
    # groups of two by their best expert: 0.30, 0.20, 0.02, 0.20; the first of equals is kept
    chosen = take_device_limited(G, 2, num_groups=4, kept_groups=1)
    assert chosen.expert_ids.tolist() == [[0, 1]]
    for kept in (1, 2, 3):
        ids = take_device_limited(random_probabilities(), 2, num_groups=4, kept_groups=kept).expert_ids
        fan_out = [len(set(row)) for row in (ids // 2).tolist()]
        assert max(fan_out) == min(kept, 2)


def test_device_limited_with_all_groups_is_top_k() -> None:
    g = random_probabilities()
    assert torch.equal(take_device_limited(g, 3, num_groups=4, kept_groups=4).expert_ids, take_top_k(g, 3).expert_ids)


def test_group_balanced_gives_every_group_the_same_load() -> None:
    assert take_group_balanced(G, 4, num_groups=4).expert_ids.tolist() == [[0, 2, 5, 7]]
    chosen = take_group_balanced(random_probabilities(), 4, num_groups=2)
    assert torch.bincount((chosen.expert_ids // 4).flatten()).tolist() == [100, 100]
    torch.testing.assert_close(chosen.weights.sum(-1), torch.ones(50))


def test_hard_and_hybrid_pools() -> None:
    assert allowed_experts("hard", 4).int().tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert allowed_experts("hybrid", 4).int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 1]]
    with pytest.raises(ConfigError, match="6 experts do not divide by 4, which selection hybrid needs"):
        allowed_experts("hybrid", 6)


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="8 experts do not divide into 3 groups"):
        Selection(rule="device_limited", num_experts=8, top_k=2, num_groups=3)
    with pytest.raises(ConfigError, match="top_k = 3 does not divide over 2 groups"):
        Selection(rule="group_balanced", num_experts=8, top_k=3, num_groups=2)
    with pytest.raises(ConfigError, match="1 of 4 groups of 2 experts cannot hold top_k = 3"):
        Selection(rule="device_limited", num_experts=8, top_k=3, num_groups=4, kept_groups=1)


def test_balance_over_a_split_is_one_when_each_pool_is_even() -> None:
    allowed = allowed_experts("hard", 4)
    modality = torch.tensor([0, 0, 1, 1, 1, 1])
    ids = torch.tensor([0, 1, 2, 3, 2, 3])[:, None]
    g = allowed[modality].float() / 2
    assert float(split_balance_loss(g, ids, modality, allowed)) == pytest.approx(1)
    assert float(balance_loss(g, ids)) > 1
    assert float(split_balance_loss(g[:2], ids[:2], modality[:2], allowed)) == pytest.approx(1)


CHOSEN = Chosen(torch.tensor([[5, 1, 7], [2, 0, 3]]), torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]))


def test_skipping_by_importance_has_a_threshold_per_modality() -> None:
    skip = SkipByImportance(layer_importance=2.0, thresholds=(0.25, 0.7))
    left = skip(CHOSEN, torch.tensor([0, 1]))
    assert left.expert_ids.tolist() == [[5, 1, -1], [-1, 0, -1]]
    torch.testing.assert_close(left.weights, torch.tensor([[0.6, 0.3, 0], [0, 0.5, 0]]))


def test_skipping_by_ratio_keeps_the_best_and_renormalises() -> None:
    left = SkipByRatio(ratios=(0.0, 0.55, 0.3))(CHOSEN, torch.tensor([0, 1]))
    # 0.3 / 0.6 = 0.5 and 0.1 / 0.6 go; 0.3 / 0.5 and 0.2 / 0.5 stay
    assert left.expert_ids.tolist() == [[5, -1, -1], [0, 3, 2]]
    torch.testing.assert_close(left.weights, torch.tensor([[1.0, 0, 0], [0.5, 0.3, 0.2]]))
