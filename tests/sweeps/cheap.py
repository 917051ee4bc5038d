"""A study of cheap points: two ranks, a model of two small layers."""

from __future__ import annotations

from pathlib import Path

SCENARIO = """\
scenario:
  topology: two-orin-10gbe
  model:
    {name: tiny, layers: 2, hidden: 64, experts: 4, top_k: 2, expert_ffn: 64, vocab: 128, heads: 2, kv_heads: 2,
     head_dim: 32, image_tokens: {kind: fixed, tokens: 4}, source: made up, image_source: made up}
  workload: {text_tokens: 8, output_tokens: 2}
  compute: {device: jetson-agx-orin-64gb}
"""
GRID = """\
grid:
  routing.policy: [standard, smoes]
  workload.batch: [1, 2, 3]
"""


def written(folder: Path, text: str = GRID) -> str:
    """A study file with the cheap scenario and some more lines."""
    path = folder / "study.yaml"
    path.write_text(SCENARIO + text, encoding="utf-8")
    return str(path)
