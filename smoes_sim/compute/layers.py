"""Compute times of each rank in each part of a step, by roofline over the model's shapes.

Counted: attention projections and scores, KV cache, router, routed, shared and dense experts, the head. Weights are read
once per rank and step, routed experts once per *activated* expert. Not counted: norms, sampling, and the exchange of keys
and values where a sequence is spread over several ranks. Images: :mod:`smoes_sim.compute.vision`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smoes_sim.compute.attention import AttentionTimes, attention_times
from smoes_sim.compute.formats import WeightPart, format_of, weight_bytes
from smoes_sim.compute.load import ACTIVATION, ComputeRates, Floats, RankLoad, of_group
from smoes_sim.models import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeTimes:
    """Seconds per rank, shape (R,), equal in every layer; ``experts`` has the shape (L, R), ``attention`` one row a kind."""

    attention: AttentionTimes
    gate: Floats
    shared: Floats
    dense: Floats
    head: Floats
    experts: Floats


def compute_times(
    model: ModelShape, load: RankLoad, rates: ComputeRates, *, tensor: int = 1, expert_tensor: int = 1
) -> ComputeTimes:
    """Roofline times of every part of a step on each rank, seconds.

    Args:
        model: Shape of the model.
        load: Work of each rank.
        rates: Rates that a device reaches.
        tensor: Number of neighbouring ranks that form an attention group. They share the attention and the head of all
            tokens of the group: each holds a part of the weights, heads and vocabulary, and in a dense model of the
            feed-forward layers. Router, shared experts, and dense layers beside experts work on the rank's own tokens.
        expert_tensor: Number of ranks that share each routed expert; each has that part of its weights, for all its tokens.

    Example:
        OLMoE's routed experts on 1,000 slots: 2 * 6291456 * 1000 = 12.58 GFLOP.
    """
    own, group = load.tokens.astype(np.float64), of_group(load.tokens, tensor)
    hidden = model.hidden

    def mlp(parameters: float, part: WeightPart | None, tokens: Floats = own) -> Floats:
        element = ACTIVATION if part is None else weight_bytes(rates.weights, part, hidden=hidden)
        moved = element * parameters * (tokens > 0) + ACTIVATION * 2 * hidden * tokens
        precision = "bf16" if part is None else format_of(rates.weights, part)
        return rates.time(2.0 * parameters * tokens, moved * (parameters > 0), precision=precision)

    slots, active = load.slots.astype(np.float64), load.active_experts.astype(np.float64)
    experts_flops = 2.0 * model.expert_parameters / expert_tensor * slots
    expert = model.expert_bytes(weight_bytes(rates.weights, "experts", hidden=hidden)) / expert_tensor
    experts_bytes = expert * active + ACTIVATION * 2.0 * hidden * slots
    head_weights = hidden * model.vocab / tensor
    outputs = of_group(load.outputs, tensor)
    dense = 3 * hidden * model.dense_ffn
    return ComputeTimes(
        attention=attention_times(model, load, rates, tensor=tensor),
        gate=mlp(hidden * model.experts, None),
        shared=mlp(model.shared_parameters, "shared"),
        dense=mlp(dense / tensor, "dense", group) if model.shares_feed_forward else mlp(dense, "dense"),
        head=rates.time(
            2.0 * head_weights * outputs,
            np.where(outputs > 0, weight_bytes(rates.weights, "embeddings", hidden=hidden) * head_weights, 0.0),
            precision=format_of(rates.weights, "embeddings"),
        ),
        experts=rates.time(experts_flops, experts_bytes, precision=format_of(rates.weights, "experts")),
    )
