"""From weights to a prediction: a tiny random model is captured and its trace simulated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers missing: pip install 'smoes-sim[capture]'")

import tiny_models

from smoes_sim.cli import main
from smoes_sim.learning.capture import capture
from smoes_sim.prediction.deploy import deploy
from smoes_sim.routing import save_trace
from smoes_sim.scenario import load_scenario

SCENARIO = """
topology: {kind: star, ranks: 2, link: {bandwidth: 1 GB/s, latency: 1 us}}
model: {name: tiny-glm4v, layers: 3, dense_layers: 1, hidden: 32, experts: 8, top_k: 2, shared_experts: 1, expert_ffn: 16, \
dense_ffn: 32, vocab: 96, heads: 4, kv_heads: 2, head_dim: 8, image_tokens: {kind: fixed, tokens: 4}, source: tiny, \
image_source: tiny}
workload: {preset: trace}
routing: {trace: t.npz}
placement: {experts: bins, tokens: modality}
compute: {device: h100-sxm}
"""


def test_a_captured_model_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trace = capture(tiny_models.build("glm4v_moe"), [tiny_models.batch("glm4v_moe")], new_tokens=3)
    save_trace(trace, tmp_path / "t.npz")
    (tmp_path / "s.yaml").write_text(SCENARIO)
    assert main(["simulate", "s.yaml", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    placed = deploy(load_scenario("s.yaml"))
    assert placed.placement is not None
    # token by token: a copy to the other rank in every layer where one of its experts is there
    crossing = 0
    for token in np.flatnonzero(trace.phase == 0):
        for layer in range(2):
            ranks = placed.placement.expert_rank[layer][trace.expert_ids[token, layer]]
            crossing += int((ranks != placed.home[token]).any())
    assert row["bytes_remote"] == crossing * 2 * 2 * 32
    assert crossing > 0
