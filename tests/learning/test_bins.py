from __future__ import annotations

from typing import Any

import pytest
import torch
from learning.two_processes import IDS, MODALITY, counted

from smoes_sim.errors import ConfigError
from smoes_sim.learning.bins import ExpertBins, modality_presence, routed_counts


def test_counts_by_modality_leave_empty_slots_out() -> None:
    assert routed_counts(IDS, MODALITY, num_experts=4).tolist() == [[1, 2, 0, 1], [0, 1, 1, 1]]


def test_text_share_and_adaptive_bins_by_hand() -> None:
    bins = ExpertBins(4, 2, decay=0.5)
    bins.update(IDS, MODALITY)
    # f_spec = 1/1, 2/3, 0/1, 1/2: experts 2 and 3 are the most visual
    torch.testing.assert_close(bins.text_share(), torch.tensor([1, 2 / 3, 0, 0.5], dtype=torch.float64))
    assert bins.assignment().tolist() == [1, 1, 0, 0]


def test_momentum_mixes_counts() -> None:
    bins = ExpertBins(4, 2, decay=0.75)
    bins.update(IDS, MODALITY)
    bins.update(IDS[:2], torch.tensor([1, 1]))
    # 0.25 of the first batch; then vision 0.75 * 0.25 (0 1 1 1) + 0.25 (1 2 0 1), text was absent and stays
    assert bins.counts.tolist() == [[0.25, 0.5, 0, 0.25], [0.25, 0.6875, 0.1875, 0.4375]]


def test_a_text_only_batch_keeps_the_counts_of_vision() -> None:
    bins = ExpertBins(4, 2)
    bins.update(IDS, MODALITY)
    vision = bins.counts[1].clone()
    bins.update(IDS, torch.zeros(4, dtype=torch.long))
    assert torch.equal(bins.counts[1], vision)


def test_fixed_bins_keep_the_order_and_unused_experts_tie_by_id() -> None:
    assert ExpertBins(6, 3, is_adaptive=False).assignment().tolist() == [0, 0, 1, 1, 2, 2]
    assert ExpertBins(6, 3).assignment().tolist() == [0, 0, 1, 1, 2, 2]
    assert ExpertBins(6, 3).text_share().tolist() == [0.5] * 6


def test_bins_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"32 experts do not divide into 5 bins\. Use a divisor of 32\."):
        ExpertBins(32, 5)


def test_presence_needs_both_modalities() -> None:
    assert modality_presence(torch.tensor([[0, 1], [0, 0], [1, 1]])).tolist() == [True, False, False]


def test_two_data_parallel_ranks_count_the_whole_batch(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        assert torch.equal(rank["counts"], counted(IDS, MODALITY))
