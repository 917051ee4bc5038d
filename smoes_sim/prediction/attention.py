"""Which way attention takes where sequences live on several ranks, and what it costs to move their cache before decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeRates, attention_times
from smoes_sim.compute.formats import cache_bytes as element_bytes
from smoes_sim.errors import ConfigError
from smoes_sim.network import Flows, Network, exchange_duration, phases_of
from smoes_sim.routing.trace import DECODE, PREFILL
from smoes_sim.scenario import Scenario
from smoes_sim.step.around import exchanges_around, spread_load
from smoes_sim.step.build import decode_steps, num_decode_steps, own_load, prefill_chunks
from smoes_sim.step.parts import SpreadAttention, StepParts
from smoes_sim.traffic.attention import KeyPlaces, Scheme

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMove:
    """The cache on its way to the ranks that decode, once, after prefill.

    Attributes:
        bytes_moved: Bytes from rank to rank, of all layers.
        phases: Their messages.
    """

    bytes_moved: float
    phases: Sequence[Flows]


def spread_attention(
    scenario: Scenario, parts: StepParts, *, network: Network, rates: ComputeRates
) -> SpreadAttention | None:
    """How attention works; None where every sequence is on one rank, or all that it attends to is.

    ``auto`` takes, of queries or keys and values in prefill, and of queries or a moved cache in decode, the pair whose
    exchanges and scores take the least time over the whole batch, the move included.

    Args:
        scenario: Says which way, or ``auto``.
        parts: The tokens and their homes.
        network: The network under the middle of the constants.
        rates: Compute rates under them.

    Raises:
        ConfigError: If the cache cannot be moved to one rank, because a sequence is decoded on several.
    """
    workload, wanted = parts.workload, scenario.attention.exchange
    sequence = workload.sequence_id.astype(np.int64)
    is_divided = scenario.parallelism.tensor > 1  # a group divides the heads, and its gathers bring all tokens together
    if is_divided or not workload.num_prefill_tokens or not _is_spread(sequence, parts.home):
        return None
    places = KeyPlaces(sequence, workload.context_lengths - 1, parts.home, num_ranks=parts.network.topology.num_ranks)
    model = parts.model
    cache_bytes = model.kv_bytes_per_token(element_bytes(model, scenario.compute.cache)) / model.layers
    is_decode = workload.phase == DECODE
    can_move = not _is_spread(sequence[is_decode], parts.home[is_decode])
    if wanted == "moved_cache" and not can_move:
        raise ConfigError(
            "attention.exchange = moved_cache: the tokens of a sequence are decoded on several ranks "
            f"(placement.tokens = {scenario.placement.tokens}). Write queries, or placement.decode_tokens: data_parallel."
        )

    def way(prefill: Scheme, decode: Scheme) -> StepParts:
        return replace(parts, spread=SpreadAttention(places=places, prefill=prefill, decode=decode, cache_bytes=cache_bytes))

    if wanted != "auto":
        return way(wanted, wanted).spread
    pairs: list[tuple[Scheme, Scheme]] = [("queries", "queries"), ("kv", "queries")]
    if can_move:
        pairs += [("queries", "moved_cache"), ("moved_cache", "moved_cache")]
    ways = [way(*pair) for pair in pairs]
    costs = [_seconds(one, network, rates) for one in ways]
    return ways[int(np.argmin(costs))].spread


def cache_move(parts: StepParts) -> CacheMove | None:
    """What has to be moved before the first decode step; None where nothing has to."""
    spread, workload = parts.spread, parts.workload
    if spread is None or spread.decode != "moved_cache" or not workload.num_decode_tokens:
        return None
    sequence, position = workload.sequence_id.astype(np.int64), workload.context_lengths - 1
    is_decode = workload.phase == DECODE
    decoded, first = np.unique(sequence[is_decode], return_index=True)
    decode_home = np.full(workload.num_sequences, -1, dtype=np.int64)
    decode_home[decoded] = parts.home[is_decode][first]
    received = np.full(workload.num_sequences, -1, dtype=np.int64)
    if spread.prefill == "moved_cache":
        there = ~is_decode & (parts.home == decode_home[sequence])
        np.maximum.at(received, sequence[there], position[there])
    tokens = spread.places.to_move(decode_home, received, up_to=workload.sequence_prompt_tokens - 1)
    if not tokens.any():
        return None
    matrix = tokens * (spread.cache_bytes * parts.model.layers)
    phases = phases_of(parts.network, [matrix], order=parts.communication.order, seed=parts.network.seed)
    return CacheMove(bytes_moved=float(matrix.sum()), phases=phases)


def cached_on_ranks(parts: StepParts) -> tuple[Ints, Ints] | None:
    """Tokens in the cache of each rank at the end of prefill and at the end of decode, (R,) each; None where none is spread.

    With ``moved_cache`` a rank keeps what it receives in prefill, and in decode the ranks that decode hold everything.
    """
    spread, workload = parts.spread, parts.workload
    if spread is None:
        return None
    num_ranks, home = parts.network.topology.num_ranks, parts.home
    sequence, position = workload.sequence_id.astype(np.int64), workload.context_lengths - 1
    is_prompt = workload.phase == PREFILL
    prefill = np.bincount(home[is_prompt], minlength=num_ranks)
    decode = prefill + np.bincount(home[~is_prompt], minlength=num_ranks)
    if spread.prefill == "moved_cache":
        needs = spread.places.needs(sequence[is_prompt], position[is_prompt], home[is_prompt])
        prefill = needs.keys.sum(axis=0)
    if spread.decode == "moved_cache" and not is_prompt.all():
        decoded, first = np.unique(sequence[~is_prompt], return_index=True)
        at = home[~is_prompt][first]
        decode = np.bincount(home[~is_prompt], minlength=num_ranks)
        decode += np.bincount(at, weights=workload.sequence_prompt_tokens[decoded], minlength=num_ranks).astype(np.int64)
    return prefill, decode


def _is_spread(sequence: Ints, home: Ints) -> bool:
    """Whether some sequence has tokens on several ranks."""
    if not len(sequence):
        return False
    first = np.full(int(sequence.max()) + 1, -1, dtype=np.int64)
    first[sequence[::-1]] = home[::-1]
    return bool((first[sequence] != home).any())


def _seconds(parts: StepParts, network: Network, rates: ComputeRates) -> float:
    """Seconds of exchanges and attention over prefill and all decode steps, from the middle step of each."""
    chunks, steps = prefill_chunks(parts), decode_steps(parts.workload)
    total = len(chunks) * _in_step(parts, chunks[len(chunks) // 2], network, rates)
    if steps:
        total += num_decode_steps(parts.workload) * _in_step(parts, steps[len(steps) // 2], network, rates)
    move = cache_move(parts)
    return total + (0.0 if move is None else exchange_duration(network, move.phases).duration)


def _in_step(parts: StepParts, tokens: Ints, network: Network, rates: ComputeRates) -> float:
    """Seconds of the exchanges around attention and of attention itself in all layers of a step."""
    load, traffic = spread_load(own_load(parts, tokens), parts, tokens)
    around = exchanges_around(load.tokens, traffic, parts)
    model = parts.model
    work = attention_times(model, load, rates).whole.max(axis=1) @ np.bincount(model.attention_kinds)
    phases = [] if around is None else [one for one in (around.gather, around.scatter) if one]
    return float(work) + model.layers * sum(exchange_duration(network, one).duration for one in phases)
