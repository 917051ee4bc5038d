from __future__ import annotations

import numpy as np
import torch

from smoes_sim.distributed.experts import GroupedExperts, seeded_experts
from smoes_sim.distributed.reference import feed_forward

SIZES = {"seed": 3, "layer": 2, "hidden": 12, "inner": 20, "dtype": torch.float64}


def test_each_group_of_rows_goes_through_its_expert() -> None:
    experts = GroupedExperts(*seeded_experts(np.array([4, 1, 7]), **SIZES))
    rows = torch.randn(9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = [2, 0, 7]
    wanted = [
        feed_forward(row, experts.rise[expert], experts.fall[expert])
        for row, expert in zip(rows, np.repeat(np.arange(3), counts).tolist(), strict=True)
    ]
    torch.testing.assert_close(experts(rows, counts), torch.stack(wanted))
    assert experts(rows[:0], [0, 0, 0]).shape == (0, 12)


def test_an_expert_has_the_same_weights_wherever_it_is_made_and_no_other_has_them() -> None:
    both, alone = seeded_experts(np.array([1, 5]), **SIZES), seeded_experts(np.array([5]), **SIZES)
    assert torch.equal(both[0][1], alone[0][0])
    assert torch.equal(both[1][1], alone[1][0])
    assert not torch.equal(both[0][0], both[0][1])
    other_layer = seeded_experts(np.array([5]), **SIZES | {"layer": 3})
    assert not torch.equal(other_layer[0], alone[0])


def test_outputs_keep_the_size_of_inputs() -> None:
    """With z ~ N(0, 1), silu(g) u has mean square E[silu(g)^2] = 0.36 (numerically), so outputs have a deviation of 0.6."""
    experts = GroupedExperts(*seeded_experts(np.array([0]), **SIZES | {"hidden": 256, "inner": 512}))
    rows = torch.randn(400, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(float(experts(rows, [400]).detach().std()) - 0.6) < 0.05
