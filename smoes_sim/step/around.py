"""The exchanges around attention: of ranks that share its heads, or of a sequence that lives on several ranks."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import RankLoad
from smoes_sim.network import phases_of
from smoes_sim.routing.trace import DECODE, PREFILL
from smoes_sim.step.parts import StepParts
from smoes_sim.step.timeline import GroupExchanges
from smoes_sim.traffic.attention import AttentionTraffic, attention_traffic
from smoes_sim.traffic.copies import copy_bytes

Ints = NDArray[np.int64]


def exchanges_around(
    tokens: Ints, traffic: AttentionTraffic | None, parts: StepParts, *, repeat: float = 1.0
) -> GroupExchanges | None:
    """The exchanges around attention in one layer; None where each rank computes it alone.

    Args:
        tokens: Number of tokens at home on each rank, (R,).
        traffic: What sequences on several ranks send; None where nothing is owed.
        parts: The deployment.
        repeat: Factor on the bytes of ``traffic``.
    """
    return group_exchanges(tokens, parts) if traffic is None else spread_exchanges(traffic, parts, repeat=repeat)


def group_exchanges(tokens: Ints, parts: StepParts) -> GroupExchanges | None:
    """All-gather before attention and reduce-scatter after it, in bf16; None without attention groups.

    Every rank sends its tokens to each other rank of its group, and each of them sends back its part of the result. The
    volume is that of an all-reduce: 2 (t - 1) / t of the group's tokens per rank.

    Args:
        tokens: Number of tokens at home on each rank, shape (R,).
        parts: The deployment.
    """
    tensor = parts.parallelism.tensor
    if tensor == 1:
        return None
    group = np.arange(len(tokens)) // tensor
    same = (group[:, None] == group[None, :]) & ~np.eye(len(tokens), dtype=bool)
    matrix = np.where(same, tokens[:, None] * float(copy_bytes(parts.model.hidden, "bf16")), 0.0)
    return _between(matrix, matrix.T, parts, is_spread=False)


def spread_exchanges(traffic: AttentionTraffic, parts: StepParts, *, repeat: float = 1.0) -> GroupExchanges | None:
    """Queries, or keys and values, before the scores of a layer and partial results after them; None without any.

    Args:
        traffic: Bytes from rank to rank.
        parts: The deployment.
        repeat: Factor on all bytes.
    """
    if not traffic.total_bytes:
        return None
    return _between(traffic.outward * repeat, traffic.homeward * repeat, parts, is_spread=True)


def _between(
    outward: NDArray[np.float64], homeward: NDArray[np.float64], parts: StepParts, *, is_spread: bool
) -> GroupExchanges:
    network, communication = parts.network, parts.communication
    gather, scatter = (
        phases_of(
            network,
            [matrix],
            order=communication.order,
            seed=network.seed,
            rendezvous=communication.rendezvous and is_spread,
        )
        for matrix in (outward, homeward)
    )
    return GroupExchanges(gather=gather, scatter=scatter if homeward.any() or not is_spread else [], is_spread=is_spread)


def spread_load(load: RankLoad, parts: StepParts, tokens: Ints) -> tuple[RankLoad, AttentionTraffic | None]:
    """The work of each rank where sequences live on several, and what they send; None where nothing is owed.

    Args:
        load: The work, as if every token found what it attends to on its home rank.
        parts: The deployment.
        tokens: Indices into the workload of the tokens of the step.
    """
    spread, workload = parts.spread, parts.workload
    assert spread is not None
    found: list[AttentionTraffic | None] = []
    for phase in (PREFILL, DECODE):
        some = tokens[workload.phase[tokens] == phase]
        if not len(some) or (phase == DECODE and spread.decode == "moved_cache"):
            continue
        needs = spread.places.needs(workload.sequence_id[some], workload.context_lengths[some] - 1, parts.home[some])
        scheme = spread.prefill if phase == PREFILL else spread.decode
        traffic = attention_traffic(needs, scheme, parts.model, cache_bytes=spread.cache_bytes)
        if phase == PREFILL:
            load = replace(load, pairs=traffic.pairs, away_pairs=traffic.away, earlier=traffic.read - load.prefill)
        else:
            load = replace(load, context=traffic.pairs, away_context=traffic.away)
        found.append(traffic)
    return load, together(*found)


def together(*traffic: AttentionTraffic | None) -> AttentionTraffic | None:
    """What prefill and decode of one step send, whose messages travel together; None where nothing is owed."""
    found = [one for one in traffic if one is not None]
    if not found:
        return None
    return AttentionTraffic(
        **{part.name: sum(getattr(one, part.name) for one in found) for part in fields(AttentionTraffic)}
    )
