"""Which queries, keys and values a rank sends and receives where sequences live on several ranks.

The plan follows from the homes of the tokens, which every rank knows, so only the rows themselves are sent. It is made token
by token, independently of the counts of :mod:`smoes_sim.traffic.attention`, which a run compares it with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.distributed.dispatch import Copies, Counts, counts_of
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.routing.trace import DECODE, PREFILL
from smoes_sim.traffic.attention import Scheme

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenExchange:
    """An exchange of rows of tokens as a rank sees it.

    Attributes:
        sent: Token of each row sent, ordered by destination.
        received: Token of each row received, ordered by source.
        counts: Number of rows for and from each rank.
    """

    sent: Ints
    received: Ints
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionStep:
    """The attention of a rank in one step.

    Attributes:
        tokens: Its own tokens of the step, ascending.
        scheme: The way.
        outward: Queries, or keys and values; None where no rank sends anything.
    """

    tokens: Ints
    scheme: Scheme
    outward: TokenExchange | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    """What a rank does in all steps.

    Attributes:
        steps: Its part in each step.
        move: Tokens whose cache moves before the first decode step; None where none does.
    """

    steps: Sequence[AttentionStep]
    move: TokenExchange | None


def plan_attention(deployment: Deployment, steps: Sequence[Ints], *, rank: int) -> AttentionPlan:
    """The plan of a rank.

    Args:
        deployment: Whose sequences live on several ranks.
        steps: Token indices of each step, the prefill first.
        rank: The rank.
    """
    places = _Places(deployment)
    plans: list[AttentionStep] = []
    move = None
    for tokens in steps:
        scheme, is_first_decode = places.scheme(tokens), len(plans) == len(steps) - len(deployment.decode)
        if is_first_decode:
            move = places.exchanged(places.to_move(), rank)
        plans.append(
            AttentionStep(
                tokens=tokens[deployment.home[tokens] == rank],
                scheme=scheme,
                outward=places.exchanged(places.outward(tokens, scheme), rank),
            )
        )
    return AttentionPlan(steps=plans, move=move)


class _Places:
    """Tokens of a workload by sequence, position and home; finds what has to travel, as flags of token and rank, (T, R)."""

    def __init__(self, deployment: Deployment) -> None:
        workload, spread = deployment.workload, deployment.parts.spread
        assert spread is not None
        self._spread, self._phase = spread, workload.phase
        self._sequence, self._position = workload.sequence_id.astype(np.int64), workload.context_lengths - 1
        self._home, self._num_ranks = deployment.home, deployment.topology.num_ranks
        self._parts = workload.num_sequences, self._num_ranks
        self._held = self._home[:, None] == np.arange(self._num_ranks)  # which keys and values each rank has

    def scheme(self, tokens: Ints) -> Scheme:
        """The way of a step."""
        return self._spread.prefill if (self._phase[tokens] == PREFILL).any() else self._spread.decode

    def outward(self, tokens: Ints, scheme: Scheme) -> Flags:
        """Rows that travel before the scores of a step; with ``moved_cache`` what arrives is kept for later steps."""
        if scheme == "queries":
            first = np.full(self._parts, np.iinfo(np.int64).max)
            np.minimum.at(first, (self._sequence, self._home), self._position)
            asks = np.zeros_like(self._held)
            asks[tokens] = first[self._sequence[tokens]] <= self._position[tokens, None]
            return asks & (self._home[:, None] != np.arange(self._num_ranks))
        last = np.full(self._parts, -1)
        np.maximum.at(last, (self._sequence[tokens], self._home[tokens]), self._position[tokens])
        travels = (last[self._sequence] >= self._position[:, None]) & ~self._held
        if scheme == "moved_cache":
            self._held |= travels
        return travels

    def to_move(self) -> Flags:
        """Prompt tokens that the rank which decodes their sequence has not received in prefill; it keeps them."""
        moves = np.zeros_like(self._held)
        decoded = np.flatnonzero(self._phase == DECODE)
        if self._spread.decode != "moved_cache" or not len(decoded):
            return moves
        decodes = np.zeros(self._parts, dtype=bool)
        decodes[self._sequence[decoded], self._home[decoded]] = True
        is_prompt = (self._phase == PREFILL)[:, None]
        moves = decodes[self._sequence] & is_prompt & ~self._held
        self._held |= moves
        return moves

    def exchanged(self, travels: Flags, rank: int) -> TokenExchange | None:
        """The part of a rank in an exchange of the flagged tokens; None where nothing travels."""
        token, destination = np.nonzero(travels)
        if not len(token):
            return None
        copies = Copies(token=token, slot=np.zeros_like(token), source=self._home[token], destination=destination)
        return TokenExchange(
            sent=token[copies.sent_by(rank)],
            received=token[copies.received_by(rank)],
            counts=counts_of(copies.matrix(self._num_ranks), rank),
        )
