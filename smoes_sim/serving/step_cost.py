"""Duration of a step for any mixed batch, cheap enough to be asked ten thousand times.

``cost = local + rest``. *Local* is what ranks compute by themselves (attention, router, shared and dense experts, head),
each part on its busiest rank: closed form, for the very batch. *Rest* is what dispatch, routed experts, combine and waiting
add: simulated on a grid of prompt tokens, decoded tokens and places that prompts occupy, and interpolated in between.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes, RankLoad, attention_times, compute_times
from smoes_sim.errors import ConfigError
from smoes_sim.network import exchange_time
from smoes_sim.prediction.deployment import Conditions
from smoes_sim.serving.step_grid import Node, around_count, around_delay, around_places, around_tokens, delay_at
from smoes_sim.serving.step_tokens import Floats, Ints, StepTokens
from smoes_sim.step.build import Exchanges, group_exchanges, halves
from smoes_sim.step.timeline import LayerExchanges, MicroBatch, step_time
from smoes_sim.traffic.copies import count_traffic

_FEW_LAYERS = 24
"""Models of up to this many MoE layers are simulated whole."""
_SAMPLE = 8
"""MoE layers of a larger model that are simulated, evenly spread, once and twice over: a step grows linearly with depth."""
_MOST_TOKENS = 16384
"""Most tokens of a simulated step; in a larger step each stands for several."""
_DRAWN = 8
"""Decoded tokens that are simulated at least, in several steps where a batch has fewer."""
_MOST_DRAWS = 8
"""Most of those steps."""


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


class StepCosts:
    """The durations of steps of a deployment under one set of constants; what has been simulated is kept.

    The batch is dealt out as the simulator does it. Under ``data_parallel`` prompts go to the attention group with fewest
    tokens, longest first, and decoded sequences to groups in turn, longest first. Under another token placement every rank
    has the share of the batch that the placement gives it of as many prompts of the workload. Routing is that of the
    deployment's tokens, repeated where a step has more: give the workload a few tokens per expert at least. The first calls
    simulate; later ones near them interpolate.

    Args:
        conditions: The deployment (its own batch and lengths do not matter) under a set of constants.
        tokens: Chooses tokens of the deployment; give the same to the costs under every set of constants.
    """

    def __init__(self, conditions: Conditions, tokens: StepTokens | None = None) -> None:
        deployment = conditions.deployment
        self._conditions, self._deployment = conditions, deployment
        self._tokens = tokens or StepTokens(deployment)
        self._tensor = deployment.scenario.parallelism.tensor
        self._num_ranks = deployment.topology.num_ranks
        self._groups = self._num_ranks // self._tensor
        self._is_split = deployment.scenario.overlap == "two_batch"
        self._is_by_sequence = deployment.trace is None or deployment.scenario.placement.tokens == "data_parallel"
        self._known: dict[Node, float] = {}
        self._others: dict[tuple[int, int], float] = {}

    def seconds(self, batch: StepBatch) -> float:
        """Seconds of one step.

        Raises:
            ConfigError: If the batch is empty or has a negative count.
        """
        counts = [*(number for pair in batch.prefill for number in pair), *batch.decode, batch.images]
        if min(counts, default=0) < 0 or not (batch.prefill or batch.decode or batch.images):
            raise ConfigError(
                f"a step of {batch}: needs at least one token or image, and no negative count. Check the batch."
            )
        prompts, decoded = sum(tokens for tokens, _ in batch.prefill), len(batch.decode)
        outside = self._conditions.outside_of(batch.images) if batch.images else 0.0
        if not prompts and not decoded:
            return outside
        dealt = self._deal(batch)
        loads = self._loads(batch, dealt)
        attention = sum(self._attention(load) for load in loads)
        delay = 0.0
        if self._is_split:
            none = np.zeros_like(loads[0].pairs)
            bare = [replace(load, pairs=none, earlier=none, context=none) for load in loads]
            delay = attention - sum(self._attention(load) for load in bare)
        other = sum(self._other(int(load.tokens.max()), int(load.outputs.max())) for load in loads)
        places = prompts / max(dealt[0].max(), 1.0)
        return outside + self._deployment.model.layers * attention + other + self._rest(prompts, decoded, places, delay)

    def _deal(self, batch: StepBatch) -> Floats:
        """Tokens, pairs, earlier tokens and ends of the prompts of each group, (4, groups)."""
        sums = np.zeros((4, self._groups))
        waiting = [(0, group) for group in range(self._groups)]
        for tokens, earlier in sorted(batch.prefill, reverse=True):
            taken, group = heapq.heappop(waiting)
            sums[:, group] += (tokens, tokens * earlier + tokens * (tokens + 1) // 2, earlier, 1)
            heapq.heappush(waiting, (taken + tokens, group))
        return sums

    def _loads(self, batch: StepBatch, dealt: Floats) -> list[RankLoad]:
        """What each rank has to do by itself, in one batch or in the two halves of ``two_batch``."""
        contexts = -np.sort(-np.asarray(batch.decode, dtype=np.int64))
        if self._is_by_sequence:
            turn = np.arange(len(contexts)) % self._groups
            decode = [np.bincount(turn, weights=weights, minlength=self._groups) for weights in (None, contexts)]
            sums = np.concatenate([dealt, decode])
            shares = (np.rint(sums).astype(np.int64)[:, :, None] + np.arange(self._tensor)[::-1]) // self._tensor
            whole = shares.reshape(6, -1)
        else:
            whole = self._spread(batch, dealt.sum(axis=1), contexts)
        loads = [_load_of(part) for part in (_first_half(whole), whole - _first_half(whole))] if self._is_split else []
        loads = loads or [_load_of(whole)]
        return [load for load in loads if load.tokens.any()]

    def _spread(self, batch: StepBatch, totals: Floats, contexts: Ints) -> Ints:
        """The same six rows for each rank where the tokens of a sequence live on several, (6, R)."""
        whole = np.zeros((6, self._num_ranks))
        if batch.prefill:
            longest = max(tokens for tokens, _ in batch.prefill)
            prompts = round(min(totals[0] / max(longest, 1), 2.0 * self._num_ranks))
            shares = self._tokens.prefill_shares(max(1, prompts))
            among = sum(tokens * (tokens + 1) // 2 for tokens, _ in batch.prefill)
            whole[0] = totals[0] * shares.tokens
            whole[1] = among * shares.pairs + (totals[1] - among) * shares.tokens
            whole[2], whole[3] = totals[2] * shares.tokens, totals[3] * shares.ends
        if len(contexts):
            share = self._tokens.decode_share(len(contexts))
            whole[4], whole[5] = len(contexts) * share, contexts.sum() * share
        return np.ceil(whole - 1e-6).astype(np.int64)

    def _attention(self, load: RankLoad) -> float:
        """Seconds of one layer's attention on the busiest rank."""
        times = attention_times(self._deployment.model, load, self._conditions.rates, tensor=self._tensor)
        return float(times.max())

    def _other(self, tokens: int, outputs: int) -> float:
        """Seconds in a step for router, shared and dense experts and head of a rank's tokens and outputs."""
        key = (tokens, outputs)
        if key not in self._others:
            model = self._deployment.model
            load = _load_of(np.array([[tokens], [0], [0], [outputs], [0], [0]]).repeat(self._tensor, axis=1))
            times = compute_times(model, load, self._conditions.rates, tensor=self._tensor)
            moe = model.num_moe_layers
            total = moe * (times.gate + times.shared) + (model.layers - moe) * times.dense + times.head
            self._others[key] = float(total.max())
        return self._others[key]

    def _rest(self, prefill: int, decode: int, places: float, delay: float) -> float:
        """Interpolated between the nodes around; straight in each direction."""
        if not prefill:
            corners = product([(0, 1.0)], around_count(decode), [(0, 1.0)], around_delay(delay))
        else:
            at = around_places(places, most=self._groups)
            corners = product(around_tokens(prefill), around_tokens(decode), at, around_delay(delay))
        total = 0.0
        for corner in corners:
            weight = float(np.prod([part for _, part in corner]))
            if weight > 0:
                total += weight * self._node(Node(*(value for value, _ in corner)))
        return total

    def _node(self, node: Node) -> float:
        if node not in self._known:
            draws = 1 if node.prefill else min(_MOST_DRAWS, max(1, _DRAWN // max(node.decode, 1)))
            drawn = [self._simulate(node, draw=draw, draws=draws) for draw in range(draws)]
            self._known[node] = float(np.mean(drawn))
        return self._known[node]

    def _simulate(self, node: Node, *, draw: int, draws: int) -> float:
        """What dispatch, experts, combine and exchanges inside groups add to a step, seconds."""
        if not node.prefill and not node.decode:
            return 0.0
        model = self._deployment.model
        batches = self._micro_batches(node, draw=draw, draws=draws)
        group = [batch.group for batch in batches if batch.group is not None]
        elsewhere = max(0, model.gathers(self._tensor) - model.num_moe_layers)  # those of MoE layers are simulated with them
        phases = [part for one in group for part in (one.gather, one.scatter)]
        around = sum(exchange_time(self._conditions.network, part).duration for part in phases)
        return self._over_layers(batches) + elsewhere * float(around) / len(batches)  # one of two travels while one works

    def _over_layers(self, batches: Sequence[MicroBatch]) -> float:
        """Rest of all MoE layers."""
        number = self._deployment.model.num_moe_layers
        if number <= _FEW_LAYERS:
            return self._rest_of(batches, np.arange(number))
        sample = np.linspace(0, number - 1, _SAMPLE).round().astype(np.int64)
        once, twice = (self._rest_of(batches, np.tile(sample, times)) for times in (1, 2))
        return once + (twice - once) * (number - _SAMPLE) / _SAMPLE

    def _rest_of(self, batches: Sequence[MicroBatch], layers: Ints) -> float:
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
        model = self._deployment.model.model_copy(update={"layers": len(layers), "dense_layers": 0, "moe_every": 1})
        scenario, network = self._deployment.scenario, self._conditions.network
        step = step_time(model, cut, network, overlap=scenario.overlap, tolerance=scenario.communication.tolerance)
        own = sum((batch.times.attention + batch.times.gate + batch.times.shared).max() for batch in batches)
        return step.duration - len(layers) * float(own)

    def _micro_batches(self, node: Node, *, draw: int, draws: int) -> list[MicroBatch]:
        """The step of a node, in one batch or in two halves."""
        repeat = max(1.0, (node.prefill + node.decode) / _MOST_TOKENS)
        taken = [int(np.ceil(number / repeat)) for number in (node.prefill, node.decode)]
        prompts = self._tokens.prompts(taken[0], max(node.places, 1))
        decoded = self._tokens.decoded(taken[1], draw=draw, draws=draws)
        tokens, sequence = (np.concatenate(pair) for pair in zip(prompts, decoded, strict=True))
        home = self._tokens.homes(tokens, sequence, np.arange(len(tokens)) < taken[0])
        parts = halves(home) if self._is_split else [np.arange(len(tokens))]
        repeat = (node.prefill + node.decode) / len(tokens)
        return [
            self._micro_batch(tokens[part], home[part], repeat=repeat, delay=delay_at(node.delay) / len(parts))
            for part in parts
        ]

    def _micro_batch(self, tokens: Ints, home: Ints, *, repeat: float, delay: float) -> MicroBatch:
        """Some tokens of the workload as a micro-batch.

        Args:
            tokens: Which.
            home: Home rank of each.
            repeat: How many tokens each stands for.
            delay: Seconds that attention takes longer.
        """
        deployment = self._deployment
        parts = replace(deployment.parts, network=self._conditions.network)
        count = np.rint(np.bincount(home, minlength=self._num_ranks) * repeat).astype(np.int64)
        none = np.zeros_like(count)
        load = _load_of(np.stack([count, none, none, none, none, none]))
        exchanges: Sequence[LayerExchanges] = []
        if deployment.trace is not None and deployment.placement is not None:
            traffic = count_traffic(
                deployment.trace.select(tokens),
                deployment.placement,
                home,
                deduplicate=deployment.scenario.communication.deduplicate,
                topology=deployment.topology,
            )
            exchanges = Exchanges(traffic, parts, repeat=repeat)
            slots = np.rint(traffic.slots * repeat).astype(np.int64)
            load = replace(load, slots=slots, active_experts=traffic.active_experts)
        times = compute_times(deployment.model, load, self._conditions.rates, tensor=self._tensor)
        return MicroBatch(times=_delayed(times, delay), exchanges=exchanges, group=group_exchanges(load.tokens, parts))


def _first_half(whole: Ints) -> Ints:
    """Of the six rows of each rank the part in the first of two halves, rounded up; contexts go with their tokens."""
    first = (whole + 1) // 2
    first[5] = np.rint(whole[5] * first[4] / np.maximum(whole[4], 1))
    return first


def _load_of(rows: NDArray[np.int64]) -> RankLoad:
    """A load without routed experts.

    Args:
        rows: Prompt tokens, pairs, earlier tokens, prompts that end, decoded tokens and their contexts, shape (6, R).
    """
    prefill, pairs, earlier, ends, decode, context = rows
    none = np.zeros((1, rows.shape[1]), dtype=np.int64)
    return RankLoad(
        prefill=prefill,
        pairs=pairs,
        earlier=earlier,
        decode=decode,
        context=context,
        outputs=ends + decode,
        slots=none,
        active_experts=none,
    )


def _delayed(times: ComputeTimes, delay: float) -> ComputeTimes:
    return replace(times, attention=times.attention + delay * (times.attention > 0))
