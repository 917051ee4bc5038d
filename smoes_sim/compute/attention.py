"""Compute times of attention on each rank, in a layer of each kind."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from smoes_sim.compute.formats import cache_bytes, format_of, weight_bytes
from smoes_sim.compute.load import ACTIVATION, ComputeRates, Floats, RankLoad, of_group
from smoes_sim.models import LayerAttention, ModelShape


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
    """Seconds of the attention of a layer of each kind on each rank: projections, scores of prefill, scores of decode.

    The three follow each other, each with its own roofline; one launch is added where there is work, and ``per_layer`` where
    there are tokens. Scores are computed where their keys are at that moment, which with a sequence on several ranks need
    not be the home of the query (:mod:`smoes_sim.traffic.attention`). A sliding layer has the pairs within its window. A
    linear one computes its recurrence where its tokens are at home, instead of scores.
    """
    found = [_times_of_kind(attention, model, load, rates, tensor) for attention in model.attentions]
    return AttentionTimes(**{part.name: np.stack([getattr(one, part.name) for one in found]) for part in fields(_KindTimes)})


@dataclass(frozen=True, slots=True)
class _KindTimes:
    """The parts of :class:`AttentionTimes` in a layer of one kind, (R,) each."""

    project: Floats
    scores: Floats
    remote: Floats
    output: Floats


def _times_of_kind(
    attention: LayerAttention, model: ModelShape, load: RankLoad, rates: ComputeRates, tensor: int
) -> _KindTimes:
    tokens = of_group(load.prefill + load.decode, tensor)
    weights, element = attention.parameters / tensor, weight_bytes(rates.weights, "attention", hidden=model.hidden)
    project = (
        2.0 * weights * tokens / _speed_up(rates),
        element * weights * (tokens > 0) + ACTIVATION * (2 + 2 / tensor) * model.hidden * tokens,
    )
    is_linear = attention.kind == "linear"
    work = _recurrence(attention, load, tensor) if is_linear else _scores(attention, model, load, rates, tensor)
    flops, moved = np.array((project, *work)).swapaxes(0, 1)  # (3, R) each: one call for the three
    launched = (flops > 0) | (moved > 0)
    projected, *scores = rates.time(flops, moved) - rates.launch * launched
    away = np.asarray(sum(part * (0.0 if is_linear else share) for part, share in zip(scores, load.away, strict=True)))
    output = projected * (attention.output_parameters / attention.parameters)
    fixed = rates.launch * launched.any(axis=0) + rates.per_layer * (tokens > 0)
    return _KindTimes(projected - output + fixed, sum(scores) - away, away, output)


def _scores(
    attention: LayerAttention, model: ModelShape, load: RankLoad, rates: ComputeRates, tensor: int
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Operations and bytes of the scores of prefill and of decode, over a window if the layer has one."""
    reach = load if attention.window is None else load.near
    cache = attention.cache_elements * cache_bytes(model, rates.cache) * attention.cache_share(tensor)
    parts = (load.prefill, reach.earlier, reach.pairs, reach.context)
    prefill, earlier, pairs, context = (of_group(part, tensor) for part in parts)
    ahead = (load.together - 1) / 2  # the last of the tokens attends to so many more than the mean of them
    read = (context + ahead * of_group(load.decode, tensor)) / load.together
    rebuild = attention.rebuild_flops_per_token * earlier / _speed_up(rates)
    return (
        ((attention.flops_per_pair * pairs + rebuild) / tensor, cache * (prefill + earlier)),
        (attention.decode_flops_per_pair * context / tensor, cache * read),
    )


def _recurrence(
    attention: LayerAttention, load: RankLoad, tensor: int
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Operations and bytes of the recurrence of prefill and of decode in a linear layer.

    Prefill keeps states on the chip and writes one at the end of each prompt; a decode step reads that of each sequence and
    writes one for each token, so that it can go back to the last accepted one.
    """
    ends = of_group(load.outputs - load.decode, tensor)
    prefill, decode = (of_group(part, tensor) for part in (load.prefill, load.decode))
    flops, inner = attention.flops_per_token / tensor, ACTIVATION * attention.inner / tensor
    state = attention.state_bytes / min(tensor, attention.state_parts)
    moved = inner + state * (1 + 1 / load.together)
    return (flops * prefill, inner * prefill + state * ends), (flops * decode, moved * decode)


def _speed_up(rates: ComputeRates) -> float:
    """Ratio of the peak in the format of the weights to the peak in bf16."""
    return rates.device.peak(format_of(rates.weights, "attention")) / rates.device.peak_bf16
