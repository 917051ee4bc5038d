"""What one step costs for any mixed batch, cheaply enough to be asked ten thousand times.

``cost = local + rest``. *Local* is what ranks compute by themselves (attention, router, shared and dense experts, head),
each part on its busiest rank: closed form, for the very batch. *Rest* is what dispatch, routed experts, combine and waiting
add: simulated once for each power of two of prompt and decoded tokens, and interpolated in between.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes, RankLoad, attention_times, compute_times
from smoes_sim.errors import ConfigError
from smoes_sim.network import exchange_time
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.routing.trace import PREFILL
from smoes_sim.step.build import group_exchanges, layer_exchanges
from smoes_sim.step.timeline import LayerExchanges, MicroBatch, step_time
from smoes_sim.traffic.copies import count_traffic

_FEW_LAYERS = 24
"""Up to so many MoE layers every one is simulated."""
_SAMPLE = 8
"""Otherwise so many, evenly spread, once and twice over: a step grows linearly with its depth."""
_MOST_TOKENS = 16384
"""Tokens of a simulated step; in larger ones each stands for several."""
_FIRST_DELAY = 1e-5
"""Seconds. With two batches rest also depends on how long attention hides it: 0, 10, 40, 160 us ... more are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """What goes through the model together.

    Attributes:
        prefill: For each sequence in prefill its prompt tokens in this step, and those that earlier steps took.
        decode: For each decoded sequence the tokens that its new one attends to, itself included.
        images: Images that the vision tower encodes before the step.
    """

    prefill: Sequence[tuple[int, int]] = ()
    decode: Sequence[int] = ()
    images: int = 0


def step_cost(deployment: Deployment, batch: StepBatch, *, constants: Mapping[str, float] | None = None) -> float:
    """Seconds of one step.

    The batch is dealt out over the attention groups: prompts to the group with fewest tokens, longest first; decoded
    sequences in turn, longest first. Under another token placement than ``data_parallel`` the mean group counts, times the
    busiest rank's share of the workload's own tokens. Routing is that of the deployment's tokens, repeated where a step has
    more: give the workload a few tokens per expert at least. The first calls simulate; later ones near them interpolate.

    Args:
        deployment: The system; its own batch and lengths do not matter.
        batch: What to process.
        constants: A set of constants (:func:`~smoes_sim.prediction.draws.constant_sets`);
            None: the middle values of the scenario.

    Raises:
        ConfigError: If the batch is empty or has a negative count.
    """
    counts = [*(number for pair in batch.prefill for number in pair), *batch.decode, batch.images]
    if min(counts, default=0) < 0 or not (batch.prefill or batch.decode or batch.images):
        raise ConfigError(f"a step of {batch}: needs at least one token or image, and no negative count. Check the batch.")
    return _costs_of(deployment, tuple(sorted((constants or {}).items()))).seconds(batch)


@lru_cache(maxsize=32)
def _costs_of(deployment: Deployment, constants: tuple[tuple[str, float], ...]) -> _Costs:
    return _Costs(deployment, dict(constants))


