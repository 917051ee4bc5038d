"""Home rank of each token: where it is during attention."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.placement.expert_placement import ExpertPlacement
from smoes_sim.routing.information import expert_counts
from smoes_sim.routing.trace import DECODE, PREFILL, TEXT, RoutingTrace

TokenRule = Literal["data_parallel", "sharded", "modality", "affinity", "single"]
TOKEN_RULES: tuple[TokenRule, ...] = ("data_parallel", "sharded", "modality", "affinity")
"""Rules that give every rank tokens of a large batch."""


def home_tokens(
    rule: TokenRule, trace: RoutingTrace, placement: ExpertPlacement, *, decide_by: RoutingTrace | None = None
) -> NDArray[np.int64]:
    """Home rank of every token, shape (T,), the same in all layers.

    Args:
        rule: ``data_parallel``: all tokens of a sequence are on rank ``sequence_id % R``. ``sharded``: the prefill
            tokens of the batch are cut into R equal runs; a decode token is where ``data_parallel`` puts it.
            ``modality``: the tokens of a modality are cut into equal runs over its ranks (:func:`modality_ranks`).
            ``affinity``: the rank that holds most of the token's experts (a copy counts) over all layers, the lowest
            rank on a tie (ranks that share experts take tokens in turn), in EP group ``sequence_id % groups`` (an
            oracle: it knows the routing in advance). ``single``: all tokens are on rank 0, where ``bins`` puts the most
            visual experts.
        trace: Tokens and their routing.
        placement: Where the experts are.
        decide_by: Under ``modality``, the routing that decides which ranks serve text; None: the trace itself, which in
            this respect knows the routing of its own tokens.
    """
    num_ranks = placement.num_ranks
    if rule == "affinity":
        return _by_affinity(trace, placement)
    if rule == "modality":
        return _by_modality(trace, modality_ranks(decide_by or trace, placement))
    if rule == "single":
        return np.zeros(trace.num_tokens, dtype=np.int64)
    home = trace.sequence_id.astype(np.int64) % num_ranks
    if rule == "sharded":
        prefill = trace.phase == PREFILL
        home[prefill] = _even_runs(int(prefill.sum()), num_ranks)
    return home


def _even_runs(count: int, parts: int) -> NDArray[np.int64]:
    """Index of the run that each of ``count`` items is in, out of ``parts`` equal runs, shape (count,)."""
    return np.arange(count) * parts // max(count, 1)


def modality_ranks(trace: RoutingTrace, placement: ExpertPlacement) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks whose experts prefer vision, and ranks whose experts prefer text; at least one each where a group has several.

    A rank prefers text when it receives a larger share of all text slots than of all vision slots, over all layers. Every
    EP group has the same preferences. With a single modality, or one rank in a group, both are all ranks.
    """
    num_ranks = placement.ep_size
    everyone = np.arange(placement.num_ranks)
    if num_ranks == 1 or not trace.is_vision.any() or not (trace.modality == TEXT).any():
        return everyone, everyone
    shares = []
    for tokens in (trace.modality == TEXT, trace.is_vision):
        counts = expert_counts(trace, tokens)
        per_rank = placement.rank_loads(counts).sum(axis=0)
        shares.append(per_rank / max(int(counts.sum()), 1))
    lean = shares[0] - shares[1]
    order = np.argsort(lean, kind="stable")
    num_text = int(np.clip((lean > 0).sum(), 1, num_ranks - 1))
    first = num_ranks * np.arange(placement.num_groups)[:, None]
    vision, text = np.sort(order[: num_ranks - num_text]), np.sort(order[num_ranks - num_text :])
    return (first + vision).ravel(), (first + text).ravel()


def _by_modality(trace: RoutingTrace, ranks: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.int64]:
    vision_ranks, text_ranks = ranks
    home = np.empty(trace.num_tokens, dtype=np.int64)
    for tokens, serving in ((trace.is_vision, vision_ranks), (~trace.is_vision, text_ranks)):
        prefill = tokens & (trace.phase == PREFILL)
        home[prefill] = serving[_even_runs(int(prefill.sum()), len(serving))]
        decode = tokens & (trace.phase == DECODE)
        home[decode] = serving[trace.sequence_id[decode] % len(serving)]
    return home


def _by_affinity(trace: RoutingTrace, placement: ExpertPlacement) -> NDArray[np.int64]:
    votes = np.zeros((trace.num_tokens, placement.ep_size), dtype=np.int64)
    token = np.arange(trace.num_tokens)[:, None]
    for layer in range(trace.num_layers):
        ids = trace.expert_ids[:, layer]
        copies, _ = placement.copy_ranks(layer)
        for number, rank_of in enumerate(copies.T):
            is_new = (rank_of >= 0) & (copies[:, :number] != rank_of[:, None]).all(axis=1)
            counts = (ids >= 0) & is_new[ids]
            np.add.at(votes, (np.broadcast_to(token, ids.shape)[counts], rank_of[ids[counts]]), 1)
    first = votes.argmax(axis=1) + np.arange(trace.num_tokens) % placement.expert_tensor
    return first + placement.ep_size * (trace.sequence_id % placement.num_groups)
