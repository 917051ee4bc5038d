"""A seeded router: traces with a given modality structure, for models whose weights are not available.

In each layer every expert belongs to one of two *sides* (for SMoES the experts that lean to text and those that lean to
vision, at random expert ids; for a router without modality the lower and the upper half of the ids). The score of expert e
for token t in layer l is::

    s[t, l, e] = popularity[l, e] + preference[m(t)] * taste[l, e] + side[e] / 2 * (affinity[m(t), phase] * depth[l]
                 + slot_correlation[m(t), phase] * x[t, l]) + Gumbel noise

and the token uses the K best of those that its policy allows. ``side`` is +1 for text (or the upper half) and -1
otherwise, 0 for an expert that serves both; ``taste`` is a normal draw per expert (a standard router's own, unplaced,
modality preference); ``x`` is a normal draw per token and layer that all its K slots share, so they tend to one side
together; x of neighbouring layers is correlated. ``depth`` falls linearly over the layers, because specialisation is
reported to be high in shallow layers and low in deep ones (SMoES notes).

It reproduces: token-level transmission rates or the modality specialisation index, popularity skew, correlated slots.
It does not reproduce: which expert a word likes, drift within a sequence, dependence of experts across layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.routing.choice import FORBIDDEN, best_experts, best_of_each_group, only_best_groups
from smoes_sim.routing.trace import DECODE, IMAGE, TEXT, VIDEO, RoutingTrace

Policy = Literal["standard", "smoes", "hard", "hybrid", "device_limited", "group_balanced"]
GROUPED: tuple[Policy, ...] = ("device_limited", "group_balanced")
"""Policies that choose by groups of neighbouring experts; their scores are those of a standard router."""
NUM_GROUPS = 8
"""Groups of DeepSeek-V2 and V3 (deepseek-ai/DeepSeek-V3 inference/configs) and of Pangu Pro MoE (its model card)."""
KEPT_GROUPS = 3
"""Groups that a token keeps in DeepSeek-V2 (config_236B.json: n_limited_groups); V3 keeps 4, by its two best experts."""
POPULATIONS = ("prefill_vision", "prefill_text", "decode")
_BLOCK = 4096
"""Tokens per block: few enough that their scores fit into the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterParameters:
    """Parameters of a synthetic router; scores are in units of the Gumbel noise (nats).

    Attributes:
        affinity: Pull towards the text side, per population of :data:`POPULATIONS`; negative: towards vision.
        slot_correlation: Spread of the pull that the slots of a token share, per population.
        preference: Strength of modality preferences of single experts, independent of sides.
        popularity: Spread of expert popularity.
        layer_correlation: Correlation of a token's shared pull between neighbouring layers.
        depth_decay: Relative fall of the pull from first to last layer, around a mean of 1.
    """

    affinity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    slot_correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    preference: float = 0.0
    popularity: float = 0.1
    layer_correlation: float = 0.5
    depth_decay: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens to route: modality uint8 (T,), sequence_id int32 (T,), phase uint8 (T,)."""

    modality: NDArray[np.uint8]
    sequence_id: NDArray[np.int32]
    phase: NDArray[np.uint8]

    @property
    def population(self) -> NDArray[np.int64]:
        """Index into :data:`POPULATIONS` of each token, (T,); decoded tokens count as one population."""
        vision = (self.modality == IMAGE) | (self.modality == VIDEO)
        prefill = np.where(vision, 0, 1)
        return np.where(self.phase == DECODE, 2, prefill)


class SyntheticRouter:
    """A router whose random numbers are drawn once from a seed, so that parameters can change without new noise.

    Args:
        policy: ``standard``: sides are halves of the expert ids. ``smoes``: sides are random halves per layer,
            which placement by bins recovers. ``hard``: as ``smoes``, and a token only uses its own side. ``hybrid``: per
            layer a random half of the experts serves text, a quarter vision, and a quarter both (MoIIE, t32-v16-s16 of
            64). ``device_limited``: as ``standard``, within the best groups of a token. ``group_balanced``: as
            ``standard``, with the same number of experts from every group.
        num_experts: E, even.
        top_k: K.
        num_layers: MoE layers, L.
        seed: Seed of all random numbers.
        num_groups: Groups of ``device_limited`` and ``group_balanced``.
        kept_groups: Groups that a token keeps under ``device_limited``.

    Raises:
        ConfigError: If the policy cannot choose K of E experts, with the numbers.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        num_experts: int,
        top_k: int,
        num_layers: int,
        seed: int,
        num_groups: int = NUM_GROUPS,
        kept_groups: int = KEPT_GROUPS,
    ) -> None:
        self.policy = policy
        self.num_experts, self.top_k, self.num_layers = num_experts, top_k, num_layers
        self._num_groups, self._kept_groups = num_groups, kept_groups
        self._check()
        self._seed = seed
        rng = np.random.default_rng([seed, 0])
        halves = np.where(np.arange(num_experts) < num_experts // 2, -1, 1).astype(np.float32)
        quarter = np.arange(num_experts) * 4 // num_experts
        sides = np.array([-1, 0, 1, 1], dtype=np.float32)[quarter] if policy == "hybrid" else halves
        shuffled = np.stack([rng.permutation(sides) for _ in range(num_layers)])
        self.side = np.tile(halves, (num_layers, 1)) if policy == "standard" or policy in GROUPED else shuffled
        self._popularity = rng.standard_normal((num_layers, num_experts), dtype=np.float32)
        self._taste = rng.standard_normal((num_layers, num_experts), dtype=np.float32)

    def _check(self) -> None:
        E, K, groups = self.num_experts, self.top_k, self._num_groups
        parts = 4 if self.policy == "hybrid" else 2
        if E % parts:
            raise ConfigError(f"{E} experts do not divide by {parts}, as policy {self.policy} needs. Use a trace.")
        if self.policy in {"hard", "hybrid"} and E // 2 < K:
            raise ConfigError(f"policy {self.policy} leaves a token {E // 2} experts, fewer than top_k = {K}. Use another.")
        if self.policy not in GROUPED:
            return
        if E % groups:
            raise ConfigError(f"routing.groups = {groups} does not divide {E} experts. Use {_divisors(E)}.")
        if self.policy == "group_balanced" and K % groups:
            raise ConfigError(
                f"routing.groups = {groups} does not divide top_k = {K}, as policy group_balanced needs. "
                f"Use {_divisors(math.gcd(K, E))}."
            )
        size, kept = E // groups, self._kept_groups
        if self.policy == "device_limited" and not K <= kept * size <= E:
            raise ConfigError(
                f"routing.keep = {kept} of {groups} groups of {size} experts cannot hold top_k = {K}. "
                f"Keep {-(-K // size)} to {groups}."
            )

    def depth(self, decay: float) -> NDArray[np.float64]:
        """Factor of the pull in each layer, mean 1, shape (L,)."""
        if self.num_layers == 1:
            return np.ones(1)
        return 1 + decay * (0.5 - np.arange(self.num_layers) / (self.num_layers - 1))

    def shared_pull(self, tokens: Tokens, correlation: float) -> NDArray[np.float32]:
        """``x``: standard normal per token and layer, correlated between neighbouring layers, shape (T, L)."""
        rng = np.random.default_rng([self._seed, 1])
        pull = rng.standard_normal((self.num_layers, len(tokens.modality)), dtype=np.float32)
        for layer in range(1, self.num_layers):
            pull[layer] = correlation * pull[layer - 1] + np.sqrt(1 - correlation**2) * pull[layer]
        return np.ascontiguousarray(pull.T)

    def base_scores(self, tokens: Tokens, parameters: RouterParameters, layer: int) -> NDArray[np.float32]:
        """Scores without the pull of the sides, shape (T, E)."""
        return self._scores(self._noise(layer), tokens.modality, parameters, layer)

    def _noise(self, layer: int) -> np.random.Generator:
        """Random generator of a layer's noise, at its first token."""
        return np.random.default_rng([self._seed, 2, layer])

    def _scores(
        self, rng: np.random.Generator, modality: NDArray[np.uint8], parameters: RouterParameters, layer: int
    ) -> NDArray[np.float32]:
        """Base scores of the next tokens of a layer, shape (T, E); the result does not depend on the block size."""
        uniform = rng.random((len(modality), self.num_experts), dtype=np.float32)
        scores = -np.log(-np.log(np.clip(uniform, 1e-12, 1 - 1e-7)))
        scores += parameters.popularity * self._popularity[layer]
        lean = np.where(modality == TEXT, 0.5, -0.5).astype(np.float32)
        scores += parameters.preference * lean[:, None] * self._taste[layer]
        return scores

    def route(self, tokens: Tokens, parameters: RouterParameters) -> RoutingTrace:
        """The routing of all tokens in all layers.

        Returns:
            A trace; the slots of a token are sorted by score, its weights are the softmax of the scores over its slots.
        """
        T, L, K = len(tokens.modality), self.num_layers, self.top_k
        ids = np.empty((T, L, K), dtype=np.int16)
        weights = np.empty((T, L, K), dtype=np.float16)
        pull = self.pull(tokens, parameters)
        own_side = np.where(tokens.modality == TEXT, 1, -1)[:, None]
        for layer in range(L):
            rng = self._noise(layer)
            for first in range(0, T, _BLOCK):
                block = slice(first, first + _BLOCK)
                scores = self._scores(rng, tokens.modality[block], parameters, layer)
                scores += pull[block, layer, None] * self.side[layer] / 2
                if self.policy in {"hard", "hybrid"}:
                    scores = np.where(own_side[block] * self.side[layer] >= 0, scores, FORBIDDEN)
                best = self._choose(scores)
                value = np.take_along_axis(scores, best, axis=1)
                order = np.argsort(-value, axis=1, kind="stable")
                ids[block, layer] = np.take_along_axis(best, order, axis=1)
                exponent = np.exp(np.take_along_axis(value, order, axis=1) - value.max(axis=1, keepdims=True))
                weights[block, layer] = exponent / exponent.sum(axis=1, keepdims=True)
        return RoutingTrace(
            expert_ids=ids,
            expert_weights=weights,
            modality=tokens.modality,
            sequence_id=tokens.sequence_id,
            phase=tokens.phase,
            moe_layers=np.arange(L, dtype=np.int32),
            num_experts=self.num_experts,
        )

    def _choose(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """The experts that the policy chooses, unordered, shape (T, K)."""
        if self.policy == "group_balanced":
            return best_of_each_group(scores, self.top_k, num_groups=self._num_groups)
        if self.policy == "device_limited":
            scores = only_best_groups(scores, num_groups=self._num_groups, kept=self._kept_groups)
        return best_experts(scores, self.top_k)

    def pull(self, tokens: Tokens, parameters: RouterParameters) -> NDArray[np.float32]:
        """Pull of each token towards the text side in each layer, shape (T, L)."""
        population = tokens.population
        affinity = np.array(parameters.affinity)[population][:, None] * self.depth(parameters.depth_decay)
        spread = np.array(parameters.slot_correlation)[population][:, None]
        shared = self.shared_pull(tokens, parameters.layer_correlation)
        result: NDArray[np.float32] = (affinity + spread * shared).astype(np.float32)
        return result

    def thresholds(self, tokens: Tokens, parameters: RouterParameters, *, home: NDArray[np.int64]) -> NDArray[np.float64]:
        """Pull towards its home side above which all K slots of a token are on that side, shape (T, L).

        Args:
            tokens: Tokens, T.
            parameters: Only ``popularity`` and ``preference`` are used.
            home: -1 where the token's home holds the lower (vision) side, +1 the upper (text) side, shape (T,).

        The K best are all on one side as soon as its K-th best, raised by half the pull, beats the other side's best,
        lowered by half the pull: when the pull exceeds (best of the other side) - (K-th best of this side).
        """
        result = np.empty((len(home), self.num_layers))
        for layer in range(self.num_layers):
            scores = self.base_scores(tokens, parameters, layer)
            upper = self.side[layer] > 0
            for side, mine in ((1, upper), (-1, ~upper)):
                rows = home == side
                kth = np.partition(scores[rows][:, mine], -self.top_k, axis=1)[:, -self.top_k]
                result[rows, layer] = scores[rows][:, ~mine].max(axis=1) - kth
        return result


def _divisors(number: int) -> str:
    """All divisors as text. 6: 1, 2, 3, 6."""
    return ", ".join(str(value) for value in range(1, number + 1) if number % value == 0)
