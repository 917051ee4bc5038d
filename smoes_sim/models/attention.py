"""The attention of each layer: full, over a sliding window, or linear; its parameters, operations and cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from smoes_sim.yaml_files import Spec

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
AttentionKind = Literal["full", "sliding", "linear"]

_STATE = 4
"""Bytes of an element of a linear layer's state: float32 (mamba_ssm_dtype of Qwen3.5's config.json)."""
_CONVOLVED = 2
"""Bytes of an element that the convolution of a linear layer keeps: bf16."""


class LatentAttention(Spec):
    """Widths of multi-head latent attention (MLA): keys and values are rebuilt from one latent vector per token."""

    kv_lora_rank: Positive = Field(description="Width of the latent vector of keys and values.", examples=[512])
    q_lora_rank: Positive | None = Field(
        None,
        description="Width of the latent vector of queries. Not given: queries are projected directly.",
        examples=[1536],
    )
    qk_nope_head_dim: Positive = Field(description="Query and key width of a head without rotary part.", examples=[128])
    qk_rope_head_dim: Positive = Field(description="Rotary query and key width of a head.", examples=[64])
    v_head_dim: Positive = Field(description="Value width of a head.", examples=[128])


class LinearAttention(Spec):
    """Sizes of linear attention: each value head keeps a state of key_dim * value_dim numbers instead of a growing cache.

    Gated delta net (Qwen3-Next, Qwen3.5): a short convolution runs over queries, keys and values, two numbers per value
    head and token say how the state decays and how much is written, and a gate as wide as the values weighs the result.

    Example:
        Qwen3.5-397B: 16 key heads and 64 value heads of 128, convolution over 4 tokens: a state of 64 * 128 * 128 float32
        numbers and 3 * (2 * 2048 + 8192) bf16 numbers, 4,268,032 bytes per layer and sequence.
    """

    key_heads: Positive = Field(description="Number of heads of queries and keys (linear_num_key_heads).", examples=[16])
    value_heads: Positive = Field(
        description="Number of heads of values, each with a state (linear_num_value_heads).", examples=[64]
    )
    key_dim: Positive = Field(description="Width of a query and key head (linear_key_head_dim).", examples=[128])
    value_dim: Positive = Field(description="Width of a value head (linear_value_head_dim).", examples=[128])
    conv: Count = Field(
        0, description="Tokens under the convolution (linear_conv_kernel_dim); 0: no convolution.", examples=[4]
    )

    @property
    def convolved(self) -> int:
        """Width of what the convolution runs over: queries, keys and values of a token."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    def parameters(self, hidden: int) -> int:
        """Parameters of a layer: queries, keys, values and gate, two numbers per value head, convolution, output.

        Example:
            Qwen3.5-397B: 4096 (12288 + 8192 + 128) + 4 * 12288 + 8192 * 4096 = 118,013,952.

            >>> LinearAttention(key_heads=16, value_heads=64, key_dim=128, value_dim=128, conv=4).parameters(4096)
            118013952
        """
        values = self.value_heads * self.value_dim
        return hidden * (self.convolved + values + 2 * self.value_heads) + self.conv * self.convolved + values * hidden

    @property
    def flops_per_token(self) -> int:
        """Operations of the recurrence for a token: read by key, write, read by query (2 per element each), convolution.

        Example:
            Qwen3.5-397B: 6 * 64 * 128 * 128 + 2 * 4 * 12288 = 6,389,760.
        """
        return 6 * self.value_heads * self.key_dim * self.value_dim + 2 * self.conv * self.convolved

    @property
    def state_bytes(self) -> int:
        """Bytes that a sequence keeps in a layer, however long it is."""
        state = self.value_heads * self.key_dim * self.value_dim
        return _STATE * state + _CONVOLVED * max(self.conv - 1, 0) * self.convolved


