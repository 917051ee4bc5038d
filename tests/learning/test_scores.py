from __future__ import annotations

from typing import Any

import pytest
import torch
from learning.two_processes import LABELS, STATES, gaussian_of
from torch import Tensor

from smoes_sim.learning.scores import (
    GaussianScores,
    accumulate_scores,
    attend_with_scores,
    attended_scores,
    hard_scores,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hard_scores_are_the_label_and_video_is_vision() -> None:
    assert hard_scores(torch.tensor([0, 1, 2])).tolist() == [[1, 0], [0, 1], [0, 1]]


def test_accumulation_weighs_by_norm() -> None:
    residual, output = torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    scores, attended = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    mixed = accumulate_scores(scores, attended, residual=residual, attention_output=output)
    assert mixed.tolist() == [[[0.75, 0.25]]]


def test_a_token_without_any_state_keeps_its_score() -> None:
    zero = torch.zeros(1, 1, 4)
    scores = torch.tensor([[[0.25, 0.75]]])
    assert torch.equal(accumulate_scores(scores, 1 - scores, residual=zero, attention_output=zero), scores)


def test_carried_scores_equal_the_averaged_map_and_do_not_change_attention() -> None:
    query, key, value = (random(2, 3, 7, 4, seed=seed) for seed in range(3))
    scores = hard_scores(torch.tensor([[0, 0, 1, 1, 1, 0, 0], [0] * 7]), dtype=torch.float64)
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()
    attention = (query @ key.transpose(-1, -2) / 4**0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
    for arguments in ({"mask": allowed}, {"is_causal": True}):
        output, carried = attend_with_scores(query, key, value, scores, **arguments)
        torch.testing.assert_close(output, attention @ value)
        torch.testing.assert_close(carried, attended_scores(attention, scores))
    torch.testing.assert_close(attended_scores(attention.mean(dim=1), scores), carried)


def test_scores_sum_to_one_through_layers_and_text_only_stays_text() -> None:
    scores = hard_scores(torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]))
    for layer in range(4):
        attention = random(2, 4, 4, seed=layer).softmax(-1).float()
        residual, output = random(2, 4, 8, seed=10 + layer), random(2, 4, 8, seed=20 + layer)
        scores = accumulate_scores(scores, attended_scores(attention, scores), residual=residual, attention_output=output)
    torch.testing.assert_close(scores.sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(scores[1, :, 0], torch.ones(4))
    assert 0 < scores[0, 0, 1] < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_give_finite_scores(dtype: torch.dtype) -> None:
    states = (300 * random(2, 5, 16)).to(dtype)  # squares overflow float16
    modality = torch.tensor([[0, 1, 1, 0, 0], [0] * 5])
    scores = hard_scores(modality)
    mixed = accumulate_scores(scores, 1 - scores, residual=states, attention_output=states)
    gaussian = GaussianScores(16)
    gaussian.update(states, modality)
    for result in (mixed, gaussian(states)):
        assert result.dtype == torch.float32
        assert result.isfinite().all()
        torch.testing.assert_close(result.sum(-1), torch.ones(2, 5))


def test_gaussian_scores_follow_the_printed_formula() -> None:
    gaussian = GaussianScores(2)
    gaussian.mean.copy_(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
    gaussian.variance.copy_(torch.tensor([[1.0, 1.0], [4.0, 1.0]]))
    gaussian.is_seen.fill_(True)
    # x = (1, 1), tau = 1: LL_text = -(1 + 1) / 2 = -1; LL_vision = -(ln 4 + 1/4 + 1) / 2 = -1.318147
    expected = torch.tensor([-1.0, -1.318147]).softmax(0)
    torch.testing.assert_close(gaussian(torch.tensor([1.0, 1.0])), expected)


def test_first_batch_sets_the_statistics_and_later_ones_mix_exactly() -> None:
    gaussian = GaussianScores(3, decay=0.75).double()
    first, second = random(40, 3), 2 + 3 * random(50, 3, seed=1)
    text = torch.zeros(40, dtype=torch.long)
    gaussian.update(first, text)
    torch.testing.assert_close(gaussian.mean[0], first.mean(0))
    torch.testing.assert_close(gaussian.variance[0], first.var(0, correction=0))
    gaussian.update(second, torch.zeros(50, dtype=torch.long))
    # the 3 : 1 mixture of both samples: second moments add with the same weights as the means
    mean = 0.75 * first.mean(0) + 0.25 * second.mean(0)
    moment = 0.75 * first.square().mean(0) + 0.25 * second.square().mean(0)
    torch.testing.assert_close(gaussian.mean[0], mean)
    torch.testing.assert_close(gaussian.variance[0], moment - mean.square())


def test_an_absent_modality_keeps_its_statistics_and_an_unseen_one_scores_zero() -> None:
    gaussian = GaussianScores(4)
    assert gaussian(torch.zeros(4)).tolist() == [0.5, 0.5]
    gaussian.update(random(9, 4).float(), torch.zeros(9, dtype=torch.long))
    assert gaussian(torch.zeros(4)).tolist() == [1.0, 0.0]
    gaussian.update(5 + random(9, 4, seed=1).float(), torch.ones(9, dtype=torch.long))
    before = gaussian.mean[1].clone(), gaussian.variance[1].clone()
    gaussian.update(random(9, 4, seed=2).float(), torch.zeros(9, dtype=torch.long))
    assert torch.equal(gaussian.mean[1], before[0])
    assert torch.equal(gaussian.variance[1], before[1])
    assert gaussian(torch.full((4,), 5.0))[1] > 0.9


def test_empty_batches_change_nothing() -> None:
    gaussian = GaussianScores(4)
    gaussian.update(torch.empty(0, 4), torch.empty(0, dtype=torch.long))
    assert not gaussian.is_seen.any()
    assert gaussian.mean.isfinite().all()


def test_two_data_parallel_ranks_have_the_statistics_of_the_whole_batch(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        torch.testing.assert_close(rank["gaussian"], gaussian_of(STATES, LABELS))


def test_gradients_of_accumulation() -> None:
    inputs = [random(1, 3, 2, seed=seed).requires_grad_() for seed in range(4)]
    assert torch.autograd.gradcheck(
        lambda scores, attended, x, a: accumulate_scores(scores, attended, residual=x, attention_output=a), inputs
    )
