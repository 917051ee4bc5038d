from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from smoes_sim.errors import ConfigError, TraceError
from smoes_sim.routing.formats import SequenceTokens, TokensFile, import_routed_experts, read_tokens_file

# two requests of a model with 6 experts, top-2: 3 and 4 rows of 2 MoE layers
FIRST = np.array([[[0, 1], [2, 3]], [[4, 5], [1, 0]], [[-1, -1], [3, 2]]], dtype=np.int16)
SECOND = np.array([[[5, 0], [1, 2]], [[2, 3], [4, 0]], [[1, 4], [0, 5]], [[3, 0], [2, 1]]], dtype=np.int16)
TOKENS = TokensFile(
    num_experts=6,
    sequences=[SequenceTokens(prompt_tokens=2, modality=[1, 0]), SequenceTokens(prompt_tokens=3)],
)


def read(path: Path, tokens: TokensFile = TOKENS) -> Any:
    return import_routed_experts(path, source="vllm", tokens=tokens, tokens_name="tokens.json")


def test_several_requests_become_one_trace_in_the_order_of_a_workload(tmp_path: Path) -> None:
    np.savez(tmp_path / "routed.npz", r0=FIRST, r1=SECOND)
    trace = read(tmp_path / "routed.npz")
    assert trace.sequence_id.tolist() == [0, 0, 1, 1, 1, 0, 1]
    assert trace.phase.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert trace.modality.tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert trace.expert_ids.tolist() == np.concatenate([FIRST[:2], SECOND[:3], FIRST[2:], SECOND[3:]]).tolist()
    assert (trace.num_experts, trace.moe_layers.tolist()) == (6, [0, 1])
    assert trace.metadata == {"source": "vllm", "file": "routed.npz"}


def test_one_request_needs_only_the_number_of_experts(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", SECOND)
    trace = read(tmp_path / "one.npy", TokensFile(num_experts=6))
    assert trace.expert_ids.tolist() == SECOND.tolist()
    assert trace.phase.tolist() == trace.modality.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("given", [None, [1, 3]])
def test_dense_layers_of_sglang_are_left_out(tmp_path: Path, given: list[int] | None) -> None:
    every = np.zeros((4, 4, 2), dtype=np.int32)
    every[:, [1, 3]] = SECOND
    np.save(tmp_path / "all.npy", every)
    trace = read(tmp_path / "all.npy", TokensFile(num_experts=6, moe_layers=given))
    assert trace.moe_layers.tolist() == [1, 3]
    assert trace.expert_ids.tolist() == SECOND.tolist()


def test_layers_can_be_named(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", SECOND)
    assert read(tmp_path / "one.npy", TokensFile(num_experts=6, moe_layers=[3, 7])).moe_layers.tolist() == [3, 7]


def one(**changes: Any) -> TokensFile:
    return TokensFile(num_experts=6, sequences=[SequenceTokens(**changes)])


@pytest.mark.parametrize(
    ("array", "tokens", "message"),
    [
        (SECOND, TokensFile(), r"one\.npy: the number of experts is not in the arrays\. Give --num-experts"),
        (SECOND, TOKENS, r"tokens\.json: describes 2 sequences, but .*one\.npy holds 1"),
        (SECOND, TokensFile(num_experts=5), r"one holds expert 5; with 5 experts ids go from 0 to 4"),
        (SECOND, one(prompt_tokens=5), r"one holds 4 tokens; prompt_tokens = 5 must be 1\.\.4"),
        (SECOND, one(prompt_tokens=2, modality=[1]), r"modality must hold a code of 0\.\.3 for each of 2 prompt tokens"),
        (SECOND, one(modality=[1, 0, 4, 0]), r"modality must hold a code of 0\.\.3"),
        (SECOND, TokensFile(num_experts=6, moe_layers=[0, 1, 2]), r"moe_layers = \[0, 1, 2\] does not fit 2 layers"),
        (SECOND.transpose(2, 1, 0), TokensFile(num_experts=6), r"names an expert twice in layer 0.*Is the axis order"),
        (np.zeros((4, 2, 2), dtype=int), TokensFile(num_experts=6), r"no layer has routed tokens"),
        (SECOND[0], TokensFile(num_experts=6), r"one is int16 \(2, 2\); it must hold integers of shape"),
        (SECOND.astype(float), TokensFile(num_experts=6), r"one is float64"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, array: Any, tokens: TokensFile, message: str) -> None:
    np.save(tmp_path / "one.npy", array)
    with pytest.raises(TraceError, match=message):
        read(tmp_path / "one.npy", tokens)


def test_arrays_with_pickles_in_them_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(TraceError, match=r"objects\.npy: cannot be read as arrays"):
        read(tmp_path / "objects.npy")
    np.savez(tmp_path / "two.npz", a=FIRST, b=SECOND[:, :1])
    with pytest.raises(TraceError, match=r"b has \(1, 2\) layers and slots, others \(2, 2\)"):
        read(tmp_path / "two.npz")


def test_a_tokens_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(orjson.dumps({"num_experts": 6, "sequences": [{"prompt_tokens": 2, "modality": [1, 0]}]}))
    assert read_tokens_file(path) == one(prompt_tokens=2, modality=[1, 0])
    path.write_text('{"sequences": [{"prompt_tokens": "2"}]}')
    with pytest.raises(
        ConfigError, match=r"tokens\.json: sequences\.0\.prompt_tokens = '2': input should be a valid integer"
    ):
        read_tokens_file(path)
    path.write_text('{"experts": 6}')
    with pytest.raises(ConfigError, match=r"tokens\.json: experts = 6: extra inputs are not permitted"):
        read_tokens_file(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"tokens\.json: is not JSON"):
        read_tokens_file(path)
