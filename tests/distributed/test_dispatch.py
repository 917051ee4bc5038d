from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.distributed.dispatch import local_experts, plan_layer
from smoes_sim.placement import ExpertPlacement
from smoes_sim.routing import RoutingTrace
from smoes_sim.topology import build
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.traffic.copies import Deduplicate

PLACEMENT = ExpertPlacement(physical_to_logical_map=np.array([[3, 0, 2, 1]]), slot_rank=np.arange(4))
"""Ranks 0 to 3 hold experts 3, 0, 2 and 1."""
TOPOLOGY = build(
    TopologyFile.model_validate(
        {
            "kind": "two_level",
            "nodes": 2,
            "ranks_per_node": 2,
            "scale_up": {"kind": "ethernet", "bandwidth": "1 GB/s", "latency": "0 us"},
            "nic": {"kind": "ethernet", "per": "rank", "bandwidth": "1 Gb/s", "latency": "0 us"},
        }
    ).root,
    name="two nodes of two",
)


def trace(*ids: list[int], weights: list[list[float]] | None = None) -> RoutingTrace:
    T = len(ids)
    return RoutingTrace(
        expert_ids=np.array(ids, dtype=np.int16)[:, None],
        modality=np.zeros(T, dtype=np.uint8),
        sequence_id=np.zeros(T, dtype=np.int32),
        phase=np.zeros(T, dtype=np.uint8),
        moe_layers=np.zeros(1, dtype=np.int32),
        num_experts=4,
        expert_weights=None if weights is None else np.array(weights, dtype=np.float16)[:, None],
    )


def plans(routing: RoutingTrace, home: list[int], deduplicate: Deduplicate):
    return [
        plan_layer(
            routing,
            PLACEMENT,
            np.array(home),
            layer=0,
            rank=rank,
            deduplicate=deduplicate,
            topology=TOPOLOGY,
        )
        for rank in range(4)
    ]


def test_one_token_with_three_experts_on_two_ranks_of_the_other_node() -> None:
    """At home on rank 0, experts 2 and 1 on ranks 2 and 3 (once each), expert 2 a second time."""
    routing = trace([2, 1, 2], weights=[[0.5, 0.25, 0.125]])
    none, rank, node = (plans(routing, [0], rule) for rule in ("none", "rank", "node"))
    assert none[0].stages[0].outward.sent == [0, 0, 2, 1]
    assert rank[0].stages[0].outward.sent == [0, 0, 1, 1]
    assert [stage.outward.sent for stage in node[0].stages] == [[0, 0, 1, 0], [0, 0, 0, 0]]
    assert [stage.outward.sent for stage in node[2].stages] == [[0, 0, 0, 0], [0, 0, 1, 1]]
    for made in (none, rank, node):
        assert [len(plan.row) for plan in made] == [0, 0, 2, 1]
        assert made[2].weight.tolist() == [0.5, 0.125]
        assert made[3].weight.tolist() == [0.25]
        assert made[2].expert_counts == [2]
    assert none[2].row.tolist() == [0, 1]
    assert rank[2].row.tolist() == node[2].row.tolist() == [0, 0]


def test_a_forwarder_passes_on_what_it_received_behind_its_own_tokens() -> None:
    """Token 0 of rank 2 wants rank 3; token 1 of rank 0 wants rank 3 too, by way of rank 2, whose second input it is."""
    forwarder = plans(trace([1], [1]), [2, 0], "node")[2]
    assert forwarder.num_tokens == 1
    assert forwarder.stages[1].num_inputs == 2
    assert forwarder.stages[1].take.tolist() == [0, 1]
    assert forwarder.stages[1].homeward.received == [0, 0, 0, 2]


def test_without_weights_the_experts_of_a_token_count_equally_and_dropped_slots_do_not() -> None:
    made = plans(trace([3, 0, -1], [-1, -1, -1]), [1, 1], "rank")
    assert made[0].weight.tolist() == made[1].weight.tolist() == [0.5]
    assert made[1].num_tokens == 2
    assert made[1].stages[0].outward.sent == [1, 1, 0, 0]


@pytest.mark.parametrize(("rank", "experts"), [(0, [0, 1]), (1, [2, 3]), (2, [0, 1]), (3, [2, 3])])
def test_every_group_holds_all_experts(rank: int, experts: list[int]) -> None:
    placement = ExpertPlacement(physical_to_logical_map=np.arange(4)[None], slot_rank=np.array([0, 0, 1, 1]), num_groups=2)
    assert local_experts(placement, 0, rank).tolist() == experts
