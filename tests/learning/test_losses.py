from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smoes_sim.learning.bins import modality_presence
from smoes_sim.learning.losses import (
    balance_loss,
    bin_balance_loss,
    device_balance_loss,
    inter_bin_kl_like,
    inter_bin_loss,
    modality_by_bin,
    mutual_information,
    smar_like_loss,
)
from smoes_sim.learning.scores import hard_scores

BINS = torch.arange(8) // 2
MODALITY = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 1, 0]])


def logits(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def routing(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = logits(2, 5, 8, seed=seed).softmax(-1)
    return g, g.topk(2).indices


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum() / 2


@given(st.integers(0, 2**31), st.floats(0.1, 8))
def test_information_of_a_full_softmax_is_the_jensen_shannon_divergence(seed: int, scale: float) -> None:
    g = logits(1, 7, 8, seed=seed, scale=scale).softmax(-1)
    scores = logits(1, 7, 2, seed=seed + 1).softmax(-1)
    weights = scores / scores.sum(dim=1, keepdim=True)
    by_bin = torch.einsum("jm,jkn->mk", weights[0], g[0].view(7, 4, 2))
    information = mutual_information(modality_by_bin(g, scores, BINS))[0]
    torch.testing.assert_close(information, jensen_shannon(by_bin[0], by_bin[1]))
    assert 0 <= float(information) + 1e-12 <= math.log(2) + 1e-12


def test_perfect_separation_reaches_ln_2_whatever_the_token_counts() -> None:
    modality = torch.tensor([[0] + [1] * 9])
    g = torch.zeros(1, 10, 8)
    g[0, 0, 6], g[0, 1:, 1] = 1, 1
    assert float(inter_bin_loss(g, hard_scores(modality), BINS)) == pytest.approx(-math.log(2))


def test_text_only_sequences_are_left_out_of_the_mean() -> None:
    g, _ = routing()
    scores = hard_scores(MODALITY, dtype=torch.float64)
    alone = inter_bin_loss(g[:1], scores[:1], BINS)
    both = inter_bin_loss(g, torch.cat([scores[:1], hard_scores(torch.zeros(1, 5)).double()]), BINS)
    torch.testing.assert_close(alone, both)


def test_soft_scores_of_a_text_only_sequence_are_left_out_by_its_labels() -> None:
    g, _ = routing()
    soft = torch.full((2, 5, 2), 0.5, dtype=torch.float64)
    soft[0] = hard_scores(MODALITY[0])
    is_used = modality_presence(torch.stack([MODALITY[0], torch.zeros(5, dtype=torch.long)]))
    alone = inter_bin_loss(g[:1], soft[:1], BINS)
    torch.testing.assert_close(inter_bin_loss(g, soft, BINS, is_used=is_used), alone)


@pytest.mark.parametrize("loss", [inter_bin_loss, inter_bin_kl_like])
def test_an_empty_modality_costs_nothing_and_gives_a_zero_gradient(loss: Callable[..., Tensor]) -> None:
    x = logits(2, 5, 8).requires_grad_()
    value = loss(x.softmax(-1), hard_scores(torch.zeros(2, 5)).double(), BINS)
    value.backward()
    assert value == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_the_gradient_vanishes_at_independence() -> None:
    x = torch.zeros(2, 5, 8, dtype=torch.float64, requires_grad=True)
    inter_bin_loss(x.softmax(-1), hard_scores(MODALITY, dtype=torch.float64), BINS).backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) < 1e-15


def test_inter_bin_kl_by_hand() -> None:
    g = torch.tensor([[[0.75, 0.25], [0.25, 0.75]]])
    value = inter_bin_kl_like(g, hard_scores(torch.tensor([[0, 1]])), torch.tensor([0, 1]))
    assert float(value) == pytest.approx(-math.log(3))


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 4, 8]))
def test_the_printed_bin_balance_is_the_ordinary_loss_over_the_number_of_bins(seed: int, num_bins: int) -> None:
    g, ids = routing(seed)
    bins = torch.randperm(8, generator=torch.Generator().manual_seed(seed)) % num_bins
    printed = bin_balance_loss(g, ids, bins, reading="printed")
    torch.testing.assert_close(printed, balance_loss(g, ids) / num_bins)


