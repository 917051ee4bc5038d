"""Compute times of attention on each rank, in a layer of each kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from smoes_sim.compute.formats import cache_bytes, format_of, weight_bytes
from smoes_sim.compute.load import ACTIVATION, ComputeRates, Floats, RankLoad, of_group
from smoes_sim.models import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTimes:
    """Seconds of attention in a layer of each of K kinds on each rank, (K, R) each.

    Attributes:
        project: Queries, keys and values, with launch and software of the layer.
        scores: Scores and weighted values of keys at hand.
        remote: The same for what other ranks must send first; 0 where every sequence is on one rank.
        output: Projection of the result.
    """

    project: Floats
    scores: Floats
    remote: Floats
    output: Floats

    @classmethod
    def undivided(cls, seconds: Floats) -> Self:
        """Attention of one kind that takes ``seconds`` on each rank, (R,), and needs nothing from other ranks."""
        none = np.zeros((1, len(seconds)))
        return cls(project=none, scores=np.asarray(seconds)[None], remote=none, output=none)

    @property
    def whole(self) -> Floats:
        """Seconds of all of it, (K, R)."""
        return self.project + self.scores + self.remote + self.output

    def delayed(self, seconds: float) -> Self:
        """The same with scores that take longer wherever there is work."""
        return replace(self, scores=self.scores + seconds * (self.whole > 0))


def attention_times(model: ModelShape, load: RankLoad, rates: ComputeRates, *, tensor: int = 1) -> AttentionTimes:
    """Seconds of the attention of one layer on each rank: projections, scores of prefill, scores of decode.

    The three follow each other, each with its own roofline; one launch is added where there is work, and ``per_layer`` where
    there are tokens. Scores are computed where their keys are at that moment, which with a sequence on several ranks need
    not be the home of the query (:mod:`smoes_sim.traffic.attention`).
    """
    tokens = of_group(load.prefill + load.decode, tensor)
    cache = model.kv_bytes_per_token(cache_bytes(model, rates.cache)) / model.layers * model.kv_share(tensor)
    weights, element = model.attention_parameters / tensor, weight_bytes(rates.weights, "attention", hidden=model.hidden)
    prefill, earlier, pairs = (of_group(part, tensor) for part in (load.prefill, load.earlier, load.pairs))
    context = of_group(load.context, tensor)
    speed_up = _speed_up(rates)
    pieces = (
        (
            2.0 * weights * tokens / speed_up,
            element * weights * (tokens > 0) + ACTIVATION * (2 + 2 / tensor) * model.hidden * tokens,
        ),
        (
            (model.attention_flops_per_pair * pairs + model.rebuild_flops_per_token * earlier / speed_up) / tensor,
            cache * (prefill + earlier),
        ),
        (model.decode_flops_per_pair * context / tensor, cache * context),
    )
    flops, moved = np.array(pieces).swapaxes(0, 1)  # (3, R) each: one call for the three
    launched = (flops > 0) | (moved > 0)
    projected, *scores = rates.time(flops, moved) - rates.launch * launched
    away = sum(part * share for part, share in zip(scores, load.away, strict=True))
    output = projected * (model.attention_output_parameters / model.attention_parameters)
    fixed = rates.launch * launched.any(axis=0) + rates.per_layer * (tokens > 0)
    return AttentionTimes(
        project=np.asarray(projected - output + fixed)[None],
        scores=np.asarray(sum(scores) - away)[None],
        remote=np.asarray(away)[None],
        output=np.asarray(output)[None],
    )


def _speed_up(rates: ComputeRates) -> float:
    """Ratio of the peak in the format of the weights to the peak in bf16."""
    return rates.device.peak(format_of(rates.weights, "attention")) / rates.device.peak_bf16
