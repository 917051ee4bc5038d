"""How long each rank computes in each part of a step, by roofline over the model's shapes.

Counted: attention projections and scores, KV cache, router, routed, shared and dense experts, the head. Weights are read
once per rank and step, routed experts once per *activated* expert. Left out: norms, sampling, and the keys and values that
ranks would have to exchange where a sequence is spread over several. Images: :mod:`smoes_sim.compute.vision`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute.devices import Device
from smoes_sim.compute.roofline import roofline_time
from smoes_sim.models import ModelShape

Precision = Literal["bf16", "fp8"]
Floats = NDArray[np.float64]
ELEMENT_SIZE: dict[Precision, int] = {"bf16": 2, "fp8": 1}
"""Bytes of an element; the scales of fp8 (4 bytes for 128 elements and more) are left out."""
_ACTIVATION = 2
"""Bytes of an activation: bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeRates:
    """A device and the share of it that is reached.

    Attributes:
        device: Peaks and bandwidth.
        flops_efficiency: Share of the peak.
        memory_efficiency: Share of the memory bandwidth.
        launch: Seconds per part of a layer.
        per_layer: Seconds per layer that the roofline does not see.
        weights: Format in which projections and experts are stored and multiplied; router and head stay bf16.
        cache: Format of the KV cache; scores are computed in bf16.
    """

    device: Device
    flops_efficiency: float
    memory_efficiency: float
    launch: float
    per_layer: float
    weights: Precision = "bf16"
    cache: Precision = "bf16"

    def time(self, flops: Floats, bytes_moved: Floats, *, precision: Precision = "bf16") -> Floats:
        """Seconds of each piece of work, its launch included."""
        return roofline_time(
            flops=flops,
            bytes_moved=bytes_moved,
            device=self.device,
            flops_efficiency=self.flops_efficiency,
            memory_efficiency=self.memory_efficiency,
            launch=self.launch,
            precision=precision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLoad:
    """What the ranks have to do in one step, prefill and decode together.

    Attributes:
        prefill: Prompt tokens at home on each rank, (R,).
        pairs: Sum over those of the tokens they attend to, (R,).
        earlier: Tokens of the same sequences that earlier steps have prefilled, (R,).
        decode: Tokens of sequences that are decoded, (R,).
        context: Sum over those of the tokens they attend to, all read from the cache, (R,).
        outputs: Sequences whose next token each rank produces, (R,).
        slots: Routed tokens of each rank, (L, R), L the MoE layers.
        active_experts: Experts of each rank that process at least one token, (L, R).
    """

    prefill: NDArray[np.int64]
    pairs: NDArray[np.int64]
    earlier: NDArray[np.int64]
    decode: NDArray[np.int64]
    context: NDArray[np.int64]
    outputs: NDArray[np.int64]
    slots: NDArray[np.int64]
    active_experts: NDArray[np.int64]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Tokens at home on each rank, (R,)."""
        return self.prefill + self.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeTimes:
    """Seconds per rank; what is the same in every layer has the shape (R,), ``experts`` (L, R)."""

    attention: Floats
    gate: Floats
    shared: Floats
    dense: Floats
    head: Floats
    experts: Floats


def compute_times(model: ModelShape, load: RankLoad, rates: ComputeRates, *, tensor: int = 1) -> ComputeTimes:
    """Roofline times of every part.

    Args:
        model: The model's shape.
        load: What the ranks have to do.
        rates: What a device reaches.
        tensor: Neighbouring ranks that share attention and the head of what lives on any of them: each has its part of the
            weights, heads and vocabulary, and in a dense model of the feed-forward layers. Router and shared experts, and
            dense layers beside experts, work on the tokens of the rank itself.

    Example:
        OLMoE's routed experts on 1,000 slots: 2 * 6291456 * 1000 = 12.58 GFLOP.
    """
    own, group = load.tokens.astype(np.float64), of_group(load.tokens, tensor)
    hidden, element = model.hidden, ELEMENT_SIZE[rates.weights]

    def mlp(parameters: float, precision: Precision, tokens: Floats = own) -> Floats:
        moved = ELEMENT_SIZE[precision] * parameters * (tokens > 0) + _ACTIVATION * 2 * hidden * tokens
        return rates.time(2.0 * parameters * tokens, moved * (parameters > 0), precision=precision)

    slots, active = load.slots.astype(np.float64), load.active_experts.astype(np.float64)
    experts_flops = 2.0 * model.expert_parameters * slots
    experts_bytes = model.expert_bytes(element) * active + _ACTIVATION * 2.0 * hidden * slots
    head_weights = hidden * model.vocab / tensor
    outputs = of_group(load.outputs, tensor)
    dense = 3 * hidden * model.dense_ffn
    return ComputeTimes(
        attention=attention_times(model, load, rates, tensor=tensor),
        gate=mlp(hidden * model.experts, "bf16"),
        shared=mlp(model.shared_experts * model.expert_parameters, rates.weights),
        dense=mlp(dense / tensor, rates.weights, group) if model.shares_feed_forward else mlp(dense, rates.weights),
        head=rates.time(2.0 * head_weights * outputs, np.where(outputs > 0, _ACTIVATION * head_weights, 0.0)),
        experts=rates.time(experts_flops, experts_bytes, precision=rates.weights),
    )


def attention_times(model: ModelShape, load: RankLoad, rates: ComputeRates, *, tensor: int = 1) -> Floats:
    """Seconds of one layer's attention on each rank, (R,): projections, then prefill's scores, then decode's.

    The three follow each other, each with its own roofline; one launch and ``per_layer`` are added where there is work.
    """
    tokens = of_group(load.prefill + load.decode, tensor)
    busy = tokens > 0
    cache = model.kv_bytes_per_token(ELEMENT_SIZE[rates.cache]) / model.layers * model.kv_share(tensor)
    weights = model.attention_parameters / tensor
    prefill, earlier, pairs = (of_group(part, tensor) for part in (load.prefill, load.earlier, load.pairs))
    context = of_group(load.context, tensor)
    speed_up = _speed_up(rates)
    pieces = (
        (
            2.0 * weights * tokens / speed_up,
            ELEMENT_SIZE[rates.weights] * weights * busy + _ACTIVATION * (2 + 2 / tensor) * model.hidden * tokens,
        ),
        (
            (model.attention_flops_per_pair * pairs + model.rebuild_flops_per_token * earlier / speed_up) / tensor,
            cache * (prefill + earlier),
        ),
        (model.decode_flops_per_pair * context / tensor, cache * context),
    )
    at_once = np.sum([_without_launch(rates, flops, moved) for flops, moved in pieces], axis=0)
    return at_once + (rates.launch + rates.per_layer) * busy


def _without_launch(rates: ComputeRates, flops: Floats, bytes_moved: Floats) -> Floats:
    return rates.time(flops, bytes_moved) - rates.launch * ((flops > 0) | (bytes_moved > 0))


def _speed_up(rates: ComputeRates) -> float:
    """How much faster than bf16 the format of the weights is multiplied."""
    if rates.weights == "bf16" or rates.device.peak_fp8 is None:
        return 1.0
    return rates.device.peak_fp8 / rates.device.peak_bf16


def of_group(values: NDArray[np.integer], tensor: int) -> Floats:
    """Sum over each ``tensor`` neighbouring ranks, at each of them, (R,).

    Example:
        1, 2, 3, 4 in pairs: 3, 3, 7, 7.
    """
    return np.repeat(values.reshape(-1, tensor).sum(axis=1), tensor).astype(np.float64)
