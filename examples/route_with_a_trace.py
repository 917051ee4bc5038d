"""Write a routing trace, read it again, and predict the deployment with it, as with a trace captured from a real model."""

from __future__ import annotations

from pathlib import Path

import smoes_sim as ss
from smoes_sim.routing import expert_counts, modality_specialisation

trace = ss.synthesize("olmoe-two-orin", routing__policy="smoes", workload__batch=4, workload__output_tokens=2)
trace.save(Path("trace.npz"))

trace = ss.Trace.load("trace.npz")
counts = expert_counts(trace)
print(f"{trace.num_tokens} tokens, {trace.is_vision.mean():.0%} vision, {trace.num_layers} layers, top-{trace.top_k}")
print(f"specialisation index {modality_specialisation(trace).mean():.2f}")
print(f"busiest expert over the mean: {(counts.max(axis=1) / counts.mean(axis=1)).mean():.1f}")

for tokens in ("data_parallel", "modality"):
    found = ss.simulate(
        "olmoe-two-orin",
        {"workload": {"preset": "trace"}, "routing": {"trace": "trace.npz"}, "placement.experts": "bins"},
        placement__tokens=tokens,
    )
    print(f"{tokens:13} {found.bytes_remote / 1e9:.3f} GB between devices in prefill, routing {found.policy}")
