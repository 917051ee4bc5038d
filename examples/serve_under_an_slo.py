"""Let requests arrive at a deployment: waiting times, percentiles, and how many meet an SLO."""

from __future__ import annotations

import smoes_sim as ss

found = ss.serve(
    "olmoe-two-orin",
    {"topology": "8x-h100", "compute.device": "h100-sxm", "calibration": None, "workload.output_tokens": 8},
    rate="20/s",
    slo="ttft=4ms,tpot=10ms",
    requests=40,
)
print(found)
