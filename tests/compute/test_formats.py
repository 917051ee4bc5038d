from __future__ import annotations

from typing import get_args

import pytest

from smoes_sim.compute import StepSize, find_device, memory_of_rank
from smoes_sim.compute.formats import (
    CACHES,
    COPIES,
    WEIGHTS,
    CacheFormat,
    CopyFormat,
    WeightFormat,
    WeightFormats,
    cache_bytes,
    weight_bytes,
)
from smoes_sim.models import ModelShape, find_model
from smoes_sim.models.image_tokens import FixedImageTokens

KIMI_K2 = find_model("deepseek-v3").model_copy(
    # config.json of moonshotai/Kimi-K2-Thinking: as DeepSeek-V3 with 384 experts, 64 heads and one dense layer
    update={"name": "kimi-k2", "experts": 384, "heads": 64, "kv_heads": 64, "dense_layers": 1, "vocab": 163840}
)
GPT_OSS = ModelShape(
    # config.json of openai/gpt-oss-120b; its biases and attention sinks are not in the shape
    name="gpt-oss-120b",
    layers=36,
    hidden=2880,
    experts=128,
    top_k=4,
    expert_ffn=2880,
    vocab=201088,
    heads=64,
    kv_heads=8,
    head_dim=64,
    image_tokens=FixedImageTokens(kind="fixed", tokens=1),
    source="config.json",
    image_source="made up: it reads text",
)
INT4 = WeightFormats(experts="int4_g32")
NVFP4 = WeightFormats(experts="nvfp4", shared="nvfp4", dense="nvfp4")
MXFP4 = WeightFormats(experts="mxfp4")


def need(model, weights, *, ranks, tokens=0):
    step = StepSize(tokens=tokens, outputs=0, cached=0, imbalance=1.0, copy_bytes=0, has_images=False)
    slots = -(-model.experts // ranks)
    return memory_of_rank(model, step, slots=slots, num_ranks=ranks, tensor=1, weights=weights, cache="bf16")


def fits(model, weights, *, ranks, device):
    """Whether the weights and buffers of 8,192 tokens leave room in 90% of the memory."""
    return need(model, weights, ranks=ranks, tokens=8192).fixed <= 0.9 * find_device(device).memory


def test_every_format_has_a_layout():
    for formats, layouts in ((WeightFormat, WEIGHTS), (CacheFormat, CACHES), (CopyFormat, COPIES)):
        assert set(get_args(formats)) == set(layouts)


def test_bits_of_a_weight_with_its_scales():
    # int4: 4 + 16 / 128; Kimi's: 4 + 16 / 32; mxfp4: 4 + 8 / 32; nvfp4: 4 + 8 / 16; int8: a float32 per 4096 inputs
    bits = {"bf16": 16, "fp16": 16, "fp32": 32, "fp8": 8 + 32 / 16384, "int8": 8 + 32 / 4096}
    bits |= {"int4": 4.125, "int4_g32": 4.5, "fp4": 4 + 32 / 4096, "mxfp4": 4.25, "nvfp4": 4.5}
    assert {name: 8 * weight_bytes(name, "experts", hidden=4096) for name in get_args(WeightFormat)} == bits


def test_bytes_of_a_cached_element():
    olmoe, deepseek = find_model("olmoe-1b-7b"), find_model("deepseek-v3")
    # heads of 128: int8 has a float32 for each
    found = {name: cache_bytes(olmoe, name) for name in get_args(CacheFormat)}
    assert found == {"bf16": 2, "fp16": 2, "fp8": 1, "int8": 1 + 4 / 128, "mxfp4": 4.25 / 8, "nvfp4": 4.5 / 8}
    # FlashMLA: 512 e4m3, 4 float32, 64 bf16 = 656; nvfp4 288 + 128 = 416
    whole = {name: round(576 * cache_bytes(deepseek, name), 6) for name in ("bf16", "fp8", "nvfp4")}
    assert whole == {"bf16": 1152, "fp8": 656, "nvfp4": 416}


def test_kimi_k2_in_int4_has_the_size_of_its_release_and_fits_on_8_h200():
    # 594 GB on Hugging Face (simonwillison.net, 2025-11-06): 60 * 384 experts of 44.04e6 at 4.5 bits are 570.8 GB
    assert sum(need(KIMI_K2, INT4, ranks=1).weights.values()) == pytest.approx(594e9, rel=0.003)
    assert fits(KIMI_K2, INT4, ranks=8, device="h200-sxm")  # vLLM's recipe for Kimi-K2-Thinking: 8 H200
    assert not fits(KIMI_K2, "fp8", ranks=8, device="h200-sxm")  # 1.03 TB


def test_gpt_oss_120b_has_the_size_of_its_release_and_fits_on_one_80_gb_device():
    # 60.8 GiB (model card of OpenAI): 114.7e9 parameters of experts at 4.25 bits are 60.9 GB, the rest bf16
    whole = need(GPT_OSS, MXFP4, ranks=1)
    assert whole.weights["experts"] == 36 * 128 * 3 * 2880**2 * 4.25 / 8
    assert sum(whole.weights.values()) == pytest.approx(60.8 * 2**30, rel=0.005)
    assert fits(GPT_OSS, MXFP4, ranks=1, device="h100-sxm")
    assert not fits(GPT_OSS, "bf16", ranks=1, device="h100-sxm")


def test_deepseek_v3_in_nvfp4_has_the_elements_of_its_release_and_fits_on_4_b200():
    # Hugging Face counts 396.8e9 elements in nvidia/DeepSeek-R1-NVFP4 (llmrun.dev): bytes of two weights, bytes of scales,
    # and bf16 elements, among them the whole layer of multi-token prediction, which the shape does not have
    model = find_model("deepseek-v3")
    found = need(model, NVFP4, ranks=1).weights
    packed = sum(found[part] for part in ("experts", "shared", "dense"))
    rest = sum(size for part, size in found.items() if part not in ("experts", "shared", "dense")) / 2
    prediction = (
        257 * model.expert_parameters + model.full_attention.parameters + 2 * model.embedding_parameters + 2 * 7168**2
    )
    assert packed + rest + prediction == pytest.approx(396.8e9, rel=0.002)
    assert fits(model, NVFP4, ranks=8, device="b200-sxm")
    assert fits(model, NVFP4, ranks=4, device="b200-sxm")
    assert not fits(model, "fp8", ranks=4, device="b200-sxm")
