"""Attention over sequences that live on several ranks, executed: queries, or keys and values, really travel.

The schemes are those of :mod:`smoes_sim.traffic.attention`, and so are the bytes. Queries, keys and values are seeded normal
rows of bf16, the same in every layer; scores are computed in float32 between the exchanges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoes_sim.distributed.attention_plan import TokenExchange, plan_attention
from smoes_sim.distributed.experts import seeded_generator
from smoes_sim.distributed.patterns import RowExchange
from smoes_sim.errors import ConfigError
from smoes_sim.models import ModelShape
from smoes_sim.prediction.attention import CacheMove
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.step.build import Step

Ints = NDArray[np.int64]
T = TypeVar("T")
_NOT_A_LAYER = 2_000_000
"""Seed key of queries, keys and values, above those of tokens and experts."""
_AT_ONCE = 512
"""Queries whose scores are in memory together."""


class Phases(Protocol):
    """Runs the phases of a pass on one rank, all of them from a common start of all ranks."""

    def time(self, phase: str, work: Callable[..., T], *arguments: object) -> T:
        """Result of a phase that is timed."""

    def together(self, work: Callable[..., T], *arguments: object) -> T:
        """Result of work that is not timed; it would take processors from ranks that are still in the phase before."""


class Heads:
    """Queries, keys and values of the tokens of a workload, the same on every rank.

    Args:
        model: Widths of the heads.
        num_tokens: Number of tokens, T.
        seed: Of the rows.
        device: Where they are.

    Attributes:
        query: Queries, bf16 (T, H, Q).
        cache: Keys and values as they are kept, bf16 (T, W): keys, then values of all key heads; or MLA's latent vector,
            then its rotary key.
        value_width: Width of a value head, V.
    """

    def __init__(self, model: ModelShape, *, num_tokens: int, seed: int, device: torch.device | str = "cpu") -> None:
        mla, heads = model.mla, model.heads
        self._model = model
        width = 2 * model.kv_heads * model.head_dim
        query, self.value_width = model.head_dim, model.head_dim
        if mla is not None:
            width = mla.kv_lora_rank + mla.qk_rope_head_dim
            query, self.value_width = mla.qk_nope_head_dim + mla.qk_rope_head_dim, mla.v_head_dim
            up = mla.qk_nope_head_dim + mla.v_head_dim
            self._up = _normal(seed, 2, shape=(mla.kv_lora_rank, heads * up)) / mla.kv_lora_rank**0.5
        self.query = _normal(seed, 0, shape=(num_tokens, heads, query)).to(device, torch.bfloat16)
        self.cache = _normal(seed, 1, shape=(num_tokens, width)).to(device, torch.bfloat16)

    def keys_and_values(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (N, H, Q) and values (N, H, V) of every query head from cached rows (N, W), in the type of the rows."""
        mla, heads = self._model.mla, self._model.heads
        if mla is None:
            both = rows.unflatten(1, (2, self._model.kv_heads, self._model.head_dim))
            both = both.repeat_interleave(heads // self._model.kv_heads, dim=2)
            return both[:, 0], both[:, 1]
        latent, rotary = rows.split([mla.kv_lora_rank, mla.qk_rope_head_dim], dim=1)
        raised = (latent @ self._up.to(rows)).unflatten(1, (heads, -1))
        keys, values = raised.split([mla.qk_nope_head_dim, mla.v_head_dim], dim=2)
        return torch.cat([keys, rotary[:, None].expand(-1, heads, -1)], dim=2), values


def _normal(*key: int, shape: Sequence[int]) -> Tensor:
    return torch.randn(*shape, generator=seeded_generator(_NOT_A_LAYER, *key))


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """Attention over some of the keys of each query.

    Attributes:
        result: Weighted mean of the values, float32 (N, H, V).
        log_sum_exp: Logarithm of the sum of the exponentials of the scores, float32 (N, H); -inf without keys.
    """

    result: Tensor
    log_sum_exp: Tensor

    def encode(self) -> Tensor:
        """One row of bytes per query: results in bf16, then each head's log-sum-exp in float32, uint8 (N, H (2 V + 4))."""
        result = self.result.flatten(1).bfloat16().view(torch.uint8)
        return torch.cat([result, self.log_sum_exp.contiguous().view(torch.uint8)], dim=1)

    @classmethod
    def decode(cls, rows: Tensor, *, heads: int) -> Partial:
        """What :meth:`encode` made."""
        end = rows.shape[1] - 4 * heads
        result = rows[:, :end].contiguous().view(torch.bfloat16).float().unflatten(1, (heads, -1))
        return cls(result=result, log_sum_exp=rows[:, end:].contiguous().view(torch.float32))

    def merged(self, other: Partial, at: Tensor) -> Tensor:
        """Results of all keys, (N, H, V), from those of the keys at hand and others for the queries ``at``, (M,)."""
        each = at[:, None].expand_as(other.log_sum_exp)
        largest = self.log_sum_exp.scatter_reduce(0, each, other.log_sum_exp, "amax")
        own, far = torch.exp(self.log_sum_exp - largest), torch.exp(other.log_sum_exp - largest[at])
        total = own.index_add(0, at, far)
        summed = (self.result * own[..., None]).index_add(0, at, other.result * far[..., None])
        return summed / total[..., None]


class SpreadScores:
    """Attention of one rank, step by step; what it does not hold is not a number, so that nothing unsent can be used.

    Args:
        deployment: What is executed; its sequences live on several ranks.
        steps: Token indices of each step, in order.
        rank: The rank.
        exchange: Sends rows.
        device: Of the tensors.

    Raises:
        ConfigError: If the cache has an element type that is not run.
    """

    def __init__(
        self,
        deployment: Deployment,
        steps: Sequence[Ints],
        *,
        rank: int,
        exchange: RowExchange,
        device: torch.device | str = "cpu",
    ) -> None:
        spread, model, workload = deployment.parts.spread, deployment.model, deployment.workload
        assert spread is not None
        self._exchange, self._heads, self._layers, self._device = exchange, model.heads, model.layers, device
        self.heads = Heads(model, num_tokens=workload.num_tokens, seed=deployment.scenario.seed, device=device)
        if self.heads.cache.shape[1] * self.heads.cache.element_size() != spread.cache_bytes:
            raise ConfigError(
                f"compute.cache = {deployment.scenario.compute.cache}: keys and values of {model.name} are run as bf16 in "
                "equal layers, and these can only be predicted. Write cache: bf16, or placement.tokens: data_parallel."
            )
        self._sequence, self._position = workload.sequence_id.astype(np.int64), workload.context_lengths - 1
        self._plan = plan_attention(deployment, steps, rank=rank)
        self._home = np.flatnonzero(deployment.home == rank)
        self._rank, self._num_ranks = rank, deployment.topology.num_ranks
        self.begin()

    def begin(self) -> None:
        """Forget what was received: the cache holds the tokens that are at home on the rank."""
        self._cache = torch.full_like(self.heads.cache, torch.nan)
        self._cache[self._home] = self.heads.cache[self._home]

    def expected(self, step: Step) -> dict[str, list[Ints]]:
        """Bytes to and from each rank in the phases of a step as the simulator counts them, (2, R) per exchange."""
        (batch,) = step.batches
        found: dict[str, list[Ints]] = {}
        if batch.attention is not None:
            ways = {"attention_gather": batch.attention.outward, "attention_scatter": batch.attention.homeward}
            found = {phase: [self._of_rank(matrix)] for phase, matrix in ways.items() if matrix.any()}
        return found

    def expected_move(self, move: CacheMove | None) -> dict[str, list[Ints]]:
        """The same of the move of the cache before decode."""
        if move is None:
            return {}
        matrix = np.zeros((self._num_ranks, self._num_ranks))
        for flows in move.phases:
            np.add.at(matrix, (flows.source, flows.destination), flows.size)
        return {"cache_move": [self._of_rank(matrix)]}

    def _of_rank(self, matrix: NDArray[np.float64]) -> Ints:
        return np.stack([matrix[self._rank], matrix[:, self._rank]]).astype(np.int64)

    def move(self, phases: Phases) -> None:
        """Move the cache of all layers to the ranks that decode, once."""
        move = self._plan.move
        if move is None:
            return
        rows = self._cache[move.sent].repeat(1, self._layers)
        received = phases.time("cache_move", self._exchange, rows, move.counts.sent, move.counts.received)
        self._cache[move.received] = received[:, : self._cache.shape[1]]

    def attend(self, step: int, phases: Phases) -> Tensor:
        """Attention of the rank's own tokens of a step, float32 (N, H, V), in the order of the workload."""
        plan = self._plan.steps[step]
        own, exchanged, cache, everything = plan.tokens, plan.outward, self._cache, np.arange(len(self._cache))
        if exchanged is not None and plan.scheme == "queries":
            return self._asked(own, exchanged, phases)
        if exchanged is not None:
            counts = exchanged.counts
            received = phases.time("attention_gather", self._exchange, cache[exchanged.sent], counts.sent, counts.received)
            cache = cache if plan.scheme == "moved_cache" else cache.clone()
            cache[exchanged.received] = received
        return phases.together(self._partial, self.heads.query[own], own, cache, everything).result

    def _asked(self, own: Ints, exchanged: TokenExchange, phases: Phases) -> Tensor:
        """The same with queries that travel."""
        counts, home = exchanged.counts, self._home
        rows = self.heads.query[exchanged.sent].flatten(1)
        received = phases.time("attention_gather", self._exchange, rows, counts.sent, counts.received)

        def scores() -> tuple[Tensor, Partial]:
            query = received.unflatten(1, self.heads.query.shape[1:])
            answers = self._partial(query, exchanged.received, self._cache, home).encode()
            return answers, self._partial(self.heads.query[own], own, self._cache, home)

        answers, mine = phases.together(scores)
        back = phases.time("attention_scatter", self._exchange, answers, counts.received, counts.sent)
        at = torch.as_tensor(np.searchsorted(own, exchanged.sent), device=self._device)
        return mine.merged(Partial.decode(back, heads=self._heads), at)

    def _partial(self, query: Tensor, tokens: Ints, cache: Tensor, keys: Ints) -> Partial:
        """Attention of queries (N, H, Q) of some tokens over those of the ``keys`` that are in their sequence up to them."""
        result = torch.zeros(len(tokens), self._heads, self.heads.value_width, device=self._device)
        log_sum_exp = torch.full((len(tokens), self._heads), -torch.inf, device=self._device)
        of_query, of_key = self._sequence[tokens], self._sequence[keys]
        for sequence in np.unique(of_query):
            there = np.flatnonzero(of_query == sequence)
            known = keys[of_key == sequence]
            known = known[self._position[known] <= self._position[tokens[there]].max()]
            if not len(known):
                continue
            k, v = self.heads.keys_and_values(cache[known].float())
            for some in np.split(there, range(_AT_ONCE, len(there), _AT_ONCE)):
                scores = torch.einsum("nhd,mhd->nhm", query[some].float(), k) / k.shape[2] ** 0.5
                is_later = self._position[known][None] > self._position[tokens[some]][:, None]
                scores.masked_fill_(torch.as_tensor(is_later, device=self._device)[:, None], -torch.inf)
                sums = torch.logsumexp(scores, dim=2)
                log_sum_exp[some] = sums
                weights = torch.exp(scores - sums.clamp(min=torch.finfo(torch.float32).min)[..., None])
                result[some] = torch.einsum("nhm,mhd->nhd", weights, v)
        return Partial(result=result, log_sum_exp=log_sum_exp)
