"""Every key of a scenario changes the answer where it is legal, and is refused where it would change nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from small_scenario import TEXT
from test_scenario_keys import KEYS

from smoes_sim.errors import SmoesError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.router import synthesize_trace
from smoes_sim.prediction.simulate import predict
from smoes_sim.routing import save_trace
from smoes_sim.scenario import Scenario, with_named_sections
from smoes_sim.yaml_files import Document

NOTES = {
    *("Scenario.description", "RoutingSpec.score"),
    *("ModelShape.name", "ModelShape.source", "ModelShape.image_source", "VisionTower.source", "IncastSpec.source"),
    *(
        "ModelShape.published_total",
        "ModelShape.published_active",
        "ModelShape.vision_parameters",
        "ModelShape.active_counts",
    ),
    *(f"{model.__name__}.{name}" for model, name in KEYS if name in {"name", "description", "sources"}),
}
"""Keys that are notes for readers: names, sources, and published figures that shapes are checked against."""
OF_TOPOLOGIES = {
    *(f"{model.__name__}.{name}" for model, name in KEYS if model.__module__ == "smoes_sim.topology.specs"),
} - NOTES
"""Keys of topology files, which tests/topology covers; a few are tried below through the answer."""
TINY = (
    *("compute.flops_efficiency=0.5", "compute.memory_efficiency=0.8", "engine=exact", "model.layers=2"),
    "workload={batch: 4, text_tokens: 16, output_tokens: 2}",
)
NODES = (
    "topology={kind: two_level, nodes: 2, ranks_per_node: 2, scale_up: {kind: n, bandwidth: 40 GB/s, latency: 1 us}, "
    "nic: {kind: i, bandwidth: 5 GB/s, latency: 2 us}}"
)
IMAGES = "workload={batch: 4, text_tokens: 16, output_tokens: 2, images: 1, image_width: 64, image_height: 32}"
GRID = "model.image_tokens={kind: pixel_grid, patch: 4, merge: 2, min_tokens: 2, max_tokens: 100}"
TILES = "workload={batch: 4, text_tokens: 16, output_tokens: 2, images: 1, image_width: 640, image_height: 320}"
DEEPSEEK = "model.image_tokens={kind: deepseek_tiles, tile: 64, patch: 8, downsample: 2, max_tiles: 6}"
INTERN = "model.image_tokens={kind: internvl_tiles, tile: 64, tokens_per_tile: 4, max_tiles: 6}"
LLAMA = "model.image_tokens={kind: llama4_tiles, tile: 64, tokens_per_tile: 4, max_tiles: 6}"
TOWER = "model.vision={layers: 2, hidden: 64, ffn: 128, patch: 8, class_tokens: 1, projector: 4096, source: made up}"
MLA = (
    "model.attention=mla",
    "model.mla={kv_lora_rank: 64, q_lora_rank: 96, qk_nope_head_dim: 32, qk_rope_head_dim: 16, v_head_dim: 32}",
)
LINEAR = "linear: {key_heads: 2, value_heads: 4, key_dim: 32, value_dim: 32, conv: 4}"
HYBRID = (*TINY, f"model.attention_layers={{pattern: [linear, full], {LINEAR}}}")
SLIDING = (*TINY, "model.attention_layers={pattern: [sliding, full], window: 4}")
LONGER = "workload={batch: 4, text_tokens: 16, output_tokens: 9}"
SPECULATION = (*TINY[:1], "engine=exact", LONGER, "workload.speculation={tokens: 2, accepted: 1.5}")
DENSE = (*TINY, "model.experts=0", "model.top_k=0", "model.shared_experts=0", "model.expert_ffn=0", "model.dense_layers=2")
RATES = "routing.rates={prefill_vision: 0.6, prefill: 0.7, decode: 0.7}"
RANGE = "compute.flops_efficiency={low: 0.2, value: 0.4, high: 0.6}"
FIT = ("routing.policy=smoes", RATES)
"""A router that reaches these rates."""
EFFECTS: dict[str, tuple[tuple[str, ...], str]] = {
    "Scenario.topology": ((), "topology=2x8-h100-ndr400"),
    "Scenario.ranks": ((), "ranks=2"),
    "Scenario.model": ((), "model=olmoe-1b-7b"),
    "Scenario.workload": ((), "workload={batch: 8, text_tokens: 16, output_tokens: 2}"),
    "Scenario.routing": ((), "routing={policy: hard}"),
    "Scenario.placement": (("workload.batch=5",), "placement={tokens: sharded}"),
    "Scenario.communication": ((), "communication={dispatch: fp8}"),
    "Scenario.compute": ((), "compute={device: h200-sxm}"),
    "Scenario.parallelism": ((), "parallelism={tensor: 2}"),
    "Scenario.overlap": ((), "overlap=two_batch"),
    "Scenario.calibration": ((), "calibration=two-orin-baseline"),
    "Scenario.engine": ((), "engine=fast"),
    "Scenario.sampling": (("parallelism.prefill_chunk=4", "workload.text_tokens=80"), "sampling=none"),
    "Scenario.seed": ((), "seed=1"),
    "WorkloadSpec.phase": ((), "workload.phase=prefill"),
    "WorkloadSpec.preset": (
        ("workload={batch: 1}", "workload.output_tokens=2", "workload.text_tokens=9"),
        "workload.preset=mmmu",
    ),
    "WorkloadSpec.batch": ((), "workload.batch=5"),
    "WorkloadSpec.sequences_per_rank": ((), "workload.sequences_per_rank=2"),
    "WorkloadSpec.context": ((), "workload.context=20"),
    "WorkloadSpec.decode_batch": ((), "workload.decode_batch=2"),
    "WorkloadSpec.output_tokens": ((), "workload.output_tokens=3"),
    "WorkloadSpec.text_tokens": ((), "workload.text_tokens=17"),
    "WorkloadSpec.images": ((IMAGES,), "workload.images=2"),
    "WorkloadSpec.image_width": ((IMAGES, GRID), "workload.image_width=128"),
    "WorkloadSpec.image_height": ((IMAGES, GRID), "workload.image_height=128"),
    "WorkloadSpec.spread": ((), "workload.spread=0.5"),
    "RoutingSpec.policy": ((), "routing.policy=hard"),
    "RoutingSpec.rates": (("routing.policy=smoes", IMAGES), "routing.rates=published"),
    "RoutingSpec.msi": ((IMAGES,), "routing.msi=0.3"),
    "RoutingSpec.popularity": ((), "routing.popularity=1"),
    "RoutingSpec.balance": ((), "routing.balance=even"),
    "RoutingSpec.groups": (("routing.policy=device_limited", "routing.groups=4", "routing.keep=1"), "routing.groups=2"),
    "RoutingSpec.keep": (("routing.policy=device_limited", "routing.groups=4"), "routing.keep=1"),
    "RoutingSpec.skip": ((), "routing.skip={text: 0.3}"),
    "RoutingSpec.trace": ((), "routing.trace=TRACE"),
    "Rates.prefill_vision": ((*FIT, IMAGES), "routing.rates.prefill_vision=0.5"),
    "Rates.prefill": ((*FIT, IMAGES), "routing.rates.prefill=0.65"),
    "Rates.decode": ((*FIT, IMAGES), "routing.rates.decode=0.6"),
    "SkipShares.vision": ((IMAGES, "routing.skip={text: 0.1, vision: 0.1}"), "routing.skip.vision=0.4"),
    "SkipShares.text": ((IMAGES, "routing.skip={text: 0.1, vision: 0.1}"), "routing.skip.text=0.4"),
    "PlacementSpec.experts": ((), "placement.experts=random"),
    "PlacementSpec.spare": (("placement.experts=eplb",), "placement.spare=1"),
    "PlacementSpec.tokens": (("workload.batch=5",), "placement.tokens=sharded"),
    "ExpertFile.file": ((), "placement.experts={file: PLACEMENT}"),
    "PlacementSpec.decode_tokens": ((), "placement.decode_tokens=single"),
    "Scenario.attention": (("placement.tokens=sharded", "workload.batch=5"), "attention={exchange: kv}"),
    "AttentionSpec.exchange": (("placement.tokens=sharded", "workload.batch=5"), "attention.exchange=kv"),
    "CommunicationSpec.library": ((NODES,), "communication.library=two_hop"),
    "CommunicationSpec.order": ((NODES, "communication.per_message=3 us"), "communication.order=naive"),
    "CommunicationSpec.deduplicate": ((), "communication.deduplicate=none"),
    "CommunicationSpec.dispatch": ((), "communication.dispatch=fp8"),
    "CommunicationSpec.combine": ((), "communication.combine=fp8"),
    "CommunicationSpec.rendezvous": (
        (NODES, "workload.batch=5", "workload.text_tokens=64"),
        "communication.rendezvous=true",
    ),
    "CommunicationSpec.send_buffer": (("workload.batch=3", "workload.text_tokens=64"), "communication.send_buffer=64 KiB"),
    "CommunicationSpec.per_message": ((), "communication.per_message=3 us"),
    "CommunicationSpec.per_exchange": ((), "communication.per_exchange=3 us"),
    "ComputeSpec.device": ((), "compute.device=h200-sxm"),
    "ComputeSpec.flops_efficiency": (("workload.text_tokens=2048",), "compute.flops_efficiency=0.6"),
    "ComputeSpec.memory_efficiency": ((), "compute.memory_efficiency=0.6"),
    "ComputeSpec.weights": ((), "compute.weights=fp8"),
    **{
        f"WeightFormats.{part}": (("compute.weights={experts: bf16}",), f"compute.weights.{part}=fp8")
        for part in ("experts", "attention", "shared", "dense", "embeddings")
    },
    "ComputeSpec.cache": ((), "compute.cache=fp8"),
    "ComputeSpec.memory_share": ((), "compute.memory_share=0.5"),
    "ComputeSpec.launch": ((), "compute.launch=3 us"),
    "ComputeSpec.per_layer": ((), "compute.per_layer=3 us"),
    "ComputeSpec.per_prefill": ((), "compute.per_prefill=3 ms"),
    "ComputeSpec.shared_cores": ((), "compute.shared_cores=2"),
    "Range.low": (("workload.text_tokens=2048", RANGE), "compute.flops_efficiency.low=0.3"),
    "Range.value": (("workload.text_tokens=2048", RANGE), "compute.flops_efficiency.value=0.5"),
    "Range.high": (("workload.text_tokens=2048", RANGE), "compute.flops_efficiency.high=0.7"),
    "ParallelismSpec.tensor": ((), "parallelism.tensor=2"),
    "ParallelismSpec.expert": ((), "parallelism.expert=2"),
    "ParallelismSpec.expert_tensor": ((), "parallelism.expert_tensor=2"),
    "ParallelismSpec.prefill_chunk": ((), "parallelism.prefill_chunk=8"),
    "ModelShape.layers": ((), "model.layers=3"),
    "ModelShape.dense_layers": (("model.layers=3",), "model.dense_layers=2"),
    "ModelShape.moe_every": (("model.layers=3",), "model.moe_every=2"),
    "ModelShape.hidden": ((), "model.hidden=1024"),
    "ModelShape.experts": ((), "model.experts=16"),
    "ModelShape.top_k": ((), "model.top_k=3"),
    "ModelShape.shared_experts": ((), "model.shared_experts=2"),
    "ModelShape.expert_ffn": ((), "model.expert_ffn=512"),
    "ModelShape.dense_ffn": ((), "model.dense_ffn=2048"),
    "ModelShape.vocab": ((), "model.vocab=2000"),
    "ModelShape.heads": ((), "model.heads=16"),
    "ModelShape.kv_heads": ((), "model.kv_heads=2"),
    "ModelShape.head_dim": ((), "model.head_dim=128"),
    "ModelShape.attention": (("model.heads=8",), f"model.attention=mla; {MLA[1]}"),
    "ModelShape.mla": (MLA, MLA[1].replace("64", "128")),
    **{
        f"LatentAttention.{name}": (MLA, f"model.mla.{name}=48")
        for name in ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    },
    "ModelShape.mtp_layers": (SPECULATION, "model.mtp_layers=1"),
    "WorkloadSpec.speculation": ((LONGER,), SPECULATION[-1]),
    "SpeculationSpec.tokens": (SPECULATION, "workload.speculation.tokens=3"),
    "SpeculationSpec.accepted": (SPECULATION, "workload.speculation.accepted=0.5"),
    "ModelShape.attention_gate": ((), "model.attention_gate=true"),
    "ModelShape.query_rank": ((), "model.query_rank=64"),
    "ModelShape.shared_ffn": ((), "model.shared_ffn=640"),
    "ModelShape.attention_layers": ((), SLIDING[-1]),
    "AttentionLayers.pattern": (SLIDING, "model.attention_layers.pattern=[full, sliding, sliding]"),
    "AttentionLayers.window": (SLIDING, "model.attention_layers.window=8"),
    "AttentionLayers.linear": (HYBRID, HYBRID[-1].replace("conv: 4", "conv: 2")),
    **{
        f"LinearAttention.{name}": (HYBRID, f"model.attention_layers.linear.{name}={value}")
        for name, value in {"key_heads": 4, "value_heads": 8, "key_dim": 64, "value_dim": 64, "conv": 3}.items()
    },
    "ModelShape.tie_embeddings": ((), "model.tie_embeddings=true"),
    "ModelShape.image_tokens": ((IMAGES,), "model.image_tokens={kind: fixed, tokens: 9}"),
    "FixedImageTokens.kind": ((IMAGES,), GRID),
    "FixedImageTokens.tokens": ((IMAGES,), "model.image_tokens.tokens=9"),
    "PixelGridTokens.kind": ((IMAGES, GRID), "model.image_tokens={kind: fixed, tokens: 9}"),
    "PixelGridTokens.patch": ((IMAGES, GRID), "model.image_tokens.patch=8"),
    "PixelGridTokens.merge": ((IMAGES, GRID), "model.image_tokens.merge=1"),
    "PixelGridTokens.min_tokens": ((IMAGES, GRID), "model.image_tokens.min_tokens=64"),
    "PixelGridTokens.max_tokens": ((IMAGES, GRID), "model.image_tokens.max_tokens=9"),
    "PixelGridTokens.rounding": ((IMAGES, GRID, "workload.image_width=67"), "model.image_tokens.rounding=up"),
    "DeepSeekTileTokens.kind": ((TILES, DEEPSEEK), "model.image_tokens={kind: fixed, tokens: 9}"),
    "DeepSeekTileTokens.tile": ((TILES, DEEPSEEK), "model.image_tokens.tile=128"),
    "DeepSeekTileTokens.patch": ((TILES, DEEPSEEK), "model.image_tokens.patch=16"),
    "DeepSeekTileTokens.downsample": ((TILES, DEEPSEEK), "model.image_tokens.downsample=4"),
    "DeepSeekTileTokens.max_tiles": ((TILES, DEEPSEEK), "model.image_tokens.max_tiles=1"),
    "InternVLTileTokens.kind": ((TILES, INTERN), "model.image_tokens={kind: fixed, tokens: 9}"),
    "InternVLTileTokens.tile": ((TILES, INTERN, "workload.image_height=640"), "model.image_tokens.tile=640"),
    "InternVLTileTokens.tokens_per_tile": ((TILES, INTERN), "model.image_tokens.tokens_per_tile=5"),
    "InternVLTileTokens.max_tiles": ((TILES, INTERN), "model.image_tokens.max_tiles=1"),
    "InternVLTileTokens.thumbnail": ((TILES, INTERN), "model.image_tokens.thumbnail=false"),
    "Llama4TileTokens.kind": ((TILES, LLAMA), "model.image_tokens={kind: fixed, tokens: 9}"),
    "Llama4TileTokens.tile": ((TILES, LLAMA), "model.image_tokens.tile=640"),
    "Llama4TileTokens.tokens_per_tile": ((TILES, LLAMA), "model.image_tokens.tokens_per_tile=5"),
    "Llama4TileTokens.max_tiles": ((TILES, LLAMA), "model.image_tokens.max_tiles=1"),
    "ModelShape.vision": ((IMAGES,), TOWER),
    "VisionTower.layers": ((IMAGES, TOWER), "model.vision.layers=3"),
    "VisionTower.hidden": ((IMAGES, TOWER), "model.vision.hidden=128"),
    "VisionTower.ffn": ((IMAGES, TOWER), "model.vision.ffn=256"),
    "VisionTower.gated": ((IMAGES, TOWER), "model.vision.gated=true"),
    "VisionTower.patch": ((IMAGES, TOWER), "model.vision.patch=4"),
    "VisionTower.class_tokens": ((IMAGES, TOWER), "model.vision.class_tokens=9"),
    "VisionTower.merge": ((IMAGES, TOWER), "model.vision.merge=2"),
    "VisionTower.projector": ((IMAGES, TOWER), "model.vision.projector=8192"),
}
"""Key -> a deployment in which it is legal, and another value of it, with what must change along after a semicolon."""
ONLY_LARGE = {"CommunicationSpec.tolerance"}
"""Keys that only change the answer of deployments that are too large to be tried here: thousands of messages at a time."""
SILENT: list[tuple[tuple[str, ...], str]] = [
    *(
        (DENSE, key)
        for key in (
            *("placement.experts=eplb", "placement.spare=1", "placement.tokens=sharded", "overlap=shared_expert"),
            *("placement.decode_tokens=single", "attention.exchange=kv", "overlap=attention"),
            *("routing.policy=smoes", "routing.msi=0.2", "routing.popularity=0", "routing.balance=even", RATES),
            *("routing.skip={text: 0.3}", "parallelism.expert=2", "parallelism.expert_tensor=2"),
            *("communication.library=pairwise", "communication.deduplicate=none", "communication.dispatch=fp8"),
            *("communication.combine=fp8", "communication.rendezvous=true", "communication.tolerance=0"),
            *("communication.send_buffer=1 MiB", "communication.per_message=3 us", "communication.per_exchange=3 us"),
        )
    ),
    ((*DENSE, "parallelism.tensor=2"), "communication.library=pairwise"),
    (SLIDING, f"model.attention_layers.{LINEAR.replace(': {', '={', 1)}"),
    (HYBRID, "model.attention_layers.window=8"),
    ((*TINY, "workload.phase=prefill"), "workload.speculation={tokens: 2, accepted: 1}"),
    ((*TINY, *MLA), "model.attention_gate=true"),
    ((*TINY, *MLA), "model.query_rank=64"),
    ((*TINY, "model.shared_experts=0"), "model.shared_ffn=64"),
    *(
        ((*TINY, "routing.policy=dense"), key)
        for key in (
            *("placement.experts=eplb", "placement.spare=1", "placement.tokens=sharded", "parallelism.expert=2"),
            *("placement.decode_tokens=single", "attention.exchange=kv", "overlap=attention"),
            *("routing.msi=0.2", "routing.popularity=0", "routing.balance=even", "routing.skip={text: 0.3}", RATES),
        )
    ),
    *(((*TINY, f"routing.policy={policy}"), key) for policy in ("hard", "hybrid") for key in ("routing.msi=0.1", RATES)),
    *(
        ((*TINY, "routing.trace=TRACE"), key)
        for key in ("routing.popularity=0", "routing.msi=0.2", RATES, "routing.balance=even")
    ),
    ((*TINY, "routing.trace=TRACE", "routing.policy=device_limited"), "routing.groups=4"),
    ((*TINY, "model.shared_experts=0"), "overlap=shared_expert"),
    *((TINY, f"communication.order={order}") for order in ("naive", "rail", "random")),
    *((DENSE, f"compute.weights={{{part}: fp8}}") for part in ("experts", "shared")),
    ((*TINY, "model.dense_layers=0"), "compute.weights={dense: fp8}"),
    *(
        ((*TINY, "communication.per_message=3 us", f"communication.library={library}"), "communication.order=naive")
        for library in ("pairwise", "all_to_all_single")
    ),
    ((*TINY, "communication.deduplicate=none", "communication.library=low_latency"), "communication.rendezvous=true"),
    *(((*TINY, f"placement.tokens={rule}"), "attention.exchange=kv") for rule in ("data_parallel", "single")),
    ((*TINY, "placement.tokens=single"), "placement.decode_tokens=sharded"),
    ((*TINY, "workload.phase=prefill"), "placement.decode_tokens=single"),
    ((*TINY, "workload.output_tokens=1"), "placement.decode_tokens=single"),
    ((*TINY, "workload.phase=decode", "placement.decode_tokens=data_parallel"), "placement.tokens=sharded"),
    (TINY, "placement.spare=1"),
    (TINY, "routing.groups=4"),
    (TINY, "routing.keep=2"),
    (TINY, "routing.score=attention"),
    (TINY, MLA[1]),
]
"""Deployments, and a key that would change nothing there."""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Files that overrides name in capitals."""
    folder = tmp_path_factory.mktemp("files")
    save_trace(synthesize_trace(scenario("seed=5")), folder / "trace.npz")
    experts = [7, 6, 5, 4, 3, 2, 0, 1]
    (folder / "placement.json").write_text(f'{{"physical_to_logical_map": [{experts}, {experts}]}}')
    return {"TRACE": str(folder / "trace.npz"), "PLACEMENT": str(folder / "placement.json")}


