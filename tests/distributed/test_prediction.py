from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layer_cases import Case, scenario_of

from smoes_sim.distributed.prediction import LAYER_PHASES, predict_layers
from smoes_sim.network import exchange_time
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.times import all_times
from smoes_sim.routing import RoutingTrace
from smoes_sim.routing.trace import save_trace
from smoes_sim.scenario import Scenario
from smoes_sim.traffic.spec import AttentionSpec


def test_parts_are_what_the_simulator_says_of_them() -> None:
    deployment = deploy(scenario_of(Case(tokens="modality", policy="smoes")))
    found = predict_layers(deployment)
    assert set(found) == {
        (step, 0, phase)
        for step in range(1 + len(deployment.decode))
        for phase in ("dispatch", "experts", "combine", "shared", "layer", "attention_gather", "attention_scatter")
    }
    (exchanges,) = deployment.prefill.batches[0].exchanges
    for name in ("dispatch", "combine"):
        assert found[0, 0, name].value == exchange_time(deployment.network, getattr(exchanges, name)).duration
    around = deployment.prefill.batches[0].group
    for name in ("gather", "scatter"):
        assert found[0, 0, f"attention_{name}"].value == exchange_time(deployment.network, getattr(around, name)).duration
    (times,) = all_times(deployment, [deployment.under({})])
    assert found[0, 0, "dispatch"].value + found[0, 0, "combine"].value == pytest.approx(times.prefill.ep_comm_s, rel=1e-9)


def test_a_cache_that_moves_is_predicted_once_before_the_first_decode_step() -> None:
    scenario = scenario_of(Case(tokens="modality", policy="smoes"))
    deployment = deploy(scenario.model_copy(update={"attention": AttentionSpec(exchange="moved_cache")}))
    found = predict_layers(deployment)
    assert deployment.cache_move is not None
    assert found[1, 0, "cache_move"].value == exchange_time(deployment.network, deployment.cache_move.phases).duration
    assert {key for key in found if key[2] not in LAYER_PHASES} == {
        (0, 0, "attention_gather"),
        (1, 0, "cache_move"),
    }


def test_a_layer_lies_between_its_longest_part_and_the_sum_of_all() -> None:
    found = predict_layers(deploy(scenario_of(Case(tokens="modality", policy="smoes"))))
    parts = [found[0, 0, phase].value for phase in ("dispatch", "experts", "combine", "shared")]
    assert max(parts) < found[0, 0, "layer"].value <= sum(parts) * (1 + 1e-12)


def test_a_layer_by_hand(tmp_path: Path) -> None:
    """Two ranks with a token and an expert each; both tokens want the expert of rank 0, so that of rank 1 goes and returns.

    Dispatch and combine carry 2 * 512 B over 1 MB/s: 1.024 ms each. Rank 0 computes two routed tokens: it reads the
    weights, 3 * 512 * 4 * 2 B, and moves 2 * 2 * 512 * 2 B of rows, at 0.8 (0.5 to 0.9) of 3.35 TB/s, after 5 us of
    launch.
    """
    nothing = np.zeros(2, dtype=np.uint8)
    trace = RoutingTrace(
        expert_ids=np.zeros((2, 1, 1), dtype=np.int16),
        modality=nothing,
        sequence_id=np.arange(2, dtype=np.int32),
        phase=nothing,
        moe_layers=np.zeros(1, dtype=np.int32),
        num_experts=2,
    )
    save_trace(trace, tmp_path / "trace.npz")
    model = scenario_of(Case(experts=2)).model_shape.model_dump()
    scenario = Scenario.model_validate(
        {
            "topology": {"kind": "star", "ranks": 2, "link": {"bandwidth": "1 MB/s", "latency": "0 us"}},
            "model": model | {"hidden": 512, "expert_ffn": 4, "top_k": 1, "shared_experts": 0},
            "workload": {"preset": "trace"},
            "routing": {"trace": str(tmp_path / "trace.npz")},
            "compute": {"device": "h100-sxm"},
        }
    )
    found = predict_layers(deploy(scenario))[0, 0, "layer"]
    for value, efficiency in ((found.value, 0.8), (found.low, 0.9), (found.high, 0.5)):
        experts = 5e-6 + (3 * 512 * 4 * 2 + 2 * 2 * 512 * 2) / (efficiency * 3.35e12)
        assert value == pytest.approx(2 * 1.024e-3 + experts, rel=1e-12)
