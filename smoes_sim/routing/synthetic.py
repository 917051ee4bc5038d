"""A seeded router: traces with a given modality structure, for models whose weights are not available.

In each layer every expert belongs to one of two *sides* (for SMoES the experts that lean to text and those that lean to
vision, at random expert ids; for a router without modality the lower and the upper half of the ids). The score of expert e
for token t in layer l is::

    s[t, l, e] = popularity[l, e] + preference[m(t)] * taste[l, e] + side[e] / 2 * (affinity[m(t), phase] * depth[l]
                 + slot_correlation[m(t), phase] * x[t, l]) + Gumbel noise

and the token uses the K best of those that its policy allows; ``choice`` draws them without the scores of all E experts.
``side`` is +1 for text (or the upper half) and -1 otherwise, 0 for an expert that serves both; ``taste`` is a normal draw
per expert (a standard router's own, unplaced, modality preference); ``x`` is a normal draw per token and layer that all its
K slots share, so they tend to one side together; x of neighbouring layers is correlated. ``depth`` falls linearly over the
layers, because specialisation is reported to be high in shallow layers and low in deep ones (SMoES notes).

It reproduces: token-level transmission rates or the modality specialisation index, popularity skew, correlated slots.
It does not reproduce: which expert a word likes, drift within a sequence, dependence of experts across layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.routing.choice import Arrivals, Chooser, Race, Rows
from smoes_sim.routing.counters import EXPERTS, normals, starts
from smoes_sim.routing.even import deal, places
from smoes_sim.routing.local_share import LocalShare, local_share
from smoes_sim.routing.trace import DECODE, IMAGE, TEXT, VIDEO, RoutingTrace

Policy = Literal["standard", "smoes", "hard", "hybrid", "device_limited", "group_balanced"]
GROUPED: tuple[Policy, ...] = ("device_limited", "group_balanced")
"""Policies that choose by groups of neighbouring experts; their scores are those of a standard router."""
NUM_GROUPS = 8
"""Groups of DeepSeek-V2 and V3 (deepseek-ai/DeepSeek-V3 inference/configs) and of Pangu Pro MoE (its model card)."""
KEPT_GROUPS = 3
"""Groups that a token keeps in DeepSeek-V2 (config_236B.json: n_limited_groups); V3 keeps 4, by its two best experts."""
POPULATIONS = ("prefill_vision", "prefill_text", "decode")
_BLOCK = 8192
"""Pairs of a token and a layer in a block: few enough that their draws fit into the processor's cache."""


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
        even: Whether experts are dealt to the tokens of each step so that all are used equally often; without preferences.
    """

    affinity: tuple[float, float, float] = (0.0, 0.0, 0.0)
    slot_correlation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    preference: float = 0.0
    popularity: float = 0.1
    layer_correlation: float = 0.5
    depth_decay: float = 0.5
    even: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokens to route: modality uint8 (T,), sequence_id int32 (T,), phase uint8 (T,).

    ``number`` int64 (T,) is the number of each token, on which its random numbers depend; None: 0, 1, ...
    """

    modality: NDArray[np.uint8]
    sequence_id: NDArray[np.int32]
    phase: NDArray[np.uint8]
    number: NDArray[np.int64] | None = None

    def select(self, rows: NDArray[np.int64] | slice) -> Tokens:
        """Some of the tokens; each keeps its number, and so its routing."""
        return Tokens(
            modality=self.modality[rows],
            sequence_id=self.sequence_id[rows],
            phase=self.phase[rows],
            number=self.numbers[rows],
        )

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Number of each token, (T,)."""
        return np.arange(len(self.modality)) if self.number is None else self.number

    @property
    def population(self) -> NDArray[np.int64]:
        """Index into :data:`POPULATIONS` of each token, (T,); decoded tokens count as one population."""
        vision = (self.modality == IMAGE) | (self.modality == VIDEO)
        prefill = np.where(vision, 0, 1)
        return np.where(self.phase == DECODE, 2, prefill)


class SyntheticRouter:
    """A router whose random numbers depend on the seed, the layer and the token only: parameters change without new noise.

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

    def shared_pull(self, tokens: Tokens, correlation: float, layers: Sequence[int] | None = None) -> NDArray[np.float32]:
        """``x``: standard normal per token and layer, correlated between neighbouring layers, shape (T, layers)."""
        wanted = range(self.num_layers) if layers is None else layers
        pull = normals(self._seed, max(wanted) + 1, tokens.numbers)
        for layer in range(1, len(pull)):
            pull[layer] *= np.float32(math.sqrt(1 - correlation**2))
            pull[layer] += np.float32(correlation) * pull[layer - 1]
        return np.ascontiguousarray(pull[list(wanted)].T)

    def pull(self, tokens: Tokens, parameters: RouterParameters, layers: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Pull of each token towards the text side in each layer, shape (T, layers)."""
        wanted = list(range(self.num_layers) if layers is None else layers)
        population = tokens.population
        affinity = np.array(parameters.affinity)[population][:, None] * self.depth(parameters.depth_decay)[wanted]
        result: NDArray[np.float32] = affinity.astype(np.float32)
        if any(parameters.slot_correlation):
            spread = np.array(parameters.slot_correlation, dtype=np.float32)[population][:, None]
            result += spread * self.shared_pull(tokens, parameters.layer_correlation, wanted)
        return result

    def race(self, parameters: RouterParameters, layers: Sequence[int] | None = None) -> Race:
        """Rates of the experts in some layers; None: all."""
        wanted = list(range(self.num_layers) if layers is None else layers)
        lean = np.array([0.5, -0.5])[:, None]
        popularity, taste = (values[wanted, None, :].astype(np.float64) for values in (self._popularity, self._taste))
        own = ((1, 0), (-1, 0)) if self.policy in {"hard", "hybrid"} else ((1, -1), (1, -1))
        groups = self._num_groups
        arrivals = {
            "device_limited": Arrivals(groups, self.top_k, self._kept_groups),
            "group_balanced": Arrivals(groups, self.top_k // groups, groups),
        }
        return Race(
            scores=parameters.popularity * popularity + parameters.preference * lean * taste,
            side=self.side[wanted].astype(np.int8),
            used_sides=own,
            arrivals=arrivals.get(self.policy, Arrivals(1, self.top_k, 1)),
            top_k=self.top_k,
        )

    def local_share(self, parameters: RouterParameters, *, kind: int, home: int) -> LocalShare:
        """What decides whether tokens of a kind (0: text, 1: other) and a home side (-1, +1) have all K slots there."""
        depth = self.depth(parameters.depth_decay)
        return local_share(self.race(parameters), seed=self._seed, kind=kind, home=home, depth=depth)

    def route(
        self,
        tokens: Tokens,
        parameters: RouterParameters,
        *,
        layers: Sequence[int] | None = None,
        with_weights: bool = True,
    ) -> RoutingTrace:
        """The routing of all tokens in some layers, the same as in a trace of all layers.

        Args:
            tokens: Tokens, T; for even routing all tokens of each step.
            parameters: What the router prefers.
            layers: MoE layers, each of 0..L-1; None: all.
            with_weights: Whether the trace has routing weights, which take longer than the experts.

        Returns:
            A trace; the slots of a token are sorted by score, its weights are the softmax of the scores over its slots.
            Its ``moe_layers`` are ``layers``.

        Raises:
            ConfigError: If there is no such layer.
        """
        wanted = list(range(self.num_layers) if layers is None else layers)
        if not wanted or min(wanted) < 0 or max(wanted) >= self.num_layers:
            raise ConfigError(f"layers = {wanted}: a router of {self.num_layers} layers has 0 to {self.num_layers - 1}.")
        T, L, K = len(tokens.modality), len(wanted), self.top_k
        race = self.race(parameters, wanted)
        chooser = Chooser(race, num_slots=T * L * K)
        dealt = self._dealt(tokens, wanted) if parameters.even else None
        ids = np.empty((T, L, K), dtype=np.int16)
        weights = np.empty((T, L, K), dtype=np.float16) if with_weights else None
        for first in range(0, T, _BLOCK):
            block = slice(first, first + _BLOCK)
            some = tokens.select(block)
            pull = self.pull(some, parameters, wanted)
            together = max(1, _BLOCK // len(pull))
            for low in range(0, L, together):
                part = slice(low, low + together)
                rows = self._rows(some, pull, wanted, part)
                chosen = chooser.choose(rows) if dealt is None else dealt[block, part].swapaxes(0, 1).reshape(-1, K)
                shape = (-1, len(pull), K)
                ids[block, part] = chosen.reshape(shape).swapaxes(0, 1)
                if weights is not None:
                    weights[block, part] = chooser.weights(rows, chosen).reshape(shape).swapaxes(0, 1)
        return RoutingTrace(
            expert_ids=ids,
            expert_weights=weights,
            modality=tokens.modality,
            sequence_id=tokens.sequence_id,
            phase=tokens.phase,
            moe_layers=np.array(wanted, dtype=np.int32),
            num_experts=self.num_experts,
        )

    def _dealt(self, tokens: Tokens, layers: list[int]) -> NDArray[np.int16]:
        """Experts of even routing, shape (T, layers, K)."""
        at = places(tokens.sequence_id, tokens.phase == DECODE)
        return deal(at, num_experts=self.num_experts, top_k=self.top_k, layers=layers, seed=self._seed)

    def _rows(self, tokens: Tokens, pull: NDArray[np.float32], layers: list[int], part: slice) -> Rows:
        """All pairs of some of ``layers`` with each token, layer by layer."""
        number, some = len(pull), layers[part]
        return Rows(
            start=starts(self._seed, EXPERTS, some, tokens.numbers).ravel(),
            layer=np.repeat(np.arange(part.start, part.start + len(some)), number),
            kind=np.tile((tokens.modality != TEXT).astype(np.int64), len(some)),
            pull=pull[:, part].T.ravel().astype(np.float64),
        )


def _divisors(number: int) -> str:
    """All divisors as text. 6: 1, 2, 3, 6."""
    return ", ".join(str(value) for value in range(1, number + 1) if number % value == 0)
