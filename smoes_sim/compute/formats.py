"""Storage formats: bytes of weights, of the KV cache and of what is sent, with the scales that belong to them.

A block of elements shares one scale: ``bytes of an element = bits / 8 + bytes of the scale / elements of its block``. Where
no block is given there is one scale per row: per output channel of a weight, token that is sent, or head of a cached key.
Zero points and the one float32 that NVFP4 keeps per tensor are not counted (below 1e-5 of the bytes of an expert).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field

from smoes_sim.models import ModelShape
from smoes_sim.yaml_files import Spec

WeightFormat = Literal["bf16", "fp16", "fp32", "fp8", "int8", "int4", "int4_g32", "fp4", "mxfp4", "nvfp4"]
CacheFormat = Literal["bf16", "fp16", "fp8", "int8", "mxfp4", "nvfp4"]
CopyFormat = Literal["bf16", "fp8", "fp16", "fp32", "int8", "fp4", "mxfp4", "nvfp4"]
WeightPart = Literal["attention", "shared", "dense", "experts", "embeddings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How elements and their scales are stored.

    Attributes:
        bits: Bits of an element.
        scale: Bytes of a scale; 0: there is none.
        block: Number of elements that share a scale; None: those of a row.
    """

    bits: int
    scale: int = 0
    block: int | None = None

    def element_bytes(self, row: int) -> float:
        """Bytes of an element with its part of the scale; ``row`` is the number of elements of a row.

        Example:
            >>> Layout(bits=4, scale=1, block=32).element_bytes(7168) * 8  # MXFP4, in bits
            4.25
        """
        return self.bits / 8 + self.scale / (self.block or row)

    def row_bytes(self, row: int) -> int:
        """Bytes of one row of elements in whole bytes and whole blocks.

        Example:
            >>> Layout(bits=8, scale=4, block=128).row_bytes(7168), Layout(bits=4, scale=1, block=16).row_bytes(7168)
            (7392, 4032)
        """
        return math.ceil(self.bits * row / 8) + self.scale * math.ceil(row / (self.block or row))


_BF16, _FP32 = Layout(bits=16), Layout(bits=32)
_MXFP4 = Layout(bits=4, scale=1, block=32)
"""E2M1 elements, an E8M0 scale per 32: OCP Microscaling Formats (MX) 1.0, section 5; gpt-oss: 4.25 bits (model card)."""
_NVFP4 = Layout(bits=4, scale=1, block=16)
"""E2M1 elements, an E4M3 scale per 16: NVIDIA, "Introducing NVFP4" (developer.nvidia.com/blog, 2025-06); 4.5 bits."""

WEIGHTS: dict[WeightFormat, Layout] = {
    "bf16": _BF16,
    "fp16": _BF16,
    "fp32": _FP32,
    # a float32 per 128 x 128: DeepSeek-V3, arXiv 2412.19437, 3.3.2, and weight_block_size in its config.json
    "fp8": Layout(bits=8, scale=4, block=128 * 128),
    # a float32 per output channel: vLLM and llm-compressor, "INT8 W8A8"
    "int8": Layout(bits=8, scale=4),
    # a 16-bit scale per 128: GPTQ, AWQ and compressed-tensors' W4A16 (symmetric; zero points would add 4 bits)
    "int4": Layout(bits=4, scale=2, block=128),
    # a bf16 scale per 32: Kimi-K2-Thinking and K2.5, config.json (compressed-tensors, num_bits 4, group_size 32)
    "int4_g32": Layout(bits=4, scale=2, block=32),
    # assumed: a float32 per output channel, as for int8; releases use mxfp4 or nvfp4
    "fp4": Layout(bits=4, scale=4),
    "mxfp4": _MXFP4,
    "nvfp4": _NVFP4,
}
CACHES: dict[CacheFormat, Layout] = {
    "bf16": _BF16,
    "fp16": _BF16,
    "fp8": Layout(bits=8),  # one scale per tensor: vLLM, "Quantized KV Cache"
    # a scale per token (Huawei ModelArts, "kv-cache-int8", recommended); assumed: a float32 for each head
    "int8": Layout(bits=8, scale=4),
    "mxfp4": _MXFP4,
    "nvfp4": _NVFP4,
}
_LATENT: dict[CacheFormat, Layout] = CACHES | {
    # a float32 per 128 of the latent vector, and the rotary key in bf16: README of FlashMLA, "FP8 with scale", 656 bytes
    "fp8": Layout(bits=8, scale=4, block=128),
    "int8": Layout(bits=8, scale=4, block=128),  # assumed: as fp8
}
COPIES: dict[CopyFormat, Layout] = {
    "bf16": _BF16,
    "fp16": _BF16,
    "fp32": _FP32,
    # a float32 per 128 elements: DeepEP (hidden 7168 gives 7392 bytes a token)
    "fp8": Layout(bits=8, scale=4, block=128),
    "int8": Layout(bits=8, scale=4),  # a float32 per token: dynamic per-token quantisation of W8A8 engines
    "fp4": Layout(bits=4, scale=4),  # assumed: a float32 per token, as int8
    "mxfp4": _MXFP4,
    "nvfp4": _NVFP4,
}