def test_balance_is_one_when_even_and_the_number_of_experts_when_one_takes_all() -> None:
    even = torch.full((8, 8), 1 / 8), torch.arange(8)[:, None]
    single = torch.eye(8)[torch.zeros(8, dtype=torch.long)], torch.zeros(8, 1, dtype=torch.long)
    assert float(balance_loss(*even)) == pytest.approx(1)
    assert float(balance_loss(*single)) == pytest.approx(8)
    assert float(bin_balance_loss(*even, BINS, reading="within")) == pytest.approx(4)
    assert float(device_balance_loss(*even, BINS)) == pytest.approx(1)
    assert float(device_balance_loss(*single, BINS)) == pytest.approx(4)


def test_the_reading_within_bins_does_not_see_a_collapse_onto_one_bin_and_the_device_loss_does() -> None:
    # all tokens in bin 0, evenly over its two experts; a little probability keeps the other bins defined
    g = torch.tensor([[0.47, 0.47] + [0.01] * 6]).expand(8, 8)
    ids = (torch.arange(8) % 2)[:, None]
    evenly_spread = torch.full((8, 8), 1 / 8), torch.arange(8)[:, None]
    within = bin_balance_loss(g, ids, BINS, reading="within")
    assert float(within) < float(bin_balance_loss(*evenly_spread, BINS, reading="within"))
    assert float(device_balance_loss(g, ids, BINS)) == pytest.approx(4 * 0.94)


def test_the_device_loss_ignores_what_happens_inside_a_device() -> None:
    g, ids = routing()
    swapped = g[..., [1, 0, 2, 3, 4, 5, 7, 6]]
    inside = torch.tensor([1, 0, 2, 3, 4, 5, 7, 6])
    torch.testing.assert_close(device_balance_loss(g, ids, BINS), device_balance_loss(swapped, inside[ids], BINS))


def test_empty_slots_carry_no_load() -> None:
    g, ids = routing()
    padded = torch.cat([ids, torch.full((2, 5, 3), -1)], dim=-1)
    torch.testing.assert_close(balance_loss(g, ids), balance_loss(g, padded))


def test_the_tolerance_band_is_flat_inside_and_pushes_outside() -> None:
    g = torch.tensor([[0.75, 0.25], [0.25, 0.75]])  # symmetric KL ln 3 = 1.0986
    modality = torch.tensor([0, 1])
    assert float(smar_like_loss(g, modality, low=1.0, high=1.2)) == 0
    assert float(smar_like_loss(g, modality, low=1.5, high=2)) == pytest.approx(1.5 - math.log(3))
    assert float(smar_like_loss(g, modality, low=0.5, high=1)) == pytest.approx(math.log(3) - 1)
    assert float(smar_like_loss(g, torch.zeros(2))) == 0


ALL: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "balance": lambda g, ids, scores: balance_loss(g, ids),
    "printed": lambda g, ids, scores: bin_balance_loss(g, ids, BINS, reading="printed"),
    "within": lambda g, ids, scores: bin_balance_loss(g, ids, BINS, reading="within"),
    "device": lambda g, ids, scores: device_balance_loss(g, ids, BINS),
    "information": lambda g, ids, scores: inter_bin_loss(g, scores, BINS),
    "kl": lambda g, ids, scores: inter_bin_kl_like(g, scores, BINS),
    "smar": lambda g, ids, scores: smar_like_loss(g, MODALITY),
}


@pytest.mark.parametrize("name", ALL)
def test_gradients(name: str) -> None:
    _, ids = routing()
    scores = hard_scores(MODALITY, dtype=torch.float64).lerp(torch.full((2, 5, 2), 0.5, dtype=torch.float64), 0.3)
    x = logits(2, 5, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ALL[name](x.softmax(-1), ids, scores), x)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_even_where_experts_get_nothing(name: str, dtype: torch.dtype) -> None:
    x = logits(2, 5, 8, scale=40).to(dtype).requires_grad_()  # most probabilities underflow to zero
    g = x.softmax(-1)
    value = ALL[name](g, g.topk(2).indices, hard_scores(MODALITY, dtype=dtype))
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()
