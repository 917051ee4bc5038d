"""How long each rank computes in each part of a step, by roofline over the model's shapes.

Counted: attention projections and scores, KV cache, router, routed, shared and dense experts, the head. Weights are read
once per rank and step, routed experts once per *activated* expert. Left out: the vision encoder, norms, sampling, and the
keys and values that ranks would have to exchange where a sequence is spread over several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute.devices import Device
from smoes_sim.compute.roofline import roofline_time
from smoes_sim.models import ModelShape

_ELEMENT = 2
"""Bytes of a weight or activation: bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeRates:
    """A device and the share of it that is reached."""

    device: Device
    flops_efficiency: float
    memory_efficiency: float
    launch: float
    per_layer: float

    def time(self, flops: NDArray[np.float64], bytes_moved: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds of each piece of work."""
        return roofline_time(
            flops=flops,
            bytes_moved=bytes_moved,
            device=self.device,
            flops_efficiency=self.flops_efficiency,
            memory_efficiency=self.memory_efficiency,
            launch=self.launch,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLoad:
    """What the ranks have to do in one step.

    Attributes:
        tokens: Tokens at home on each rank, (R,).
        context: Sum over those tokens of the tokens they attend to, (R,).
        cached: Keys and values read from the cache: ``context`` in decode, ``tokens`` in prefill, (R,).
        outputs: Sequences whose next token each rank produces, (R,).
        slots: Routed tokens of each rank, (L, R), L the MoE layers.
        active_experts: Experts of each rank that process at least one token, (L, R).
    """

    tokens: NDArray[np.int64]
    context: NDArray[np.int64]
    cached: NDArray[np.int64]
    outputs: NDArray[np.int64]
    slots: NDArray[np.int64]
    active_experts: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeTimes:
    """Seconds per rank; what is the same in every layer has the shape (R,), ``experts`` (L, R)."""

    attention: NDArray[np.float64]
    gate: NDArray[np.float64]
    shared: NDArray[np.float64]
    dense: NDArray[np.float64]
    head: NDArray[np.float64]
    experts: NDArray[np.float64]


def compute_times(model: ModelShape, load: RankLoad, rates: ComputeRates) -> ComputeTimes:
    """Roofline times of every part.

    Example:
        OLMoE's routed experts on 1,000 slots: 2 * 6291456 * 1000 = 12.58 GFLOP.
    """
    tokens = load.tokens.astype(np.float64)
    busy = tokens > 0
    hidden = model.hidden

    def mlp(parameters: float) -> NDArray[np.float64]:
        moved = _ELEMENT * (parameters * busy + 2 * hidden * tokens)
        return rates.time(2.0 * parameters * tokens, moved * (parameters > 0))

    context, cached = load.context.astype(np.float64), load.cached.astype(np.float64)
    attention_flops = 2.0 * model.attention_parameters * tokens + model.attention_flops_per_pair * context
    cache = model.kv_bytes_per_token(_ELEMENT) / model.layers
    attention_bytes = _ELEMENT * (model.attention_parameters * busy + 4 * hidden * tokens) + cache * cached
    head_weights = float(hidden * model.vocab)
    outputs = load.outputs.astype(np.float64)
    experts_flops = 2.0 * model.expert_parameters * load.slots.astype(np.float64)
    slots, active = load.slots.astype(np.float64), load.active_experts.astype(np.float64)
    experts_bytes = model.expert_bytes(_ELEMENT) * active + _ELEMENT * 2.0 * hidden * slots
    return ComputeTimes(
        attention=rates.time(attention_flops, attention_bytes) + rates.per_layer * busy,
        gate=mlp(hidden * model.experts),
        shared=mlp(model.shared_experts * model.expert_parameters),
        dense=mlp(3 * hidden * model.dense_ffn),
        head=rates.time(2.0 * head_weights * outputs, np.where(outputs > 0, _ELEMENT * head_weights, 0.0)),
        experts=rates.time(experts_flops, experts_bytes),
    )
