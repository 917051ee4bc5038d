"""Tokens for a step of any size, taken from a deployment's own workload, at home where the simulator would put them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.placement import home_tokens, occurrence_index
from smoes_sim.prediction.deploy import sequence_homes
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.routing.trace import DECODE, PREFILL
from smoes_sim.traffic.attention import AttentionTraffic, KeyPlaces, attention_traffic

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_PROFILED = 4096
"""Tokens from which the shares of the ranks in a prefill are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillShares:
    """How prefill spreads over the ranks; each is (R,) and sums to 1.

    Attributes:
        tokens: Share of the prompt tokens that are at home on each rank.
        pairs: Share of the (token, earlier token of its prompt) pairs that are computed there.
        ends: Share of the prompts whose last token is there.
        received: Keys and values that are sent there, for each prompt token of the batch; it need not sum to 1.
    """

    tokens: Floats
    pairs: Floats
    ends: Floats
    received: Floats


class StepTokens:
    """Chooses tokens of a deployment's workload for steps of other sizes, with the home rank of each.

    Prompts are replaced by *places*: equally long prompts with consecutive sequence numbers, each mixed from several of the
    workload. Where a placement cuts prompts into runs, their tokens are in the order of their relative positions, so that
    images come first as they do in each prompt.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        workload = deployment.workload
        tokens = np.arange(workload.num_tokens)
        is_prompt = workload.phase == PREFILL
        self._contexts = np.asarray(workload.context_lengths, dtype=np.float64)
        relative = self._contexts / workload.sequence_prompt_tokens[workload.sequence_id]
        prompts = tokens[is_prompt]
        self._prompts = prompts[np.argsort(relative[prompts], kind="stable")]
        decoded = tokens[~is_prompt] if not is_prompt.all() else prompts
        present, self._starts, self._lengths = np.unique(
            workload.sequence_id[decoded], return_index=True, return_counts=True
        )
        self._decoded, self._num_decoding = decoded, len(present)
        self._is_in_runs = deployment.scenario.placement.tokens in {"sharded", "modality"}
        self._places: dict[int, list[Ints]] = {}
        self._shares: dict[int, PrefillShares] = {}

    def prompts(self, number: int, places: int) -> tuple[Ints, Ints]:
        """Prompt tokens spread evenly over the workload's, and the place of each, shape (number,) both.

        Args:
            number: Number of tokens.
            places: Number of places, each with its part of the tokens.
        """
        counts = (number + np.arange(places)[::-1]) // places
        found = [mine[np.arange(count) * len(mine) // max(count, 1)] for mine, count in self._by_place(places, counts)]
        return np.concatenate(found), np.repeat(np.arange(places), counts)

    def _by_place(self, places: int, counts: Ints) -> list[tuple[Ints, int]]:
        """The workload's prompt tokens of each place, with the number of tokens that are taken of them.

        Sequences are dealt to places as the placement deals them to ranks: one by one, or in runs.
        """
        if places not in self._places:
            number = self._deployment.workload.num_sequences
            few = min(places, number)
            sequence = self._deployment.workload.sequence_id[self._prompts].astype(np.int64)
            place_of = sequence * few // number if self._is_in_runs else sequence % few
            mine = [self._prompts[place_of == place] for place in range(few)]
            if not self._is_in_runs:
                mine = [np.sort(tokens) for tokens in mine]
            self._places[places] = [mine[place % few] for place in range(places)]
        return list(zip(self._places[places], counts.tolist(), strict=True))

    def decoded(self, number: int, *, draw: int = 0, draws: int = 1) -> tuple[Ints, Ints]:
        """One decoded token for each of ``number`` sequences, and the number of each, shape (number,) both.

        Args:
            number: Number of sequences; where the workload has fewer, later tokens of the same ones follow.
            draw: Which of ``draws`` different choices is made, from 0: other sequences, and later tokens.
            draws: Number of choices.
        """
        sequence = np.arange(number)
        turn, one = np.divmod(sequence + draw * number, self._num_decoding)
        lengths = self._lengths[one]
        first = np.floor((draw + 0.5) / draws * lengths).astype(np.int64)
        step = (first + turn - draw * number // self._num_decoding) % lengths
        return self._decoded[self._starts[one] + step], sequence

    def homes(self, tokens: Ints, sequence: Ints, is_prompt: NDArray[np.bool_]) -> Ints:
        """Home rank of each token under the scenario's token placement, shape (T,).

        Args:
            tokens: Tokens of the workload, which say what is routed where.
            sequence: Sequence of each in the step.
            is_prompt: Whether it belongs to a prompt; otherwise it is decoded.
        """
        deployment = self._deployment
        rule, trace, placement = deployment.scenario.placement.tokens, deployment.trace, deployment.placement
        tensor, num_ranks = deployment.scenario.parallelism.tensor, deployment.topology.num_ranks
        decode_rule = deployment.scenario.placement.decode_tokens or rule
        if trace is None or placement is None or tensor > 1 or {rule, decode_rule} == {"data_parallel"}:
            return sequence_homes(sequence, is_prompt, num_ranks=num_ranks, tensor=tensor)
        if rule == "affinity":  # the rank inside an EP group depends on the routing alone and is known
            return deployment.home[tokens] % placement.ep_size + placement.ep_size * (sequence % placement.num_groups)
        step = replace(
            trace.select(tokens),
            sequence_id=sequence.astype(np.int32),
            phase=np.where(is_prompt, PREFILL, DECODE).astype(np.uint8),
        )
        home = home_tokens(rule, step, placement, decide_by=trace)
        if decode_rule == rule or is_prompt.all():
            return home
        return np.where(is_prompt, home, home_tokens(decode_rule, step, placement, decide_by=trace))

    def prefill_shares(self, prompts: int) -> PrefillShares:
        """How a number of equally long prompts spreads over the ranks."""
        if prompts not in self._shares:
            tokens, place = self.prompts(max(prompts, min(_PROFILED, len(self._prompts))), prompts)
            home = self.homes(tokens, place, np.ones(len(tokens), dtype=np.bool_))
            last = np.flatnonzero(np.diff(place, append=prompts))
            count = self._share(home, np.ones(len(home)))
            pairs, received = self._share(home, self._contexts[tokens]), np.zeros(len(count))
            attention = self.prompt_attention(place, home)
            if attention is not None:
                pairs, received = attention.pairs / attention.pairs.sum(), attention.read / len(home) - count
            ends = self._share(home[last], np.ones(len(last)))
            self._shares[prompts] = PrefillShares(tokens=count, pairs=pairs, ends=ends, received=received)
        return self._shares[prompts]

    def prompt_attention(self, place: Ints, home: Ints) -> AttentionTraffic | None:
        """What prompt tokens of a step need from other ranks; None where nothing is owed.

        Args:
            place: Place of each token, those of one place in the order of the prompt, (T,).
            home: Home rank of each, (T,).
        """
        spread, num_ranks = self._deployment.parts.spread, self._deployment.topology.num_ranks
        if spread is None or not len(place):
            return None
        position = occurrence_index(place)
        needs = KeyPlaces(place, position, home, num_ranks=num_ranks).needs(place, position, home)
        return attention_traffic(needs, spread.prefill, self._deployment.model, cache_bytes=spread.cache_bytes)

    def decode_attention(self, tokens: Ints, home: Ints) -> AttentionTraffic | None:
        """What decoded tokens need where caches are left as the deployment makes them; None where nothing is owed.

        Args:
            tokens: Decoded tokens of the workload, (T,).
            home: Home rank of each in the step, (T,).
        """
        spread, workload = self._deployment.parts.spread, self._deployment.workload
        if spread is None or spread.decode == "moved_cache" or not len(tokens):
            return None
        sequence = workload.sequence_id[tokens].astype(np.int64)
        needs = spread.places.needs(sequence, workload.context_lengths[tokens] - 1, home)
        return attention_traffic(needs, spread.decode, self._deployment.model, cache_bytes=spread.cache_bytes)

    def decode_shares(self, number: int) -> tuple[Floats, Floats]:
        """Shares of a number of decoded sequences at home on each rank, and of their contexts computed there, (R,) both."""
        tokens, sequence = self.decoded(number)
        home = self.homes(tokens, sequence, np.zeros(number, dtype=np.bool_))
        attention, share = self.decode_attention(tokens, home), self._share(home, np.ones(number))
        return share, share if attention is None else attention.pairs / attention.pairs.sum()

    def _share(self, home: Ints, weights: Floats) -> Floats:
        return np.bincount(home, weights=weights, minlength=self._deployment.topology.num_ranks) / weights.sum()
