"""Layers to run on four ranks, two nodes of two: every pair of levels of five factors in sixteen cases, and odd ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from smoes_sim.distributed.codec import RowCodec
from smoes_sim.distributed.dispatch import Transport, local_experts, plan_layer
from smoes_sim.distributed.experts import GroupedExperts, seeded_experts
from smoes_sim.distributed.layer import CountedExchange, ExpertParallelLayer
from smoes_sim.distributed.patterns import exchange
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.routing import RoutingTrace
from smoes_sim.scenario import Scenario

HIDDEN, INNER = 24, 20
LEVELS = {
    "policy": ["standard", "smoes", "hard", "dropped"],
    "tokens": ["data_parallel", "sharded", "modality", "affinity"],
    "deduplicate": ["none", "rank", "node", "rank, no shared expert"],
    "schedule": ["direct", "pairwise", "two_hop", "all_to_all_single"],
    "elements": ["fp32 fp32", "bf16 bf16", "fp16 fp16", "fp8 bf16"],
}
_TIMES = [[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2]]
"""Products in the field of four elements, in which addition is exclusive or."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A level of each factor, and what else is odd."""

    policy: str = "standard"
    tokens: str = "data_parallel"
    deduplicate: str = "rank"
    schedule: str = "direct"
    elements: str = "fp32 fp32"
    experts: int = 8
    odd: str = ""

    @property
    def name(self) -> str:
        return ", ".join(str(getattr(self, field)) for field in (*LEVELS, "experts", "odd"))


def _orthogonal() -> list[Case]:
    """The strength-two array of 16 runs: columns a, b, a + b, a + 2 b, a + 3 b over the field of four elements."""
    rows = [(a, b, a ^ b, a ^ _TIMES[2][b], a ^ _TIMES[3][b]) for a in range(4) for b in range(4)]
    return [
        Case(**{name: LEVELS[name][level] for name, level in zip(LEVELS, row, strict=True)})  # type: ignore[arg-type]
        for row in rows
    ]


CASES = [
    *_orthogonal(),
    *(Case(deduplicate=rule, odd="all at home on rank 3") for rule in ("none", "rank", "node")),
    *(Case(deduplicate=rule, odd="one expert takes all") for rule in ("none", "node")),
    Case(experts=2, deduplicate="rank", odd="two EP groups"),
    Case(experts=2, deduplicate="none", schedule="two_hop", odd="two EP groups"),
    Case(experts=4, deduplicate="rank", odd="nothing is routed"),
    Case(experts=6, deduplicate="rank", odd="two experts on two ranks, one on two"),
    Case(experts=8, deduplicate="rank", odd="groups of two ranks"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What ranks and reference both start from."""

    deployment: Deployment
    trace: RoutingTrace
    home: np.ndarray
    x: torch.Tensor
    probe: torch.Tensor


def build(case: Case) -> Built:
    """The case's deployment, with its routing bent where the case says so."""
    deployment = deploy(scenario_of(case))
    trace, home = deployment.trace, deployment.home
    assert trace is not None
    rng = np.random.default_rng(5)
    ids = trace.expert_ids.copy()
    if case.policy == "dropped":
        ids[rng.random(ids.shape) < 0.4] = -1
        ids[:2] = -1
    if case.odd == "one expert takes all":
        ids[:] = -1
        ids[:, :, 1] = 5
    if case.odd == "nothing is routed":
        ids[:] = -1
    if case.odd == "all at home on rank 3":
        home = np.full_like(home, 3)
    weights = rng.uniform(0.1, 1.0, ids.shape).astype(np.float16)
    trace = replace(trace, expert_ids=ids, expert_weights=None if case.policy == "hard" else weights)
    generator = torch.Generator().manual_seed(3)
    x, probe = torch.randn(2, trace.num_tokens, HIDDEN, generator=generator)
    return Built(deployment=deployment, trace=trace, home=home, x=x, probe=probe)


def scenario_of(case: Case) -> Scenario:
    """The scenario of a case."""
    fixed = {"source": "chosen", "image_source": "chosen", "image_tokens": {"kind": "fixed", "tokens": 6}}
    attention = {"vocab": 100, "heads": 2, "kv_heads": 2, "head_dim": 12}
    top_k = min(3, case.experts)
    return Scenario.model_validate(
        {
            "topology": {
                "kind": "two_level",
                "nodes": 2,
                "ranks_per_node": 2,
                "scale_up": {"kind": "ethernet", "bandwidth": "1 GB/s", "latency": "0 us"},
                "nic": {"kind": "ethernet", "per": "rank", "bandwidth": "1 Gb/s", "latency": "0 us"},
            },
            "model": {"name": "tiny", "layers": 1, "hidden": HIDDEN, "experts": case.experts, "top_k": top_k}
            | {"expert_ffn": INNER, "shared_experts": int("no shared" not in case.deduplicate)}
            | fixed
            | attention,
            "workload": {"batch": 3, "images": 1, "image_width": 32, "image_height": 32, "text_tokens": 4}
            | {"output_tokens": 3, "spread": 0.5},
            "routing": {"policy": "smoes" if case.policy == "dropped" else case.policy},
            "placement": {"tokens": case.tokens},
            "communication": {"deduplicate": case.deduplicate.partition(",")[0]},
            "parallelism": {"expert": 2 if case.odd == "groups of two ranks" else None},
            "compute": {"device": "h100-sxm"},
            "seed": 7,
        }
    )


def run_case(case: Case, rank: int) -> dict[str, Any]:
    """Forward and backward on one rank: outputs, gradients and the bytes of each exchange."""
    built = build(case)
    deployment, model = built.deployment, built.deployment.model
    placement, topology = deployment.placement, deployment.topology
    assert placement is not None
    plan = plan_layer(
        built.trace,
        placement,
        built.home,
        layer=0,
        rank=rank,
        deduplicate=deployment.scenario.communication.deduplicate,
        topology=topology,
    )
    moved = CountedExchange(exchange(case.schedule, node_of_rank=topology.node_of_rank.tolist()))
    outward, homeward = (RowCodec(element=element, hidden=HIDDEN) for element in case.elements.split())  # type: ignore[arg-type]
    sizes: Any = {"seed": 7, "layer": 0, "hidden": HIDDEN, "dtype": torch.float32}
    experts = GroupedExperts(*seeded_experts(local_experts(placement, 0, rank), inner=INNER, **sizes))
    shared = None
    if model.shared_experts:
        shared = GroupedExperts(*seeded_experts(np.array([model.experts]), inner=INNER, **sizes))
    layer = ExpertParallelLayer(experts, shared, Transport(exchange=moved, outward=outward, homeward=homeward))
    here = torch.as_tensor(built.home == rank)
    x = built.x[here].requires_grad_()
    y = layer(x, plan)
    (y * built.probe[here]).sum().backward()
    result = {"y": y.detach(), "x.grad": x.grad, "bytes": torch.as_tensor(np.array(moved.take()))}
    for name, value in layer.named_parameters():
        result[f"{name}.grad"] = torch.zeros_like(value) if value.grad is None else value.grad
    return result


def experts_of_rank(case: Case, rank: int) -> np.ndarray:
    """Experts of a rank in a case."""
    deployment = deploy(scenario_of(case))
    assert deployment.placement is not None
    return local_experts(deployment.placement, 0, rank)
