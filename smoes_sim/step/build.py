"""Build the steps of a deployment: messages between ranks and work of each rank, for tokens of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import RankLoad
from smoes_sim.network import Flows, phases_of
from smoes_sim.placement import occurrence_index
from smoes_sim.routing.trace import PREFILL
from smoes_sim.step.around import exchanges_around, spread_load
from smoes_sim.step.parts import StepParts
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges
from smoes_sim.traffic.attention import AttentionTraffic
from smoes_sim.traffic.copies import Traffic, copy_bytes, count_traffic
from smoes_sim.workload import Workload

DECODE_STEPS = 8
"""Number of decode steps that are simulated, evenly spaced over all; TPOT is their mean."""
_MOST_KEPT = 4_000_000
"""Messages of a step that are kept once they are built: up to about 400 MB where no two layers share their routes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchLoad:
    """Messages and work of tokens that pass the layers together; ``MicroBatch`` has times in place of the work.

    Attributes:
        exchanges: Dispatch and combine of each MoE layer.
        group: Exchanges around attention, of an attention group or of sequences on several ranks, the same in every layer;
            None where each rank computes attention alone.
        load: Work of each rank.
        attention: Bytes that sequences on several ranks send around the scores of a layer; None where nothing is owed.
    """

    exchanges: Sequence[LayerExchanges]
    group: GroupExchanges | None
    load: RankLoad
    attention: AttentionTraffic | None = None

    def on(self, parts: StepParts) -> MicroBatchLoad:
        """The same copies and work with the network of other ``parts``."""
        exchanges = self.exchanges.on(parts) if isinstance(self.exchanges, Exchanges) else self.exchanges
        return replace(self, exchanges=exchanges, group=exchanges_around(self.load.tokens, self.attention, parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One forward pass: the traffic of its MoE layers and the work of each rank.

    Attributes:
        traffic: Copies of tokens per layer; None for a dense model.
        batches: One micro-batch, or two halves that overlap.
        dispatch_bytes: Bytes of one dispatched copy.
        combine_bytes: Bytes of one combined copy.
    """

    traffic: Traffic | None
    batches: Sequence[MicroBatchLoad]
    dispatch_bytes: int
    combine_bytes: int

    def on(self, parts: StepParts) -> Step:
        """The same copies and work with the network of other ``parts``."""
        return replace(self, batches=[batch.on(parts) for batch in self.batches])

    @property
    def attention_bytes(self) -> float:
        """Bytes from rank to rank around the scores of one layer, where sequences live on several ranks."""
        return sum(batch.attention.total_bytes for batch in self.batches if batch.attention is not None)

    @property
    def bytes_remote(self) -> float:
        """Bytes sent from rank to rank in dispatch and combine, over all layers."""
        copies = self.traffic.remote_copies if self.traffic else 0
        return float(copies * (self.dispatch_bytes + self.combine_bytes))

    @property
    def bytes_total(self) -> float:
        """Bytes of all copies, those that stay on their rank included, over all layers."""
        copies = self.traffic.local_copies if self.traffic else 0
        return self.bytes_remote + copies * (self.dispatch_bytes + self.combine_bytes)


def decode_steps(workload: Workload, *, most: int = DECODE_STEPS) -> list[NDArray[np.int64]]:
    """Token indices of each simulated decode step: at most ``most``, evenly spaced over all steps.

    Of tokens that are proposed ahead each step takes as many that follow each other. The steps of a sequence begin evenly
    spaced among its tokens whatever is accepted, so every place where one can begin stands for as many of them.
    """
    start = np.cumsum(workload.sequence_output_tokens - 1) - (workload.sequence_output_tokens - 1)
    start += workload.num_prefill_tokens
    steps: list[NDArray[np.int64]] = []
    for first in range(0, workload.num_sequences, workload.decode_batch):
        group = np.arange(first, min(first + workload.decode_batch, workload.num_sequences))
        lengths, ahead = workload.sequence_output_tokens[group] - 1, np.arange(workload.together)
        for step in range(int(lengths.max()) - workload.together + 1):
            going = group[lengths >= step + workload.together]
            steps.append((start[going, None] + step + ahead).ravel())
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).astype(int))
    return [steps[index] for index in chosen]


def decode_lengths(workload: Workload) -> NDArray[np.int64]:
    """Output tokens after the first of the longest sequence of each group of ``decode_batch`` sequences."""
    groups = range(0, workload.num_sequences, workload.decode_batch)
    longest = [workload.sequence_output_tokens[first : first + workload.decode_batch].max() for first in groups]
    return np.array(longest, dtype=np.int64) - 1


def num_decode_steps(workload: Workload) -> int:
    """Number of decode steps until every sequence has all its tokens, ``decode_batch`` sequences at a time.

    With tokens that are proposed ahead: as many as yield them on average.
    """
    return int(np.ceil(decode_lengths(workload) / workload.yielded - 1e-9).sum())


def prefill_chunks(parts: StepParts) -> list[NDArray[np.int64]]:
    """Token indices of each step of prefill: every attention group takes its tokens in order, at most a chunk per step.

    Where sequences live on several ranks, a token waits for the step of those before it (:func:`chunks_in_order`).

    None where only decode steps are asked for.
    """
    tokens = np.flatnonzero(parts.workload.phase == PREFILL)
    size = parts.parallelism.prefill_chunk
    if not len(tokens):
        return []
    if size is None:
        return [tokens]
    if parts.spread is None:
        chunk = occurrence_index(parts.home[tokens] // parts.parallelism.tensor) // size
    else:
        chunk = chunks_in_order(parts.workload.sequence_id[tokens], parts.home[tokens], size)
    return [tokens[chunk == number] for number in range(int(chunk.max()) + 1)]


def chunks_in_order(sequence: NDArray[np.integer], home: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Number of the step of each prompt token where a sequence lives on several ranks, (T,).

    A token is in the first step in which its rank has room and that is not before the step of the token before it, because
    it attends to that one. Ranks take their tokens in order.

    Args:
        sequence: Sequence of each token, which are in the order of sequences and positions, (T,).
        home: Home rank of each, (T,).
        size: Tokens of a rank in a step, at most.

    Example:
        Two sequences of two image tokens on rank 0 and a text token on rank 1, two tokens a step.

        >>> chunks_in_order(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 0, 0, 1]), 2).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    starts = np.flatnonzero(np.diff(sequence, prepend=-1) | np.diff(home, prepend=-1))
    lengths = np.diff(starts, append=len(sequence))
    step, used = np.zeros(int(home.max(initial=0)) + 1, np.int64), np.zeros(int(home.max(initial=0)) + 1, np.int64)
    found = np.empty(len(sequence), dtype=np.int64)
    reached, current = 0, -1
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        rank = home[start]
        if sequence[start] != current:
            reached, current = 0, sequence[start]
        if step[rank] < reached:
            step[rank], used[rank] = reached, 0
        place = used[rank] + np.arange(length)
        found[start : start + length] = step[rank] + place // size
        reached = int(found[start + length - 1])
        step[rank], used[rank] = reached, place[-1] % size + 1
    return found


def make_step(parts: StepParts, tokens: NDArray[np.int64]) -> Step:
    """The step that processes ``tokens`` (indices into the workload) together: prefill, decode or both."""
    traffic = _traffic(parts, tokens)
    if parts.overlap == "two_batch":
        parted = [tokens[half] for half in halves(parts.home[tokens])]
        batches = [_batch(parts, half, _traffic(parts, half)) for half in parted]
    else:
        batches = [_batch(parts, tokens, traffic)]
    return Step(
        traffic=traffic,
        batches=batches,
        dispatch_bytes=copy_bytes(parts.model.hidden, parts.communication.dispatch),
        combine_bytes=copy_bytes(parts.model.hidden, parts.communication.combine),
    )


def halves(home: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Indices of the first half of the tokens of every rank, rounded up, and of the rest if there is any.

    Example:
        >>> [half.tolist() for half in halves(np.array([0, 0, 1, 0, 1]))]  # rank 0: two and one; rank 1: one and one
        [[0, 1, 2], [3, 4]]
    """
    is_first = 2 * occurrence_index(home) < np.bincount(home)[home]
    return [half for half in (np.flatnonzero(is_first), np.flatnonzero(~is_first)) if len(half)]


def _traffic(parts: StepParts, tokens: NDArray[np.int64]) -> Traffic | None:
    """Copies of some tokens; None for a dense model."""
    if parts.experts is None:
        return None
    return count_traffic(
        parts.experts.trace.select(tokens),
        parts.experts.placement,
        parts.home[tokens],
        deduplicate=parts.communication.deduplicate,
        topology=parts.network.topology,
    )


def _batch(parts: StepParts, tokens: NDArray[np.int64], traffic: Traffic | None) -> MicroBatchLoad:
    """Messages and work of some tokens."""
    num_ranks = parts.network.topology.num_ranks
    exchanges: Sequence[LayerExchanges] = []
    slots = active = np.zeros((0, num_ranks), dtype=np.int64)
    if traffic is not None:
        exchanges = Exchanges(traffic, parts)
        slots, active = traffic.slots, traffic.active_experts
    load, attention = replace(own_load(parts, tokens), slots=slots, active_experts=active), None
    if parts.spread is not None:
        load, attention = spread_load(load, parts, tokens)
    group = exchanges_around(load.tokens, attention, parts)
    return MicroBatchLoad(exchanges=exchanges, group=group, load=load, attention=attention)


def own_load(parts: StepParts, tokens: NDArray[np.int64]) -> RankLoad:
    """Work of each rank for some tokens at home there, without routed experts."""
    none = np.zeros((0, parts.network.topology.num_ranks), dtype=np.int64)
    workload, num_ranks = parts.workload, parts.network.topology.num_ranks
    here, context = parts.home[tokens], workload.context_lengths[tokens]
    is_prefill = workload.phase[tokens] == PREFILL
    ends = ~is_prefill | (context == workload.sequence_prompt_tokens[workload.sequence_id[tokens]])

    def count(which: NDArray[np.bool_], weights: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        weigh = None if weights is None else weights[which]
        return np.bincount(here[which], weights=weigh, minlength=num_ranks).astype(np.int64)

    near, window = {}, parts.model.window
    if window is not None:
        reach = np.minimum(context, window)
        near = {
            "near_pairs": count(is_prefill, reach),
            "near_earlier": _earlier(parts, tokens[is_prefill], window=window),
            "near_context": count(~is_prefill, reach),
        }
    return RankLoad(
        prefill=count(is_prefill),
        pairs=count(is_prefill, context),
        earlier=_earlier(parts, tokens[is_prefill]),
        decode=count(~is_prefill),
        context=count(~is_prefill, context),
        outputs=count(ends),
        slots=none,
        active_experts=none,
        together=workload.together,
        **near,
    )


def _earlier(parts: StepParts, tokens: NDArray[np.int64], *, window: int | None = None) -> NDArray[np.int64]:
    """Number of prompt tokens of the same sequences that earlier steps have prefilled, shape (R,).

    With ``window`` those that a layer reads whose tokens attend to the last ``window`` alone.
    """
    num_ranks, workload = parts.network.topology.num_ranks, parts.workload
    if parts.parallelism.prefill_chunk is None or not len(tokens):
        return np.zeros(num_ranks, dtype=np.int64)
    prompts = np.flatnonzero(workload.phase == PREFILL)
    pair = parts.home[prompts] // parts.parallelism.tensor * workload.num_sequences + workload.sequence_id[prompts]
    place = np.zeros(workload.num_tokens, dtype=np.int64)
    place[prompts] = occurrence_index(pair)
    _, first = np.unique(pair[np.searchsorted(prompts, tokens)], return_index=True)
    earlier = place[tokens[first]] if window is None else np.minimum(place[tokens[first]], window - 1)
    return np.bincount(parts.home[tokens[first]], weights=earlier, minlength=num_ranks).astype(np.int64)


class Exchanges(Sequence[LayerExchanges]):
    """Messages of each MoE layer, built when they are asked for; kept while there are not too many.

    Combine takes the way of dispatch backwards, last stage first.

    Args:
        traffic: Copies of tokens.
        parts: The deployment.
        repeat: Factor on the number of copies.
    """

    def __init__(self, traffic: Traffic, parts: StepParts, *, repeat: float = 1.0) -> None:
        self._traffic, self._parts, self._repeat = traffic, parts, repeat
        self._built: dict[int, LayerExchanges] = {}
        self._num_built = 0

    def on(self, parts: StepParts) -> Exchanges:
        """The same copies with the network of other ``parts``."""
        return Exchanges(self._traffic, parts, repeat=self._repeat)

    def __len__(self) -> int:
        return len(self._traffic.slots)

    @overload
    def __getitem__(self, row: int) -> LayerExchanges: ...

    @overload
    def __getitem__(self, row: slice) -> list[LayerExchanges]: ...

    def __getitem__(self, row: int | slice) -> LayerExchanges | list[LayerExchanges]:
        if isinstance(row, slice):
            return [self[index] for index in range(len(self))[row]]
        row = range(len(self))[row]
        if row in self._built:
            return self._built[row]
        stages, hidden, communication = self._traffic.stages, self._parts.model.hidden, self._parts.communication
        built = LayerExchanges(
            dispatch=self._phases([stage[row] for stage in stages], copy_bytes(hidden, communication.dispatch)),
            combine=self._phases([stage[row].T for stage in reversed(stages)], copy_bytes(hidden, communication.combine)),
        )
        number = sum(len(flows) for flows in (*built.dispatch, *built.combine))
        if self._num_built + number <= _MOST_KEPT:
            self._built[row] = built
            self._num_built += number
        return built

    def _phases(self, stages: list[NDArray[np.int64]], size: int) -> list[Flows]:
        network, communication = self._parts.network, self._parts.communication
        return phases_of(
            network,
            [stage.astype(np.float64) * (size * self._repeat) for stage in stages],
            schedule=communication.library,
            order=communication.order,
            seed=network.seed,
            message_size=size,
            rendezvous=communication.rendezvous,
        )
