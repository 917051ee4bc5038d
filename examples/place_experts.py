"""Place experts by the routing of one batch, and judge the placement on another: bins, EPLB with replicas, contiguous."""

from __future__ import annotations

import smoes_sim as ss
from smoes_sim.routing import expert_counts

RANKS = 8
settings = {"routing.policy": "smoes", "topology": "8x-h100", "compute.device": "h100-sxm", "calibration": None}
settings |= {"workload.batch": 8, "workload.decode_batch": 8}
training, serving = (ss.synthesize("olmoe-two-orin", settings, seed=seed) for seed in (0, 1))
print(f"{training.num_tokens} tokens to decide by, {serving.num_tokens} to judge by, {training.num_layers} layers")

print("rule        slots per rank  busiest rank / mean")
for rule, spare in (("contiguous", 0), ("bins", 0), ("eplb", 0), ("eplb", 2)):
    placement = ss.place(rule, training, ranks=RANKS, spare=spare)
    slots = placement.physical_to_logical_map.shape[1] // RANKS
    loads = placement.rank_loads(expert_counts(serving))
    imbalance = (loads.max(axis=1) / loads.mean(axis=1)).mean()
    print(f"{rule:10}  {slots:14}  {imbalance:19.2f}")
