"""Duration of a step for any mixed batch, cheap enough to be asked ten thousand times.

``cost = local + rest``. *Local* is what ranks compute by themselves (attention, router, shared and dense experts, head),
each part on its busiest rank: closed form, for the very batch. *Rest* is what dispatch, routed experts, combine and waiting
add: simulated on a grid of prompt tokens, decoded tokens and places that prompts occupy, and interpolated in between.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from smoes_sim.compute import RankLoad, attention_times, compute_times
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deployment import Conditions
from smoes_sim.serving.step_grid import Node, around_count, around_delay, around_places, around_tokens
from smoes_sim.serving.step_nodes import StepNodes, load_of
from smoes_sim.serving.step_tokens import Floats, Ints


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
    """The durations of steps of a deployment under one set of constants.

    The batch is dealt out as the simulator does it. Under ``data_parallel`` prompts go to the attention group with fewest
    tokens, longest first, and decoded sequences to groups in turn, longest first. Under another token placement every rank
    has the share of the batch that the placement gives it of as many prompts of the workload. Routing is that of the
    deployment's tokens, repeated where a step has more: give the workload a few tokens per expert at least. The first calls
    simulate; later ones near them interpolate.

    Args:
        conditions: The deployment (its own batch and lengths do not matter) under a set of constants.
        nodes: Steps that have been simulated, of this set among others. Default: none yet.
        place: Place of this set among those of ``nodes``.
    """

    def __init__(self, conditions: Conditions, nodes: StepNodes | None = None, place: int = 0) -> None:
        deployment = conditions.deployment
        self._conditions, self._deployment = conditions, deployment
        self._nodes, self._place = nodes or StepNodes([conditions]), place
        self._tokens = self._nodes.tokens
        self._tensor = deployment.scenario.parallelism.tensor
        self._num_ranks = deployment.topology.num_ranks
        self._groups = self._num_ranks // self._tensor
        self._is_split = deployment.scenario.overlap == "two_batch"
        self._is_by_sequence = deployment.trace is None or deployment.scenario.placement.tokens == "data_parallel"
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
            bare = [replace(load, near_pairs=none, near_earlier=none, near_context=none) for load in bare]
            delay = (attention - sum(self._attention(load) for load in bare)) / self._deployment.model.layers
        other = sum(self._other(int(load.tokens.max()), int(load.outputs.max())) for load in loads)
        places = prompts / max(dealt[0].max(), 1.0)
        return outside + attention + other + self._rest(prompts, decoded, places, delay)

    def _deal(self, batch: StepBatch) -> Floats:
        """Tokens, pairs, earlier tokens and ends of the prompts of each group, then pairs and earlier tokens in the window.

        Returns:
            Shape (6, groups); the last two are 0 for models without sliding layers.
        """
        sums = np.zeros((6, self._groups))
        window = self._deployment.model.window
        waiting = [(0, group) for group in range(self._groups)]
        for tokens, earlier in sorted(batch.prefill, reverse=True):
            taken, group = heapq.heappop(waiting)
            near = (0, 0) if window is None else (pairs_within(window, tokens, earlier), min(earlier, window - 1))
            sums[:, group] += (tokens, tokens * earlier + tokens * (tokens + 1) // 2, earlier, 1, *near)
            heapq.heappush(waiting, (taken + tokens, group))
        return sums

    def _loads(self, batch: StepBatch, dealt: Floats) -> list[RankLoad]:
        """What each rank has to do by itself, in one batch or in the two halves of ``two_batch``."""
        contexts = -np.sort(-np.asarray(batch.decode, dtype=np.int64))
        if self._is_by_sequence:
            turn = np.arange(len(contexts)) % self._groups
            each = (None, contexts, self._near(contexts))
            decode, context, near = (np.bincount(turn, weights=weights, minlength=self._groups) for weights in each)
            sums = np.stack([*dealt[:4], decode, context, *dealt[4:], near])
            shares = (np.rint(sums).astype(np.int64)[:, :, None] + np.arange(self._tensor)[::-1]) // self._tensor
            whole = shares.reshape(9, -1)
        else:
            whole = self._spread(batch, dealt.sum(axis=1), contexts)
        loads = [load_of(part) for part in (_first_half(whole), whole - _first_half(whole))] if self._is_split else []
        loads = loads or [load_of(whole)]
        return [load for load in loads if load.tokens.any()]

    def _spread(self, batch: StepBatch, totals: Floats, contexts: Ints) -> Ints:
        """The same nine rows for each rank where the tokens of a sequence live on several, (9, R)."""
        whole = np.zeros((9, self._num_ranks))
        if batch.prefill:
            longest = max(tokens for tokens, _ in batch.prefill)
            prompts = round(min(totals[0] / max(longest, 1), 2.0 * self._num_ranks))
            shares = self._tokens.prefill_shares(max(1, prompts))
            among = sum(tokens * (tokens + 1) // 2 for tokens, _ in batch.prefill)
            whole[0] = totals[0] * shares.tokens
            whole[1] = among * shares.pairs + (totals[1] - among) * shares.tokens
            whole[2] = totals[2] * shares.tokens + totals[0] * shares.received
            whole[3] = totals[3] * shares.ends
            whole[6], whole[7] = totals[4] * shares.tokens, totals[5] * shares.tokens
        if len(contexts):
            share, of_contexts = self._tokens.decode_shares(len(contexts))
            whole[4], whole[5] = len(contexts) * share, contexts.sum() * of_contexts
            whole[8] = self._near(contexts).sum() * share
        return np.ceil(whole - 1e-6).astype(np.int64)

    def _near(self, contexts: Ints) -> Ints:
        """What of the contexts is in the window; 0 for models without sliding layers."""
        return np.minimum(contexts, self._deployment.model.window or 0)

    def _attention(self, load: RankLoad) -> float:
        """Seconds of the attention of all layers on the busiest rank of each.

        Where sequences are on several ranks, these wait for each other before and after the scores.
        """
        model = self._deployment.model
        times = attention_times(model, load, self._conditions.rates, tensor=self._tensor)
        number, scores = np.bincount(model.attention_kinds), times.scores + times.remote
        if self._deployment.parts.spread is None:
            return float(times.whole.max(axis=1) @ number)
        return float(((times.project + times.output).max(axis=1) + scores.max(axis=1)) @ number)

    def _other(self, tokens: int, outputs: int) -> float:
        """Seconds in a step for router, shared and dense experts and head of a rank's tokens and outputs."""
        key = (tokens, outputs)
        if key not in self._others:
            model = self._deployment.model
            load = load_of(np.array([[tokens], [0], [0], [outputs], *[[0]] * 5]).repeat(self._tensor, axis=1))
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
            weight = math.prod(part for _, part in corner)
            if weight > 0:
                total += weight * self._nodes.seconds(Node(*(value for value, _ in corner)))[self._place]
        return float(total)


def _first_half(whole: Ints) -> Ints:
    """Of the nine rows of each rank the part in the first of two halves, rounded up; contexts go with their tokens."""
    first = (whole + 1) // 2
    for row in (5, 8):
        first[row] = np.rint(whole[row] * first[4] / np.maximum(whole[4], 1))
    return first


def pairs_within(window: int, tokens: int, earlier: int) -> int:
    """Pairs of some prompt tokens of a sequence with the last ``window`` tokens up to each, itself included.

    The sum of min(context, window) over contexts earlier + 1 .. earlier + tokens.

    Example:
        >>> pairs_within(3, tokens=4, earlier=1), pairs_within(10, tokens=4, earlier=1)  # 2 + 3 + 3 + 3, 2 + 3 + 4 + 5
        (11, 14)
    """

    def up_to(context: int) -> int:
        short = min(context, window)
        return short * (short + 1) // 2 + (context - short) * window

    return up_to(earlier + tokens) - up_to(earlier)
