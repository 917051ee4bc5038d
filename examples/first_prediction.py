"""Predict one deployment: OLMoE on 8 H100 instead of the two Orin of the shipped scenario."""

from __future__ import annotations

import smoes_sim as ss

found = ss.simulate(
    "olmoe-two-orin",
    {"topology": "8x-h100", "compute.device": "h100-sxm", "calibration": None, "workload.output_tokens": 2},
)
print(found)  # the table of the command

low, high = found.interval("ttft_s")
print(f"\nTTFT {found.ttft_s * 1e3:.2f} ms, {low * 1e3:.2f} to {high * 1e3:.2f} ms over the range of device efficiencies")
print(f"{found.ep_exposed_s / found.step_s:.1%} of the prefill is communication that nothing hides")
print(f"columns of to_polars(): {', '.join(found.to_polars().columns[:6])}, ...")
