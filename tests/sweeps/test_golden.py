"""Predictions of small scenarios, to 12 digits: stored points of sweeps are reused as long as these hold.

When a change moves these numbers on purpose, raise ``MODEL`` in ``smoes_sim/sweeps/identity.py``, say so in the
changelog, and write the new numbers: ``python tests/sweeps/test_golden.py > tests/sweeps/golden.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import get_args

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the command above

from small_scenario import MODEL as SMALL_MODEL

from smoes_sim.network import Schedule
from smoes_sim.placement import ExpertRule, TokenRule
from smoes_sim.prediction.simulate import simulate
from smoes_sim.routing import Policy
from smoes_sim.scenario import Scenario
from smoes_sim.yaml_files import Document

FILE = Path(__file__).parent / "golden.json"
TEXT = f"""
topology:
  kind: two_level
  nodes: 2
  ranks_per_node: 2
  scale_up: {{kind: nvlink4, bandwidth: 450 GB/s, latency: 1 us}}
  nic: {{kind: infiniband, per: rank, bandwidth: 400 Gb/s, latency: 2 us}}
model: {{{", ".join(SMALL_MODEL.strip().splitlines())}}}
workload: {{batch: 4, text_tokens: 12, images: 1, image_width: 336, image_height: 336, output_tokens: 3}}
communication: {{per_message: 2 us, per_exchange: 5 us, tolerance: 0}}
compute: {{device: h100-sxm}}
"""
SCENARIOS: dict[str, dict[str, str]] = {
    "plain": {},
    "shipped": {"topology": "two-orin-10gbe", "calibration": "two-orin-baseline", "compute.device": "jetson-agx-orin-64gb"},
    "pairwise": {"communication.library": "pairwise", "routing.policy": "smoes", "placement.tokens": "modality"},
    "two_hop": {"communication.library": "two_hop", "routing.policy": "hard", "overlap": "two_batch"},
    "low_latency": {
        "communication.library": "low_latency",
        "communication.deduplicate": "none",
        "communication.dispatch": "fp8",
        "overlap": "shared_expert",
    },
    "hierarchical": {"communication.library": "hierarchical", "placement.tokens": "sharded", "placement.experts": "random"},
    "node": {"communication.deduplicate": "node", "placement.tokens": "affinity", "placement.experts": "eplb"},
    "optimal": {"placement.experts": "optimal", "placement.spare": "1", "routing.popularity": "1.5"},
    "replicas": {"placement.experts": "eplb", "placement.spare": "1", "routing.popularity": "1.5"},
    "coactivation": {
        "communication.library": "all_to_all_single",
        "communication.rendezvous": "true",
        "placement.experts": "coactivation",
        "seed": "3",
    },
    "hybrid": {"routing.policy": "hybrid", "placement.tokens": "modality", "compute.weights": "fp8"},
    "device_limited": {"routing.policy": "device_limited", "routing.groups": "4", "routing.keep": "2"},
    "group_balanced": {"routing.policy": "group_balanced", "routing.groups": "2", "compute.shared_cores": "2"},
    "single": {
        "routing.policy": "smoes",
        "placement.tokens": "single",
        "placement.decode_tokens": "modality",
        "attention.exchange": "moved_cache",
    },
    "queries": {
        "routing.policy": "smoes",
        "placement.tokens": "modality",
        "attention.exchange": "queries",
        "overlap": "attention",
        "parallelism.prefill_chunk": "100",
    },
    "dense": {"routing.policy": "dense", "parallelism.tensor": "2"},
    "skip": {"routing.skip": "{vision: 0.5, text: 0.25}", "parallelism.prefill_chunk": "100"},
}
KEYS = (
    "ttft_s", "tpot_s", "tokens_per_s", "step_s", "ep_comm_s", "ep_exposed_s", "tp_comm_s", "bound_s", "bytes_total",
    "bytes_remote", "imbalance", "decode_ep_comm_s", "decode_bytes_remote", "mixed_step_s",
    "attention_exchange_bytes", "attention_exchange_s", "decode_attention_exchange_s", "cache_move_s",
)  # fmt: skip


def scenario(name: str) -> Scenario:
    document = Document(TEXT, name=name)
    for key, value in SCENARIOS[name].items():
        document.override(f"{key}={value}")
    return document.validate(Scenario)


def figures(name: str) -> dict[str, float]:
    found = simulate(scenario(name))
    return {key: float(f"{value:.12g}") for key in KEYS if (value := getattr(found, key)) is not None}


@pytest.mark.parametrize("name", SCENARIOS)
def test_predictions_are_those_of_the_model_version(name):
    # another order of sums may move the last digits; a change of the model moves more
    assert figures(name) == pytest.approx(json.loads(FILE.read_text())[name], rel=1e-11)


def test_the_scenarios_touch_every_schedule_overlap_policy_and_placement():
    scenarios = [scenario(name) for name in SCENARIOS]
    assert {part.communication.library for part in scenarios} == set(get_args(Schedule))
    assert {part.overlap for part in scenarios} == set(get_args(Scenario.model_fields["overlap"].annotation))
    assert {part.routing.policy for part in scenarios} == {*get_args(Policy), "dense"}
    assert {part.placement.tokens for part in scenarios} == set(get_args(TokenRule))
    assert {str(part.expert_rule) for part in scenarios} == set(get_args(ExpertRule))


if __name__ == "__main__":
    print(json.dumps({name: figures(name) for name in SCENARIOS}, indent=1))  # noqa: T201