def _part(description: str, example: WeightFormat) -> WeightFormat:
    return Field("bf16", description=f"Format of {description}: {', '.join(get_args(WeightFormat))}.", examples=[example])


class WeightFormats(Spec):
    """Formats of a model's weights by part; a part that is not named is bf16. The router is always bf16."""

    experts: WeightFormat = _part("the routed experts", "mxfp4")
    attention: WeightFormat = _part("the projections of attention", "bf16")
    shared: WeightFormat = _part("the shared experts", "bf16")
    dense: WeightFormat = _part("the feed-forward layers without experts", "fp8")
    embeddings: WeightFormat = _part("input embedding and lm_head", "bf16")


Weights = WeightFormat | WeightFormats
"""One format of all projections and experts (embeddings are bf16 then), or one for each part."""


def format_of(weights: Weights, part: WeightPart) -> WeightFormat:
    """The format of a part of the weights.

    Example:
        >>> format_of("fp8", "experts"), format_of("fp8", "embeddings"), format_of(WeightFormats(shared="fp8"), "experts")
        ('fp8', 'bf16', 'bf16')
    """
    if isinstance(weights, WeightFormats):
        found: WeightFormat = getattr(weights, part)
        return found
    return "bf16" if part == "embeddings" else weights


def weight_bytes(weights: Weights, part: WeightPart, *, hidden: int) -> float:
    """Bytes of one parameter of a part, with its share of the scales.

    Where a scale belongs to an output channel, each channel is taken to have ``hidden`` inputs (a down projection has
    others; at a hidden size of 2048 the scales of int8 are 0.2% of the bytes).

    Example:
        Kimi-K2's experts, 4 bits and 2 bytes per 32: 0.5 + 2 / 32.

        >>> weight_bytes("int4_g32", "experts", hidden=7168), weight_bytes("int4_g32", "embeddings", hidden=7168)
        (0.5625, 2.0)
    """
    return WEIGHTS[format_of(weights, part)].element_bytes(hidden)


def cache_bytes(model: ModelShape, cache: CacheFormat) -> float:
    """Mean bytes of one cached element of the model, with its share of the scales.

    Quantised MLA keeps the rotary key in bf16, as FlashMLA does: ``(latent * bytes + 2 * rotary) / (latent + rotary)``.

    Example:
        DeepSeek-V3 in fp8: 512 + 4 * 4 + 64 * 2 = 656 bytes a token and layer of 576 elements.

        >>> from smoes_sim.models import find_model
        >>> round(576 * cache_bytes(find_model("deepseek-v3"), "fp8"), 9), cache_bytes(find_model("olmoe-1b-7b"), "fp8")
        (656.0, 1.0)
    """
    if model.mla is None:
        return CACHES[cache].element_bytes(model.head_dim)
    latent, rotary = model.mla.kv_lora_rank, model.mla.qk_rope_head_dim
    return (latent * _LATENT[cache].element_bytes(latent) + 2 * rotary) / (latent + rotary)
