"""Small scenarios for tests: a star of 4 ranks and a model of few layers."""

from __future__ import annotations

from smoes_sim.scenario import Scenario, load_scenario

MODEL = """
name: small
layers: 4
dense_layers: 1
hidden: 512
experts: 8
top_k: 2
shared_experts: 1
expert_ffn: 256
dense_ffn: 1024
vocab: 1000
heads: 8
kv_heads: 4
head_dim: 64
image_tokens: {kind: fixed, tokens: 4}
source: made up
image_source: made up
"""
TEXT = f"""
topology: {{kind: star, ranks: 4, link: {{kind: wire, bandwidth: 10 GB/s, latency: 5 us}}}}
model: {{{", ".join(MODEL.strip().splitlines())}}}
workload: {{batch: 16, text_tokens: 64, output_tokens: 9}}
compute: {{device: h100-sxm}}
"""


def small(tmp_path, *overrides: str) -> Scenario:
    """The scenario with some changes."""
    path = tmp_path / "small.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return load_scenario(str(path), overrides)
