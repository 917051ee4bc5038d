"""The shape of a model, and what follows from it: parameters, bytes of an expert, bytes of the KV cache.

Counts are of the language model alone (no vision tower): embedding, lm_head, attention, norms, routers, experts, dense
feed-forward layers. Biases and query/key norms, below 0.02%, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.models.attention import LatentAttention
from smoes_sim.models.attention_shape import AttentionShape
from smoes_sim.models.image_tokens import ImageTokens
from smoes_sim.models.vision import VisionTower
from smoes_sim.yaml_files import Document, Spec, nearest

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Billions = Annotated[float, Field(gt=0)]
DENSE_SUFFIXES: dict[str, Literal["total", "active"]] = {"-dense-total": "total", "-dense-active": "active"}
"""Suffix of a model name -> which number of parameters the dense counterpart has in common."""

_FFN_STEP = 64
"""Widths of dense counterparts are whole multiples of this, as real ones are; below 0.3% of any shipped model."""


class ModelShape(AttentionShape):
    """The shape of one language model, and the number of tokens of its images.

    For MLA the widths of ``mla`` are used instead of ``kv_heads`` and ``head_dim`` (there: query width of a head).

    Example:
        OLMoE-1B-7B: 16 layers, 64 experts of 3 * 2048 * 1024 = 6 291 456 parameters; 6.92e9 in total, 1.28e9 active.
    """

    also_called: ClassVar[Mapping[str, str]] = {
        "first_k_dense_replace": "dense_layers",
        "hidden_size": "hidden",
        "attn_output_gate": "attention_gate",
        "full_attention_interval": "attention_layers.pattern",
        "intermediate_size": "dense_ffn, or expert_ffn if it is the width of an expert",
        "layer_types": "attention_layers.pattern",
        "model_type": "name",
        "moe_intermediate_size": "expert_ffn",
        "n_routed_experts": "experts",
        "n_shared_experts": "shared_experts",
        "num_attention_heads": "heads",
        "num_experts": "experts",
        "num_experts_per_tok": "top_k",
        "num_hidden_layers": "layers",
        "num_key_value_heads": "kv_heads",
        "num_local_experts": "experts",
        "num_nextn_predict_layers": "mtp_layers",
        "shared_expert_intermediate_size": "shared_ffn",
        "sliding_window": "attention_layers.window",
        "tie_word_embeddings": "tie_embeddings",
        "vocab_size": "vocab",
    } | {name: f"{name} in the section mla" for name in LatentAttention.model_fields}
    dense_layers: Count = Field(0, description="Number of first layers that are dense.", examples=[1])
    moe_every: Positive = Field(
        1, description="Of the other layers, every n-th is an MoE layer; 1: all, 2: the second, fourth, ...", examples=[2]
    )
    experts: Count = Field(description="Routed experts of an MoE layer; 0: a dense model.", examples=[64])
    top_k: Count = Field(description="Routed experts that a token uses in each MoE layer.", examples=[8])
    shared_experts: Count = Field(0, description="Experts of an MoE layer that every token uses.", examples=[1])
    shared_ffn: Positive | None = Field(
        None,
        description="Feed-forward width of all shared experts of a layer together. Not given: shared_experts * expert_ffn.",
        examples=[3072],
    )
    expert_ffn: Count = Field(description="Feed-forward width of one expert.", examples=[1024])
    dense_ffn: Count = Field(0, description="Feed-forward width of a dense layer.", examples=[10944])
    mtp_layers: Count = Field(
        0,
        description="Layers of multi-token prediction, which propose tokens (workload.speculation); in none of the totals.",
        examples=[1],
    )
    vocab: Positive = Field(description="Size of the vocabulary.", examples=[50304])
    tie_embeddings: bool = Field(
        False, description="Whether the input embedding and the lm_head share their parameters.", examples=[True]
    )
    image_tokens: ImageTokens | None = Field(
        None,
        description="Rule for the number of tokens of an image. Not given: a model for text alone, which takes no images.",
        examples=[{"kind": "fixed", "tokens": 576}],
    )
    vision: VisionTower | None = Field(
        None,
        description="Sizes of the vision tower. Not given: its time is not counted.",
        examples=[
            {"layers": 24, "hidden": 1024, "ffn": 4096, "patch": 14, "projector": 2048, "source": "config.json of the tower"}
        ],
    )
    published_total: Billions | None = Field(
        None, description="Total parameters as the authors publish them, in billions.", examples=[6.92]
    )
    published_active: Billions | None = Field(
        None, description="Active parameters as the authors publish them, in billions.", examples=[1.28]
    )
    vision_parameters: float = Field(
        0.0,
        ge=0,
        description="Parameters of the vision tower that the published figures include, in billions.",
        examples=[0.4],
    )
    active_counts: Literal["all", "head", "none"] = Field(
        "all",
        description="Which of embedding and lm_head published_active includes: both (all), the lm_head (head), or none.",
        examples=["head"],
    )
    source: str = Field(description="Where the numbers are from.", examples=["config.json of the model"])
    image_source: str | None = Field(
        None,
        description="Where the rule for images is from; with image_tokens.",
        examples=["preprocessor_config.json of the model"],
    )

    @classmethod
    def load(cls, name: str) -> ModelShape:
        """A shipped model, or the dense counterpart of one.

        Raises:
            ConfigError: If no model has the name.

        Example:
            >>> ModelShape.load("olmoe-1b-7b").experts
            64
        """
        return find_model(name)

    @model_validator(mode="after")
    def _check_experts(self) -> Self:
        if self.experts == 0 and (self.top_k or self.shared_experts or self.expert_ffn):
            raise ValueError("experts = 0 (a dense model): top_k, shared_experts and expert_ffn must be 0 too.")
        if self.experts and not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k = {self.top_k} must lie in 1..{self.experts}, the number of experts.")
        if self.experts and self.expert_ffn == 0:
            raise ValueError(f"expert_ffn = 0 with {self.experts} experts: it must be >= 1.")
        if self.num_moe_layers < self.layers and self.dense_ffn == 0:
            raise ValueError(f"dense_ffn = 0, but {self.layers - self.num_moe_layers} layers are dense. Give their width.")
        if self.shared_ffn is not None and not self.shared_experts:
            raise ValueError(f"shared_ffn = {self.shared_ffn}, but there are no shared experts. Set shared_experts.")
        if self.image_tokens is None and (self.vision is not None or self.image_source is not None):
            raise ValueError("vision and image_source are given without image_tokens. Give the rule, or leave them out.")
        return self

    @property
    def moe_layer_indices(self) -> tuple[int, ...]:
        """Indices of the MoE layers, ascending."""
        if self.experts == 0:
            return ()
        return tuple(range(self.dense_layers + self.moe_every - 1, self.layers, self.moe_every))

    @property
    def num_moe_layers(self) -> int:
        """Number of MoE layers (L in shapes)."""
        return len(self.moe_layer_indices)

    @property
    def shares_feed_forward(self) -> bool:
        """Whether ranks that share attention also share the feed-forward layers: in a dense model only."""
        return self.experts == 0

    def gathers(self, tensor: int) -> int:
        """Number of all-gathers, equal to that of reduce-scatters, of ``tensor`` ranks that share attention, in one pass.

        Example:
            2 ranks on OLMoE, around attention: 16. On its dense counterpart, around the feed-forward layers too: 32.
        """
        return 0 if tensor == 1 else self.layers * (2 if self.shares_feed_forward else 1)

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert (SwiGLU: gate, up, down): 3 * hidden * expert_ffn."""
        return 3 * self.hidden * self.expert_ffn

    @property
    def shared_parameters(self) -> int:
        """Parameters of the shared experts of one layer."""
        return 3 * self.hidden * (self.shared_ffn or self.shared_experts * self.expert_ffn)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding, which is also the size of the lm_head: vocab * hidden."""
        return self.vocab * self.hidden

    @property
    def total_parameters(self) -> int:
        """Parameters of the language model, all experts, embedding and lm_head included."""
        return self._parameters(experts_per_layer=self.experts)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: top_k experts; embedding and lm_head included."""
        return self._parameters(experts_per_layer=self.top_k)

    def _parameters(self, *, experts_per_layer: int) -> int:
        embeddings = self.embedding_parameters * (1 if self.tie_embeddings else 2)
        norms = (2 * self.layers + 1) * self.hidden
        router = self.experts * self.hidden
        moe_layer = experts_per_layer * self.expert_parameters + self.shared_parameters + router
        dense_layer = 3 * self.hidden * self.dense_ffn
        feed_forward = self.num_moe_layers * moe_layer + (self.layers - self.num_moe_layers) * dense_layer
        return embeddings + norms + self.attention_parameters + feed_forward

    @property
    def total_as_published(self) -> float:
        """Total parameters in billions, counted as in ``published_total``."""
        return self.total_parameters / 1e9 + self.vision_parameters

    @property
    def active_as_published(self) -> float:
        """Active parameters in billions, counted as in ``published_active``.

        Example:
            DeepSeek-V3 counts the lm_head only: 37.55 - 0.93 = 36.63.
        """
        uncounted = {"all": 0, "head": 0 if self.tie_embeddings else 1, "none": 1 if self.tie_embeddings else 2}
        counted = self.active_parameters - uncounted[self.active_counts] * self.embedding_parameters
        return counted / 1e9 + self.vision_parameters

    def expert_bytes(self, element_size: float) -> float:
        """Bytes of one expert's weights; ``element_size`` in bytes.

        Example:
            >>> find_model("olmoe-1b-7b").expert_bytes(2) / 2**20  # 6 291 456 parameters
            12.0
        """
        return self.expert_parameters * element_size