def scenario(*overrides: str) -> Scenario:
    document = with_named_sections(Document(TEXT, name="small"))
    for override in (*TINY, *overrides):
        document.override(override)
    return document.validate(Scenario)


def numbers(value: Any) -> Any:
    """A document without its texts, which may repeat a key that changes nothing else."""
    if isinstance(value, dict):
        return {key: numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [numbers(part) for part in value]
    return None if isinstance(value, str) else value


@cache
def answer(*overrides: str) -> Any:
    return numbers(predict(deploy(scenario(*overrides))).to_dict())


def named(files: dict[str, str], overrides: tuple[str, ...]) -> list[str]:
    for name, path in files.items():
        overrides = tuple(override.replace(name, path) for override in overrides)
    return list(overrides)


def test_every_key_is_tried_here():
    keys = {f"{model.__name__}.{name}" for model, name in KEYS}
    known = EFFECTS.keys() | NOTES | OF_TOPOLOGIES | ONLY_LARGE
    assert not keys - known, (
        f"{sorted(keys - known)}: add each to EFFECTS with a deployment in which it changes the answer, and to SILENT every "
        "setting in which it would not and is refused; or to NOTES if it is a note that changes nothing."
    )
    assert not known - keys, f"{sorted(known - keys)}: no longer keys of a scenario. Remove them here."


@pytest.mark.parametrize("key", EFFECTS)
def test_a_key_changes_the_answer(key, files):
    base, change = EFFECTS[key]
    assert answer(*named(files, (*base, *change.split("; ")))) != answer(*named(files, base)), (
        f"{change} has no effect. Mend or refuse it."
    )


@pytest.mark.parametrize(
    ("base", "change"), SILENT, ids=lambda part: part[-40:] if isinstance(part, str) else part[-1][-40:]
)
def test_a_key_that_would_change_nothing_is_refused(base, change, files):
    deploy(scenario(*named(files, base)))
    with pytest.raises(SmoesError):
        deploy(scenario(*named(files, (*base, change))))
