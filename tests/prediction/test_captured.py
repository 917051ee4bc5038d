"""A trace from elsewhere as the routing and the workload of a scenario; experts placed by a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smoes_sim.cli import main
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.routing import RoutingTrace, save_trace
from smoes_sim.scenario import load_scenario

# two sequences: text image image | image text, then decoded tokens: one of the first, two of the second
MODALITY = np.array([0, 1, 1, 1, 0, 0, 0, 0], dtype=np.uint8)
SEQUENCE = np.array([0, 0, 0, 1, 1, 0, 1, 1], dtype=np.int32)
PHASE = np.array([0, 0, 0, 0, 0, 1, 1, 1], dtype=np.uint8)
SCENARIO = """
topology: {kind: star, ranks: 2, link: {bandwidth: 1 GB/s, latency: 1 us}}
model: {name: toy, layers: 3, dense_layers: 1, hidden: 8, experts: 4, top_k: 2, expert_ffn: 8, dense_ffn: 8, vocab: 16, \
heads: 2, kv_heads: 2, head_dim: 4, image_tokens: {kind: fixed, tokens: 2}, source: made up, image_source: made up}
workload: {preset: trace}
routing: {trace: t.npz}
placement: {experts: bins, tokens: modality}
compute: {device: h100-sxm}
"""


def trace(**changes: Any) -> RoutingTrace:
    """Text goes to experts 0 and 1 in the first MoE layer and to 2 and 3 in the second, images the other way."""
    ids = np.zeros((8, 2, 2), dtype=np.int16)
    for token, kind in enumerate(MODALITY):
        ids[token] = [[2, 3], [0, 1]] if kind else [[0, 1], [2, 3]]
    arrays: dict[str, Any] = {
        "expert_ids": ids,
        "modality": MODALITY,
        "sequence_id": SEQUENCE,
        "phase": PHASE,
        "moe_layers": np.array([1, 2], dtype=np.int32),
        "num_experts": 4,
    }
    return RoutingTrace(**arrays | changes)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_trace(trace(), tmp_path / "t.npz")
    (tmp_path / "s.yaml").write_text(SCENARIO)
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_workload_is_the_trace(here: Path) -> None:
    workload = deploy(load_scenario("s.yaml")).workload
    assert workload.sequence_vision_tokens.tolist() == [2, 1]
    assert workload.sequence_text_tokens.tolist() == [1, 1]
    assert workload.sequence_output_tokens.tolist() == [2, 3]
    assert workload.context_lengths.tolist() == [1, 2, 3, 1, 2, 4, 3, 4]
    assert workload.decode_batch == 2
    one_by_one = deploy(load_scenario("s.yaml", ["workload.decode_batch=1"]))
    assert (one_by_one.workload.decode_batch, len(one_by_one.decode)) == (1, 3)


def test_a_captured_trace_is_simulated_and_compared_on_any_topology(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = document(capsys, "simulate", "s.yaml")
    # bins put the image experts of each layer on one rank and tokens are at home beside them: nothing travels
    assert (row["bytes_remote"], row["msi"], row["policy"]) == (0, 1.0, "captured")
    assert row["transmission_rate"] == {"prefill_vision": 0, "prefill_text": 0, "prefill": 0, "decode": 0}
    four = "topology={kind: star, ranks: 4, link: {bandwidth: 1 GB/s, latency: 1 us}}"
    rows = document(capsys, "compare", "s.yaml", "placement.experts=bins,contiguous", four)["rows"]
    # 4 ranks with an expert each: every token needs another rank, in both placements
    assert [found["transmission_rate"]["prefill"] for found in rows] == [1, 1]
    assert [found["policy"] for found in rows] == ["captured", "captured"]
    # dispatch and combine of 16 bytes: 5 prompt tokens x 2 layers x 2 copies, less those that stay
    assert all(0 < found["bytes_remote"] <= 5 * 2 * 2 * 2 * 16 for found in rows)


def test_people_read_that_the_routing_is_captured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "s.yaml"]) == 0
    assert "toy on star (2 ranks), routing captured" in capsys.readouterr().out
    assert main(["compare", "s.yaml", "placement.experts=bins,contiguous"]) == 0
    assert "in every row: routing captured" in capsys.readouterr().out


def test_a_synthetic_trace_file_keeps_the_name_of_its_router(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = [
        "workload={text_tokens: 6, output_tokens: 2, images: 1, image_width: 8, image_height: 8}",
        "routing={policy: smoes}",
    ]
    assert main(["trace", "synthesize", "s.yaml", *source, "-o", "t.npz"]) == 0
    capsys.readouterr()
    assert document(capsys, "simulate", "s.yaml")["policy"] == "smoes"


def test_contiguous_experts_make_tokens_travel(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # experts 0 1 | 2 3: in one of the two layers each modality's experts are on the other rank; 2 x 16 bytes a token
    row = document(capsys, "simulate", "s.yaml", "placement.experts=contiguous")
    assert row["bytes_remote"] == 5 * 2 * 16


def test_a_placement_file_places_experts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "export", "t.npz", "--placement", "bins", "--ranks", "2", "-o", "p.json"]) == 0
    capsys.readouterr()
    by_file = document(capsys, "simulate", "s.yaml", "placement.experts={file: p.json}")
    assert (by_file["bytes_remote"], by_file["expert_placement"]) == (0, "file p.json")
    by_rule = document(capsys, "simulate", "s.yaml")
    assert by_file | {"expert_placement": "bins"} == by_rule
    (here / "p.json").write_text('{"physical_to_logical_map": [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]}')
    assert document(capsys, "simulate", "s.yaml", "placement.experts={file: p.json}")["bytes_remote"] == 5 * 2 * 16


def test_a_trace_without_decode_and_with_unknown_decisions_runs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = trace().expert_ids.copy()
    ids[0] = -1
    whole = trace(expert_ids=ids).select(np.flatnonzero(PHASE == 0))
    save_trace(whole, here / "t.npz")
    row = document(capsys, "simulate", "s.yaml", "placement.experts=contiguous")
    assert row["tpot_s"] is None
    assert row["bytes_remote"] == 4 * 2 * 16  # the token whose experts are unknown sends nothing


def test_a_dense_model_takes_the_same_tokens(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = ["model.dense_layers=3", "model.experts=0", "model.top_k=0", "model.expert_ffn=0"]
    dense += ["placement.experts=null", "placement.tokens=data_parallel"]
    row = document(capsys, "simulate", "s.yaml", *dense)
    assert (row["policy"], row["bytes_remote"]) == ("dense", 0)
    assert row["ttft_s"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workload.batch=2"], r"preset = trace takes every token from the routing trace\. Leave out batch"),
        (["workload.decode_batch=3"], r"t\.npz: decode_batch = 3 is more than the 2 sequences\. Use 1\.\.2"),
        (["routing={policy: standard}"], r"workload\.preset = trace, but routing\.trace is not given"),
        (["model.experts=8"], r"t\.npz: num_experts = 4, but the scenario's model and workload have 8"),
        (["model.layers=2"], r"t\.npz: layers = 2, but the scenario's model and workload have 1"),
        (["placement.experts={file: none.json}"], r"none\.json: cannot be read"),
        (["placement.experts={path: p.json}"], r'unknown key "path"\. Did you mean|Known: file'),
        (["model.heads=3"], r"kv_heads = 2 does not divide heads = 3"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(here: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        deploy(load_scenario("s.yaml", overrides))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "order",
    [[3, 4, 0, 1, 2, 5, 6, 7], [0, 1, 2, 5, 3, 4, 6, 7], [0, 1, 2, 3, 4, 6, 5, 7]],
)
def test_tokens_in_another_order_are_refused(here: Path, order: list[int]) -> None:
    save_trace(trace().select(np.array(order)), here / "t.npz")
    with pytest.raises(ConfigError, match=r"t\.npz: .*first all prompts by sequence"):
        deploy(load_scenario("s.yaml"))


def test_a_sequence_without_prompt_is_refused(here: Path) -> None:
    save_trace(trace(sequence_id=SEQUENCE * 2), here / "t.npz")
    with pytest.raises(ConfigError, match=r"t\.npz: .*first all prompts"):
        deploy(load_scenario("s.yaml"))
