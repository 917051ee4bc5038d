"""Sweep a grid: over which link speed does SMoES shorten the time to first token on four devices?"""

from __future__ import annotations

from pathlib import Path

import smoes_sim as ss

STUDY = """
description: SMoES over link speed, four H100 behind one switch
scenario:
  topology: {kind: star, ranks: 4, link: {kind: ethernet, bandwidth: 100 Gb/s, latency: 2 us}}
  model: olmoe-1b-7b
  workload: {preset: mmmu, batch: 4, output_tokens: 2}
  routing: {rates: published}
  placement: {tokens: modality}
  compute: {device: h100-sxm}
grid:
  topology.link.bandwidth: [25 Gb/s, 400 Gb/s]
  routing.policy: [standard, smoes]
against: {routing.policy: standard}
"""

Path("study.yaml").write_text(STUDY)
tally = ss.sweep("study.yaml", out="points", show_progress="none")
print(f"{tally.done} points computed, {tally.skipped} found")

frame = tally.result.to_polars()
for row in frame.iter_rows(named=True):
    link, policy = row["set_topology.link.bandwidth"], row["set_routing.policy"]
    print(f"{link:9} {policy:9} TTFT {row['ttft_s'] * 1e3:6.1f} ms  {row['change_ttft_s']:+.1%}")

again = ss.sweep("study.yaml", out="points", show_progress="none")  # finished points are kept
print(f"{again.done} points computed, {again.skipped} found")
