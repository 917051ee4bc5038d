"""Attention over sequences on several ranks, executed by each scheme: outputs are those of one process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from four_ranks import on_ranks

from smoes_sim.distributed.attention import Heads, SpreadScores
from smoes_sim.distributed.codec import TOLERANCE
from smoes_sim.distributed.layer import CountedExchange
from smoes_sim.distributed.patterns import exchange
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.routing.trace import PREFILL
from smoes_sim.scenario import Scenario
from smoes_sim.step.build import decode_steps

HEADS = {
    "mha": {"heads": 4, "kv_heads": 4, "head_dim": 8},
    "gqa": {"heads": 4, "kv_heads": 2, "head_dim": 8},
    "mla": {"heads": 4, "kv_heads": 4, "head_dim": 12, "attention": "mla"}
    | {"mla": {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}},
}


@dataclass(frozen=True, slots=True)
class Case:
    """Heads, scheme, homes of tokens and number of ranks."""

    heads: str
    exchange: str
    tokens: str
    decode_tokens: str | None = None
    num_ranks: int = 4


CASES = [
    Case("mha", "queries", "modality"),
    Case("gqa", "queries", "sharded"),
    Case("gqa", "queries", "affinity", "data_parallel"),
    Case("mla", "queries", "affinity"),
    Case("mha", "kv", "sharded"),
    Case("gqa", "kv", "modality"),
    Case("mla", "kv", "affinity"),
    Case("mha", "moved_cache", "modality"),
    Case("gqa", "moved_cache", "sharded", "data_parallel"),
    Case("mla", "moved_cache", "affinity", "data_parallel"),
    Case("gqa", "queries", "modality", num_ranks=2),
    Case("gqa", "moved_cache", "sharded", "single", num_ranks=2),
]


def scenario_of(case: Case, **compute: str) -> Scenario:
    placement = {"tokens": case.tokens} | ({"decode_tokens": case.decode_tokens} if case.decode_tokens else {})
    return Scenario.model_validate(
        {
            "topology": {"kind": "star", "ranks": case.num_ranks, "link": {"bandwidth": "1 Gb/s", "latency": "0 us"}},
            "model": {"name": "tiny", "layers": 2, "hidden": 16, "experts": 8, "top_k": 2, "expert_ffn": 8, "vocab": 100}
            | {"image_tokens": {"kind": "fixed", "tokens": 7}, "source": "chosen", "image_source": "chosen"}
            | HEADS[case.heads],
            "workload": {"batch": 3, "images": 1, "image_width": 32, "image_height": 32, "text_tokens": 5}
            | {"output_tokens": 4, "spread": 0.5},
            "routing": {"policy": "smoes"},
            "placement": placement,
            "attention": {"exchange": case.exchange},
            "compute": {"device": "h100-sxm", **compute},
            "seed": 7,
        }
    )


@cache
def deployed(case: Case) -> Deployment:
    return deploy(scenario_of(case), whole=True)


def steps_of(deployment: Deployment) -> list[np.ndarray]:
    return [np.flatnonzero(deployment.workload.phase == PREFILL), *decode_steps(deployment.workload)]


@dataclass(frozen=True, slots=True)
class Counting:
    """Runs phases of a step untimed, and keeps the bytes of each."""

    step: int
    counted: CountedExchange
    moved: dict[tuple[int, str], list[torch.Tensor]]

    def time(self, phase: str, work: Any, *arguments: Any) -> Any:
        result = work(*arguments)
        self.moved[self.step, phase] = [torch.as_tensor(one) for one in self.counted.take()]
        return result

    def together(self, work: Any, *arguments: Any) -> Any:
        return work(*arguments)


def run_case(case: Case, rank: int) -> dict[str, Any]:
    """Outputs of each step on one rank, and the bytes of each phase by step."""
    deployment = deployed(case)
    counted = CountedExchange(exchange("direct"))
    scores = SpreadScores(deployment, steps_of(deployment), rank=rank, exchange=counted)
    moved: dict[tuple[int, str], list[torch.Tensor]] = {}
    outputs = []
    for step in range(len(deployment.steps)):
        phases = Counting(step, counted, moved)
        if step == 1:
            scores.move(phases)
        outputs.append(scores.attend(step, phases))
    return {"outputs": outputs, "moved": moved}


def _on_two(rank: int) -> list[dict[str, Any]]:
    return [run_case(case, rank) for case in CASES if case.num_ranks == 2]


def _on_four(rank: int) -> list[dict[str, Any]]:
    return [run_case(case, rank) for case in CASES if case.num_ranks == 4]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, list[dict[str, Any]]]:
    found = {}
    for number, function in ((2, _on_two), (4, _on_four)):
        by_rank = on_ranks(function, tmp_path_factory.mktemp("attention"), num_ranks=number)
        some = [case for case in CASES if case.num_ranks == number]
        found |= {case: [results[index] for results in by_rank] for index, case in enumerate(some)}
    return found


def reference(case: Case) -> torch.Tensor:
    """Attention of all tokens in one process, float64 (T, H, V): a loop over tokens and heads."""
    deployment = deployed(case)
    workload = deployment.workload
    made = Heads(deployment.model, num_tokens=workload.num_tokens, seed=7)
    rows = made.cache.double()
    if case.heads == "mla":
        keys, values = made.keys_and_values(rows)
    else:
        width, shared = HEADS[case.heads]["kv_heads"] * 8, 4 // HEADS[case.heads]["kv_heads"]  # type: ignore[operator]
        of_head = [slice(8 * (head // shared), 8 * (head // shared) + 8) for head in range(4)]
        keys = torch.stack([rows[:, part] for part in of_head], dim=1)
        values = torch.stack([rows[:, width:][:, part] for part in of_head], dim=1)
    found = torch.empty(workload.num_tokens, 4, made.value_width, dtype=torch.float64)
    place = workload.context_lengths
    for token in range(workload.num_tokens):
        seen = np.flatnonzero((workload.sequence_id == workload.sequence_id[token]) & (place <= place[token]))
        assert len(seen) == place[token]
        for head in range(4):
            scores = keys[seen, head] @ made.query[token, head].double() / keys.shape[2] ** 0.5
            found[token, head] = torch.softmax(scores, 0) @ values[seen, head]
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_equal_attention_in_one_process(case: Case, ran: dict[Case, list[dict[str, Any]]]) -> None:
    """Partial results travel in bf16; with keys and values nothing is rounded but float32 sums."""
    deployment, wanted = deployed(case), reference(case)
    tolerance = TOLERANCE["bf16" if case.exchange == "queries" else "fp32"]
    for step, tokens in enumerate(steps_of(deployment)):
        for rank, results in enumerate(ran[case]):
            own, found = tokens[deployment.home[tokens] == rank], results["outputs"][step]
            assert found.shape == wanted[own].shape
            assert not len(own) or float((found.double() - wanted[own]).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bytes_are_those_that_the_simulator_counts(case: Case, ran: dict[Case, list[dict[str, Any]]]) -> None:
    deployment = deployed(case)
    for rank, results in enumerate(ran[case]):
        wanted = {}
        for number, step in enumerate(deployment.steps):
            traffic = step.batches[0].attention
            if traffic is not None:
                for phase, matrix in (("gather", traffic.outward), ("scatter", traffic.homeward)):
                    if matrix.any():
                        wanted[number, f"attention_{phase}"] = np.stack([matrix[rank], matrix[:, rank]])
        moves = {key: value for key, value in results["moved"].items() if key[1] == "cache_move"}
        found = {key: value for key, value in results["moved"].items() if key not in moves}
        assert set(found) == set(wanted)
        for key, bytes_ in wanted.items():
            (one,) = found[key]
            np.testing.assert_array_equal(one.numpy(), bytes_)
    moved = sum(float(one["moved"][1, "cache_move"][0][0].sum()) for one in ran[case] if (1, "cache_move") in one["moved"])
    assert moved == (deployment.cache_move.bytes_moved if deployment.cache_move else 0)
    assert (moved > 0) == (case.exchange == "moved_cache")


def test_a_cache_of_another_type_is_refused() -> None:
    deployment = deploy(scenario_of(CASES[0], cache="fp8"))
    with pytest.raises(ConfigError, match=r"compute.cache = fp8: keys and values of tiny are run as bf16"):
        SpreadScores(deployment, steps_of(deployment), rank=0, exchange=exchange("direct"))
