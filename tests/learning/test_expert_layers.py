from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from smoes_sim.learning.experts import DispatchOverRanks, MixtureOfExperts, run_locally
from smoes_sim.learning.selection import Rule, Selection, SkipByRatio
from smoes_sim.placement import home_tokens, place_experts
from smoes_sim.placement.tokens import TOKEN_RULES, TokenRule
from smoes_sim.routing import RoutingTrace
from smoes_sim.traffic.copies import count_traffic

MODALITY = torch.tensor([0, 1, 1, 0, 1, 0, 1, 1, 0, 1] * 4)


def layer(rule: Rule = "top_k", **groups: int) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(6, 5, Selection(rule=rule, num_experts=8, top_k=4, **groups)).double()


def tokens() -> Tensor:
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def one_by_one(x: Tensor, moe: MixtureOfExperts) -> Tensor:
    """Slow and obvious: a loop over tokens and slots."""
    _, routing = moe(x, MODALITY)
    y = torch.zeros_like(x)
    for token, (ids, weights) in enumerate(zip(*routing.chosen, strict=True)):
        for expert, weight in zip(ids.tolist(), weights, strict=True):
            if expert >= 0:
                gate, up = (x[token] @ moe.experts.rise[expert]).chunk(2)
                y[token] += weight * (torch.nn.functional.silu(gate) * up @ moe.experts.fall[expert])
    return y


@pytest.mark.parametrize("rule", ["top_k", "hard", "hybrid"])
def test_batched_experts_equal_a_loop(rule: Rule) -> None:
    moe = layer(rule)
    torch.testing.assert_close(moe(tokens(), MODALITY)[0], one_by_one(tokens(), moe))
    moe.skip = SkipByRatio(ratios=(0.0, 0.9, 0.9, 0.9))
    torch.testing.assert_close(moe(tokens(), MODALITY)[0], one_by_one(tokens(), moe))


def test_a_split_router_stays_in_its_pool_and_hybrid_has_a_router_per_modality() -> None:
    hard, hybrid = layer("hard"), layer("hybrid")
    _, routing = hard(tokens(), MODALITY)
    assert torch.equal(routing.chosen.expert_ids >= 4, (MODALITY == 1)[:, None].expand(-1, 4))
    torch.testing.assert_close(routing.probabilities.sum(-1), torch.ones(40))
    assert hybrid.router.weight.shape == (16, 6)
    text, vision = (hybrid(tokens()[:1], torch.tensor([m]))[1].probabilities for m in (0, 1))
    assert text[0, 6:].sum() == 0
    assert vision[0, :2].sum() == 0
    assert not torch.allclose(text[0, 2:6] / text[0, 2:6].sum(), vision[0, 2:6] / vision[0, 2:6].sum())


def test_an_empty_batch_and_tokens_without_experts_give_zeros() -> None:
    moe = layer()
    assert moe(tokens()[:0], MODALITY[:0])[0].shape == (0, 6)
    _, routing = moe(tokens(), MODALITY)
    no_expert = routing.chosen._replace(expert_ids=torch.full((40, 4), -1))
    assert torch.equal(run_locally(tokens(), no_expert, moe.experts), torch.zeros(40, 6, dtype=torch.float64))


def test_gradients_reach_router_and_experts() -> None:
    moe = layer()
    moe(tokens(), MODALITY)[0].square().sum().backward()
    for parameter in moe.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("rule", TOKEN_RULES)
@pytest.mark.parametrize("is_skipping", [False, True])
def test_traffic_from_the_trace_equals_the_rows_that_dispatch_sent(rule: TokenRule, is_skipping: bool) -> None:
    moe = layer()
    if is_skipping:
        moe.skip = SkipByRatio(ratios=(0.0, 0.9, 0.9, 0.9))
    y, routing = moe(tokens(), MODALITY)
    trace = RoutingTrace(
        expert_ids=routing.chosen.expert_ids.numpy()[:, None].astype(np.int16),
        modality=MODALITY.numpy().astype(np.uint8),
        sequence_id=(np.arange(40) // 10).astype(np.int32),
        phase=np.zeros(40, np.uint8),
        moe_layers=np.zeros(1, np.int32),
        num_experts=8,
    )
    placement = place_experts("random", trace, num_ranks=4, rng=np.random.default_rng(0))
    home = home_tokens(rule, trace, placement)
    moe.dispatch = DispatchOverRanks(torch.from_numpy(placement.expert_rank[0]), torch.from_numpy(home), 4)
    torch.testing.assert_close(moe(tokens(), MODALITY)[0], y)
    counted = count_traffic(trace, placement, home, deduplicate="rank").stages[0][0]
    assert moe.dispatch.copies.tolist() == counted.tolist()
