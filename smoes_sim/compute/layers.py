"""Compute times of each rank in each part of a step, by roofline over the model's shapes.

Counted: attention projections and scores, KV cache, router, routed, shared and dense experts, the head. Weights are read
once per rank and step, routed experts once per *activated* expert. Not counted: norms, sampling, and the exchange of keys
and values where a sequence is spread over several ranks. Images: :mod:`smoes_sim.compute.vision`.
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
"""Bytes of an element, without the scales of fp8 (4 bytes for 128 or more elements)."""
_ACTIVATION = 2
"""Bytes of an activation: bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeRates:
    """A device and the shares of its peaks that are reached.

    Attributes:
        device: Peaks and bandwidth.
        flops_efficiency: Share of the peak.
        memory_efficiency: Share of the memory bandwidth.
        launch: Seconds per part of a layer.
        per_layer: Seconds of software per layer, outside the roofline.
        weights: Format in which projections and experts are stored and multiplied; router and head are always bf16.
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
        """Seconds of each piece of work, launch included, in the broadcast shape of ``flops`` and ``bytes_moved``."""
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
    """Work of each rank in one step, prefill and decode together; R ranks, L MoE layers.

    Attributes:
        prefill: Number of prompt tokens at home on each rank, shape (R,).
        pairs: Number of (prompt token, token that it attends to) pairs, shape (R,).
        earlier: Number of tokens of the same sequences that earlier steps have prefilled, shape (R,).
        decode: Number of tokens that are decoded, shape (R,).
        context: Number of (decoded token, token that it attends to) pairs, all read from the cache, shape (R,).
        outputs: Number of sequences whose next token each rank produces, shape (R,).
        slots: Number of routed tokens of each rank, shape (L, R).
        active_experts: Number of experts of each rank that process at least one token, shape (L, R).
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
        """Number of tokens at home on each rank, shape (R,)."""
        return self.prefill + self.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeTimes:
    """Seconds per rank, shape (R,), equal in every layer; ``experts`` has the shape (L, R)."""

    attention: Floats
    gate: Floats
    shared: Floats
    dense: Floats
    head: Floats
    experts: Floats


def compute_times(model: ModelShape, load: RankLoad, rates: ComputeRates, *, tensor: int = 1) -> ComputeTimes:
    """Roofline times of every part of a step on each rank, seconds.

    Args:
        model: Shape of the model.
        load: Work of each rank.
        rates: Rates that a device reaches.
        tensor: Number of neighbouring ranks that form an attention group. They share the attention and the head of all
            tokens of the group: each holds a part of the weights, heads and vocabulary, and in a dense model of the
            feed-forward layers. Router, shared experts, and dense layers beside experts work on the rank's own tokens.

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
    """Seconds of the attention of one layer on each rank, (R,): projections, scores of prefill, scores of decode.

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
    flops, moved = np.array(pieces).swapaxes(0, 1)  # (3, R) each: one call for the three
    launched = (flops > 0) | (moved > 0)
    at_once = (rates.time(flops, moved) - rates.launch * launched).sum(axis=0)
    return np.asarray(at_once + (rates.launch + rates.per_layer) * busy)


def _speed_up(rates: ComputeRates) -> float:
    """Ratio of the peak in the format of the weights to the peak in bf16."""
    if rates.weights == "bf16" or rates.device.peak_fp8 is None:
        return 1.0
    return rates.device.peak_fp8 / rates.device.peak_bf16


def of_group(values: NDArray[np.integer], tensor: int) -> Floats:
    """Sums over groups of ``tensor`` neighbouring ranks, given to each rank of the group, shape (R,).

    Example:
        >>> of_group(np.array([1, 2, 3, 4]), 2).tolist()
        [3.0, 3.0, 7.0, 7.0]
    """
    return np.repeat(values.reshape(-1, tensor).sum(axis=1), tensor).astype(np.float64)
