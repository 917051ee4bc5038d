"""Compare token placements under SMoES: how many tokens leave their device, and what that changes."""

from __future__ import annotations

import smoes_sim as ss

found = ss.compare(
    "olmoe-two-orin",
    {"placement.tokens": ["data_parallel", "sharded", "modality"]},
    routing__policy="smoes",
    workload__batch=4,
    workload__output_tokens=2,
)
print("tokens         need another device  bytes between devices  busiest / mean")
for row in found.rows:
    share = row.transmission_rate.prefill
    print(f"{row.token_placement:13}  {share:19.1%}  {row.bytes_remote / 1e9:18.3f} GB  {row.imbalance:14.2f}")

best = min(found.rows, key=lambda row: row.bytes_remote)
print(f"least traffic: {best.token_placement}")
