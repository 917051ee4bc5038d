"""Let requests arrive at a deployment: waiting times, percentiles, and how many meet an SLO.

This calls the command: smoes-sim serve olmoe-two-orin topology=8x-h100 ... --rate 20/s --slo ttft=4ms,tpot=10ms
"""

from __future__ import annotations

import sys

from smoes_sim.cli import main

DEPLOYMENT = [
    "olmoe-two-orin",
    "topology=8x-h100",
    "compute.device=h100-sxm",
    "calibration=null",
    "workload.output_tokens=8",
]

sys.exit(main(["serve", *DEPLOYMENT, "--rate", "20/s", "--slo", "ttft=4ms,tpot=10ms", "--requests", "40"]))