class AttentionLayers(Spec):
    """Which layers have which attention.

    ``full``: every token attends to all before it, with the heads of the model (GQA or MLA). ``sliding``: the same heads,
    but only the last ``window`` tokens, itself included. ``linear``: a state of constant size (section ``linear``).

    Example:
        ``pattern: [linear, linear, linear, full]`` on 60 layers: 45 linear layers, and full ones at 3, 7, ..., 59.
    """

    pattern: tuple[AttentionKind, ...] = Field(
        strict=False,
        min_length=1,
        description="Kind of the first layers, repeated up to the last one. At least one is full.",
        examples=[["linear", "linear", "linear", "full"]],
    )
    window: Positive | None = Field(
        None, description="Tokens that a token of a sliding layer attends to, itself included.", examples=[128]
    )
    linear: LinearAttention | None = Field(
        None,
        description="Sizes of the linear layers.",
        examples=[{"key_heads": 16, "value_heads": 64, "key_dim": 128, "value_dim": 128, "conv": 4}],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "full" not in self.pattern:
            raise ValueError(f"pattern = {list(self.pattern)} has no full layer: at least one is needed. Add one.")
        for key, kind in (("window", "sliding"), ("linear", "linear")):
            if (getattr(self, key) is None) == (kind in self.pattern):
                raise ValueError(
                    f"pattern = {list(self.pattern)}: {key} belongs to {kind} layers. Add or remove one of them."
                )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerAttention:
    """What the attention of one layer costs.

    Attributes:
        kind: Full, sliding or linear.
        parameters: Its parameters.
        output_parameters: Those of them that project the result of all heads back to the width of the model.
        inner: Width of a token's queries, keys, values and gate.
        flops_per_pair: Operations per (query, key) pair in prefill.
        decode_flops_per_pair: The same in decode.
        rebuild_flops_per_token: Operations that recompute keys and values of a cached token (MLA in prefill).
        flops_per_token: Operations per token that do not depend on the context (linear).
        cache_elements: Elements that a token adds to the cache.
        cache_parts: Number of ranks over which a token's cache can be divided: key heads, 1 for MLA.
        window: Tokens that a token attends to at most; None: all.
        state_bytes: Bytes that a sequence keeps, however long it is.
        state_parts: Number of ranks over which they can be divided: value heads.
    """

    kind: AttentionKind
    parameters: int
    output_parameters: int
    inner: int
    flops_per_pair: int = 0
    decode_flops_per_pair: int = 0
    rebuild_flops_per_token: int = 0
    flops_per_token: int = 0
    cache_elements: int = 0
    cache_parts: int = 1
    window: int | None = None
    state_bytes: int = 0
    state_parts: int = 1

    def cache_share(self, tensor: int) -> float:
        """Share of a token's cache on each of ``tensor`` ranks that divide the heads: 1 / min(tensor, cache_parts).

        More ranks than key heads hold copies. MLA's latent vector is used by all heads: 1.
        """
        return 1.0 / min(tensor, self.cache_parts)


def grouped_attention(
    *, hidden: int, heads: int, kv_heads: int, head_dim: int, query_rank: int | None, has_gate: bool
) -> LayerAttention:
    """A full layer of grouped-query attention.

    Queries are hidden * heads * head_dim, or by way of ``query_rank`` (a norm included), and again as much with a gate.

    Example:
        Mixtral (32 heads, 8 of keys): 4096 * 128 * (32 + 8 + 8 + 32).
    """
    width = heads * head_dim
    query = hidden * width if query_rank is None else query_rank * (hidden + 1 + width)
    gate = hidden * width if has_gate else 0
    return LayerAttention(
        kind="full",
        parameters=query + gate + 2 * hidden * kv_heads * head_dim + width * hidden,
        output_parameters=width * hidden,
        inner=width * (2 if has_gate else 1) + 2 * kv_heads * head_dim,
        flops_per_pair=4 * width,
        decode_flops_per_pair=4 * width,
        cache_elements=2 * kv_heads * head_dim,
        cache_parts=kv_heads,
    )


def latent_attention(mla: LatentAttention, *, hidden: int, heads: int) -> LayerAttention:
    """A full layer of multi-head latent attention; decode works on the cached latent vectors (absorbed up-projections).

    Example:
        DeepSeek-V3, operations per pair: 2 * 128 heads * (192 + 128) = 81 920 in prefill, 2 * 128 * (512 + 64 + 512) =
        278 528 in decode; to rebuild a token's keys and values 2 * 512 * 128 * (128 + 128) = 33 554 432.
    """
    key = mla.qk_nope_head_dim + mla.qk_rope_head_dim
    query = hidden * heads * key if mla.q_lora_rank is None else mla.q_lora_rank * (hidden + 1 + heads * key)
    down = hidden * (mla.kv_lora_rank + mla.qk_rope_head_dim) + mla.kv_lora_rank
    up = mla.kv_lora_rank * heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    output = heads * mla.v_head_dim * hidden
    return LayerAttention(
        kind="full",
        parameters=query + down + up + output,
        output_parameters=output,
        inner=heads * (2 * key + mla.v_head_dim),
        flops_per_pair=2 * heads * (key + mla.v_head_dim),
        decode_flops_per_pair=2 * heads * (2 * mla.kv_lora_rank + mla.qk_rope_head_dim),
        rebuild_flops_per_token=2 * up,
        cache_elements=mla.kv_lora_rank + mla.qk_rope_head_dim,
    )


def linear_attention(linear: LinearAttention, *, hidden: int) -> LayerAttention:
    """A layer of linear attention."""
    return LayerAttention(
        kind="linear",
        parameters=linear.parameters(hidden),
        output_parameters=linear.value_heads * linear.value_dim * hidden,
        inner=linear.convolved + linear.value_heads * linear.value_dim,
        flops_per_token=linear.flops_per_token,
        state_bytes=linear.state_bytes,
        state_parts=linear.value_heads,
    )
