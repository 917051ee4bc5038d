from __future__ import annotations

import numpy as np

from smoes_sim.learning.measures import placement_traffic
from smoes_sim.routing import RoutingTrace

TEXT, IMAGE = 0, 1


def trace_of(experts: list[int], modality: list[int]) -> RoutingTrace:
    return RoutingTrace(
        expert_ids=np.array(experts, dtype=np.int16)[:, None, None],
        modality=np.array(modality, dtype=np.uint8),
        sequence_id=np.zeros(len(experts), dtype=np.int32),
        phase=np.zeros(len(experts), dtype=np.uint8),
        moe_layers=np.array([0], dtype=np.int32),
        num_experts=2,
    )


def test_other_mixes_use_the_token_ranks_of_the_training_mix() -> None:
    # two ranks of an expert each. In training text went to expert 0; in the other mix it goes to expert 1
    training, other = trace_of([0, 1], [TEXT, IMAGE]), trace_of([1, 1, 0], [TEXT, TEXT, IMAGE])
    counts = np.array([[[5.0, 1.0], [1.0, 5.0]]])

    def rate(decide_by: RoutingTrace | None) -> float:
        rows = placement_traffic(other, counts, ranks=[2], hidden=8, decide_by=decide_by)
        (row,) = [row for row in rows if (row.experts, row.tokens) == ("contiguous", "modality")]
        return float(row.transmission_rate)

    assert rate(None) == 0.0  # decided by its own routing
    assert rate(training) == 1.0
