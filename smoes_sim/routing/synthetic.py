"""A seeded router: traces with a wanted modality structure, for models whose weights are not at hand.

In each layer every expert belongs to one of two *sides* (for SMoES the experts that lean to text and those that lean to
vision, spread over the expert ids at random; for a standard router two communities of neighbouring ids). The score of
expert e for token t in layer l is::

    s[t, l, e] = popularity[l, e] + preference[m(t)] * taste[l, e] + side[e] / 2 * (affinity[m(t), phase] * depth[l]
                 + slot_correlation[m(t), phase] * x[t, l]) + Gumbel noise

and the token goes to the K best. ``side`` is +1 for text (or the upper half) and -1 otherwise; ``taste`` is a normal
draw per expert (a standard router's own, unplaced, modality preference); ``x`` is a normal draw per token and layer that
all its K slots share, so they tend to one side together; x of neighbouring layers is correlated. ``depth`` falls linearly
over the layers, because specialisation is reported high in shallow layers and low in deep ones (SMoES notes).

It reproduces: token-level transmission rates or the modality specialisation index, popularity skew, correlated slots.
It does not reproduce: which expert a word likes, drift within a sequence, dependence of experts across layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.routing.trace import DECODE, IMAGE, TEXT, VIDEO, RoutingTrace

Policy = Literal["standard", "smoes", "hard"]
POPULATIONS = ("prefill_vision", "prefill_text", "decode")
_BLOCK = 4096
"""Tokens that are routed at a time: their scores stay in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterParameters:
    """What shapes a synthetic router; scores are in units of the Gumbel noise (nats).

    Attributes:
        affinity: Pull to the text side of each population of :data:`POPULATIONS`; negative pulls to vision.
        slot_correlation: Spread of the pull that the slots of a token share, per population.
        preference: Strength of unplaced modality preferences of single experts.
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
    """Draws of one seed, so that parameters can change while the randomness stays.

    Args:
        policy: ``standard``: sides are halves of the expert ids. ``smoes``: sides are random halves per layer, to be
            found again by a placement by bins. ``hard``: as ``smoes``, and a token only ever uses its own side.
        num_experts: E, even.
        top_k: K.
        num_layers: MoE layers, L.
        seed: Everything is drawn from it.
    """

    def __init__(self, *, policy: Policy, num_experts: int, top_k: int, num_layers: int, seed: int) -> None:
        self.policy = policy
        self.num_experts, self.top_k, self.num_layers = num_experts, top_k, num_layers
        self._seed = seed
        rng = np.random.default_rng([seed, 0])
        halves = np.where(np.arange(num_experts) < num_experts // 2, -1, 1).astype(np.float32)
        shuffled = np.stack([rng.permutation(halves) for _ in range(num_layers)])
        self.side = np.tile(halves, (num_layers, 1)) if policy == "standard" else shuffled
        self._popularity = rng.standard_normal((num_layers, num_experts), dtype=np.float32)
        self._taste = rng.standard_normal((num_layers, num_experts), dtype=np.float32)

    def depth(self, decay: float) -> NDArray[np.float64]:
        """Factor of the pull in each layer, mean 1, (L,)."""
        if self.num_layers == 1:
            return np.ones(1)
        return 1 + decay * (0.5 - np.arange(self.num_layers) / (self.num_layers - 1))

    def shared_pull(self, tokens: Tokens, correlation: float) -> NDArray[np.float32]:
        """``x``: standard normal per token and layer, correlated between neighbouring layers, (T, L)."""
        rng = np.random.default_rng([self._seed, 1])
        pull = rng.standard_normal((self.num_layers, len(tokens.modality)), dtype=np.float32)
        for layer in range(1, self.num_layers):
            pull[layer] = correlation * pull[layer - 1] + np.sqrt(1 - correlation**2) * pull[layer]
        return np.ascontiguousarray(pull.T)

    def base_scores(self, tokens: Tokens, parameters: RouterParameters, layer: int) -> NDArray[np.float32]:
        """Scores before the pull of the sides, (T, E)."""
        return self._scores(self._noise(layer), tokens.modality, parameters, layer)

    def _noise(self, layer: int) -> np.random.Generator:
        """The noise of a layer from its first token on."""
        return np.random.default_rng([self._seed, 2, layer])

    def _scores(
        self, rng: np.random.Generator, modality: NDArray[np.uint8], parameters: RouterParameters, layer: int
    ) -> NDArray[np.float32]:
        """Base scores of the next tokens of a layer, (T, E); as many as are asked for at a time, all together the same."""
        uniform = rng.random((len(modality), self.num_experts), dtype=np.float32)
        scores = -np.log(-np.log(np.clip(uniform, 1e-12, 1 - 1e-7)))
        scores += parameters.popularity * self._popularity[layer]
        lean = np.where(modality == TEXT, 0.5, -0.5).astype(np.float32)
        scores += parameters.preference * lean[:, None] * self._taste[layer]
        return scores

    def route(self, tokens: Tokens, parameters: RouterParameters) -> RoutingTrace:
        """Route every token in every layer.

        Returns:
            A trace; slots of a token are sorted by score, weights are the softmax of the scores over its slots.
        """
        T, L, K = len(tokens.modality), self.num_layers, self.top_k
        ids = np.empty((T, L, K), dtype=np.int16)
        weights = np.empty((T, L, K), dtype=np.float16)
        pull = self.pull(tokens, parameters)
        forbidden = np.float32(-1e9)
        for layer in range(L):
            rng = self._noise(layer)
            for first in range(0, T, _BLOCK):
                block = slice(first, first + _BLOCK)
                modality = tokens.modality[block]
                scores = self._scores(rng, modality, parameters, layer) + pull[block, layer, None] * self.side[layer] / 2
                if self.policy == "hard":
                    is_text = (modality == TEXT)[:, None]
                    scores = np.where(is_text == (self.side[layer] > 0)[None, :], scores, forbidden)
                best = np.argpartition(scores, -K, axis=1)[:, -K:]
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

    def pull(self, tokens: Tokens, parameters: RouterParameters) -> NDArray[np.float32]:
        """Pull to the text side of each token in each layer, (T, L)."""
        population = tokens.population
        affinity = np.array(parameters.affinity)[population][:, None] * self.depth(parameters.depth_decay)
        spread = np.array(parameters.slot_correlation)[population][:, None]
        shared = self.shared_pull(tokens, parameters.layer_correlation)
        result: NDArray[np.float32] = (affinity + spread * shared).astype(np.float32)
        return result

    def thresholds(self, tokens: Tokens, parameters: RouterParameters, *, home: NDArray[np.int64]) -> NDArray[np.float64]:
        """The pull towards its home side beyond which all K slots of a token are on that side, (T, L).

        Args:
            tokens: Tokens, T.
            parameters: Only ``popularity`` and ``preference`` matter.
            home: -1 where the token's home holds the lower (vision) side, +1 the upper (text) side, (T,).

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