@dataclass
class _Costs:
    """The steps of a deployment under one set of constants."""

    deployment: Deployment
    constants: dict[str, float]
    known: dict[tuple[int, int, int], float] = field(default_factory=dict)
    others: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scenario = self.deployment.scenario
        self.conditions = self.deployment.under(self.constants)
        self.network, self.rates = self.conditions.network, self.conditions.rates
        self.tensor = scenario.parallelism.tensor
        self.groups = self.deployment.topology.num_ranks // self.tensor
        self.is_split = scenario.overlap == "two_batch"
        self.is_by_sequence = scenario.placement.tokens == "data_parallel"
        share = np.bincount(self.deployment.home, minlength=self.deployment.topology.num_ranks)
        self.unevenness = 1.0 if self.is_by_sequence else float(share.max() / share.mean())

    def seconds(self, batch: StepBatch) -> float:
        """See :func:`step_cost`."""
        prompts, decoded = sum(tokens for tokens, _ in batch.prefill), len(batch.decode)
        outside = self.conditions.outside_of(batch.images) if batch.images else 0.0
        if not prompts and not decoded:
            return outside
        loads = self._load(batch)
        attention = sum(self._attention(load) for load in loads)
        delay = 0.0
        if self.is_split:
            none = np.zeros_like(loads[0].pairs)
            bare = [replace(load, pairs=none, earlier=none, context=none) for load in loads]
            delay = attention - sum(self._attention(load) for load in bare)
        other = sum(self._other(int(load.tokens.max()), int(load.outputs.max())) for load in loads)
        return outside + self.deployment.model.layers * attention + other + self._rest(prompts, decoded, delay)

    def _load(self, batch: StepBatch) -> list[RankLoad]:
        """What each rank has to do by itself, in one or two batches.

        Groups are dealt the batch, and divide it evenly over their ranks and over the two batches.
        """
        sums = np.zeros((6, self.groups))
        waiting = [(0, group) for group in range(self.groups)]
        for tokens, earlier in sorted(batch.prefill, reverse=True):
            taken, group = heapq.heappop(waiting)
            sums[:4, group] += (tokens, tokens * earlier + tokens * (tokens + 1) // 2, earlier, 1)
            heapq.heappush(waiting, (taken + tokens, group))
        contexts = -np.sort(-np.asarray(batch.decode, dtype=np.int64))
        turn = np.arange(len(contexts)) % self.groups
        sums[4] = np.bincount(turn, minlength=self.groups)
        sums[5] = np.bincount(turn, weights=contexts, minlength=self.groups)
        if not self.is_by_sequence:
            sums[:] = np.ceil(sums.mean(axis=1, keepdims=True) * self.unevenness)
        shares = (np.rint(sums).astype(np.int64)[:, :, None] + np.arange(self.tensor)[::-1]) // self.tensor
        whole = shares.reshape(6, -1)
        loads = []
        for part in [(whole + 1) // 2, whole // 2] if self.is_split else [whole]:
            prefill, pairs, before, ends, decode, context = part
            loads.append(_load_of(prefill, decode, pairs=pairs, earlier=before, outputs=ends + decode, context=context))
        return [load for load in loads if load.tokens.any()]

    def _attention(self, load: RankLoad) -> float:
        """Seconds of one layer's attention on the busiest rank."""
        return float(attention_times(self.deployment.model, load, self.rates, tensor=self.tensor).max())

    def _other(self, tokens: int, outputs: int) -> float:
        """Seconds for router, shared and dense experts and head of so many tokens and outputs, in a step."""
        key = (tokens, outputs)
        if key not in self.others:
            model, none = self.deployment.model, np.zeros(self.tensor, dtype=np.int64)
            load = _load_of(none + tokens, none, outputs=none + outputs)
            times, moe = compute_times(model, load, self.rates, tensor=self.tensor), model.num_moe_layers
            total = moe * (times.gate + times.shared) + (model.layers - moe) * times.dense + times.head
            self.others[key] = float(total.max())
        return self.others[key]

    def _rest(self, prefill: int, decode: int, delay: float) -> float:
        """Interpolated between the nodes around; straight in each of the three."""
        total = 0.0
        for corner in product(*(_around(value) for value in (prefill, decode)), _around_delay(delay)):
            weight = float(np.prod([part for _, part in corner]))
            if weight > 0:
                total += weight * self._node(*(node for node, _ in corner))
        return total

    def _node(self, prefill: int, decode: int, delay: int) -> float:
        key = (prefill, decode, delay)
        if key not in self.known:
            self.known[key] = self._simulate(prefill, decode, _delay_at(delay)) if prefill or decode else 0.0
        return self.known[key]

    def _simulate(self, prefill: int, decode: int, delay: float) -> float:
        """What dispatch, experts, combine and exchanges inside groups add to a step, seconds."""
        model = self.deployment.model
        sizes = [(prefill, decode)]
        if self.is_split:
            sizes = [(prefill - prefill // 2, decode // 2), (prefill // 2, decode - decode // 2)]
        sizes = [size for size in sizes if any(size)]
        batches = [self._micro_batch(*size, delay / len(sizes)) for size in sizes]
        group = [batch.group for batch in batches if batch.group is not None]
        elsewhere = max(0, model.gathers(self.tensor) - model.num_moe_layers)  # those of MoE layers are simulated with them
        around = sum(exchange_time(self.network, phases).duration for one in group for phases in (one.gather, one.scatter))
        return self._over_layers(batches) + elsewhere * float(around) / len(batches)  # one of two travels while one works

    def _over_layers(self, batches: Sequence[MicroBatch]) -> float:
        """Rest of all MoE layers."""
        number = self.deployment.model.num_moe_layers
        if number <= _FEW_LAYERS:
            return self._rest_of(batches, np.arange(number))
        sample = np.linspace(0, number - 1, _SAMPLE).round().astype(np.int64)
        once, twice = (self._rest_of(batches, np.tile(sample, times)) for times in (1, 2))
        return once + (twice - once) * (number - _SAMPLE) / _SAMPLE

    def _rest_of(self, batches: Sequence[MicroBatch], layers: NDArray[np.int64]) -> float:
        """Time of a step of these MoE layers alone, without what ranks compute by themselves."""
        if not len(layers):
            return 0.0
        cut = [
            replace(
                batch,
                times=replace(batch.times, experts=batch.times.experts[layers], head=np.zeros_like(batch.times.head)),
                exchanges=[batch.exchanges[layer] for layer in layers],
            )
            for batch in batches
        ]
        model = self.deployment.model.model_copy(update={"layers": len(layers), "dense_layers": 0, "moe_every": 1})
        scenario = self.deployment.scenario
        step = step_time(model, cut, self.network, overlap=scenario.overlap, tolerance=scenario.communication.tolerance)
        own = sum((batch.times.attention + batch.times.gate + batch.times.shared).max() for batch in batches)
        return step.duration - len(layers) * float(own)

    def _micro_batch(self, prefill: int, decode: int, delay: float) -> MicroBatch:
        """So many tokens, evenly over the ranks, whose attention takes ``delay`` seconds longer."""
        deployment, num_ranks = self.deployment, self.deployment.topology.num_ranks
        parts = replace(deployment.parts, network=self.network)
        tokens, repeat = self._sample(prefill, decode)
        place = np.arange(len(tokens))
        home = place % self.groups * self.tensor + place // self.groups % self.tensor
        if not self.is_by_sequence:
            home = deployment.home[tokens]
        count = np.rint(np.bincount(home, minlength=num_ranks) * repeat).astype(np.int64)
        load = _load_of(count, np.zeros_like(count))
        exchanges: list[LayerExchanges] = []
        if deployment.trace is not None and deployment.placement is not None:
            traffic = count_traffic(
                deployment.trace.select(tokens),
                deployment.placement,
                home,
                deduplicate=deployment.scenario.communication.deduplicate,
                topology=deployment.topology,
            )
            exchanges = layer_exchanges(traffic, parts, repeat=repeat)
            slots = np.rint(traffic.slots * repeat).astype(np.int64)
            load = replace(load, slots=slots, active_experts=traffic.active_experts)
        times = compute_times(deployment.model, load, self.rates, tensor=self.tensor)
        return MicroBatch(times=_delayed(times, delay), exchanges=exchanges, group=group_exchanges(load.tokens, parts))

    def _sample(self, prefill: int, decode: int) -> tuple[NDArray[np.int64], float]:
        """Tokens of the workload that stand for those of a step, evenly spread, and how many each stands for."""
        phase = self.deployment.workload.phase
        prompts, decoded = np.flatnonzero(phase == PREFILL), np.flatnonzero(phase != PREFILL)
        kinds = (prompts, decoded if len(decoded) else prompts)
        wanted = np.array([prefill, decode])
        repeat = max(1.0, wanted.sum() / _MOST_TOKENS)
        taken = np.ceil(wanted / repeat).astype(np.int64)
        spread = [np.arange(count) * len(kind) // max(count, 1) for count, kind in zip(taken, kinds, strict=True)]
        tokens = np.concatenate([kind[place] for kind, place in zip(kinds, spread, strict=True)])
        return tokens, float(wanted.sum() / len(tokens))


def _load_of(
    prefill: NDArray[np.int64],
    decode: NDArray[np.int64],
    *,
    pairs: NDArray[np.int64] | None = None,
    earlier: NDArray[np.int64] | None = None,
    outputs: NDArray[np.int64] | None = None,
    context: NDArray[np.int64] | None = None,
) -> RankLoad:
    """A load without routed experts; what is left out is 0."""
    none = np.zeros_like(prefill)
    return RankLoad(
        prefill=prefill,
        pairs=none if pairs is None else pairs,
        earlier=none if earlier is None else earlier,
        decode=decode,
        context=none if context is None else context,
        outputs=none if outputs is None else outputs,
        slots=none[None, :],
        active_experts=none[None, :],
    )


def _delayed(times: ComputeTimes, delay: float) -> ComputeTimes:
    return replace(times, attention=times.attention + delay * (times.attention > 0))


def _around(value: int) -> list[tuple[int, float]]:
    """Powers of two (and 0) around a value, with their weights.

    Example:
        5: 4 with 0.75 and 8 with 0.25.
    """
    below = 1 << (value.bit_length() - 1) if value else 0
    above = 2 * below if below else 1
    part = (value - below) / (above - below)
    return [(below, 1 - part), (above, part)]


def _delay_at(number: int) -> float:
    return _FIRST_DELAY * 4.0 ** (number - 1) if number else 0.0


def _around_delay(value: float) -> list[tuple[int, float]]:
    """Numbers of the delays around a value, with their weights."""
    below = 0
    while _delay_at(below + 1) <= value:
        below += 1
    low, high = _delay_at(below), _delay_at(below + 1)
    part = (value - low) / (high - low)
    return [(below, 1 - part), (below + 1, part)]
