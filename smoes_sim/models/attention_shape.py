"""Which attention each layer of a model has, and what follows from it: parameters and bytes of the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from smoes_sim.models.attention import (
    AttentionKind,
    AttentionLayers,
    LatentAttention,
    LayerAttention,
    grouped_attention,
    latent_attention,
    linear_attention,
)
from smoes_sim.yaml_files import Spec

Positive = Annotated[int, Field(ge=1)]


class AttentionShape(Spec):
    """The layers of a model and their attention."""

    name: str = Field(description="Name in tables and messages.", examples=["my-moe-7b"])
    layers: Positive = Field(description="Number of transformer layers, dense and MoE.", examples=[16])
    hidden: Positive = Field(description="Width of the model.", examples=[2048])
    heads: Positive = Field(description="Number of query heads.", examples=[16])
    kv_heads: Positive = Field(description="Number of key and value heads; divides heads.", examples=[16])
    head_dim: Positive = Field(description="Width of a head.", examples=[128])
    attention: Literal["gqa", "mla"] = Field(
        "gqa",
        description="Grouped-query (with kv_heads = heads: multi-head) or multi-head latent attention.",
        examples=["mla"],
    )
    mla: LatentAttention | None = Field(
        None,
        description="Widths of multi-head latent attention; with attention: mla only.",
        examples=[{"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}],
    )
    attention_layers: AttentionLayers | None = Field(
        None,
        description="Which layers attend to all tokens, to a window, or by linear attention. Not given: all to all tokens.",
        examples=[{"pattern": ["sliding", "full"], "window": 128}],
    )
    attention_gate: bool = Field(
        False,
        description="Whether a gate as wide as the queries weighs the result of attention (attn_output_gate); gqa only.",
        examples=[True],
    )
    query_rank: Positive | None = Field(
        None,
        description="Width through which queries are projected (share_q_dim of Step3); gqa only. Not given: directly.",
        examples=[2048],
    )

    @model_validator(mode="after")
    def _check_attention(self) -> Self:
        if (self.attention == "mla") != (self.mla is not None):
            raise ValueError(
                f'attention = "{self.attention}": the section mla belongs to attention "mla". Add or remove it.'
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}.")
        if self.mla is not None and (self.attention_gate or self.query_rank is not None):
            raise ValueError("attention_gate and query_rank belong to attention: gqa. Leave them out.")
        return self

    @property
    def full_attention(self) -> LayerAttention:
        """The attention of a full layer."""
        if self.mla is not None:
            return latent_attention(self.mla, hidden=self.hidden, heads=self.heads)
        return grouped_attention(
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            query_rank=self.query_rank,
            has_gate=self.attention_gate,
        )

    @property
    def attentions(self) -> tuple[LayerAttention, ...]:
        """The different kinds of attention in the order in which they occur first; rows of attention times.

        Example:
            >>> from smoes_sim.models import find_model
            >>> [one.kind for one in find_model("gpt-oss-120b").attentions]
            ['sliding', 'full']
        """
        layers, full = self.attention_layers, self.full_attention
        if layers is None:
            return (full,)
        made: dict[AttentionKind, LayerAttention] = {"full": full}
        if layers.window is not None:
            made["sliding"] = replace(full, kind="sliding", window=layers.window)
        if layers.linear is not None:
            made["linear"] = linear_attention(layers.linear, hidden=self.hidden)
        return tuple(made[kind] for kind in dict.fromkeys(self._kinds))

    @property
    def attention_kinds(self) -> tuple[int, ...]:
        """Kind of the attention of each layer, as a row of attention times.

        Example:
            >>> from smoes_sim.models import find_model
            >>> find_model("gpt-oss-120b").attention_kinds[:5]
            (0, 1, 0, 1, 0)
        """
        rows = {kind: row for row, kind in enumerate(dict.fromkeys(self._kinds))}
        return tuple(rows[kind] for kind in self._kinds)

    @property
    def _kinds(self) -> list[AttentionKind]:
        pattern: tuple[AttentionKind, ...] = ("full",) if self.attention_layers is None else self.attention_layers.pattern
        return [pattern[layer % len(pattern)] for layer in range(self.layers)]

    @property
    def window(self) -> int | None:
        """Tokens that a token of a sliding layer attends to at most; None without such layers."""
        return None if self.attention_layers is None else self.attention_layers.window

    @property
    def attention_parameters(self) -> int:
        """Parameters of attention in all layers.

        Example:
            OLMoE: 16 layers of 4 * 2048**2.

            >>> from smoes_sim.models import find_model
            >>> find_model("olmoe-1b-7b").attention_parameters
            268435456
        """
        kinds = self.attentions
        return sum(kinds[row].parameters for row in self.attention_kinds)

    def kv_bytes_per_token(self, element_size: float) -> float:
        """Bytes that one token adds to the cache of all full layers, for as long as its sequence lives.

        Keys and values of every key head (GQA), or one latent vector and one rotary key (MLA); ``element_size`` in bytes.
        Sliding layers keep the last tokens alone (:meth:`window_bytes_per_token`), linear ones none (:attr:`state_bytes`).

        Example:
            OLMoE in bf16: 2 * 16 layers * 16 * 128 * 2. DeepSeek-V3: 61 * (512 + 64) * 2. Qwen3.5-397B, 15 of
            whose 60 layers are full: 2 * 15 * 2 * 256 * 2.

            >>> from smoes_sim.models import find_model
            >>> [find_model(name).kv_bytes_per_token(2) for name in ("olmoe-1b-7b", "deepseek-v3", "qwen3.5-397b-a17b")]
            [131072, 70272, 30720]
        """
        return self._cached("full") * element_size

    def window_bytes_per_token(self, element_size: float) -> float:
        """Bytes of the cache of all sliding layers for each token of the window; a sequence has at most ``window`` there.

        Example:
            gpt-oss-120b in bf16: 2 * 18 layers * 8 * 64 * 2, for at most 128 tokens of a sequence.

            >>> from smoes_sim.models import find_model
            >>> find_model("gpt-oss-120b").window_bytes_per_token(2), find_model("gpt-oss-120b").window
            (36864, 128)
        """
        return self._cached("sliding") * element_size

    def _cached(self, kind: AttentionKind) -> int:
        kinds = self.attentions
        return sum(kinds[row].cache_elements for row in self.attention_kinds if kinds[row].kind == kind)

    @property
    def state_bytes(self) -> int:
        """Bytes that a sequence keeps in all linear layers, however long it is.

        Example:
            Qwen3.5-397B: 45 * 4,268,032.

            >>> from smoes_sim.models import find_model
            >>> find_model("qwen3.5-397b-a17b").state_bytes
            192061440
        """
        kinds = self.attentions
        return sum(kinds[row].state_bytes for row in self.attention_kinds)

    def state_share(self, tensor: int) -> float:
        """Share of that on each of ``tensor`` ranks that divide the heads of a sequence."""
        return 1.0 / min(tensor, max(one.state_parts for one in self.attentions))

    def kv_share(self, tensor: int) -> float:
        """Share of a token's cache on each of ``tensor`` ranks that divide the heads of a sequence."""
        return self.full_attention.cache_share(tensor)