def dense_equal(shape: ModelShape, *, of: Literal["total", "active"]) -> ModelShape:
    """The dense model of the same layers, attention and vocabulary with the same number of parameters.

    Only the feed-forward width is free: dense_ffn = (parameters - all others) / (3 * hidden * layers), rounded to a
    multiple of 64. Depth and width are those of the MoE model, so the feed-forward layers become wide.

    Args:
        shape: The model to match.
        of: ``total``: all parameters (same memory). ``active``: those one token uses (same work).

    Example:
        OLMoE: (6.92e9 - 0.47e9) / (3 * 2048 * 16) = 65 557, rounded to 65 536 for the total; 8 of 64 experts give 8192.

        >>> olmoe = find_model("olmoe-1b-7b")
        >>> dense_equal(olmoe, of="total").dense_ffn, dense_equal(olmoe, of="active").dense_ffn
        (65536, 8192)
    """
    target = shape.total_parameters if of == "total" else shape.active_parameters
    changes = {
        "name": f"{shape.name}-dense-{of}",
        "dense_layers": shape.layers,
        "moe_every": 1,
        "experts": 0,
        "top_k": 0,
        "shared_experts": 0,
        "mtp_layers": 0,
        "shared_ffn": None,
        "expert_ffn": 0,
        "dense_ffn": 0,
        "published_total": None,
        "published_active": None,
        "vision_parameters": 0.0,
        "source": f"derived: the dense counterpart of {shape.name} at equal {of} parameters",
    }
    bare = shape.model_copy(update=changes)
    per_width = 3 * shape.hidden * shape.layers
    width = max(1, round((target - bare.total_parameters) / per_width / _FFN_STEP)) * _FFN_STEP
    return bare.model_copy(update={"dense_ffn": width})


class _ModelFile(Spec):
    models: list[ModelShape]


@cache
def _shipped() -> dict[str, ModelShape]:
    text = (resources.files("smoes_sim") / "data" / "models.yaml").read_text(encoding="utf-8")
    models = Document(text, name="smoes_sim/data/models.yaml").validate(_ModelFile).models
    return {model.name: model for model in models}


def model_names() -> tuple[str, ...]:
    """Names of the shipped models, sorted; each also exists as ``<name>-dense-total`` and ``<name>-dense-active``."""
    return tuple(sorted(_shipped()))


def find_model(name: str) -> ModelShape:
    """The shipped model called ``name``, or a dense counterpart of one.

    Raises:
        ConfigError: If no model has the name.

    Example:
        >>> find_model("olmoe-1b-7b").layers, find_model("olmoe-1b-7b-dense-total").experts
        (16, 0)
    """
    models = _shipped()
    if name in models:
        return models[name]
    for suffix, of in DENSE_SUFFIXES.items():
        if name.removesuffix(suffix) in models:
            return dense_equal(models[name.removesuffix(suffix)], of=of)
    raise ConfigError(f'model = "{name}" is unknown. {nearest(name, models)}')
