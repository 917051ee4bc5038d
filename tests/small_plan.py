"""A plan that is quick to predict: two stars, two token placements, made-up prices."""

from __future__ import annotations

from pathlib import Path

from small_scenario import MODEL as FOUR_LAYERS

MODEL = FOUR_LAYERS.replace("layers: 4", "layers: 2")
SLOW = "{kind: star, ranks: 4, link: {kind: wire, bandwidth: 1 GB/s, latency: 5 us}}"
FAST = "{kind: star, ranks: 4, link: {kind: wire, bandwidth: 20 GB/s, latency: 5 us}}"
TEXT = f"""
description: made up
scenario:
  model: {{{", ".join(MODEL.strip().splitlines())}}}
  workload: {{batch: 4, text_tokens: 16, output_tokens: 3, images: 1, image_width: 8, image_height: 8}}
  compute: {{device: h100-sxm}}
slo: {{ttft: 500 us, tokens_per_s: 40000}}
currency: EUR
candidates:
  - topology: {SLOW}
    cost_per_hour: 2
    source: "assumed: made up"
    replicas: [1, 2, 3, 4]
  - topology: {FAST}
    cost_per_hour: 5
    source: a shop, 2026-11-24
    replicas: [1, 2]
try:
  - {{routing.policy: standard}}
  - {{routing.policy: smoes, placement.tokens: modality}}
"""


def plan_file(folder: Path, old: str = "", new: str = "") -> str:
    """The plan, with one change, as a file."""
    assert old in TEXT
    path = folder / "plan.yaml"
    path.write_text(TEXT.replace(old, new) if old else TEXT, encoding="utf-8")
    return str(path)
