"""Memory of the busiest rank: weights by part, KV cache, and the buffers of a step."""

from __future__ import annotations

from dataclasses import dataclass

from smoes_sim.compute.formats import CacheFormat, WeightPart, Weights, cache_bytes, weight_bytes
from smoes_sim.models import ModelShape

_BF16 = 2
_LOGIT = 4
"""Bytes of a logit: float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSize:
    """The largest step of the busiest rank, and the tokens that it keeps in its cache.

    Attributes:
        tokens: Number of tokens at home on the busiest rank.
        outputs: Number of sequences whose next token its attention group produces.
        cached: Number of tokens whose keys and values its attention group keeps.
        imbalance: Routed tokens of the busiest rank over the mean of all ranks.
        copy_bytes: Bytes of a dispatched and a combined copy together.
        has_images: Whether the vision tower is loaded.
        near: Number of cached tokens within the window of their sequence's end, for sliding layers.
        sequences: Number of sequences that its attention group keeps, for linear layers.
    """

    tokens: int
    outputs: int
    cached: int
    imbalance: float
    copy_bytes: int
    has_images: bool
    near: int = 0
    sequences: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Bytes that the busiest rank needs.

    Attributes:
        weights: By part: attention, router, shared, dense, experts, embeddings, norms, vision, mtp.
        buffers: By part: activations, experts' activations, exchanges, logits.
        cache_per_token: Bytes of the KV cache per token on each rank of its attention group, in layers that keep all tokens.
        cached: Number of tokens whose keys and values it keeps.
        cache_per_sequence: Bytes that a long sequence keeps beside, however long it is: the full windows of sliding layers
            and the states of linear ones.
        kept: Bytes that the sequences of the batch keep in such layers.
    """

    weights: dict[str, float]
    buffers: dict[str, float]
    cache_per_token: float
    cached: int
    cache_per_sequence: float = 0.0
    kept: float = 0.0

    @property
    def fixed(self) -> float:
        """Bytes without the cache."""
        return sum(self.weights.values()) + sum(self.buffers.values())

    @property
    def total(self) -> float:
        """All bytes."""
        return self.fixed + self.kept + self.cache_per_token * self.cached

    def capacity(self, usable: float) -> int:
        """Number of tokens whose keys and values fit into ``usable`` bytes beside everything else."""
        return int(max(0.0, usable - self.fixed - self.kept) // self.cache_per_token)


def memory_of_rank(
    model: ModelShape,
    step: StepSize,
    *,
    slots: int,
    num_ranks: int,
    tensor: int,
    weights: Weights,
    cache: CacheFormat,
    expert_tensor: int = 1,
    mtp_layers: int = 0,
) -> MemoryNeed:
    """Bytes that the busiest rank needs, by part.

    Attention, embedding and head are divided over the ``tensor`` ranks of an attention group, and so are the feed-forward
    layers of a dense model; router, shared experts, dense layers beside experts and the vision tower are on every rank.
    Buffers are those of one layer and are reused by the next: an estimate, because engines differ (graphs, workspaces and
    fragmentation have to fit into what ``memory_share`` leaves).

    Args:
        model: The model's shape.
        step: The largest step.
        slots: Number of experts on the rank per MoE layer, replicas included.
        num_ranks: Number of ranks of an EP group.
        tensor: Number of ranks of an attention group.
        weights: Format of projections and experts, or one by part; router, norms and tower are bf16. Scales are counted.
        cache: Format of the KV cache.
        expert_tensor: Number of ranks that share each expert.
        mtp_layers: Number of layers of multi-token prediction that are loaded.

    Example:
        OLMoE on 2 ranks in bf16: experts 16 layers * 32 slots * 6291456 * 2 B = 6.44 GB a rank, attention 0.537 GB.
    """
    hidden, moe = model.hidden, model.num_moe_layers
    embeddings = model.embedding_parameters * (1 if model.tie_embeddings else 2)
    dense_parts = tensor if model.shares_feed_forward else 1
    tower = model.vision.parameters(hidden) if model.vision is not None and step.has_images else 0

    def size(part: WeightPart) -> float:
        return weight_bytes(weights, part, hidden=hidden)

    layer = {
        "attention": size("attention") * model.full_attention.parameters / tensor,
        "router": float(_BF16 * model.experts * hidden),
        "shared": size("shared") * model.shared_parameters,
        "experts": size("experts") * slots * model.expert_parameters / expert_tensor,
        "dense": 0.0 if model.experts else size("dense") * 3 * hidden * model.dense_ffn / dense_parts,
        "projection": float(_BF16 * 2 * hidden**2),
    }
    mtp = {"mtp": mtp_layers * sum(layer.values())} if mtp_layers else {}
    cached_by_mtp = mtp_layers * model.full_attention.cache_elements * cache_bytes(model, cache)
    window = model.window_bytes_per_token(cache_bytes(model, cache)) * model.kv_share(tensor)
    state = model.state_bytes * model.state_share(tensor)
    return MemoryNeed(
        weights={
            "attention": size("attention") * model.attention_parameters / tensor,
            "router": float(_BF16 * moe * model.experts * hidden),
            "shared": float(size("shared") * moe * model.shared_parameters),
            "dense": size("dense") * (model.layers - moe) * 3 * hidden * model.dense_ffn / dense_parts,
            "experts": float(size("experts") * moe * slots * model.expert_parameters / expert_tensor),
            "embeddings": size("embeddings") * embeddings / tensor,
            "norms": float(_BF16 * (2 * model.layers + 1) * hidden),
            "vision": float(_BF16 * tower),
            **mtp,
        },
        buffers=_buffers(model, step, num_ranks=num_ranks, tensor=tensor, expert_tensor=expert_tensor),
        cache_per_token=(model.kv_bytes_per_token(cache_bytes(model, cache)) + cached_by_mtp) * model.kv_share(tensor),
        cached=step.cached,
        cache_per_sequence=window * (model.window or 0) + state,
        kept=window * step.near + state * step.sequences,
    )


def _buffers(model: ModelShape, step: StepSize, *, num_ranks: int, tensor: int, expert_tensor: int) -> dict[str, float]:
    """Bytes of the buffers of a step, by part.

    Per token: four hidden vectors, and the inner vectors of the widest of attention, dense and shared layers. Per routed
    token: input, output and three inner vectors of the expert; ranks that share experts have the tokens of all of them, with
    a part of the inner vectors. Per copy: the bytes sent and received. The logits.
    """
    attention = max(kind.inner for kind in model.attentions)
    widest = max(attention, 3 * model.dense_ffn, model.shared_parameters // model.hidden)
    routed = step.tokens * model.top_k * step.imbalance * expert_tensor
    copies = step.tokens * min(model.top_k * expert_tensor, num_ranks) * step.imbalance
    return {
        "activations": float(_BF16 * step.tokens * (4 * model.hidden + widest)),
        "experts": _BF16 * routed * (2 * model.hidden + 3 * model.expert_ffn / expert_tensor),
        "exchanges": copies * step.copy_bytes,
        "logits": _LOGIT * step.outputs * model.vocab / tensor,
    }
