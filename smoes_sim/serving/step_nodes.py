"""What dispatch, routed experts, combine and waiting add to the steps of a grid, under all sets of constants at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes, RankLoad, compute_times
from smoes_sim.network import exchange_time
from smoes_sim.prediction.deployment import Conditions
from smoes_sim.prediction.engine import MOST_DIFFERENCE, Engine, engine_of
from smoes_sim.prediction.estimate import ratio_total
from smoes_sim.prediction.sampling import evenly_spaced
from smoes_sim.serving.step_grid import Node, delay_at, power_of_two
from smoes_sim.serving.step_tokens import Floats, Ints, StepTokens
from smoes_sim.step.around import exchanges_around, together
from smoes_sim.step.build import Exchanges, halves
from smoes_sim.step.compiled_pass import can_be_compiled, compiled_passes
from smoes_sim.step.fast import fast_passes
from smoes_sim.step.layers import PassLayer, pass_layers
from smoes_sim.step.legs import PassInputs
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges, MicroBatch, step_time
from smoes_sim.traffic.copies import count_traffic

_MOST_LAYERS = 8
"""MoE layers of a step that are simulated, evenly spaced; the others take the same time in proportion to their experts'."""
_MOST_TOKENS = 16384
"""Most tokens of a simulated step; in a larger step each stands for several."""
_DRAWN = 8
"""Decoded tokens that are simulated at least, in several steps where a batch has fewer."""
_MOST_DRAWS = 8
"""Most of those steps."""
_PROBED_LAYERS = 3
"""MoE layers that both engines time."""
_PROBED_PROMPT, _PROBED_DECODED = 512, 8
"""Prompt tokens, or decoded tokens, of an attention group in the steps that both engines time."""

_ENGINES: tuple[Engine, Engine] = ("fast", "exact")


class StepNodes:
    """Simulated steps of a deployment, without what ranks compute by themselves; each is simulated once and kept.

    Args:
        sets: The deployment (its own batch and lengths do not matter) under each set of constants.
        tokens: Chooses tokens of the deployment. Default: those of a new :class:`StepTokens`.

    Attributes:
        tokens: Chooses tokens of the deployment.
        engine: What times the steps; ``auto`` takes the fast engine where it can time them and is near the exact one.
        difference: Largest relative difference of the fast to the exact engine that was measured, and is corrected.
    """

    def __init__(self, sets: Sequence[Conditions], tokens: StepTokens | None = None) -> None:
        self._sets, self._deployment = sets, sets[0].deployment
        deployment = self._deployment
        self.tokens = tokens or StepTokens(deployment)
        self._tensor = deployment.scenario.parallelism.tensor
        self._num_ranks = deployment.topology.num_ranks
        self._is_split = deployment.scenario.overlap == "two_batch"
        layers = [layer for layer in pass_layers(deployment.model, deployment.moe_layers.tolist()) if layer.moe is not None]
        self._layers = layers if deployment.scenario.sampling == "none" else _some(layers, _MOST_LAYERS)
        self._known: dict[Node, Floats] = {}
        self._ratios: dict[bool, Floats] = {}
        self.difference = 0.0
        self.engine: Engine = engine_of(sets[0], [*deployment.chunks, *deployment.decode][0])

    def seconds(self, node: Node) -> Floats:
        """What dispatch, experts, combine and exchanges inside groups add to a step, under each set of constants, (D,)."""
        if node not in self._known:
            draws = 1 if node.prefill else min(_MOST_DRAWS, max(1, _DRAWN // max(node.decode, 1)))
            drawn = [self._simulate(node, draw=draw, draws=draws) for draw in range(draws)]
            self._known[node] = np.mean(drawn, axis=0)
        return self._known[node]

    def _simulate(self, node: Node, *, draw: int, draws: int) -> Floats:
        if not node.prefill and not node.decode:
            return np.zeros(len(self._sets))
        model = self._deployment.model
        batches = self._batches(node, draw=draw, draws=draws)
        # those of MoE layers are simulated with them
        elsewhere = max(0, self._deployment.num_around - model.num_moe_layers)
        found = self._layers_of(batches, has_prompts=node.prefill > 0)
        if elsewhere:
            for place, conditions in enumerate(self._sets):
                around = [self._around(batch.group, conditions) for batch in batches]
                found[place] += elsewhere * float(np.mean(around))  # one of two travels while one works
        return found

    def _around(self, group: GroupExchanges | None, conditions: Conditions) -> float:
        """Seconds of a gather and a scatter."""
        phases = [] if group is None else [group.gather, group.scatter]
        return sum(exchange_time(conditions.network, part).duration for part in phases if part)

    def _layers_of(self, batches: Sequence[_Batch], *, has_prompts: bool) -> Floats:
        """Seconds of all MoE layers, without what ranks compute by themselves, under each set of constants."""
        model = self._deployment.model
        found = np.zeros(len(self._sets))
        if not self._layers:
            return found
        timed = [[batch.times(conditions) for batch in batches] for conditions in self._sets]
        rows = [layer.moe for layer in self._layers if layer.moe is not None]
        kinds = [layer.kind for layer in self._layers if layer.moe is not None]
        ratios = self._ratios_of(has_prompts)
        ends = self._ends(batches, timed, self._layers, self.engine) * ratios[:, None]
        for place, times in enumerate(timed):
            own = sum((one.attention.whole + one.gate + one.shared).max(axis=1)[kinds] for one in times)
            experts = sum((one.experts.max(axis=1) for one in times), np.zeros(len(times[0].experts)))
            every = float(experts.sum()) * model.num_moe_layers / len(experts)
            sample = np.diff(ends[place], prepend=0.0) - own
            estimate = ratio_total(sample, experts[rows], all_controls=every, number=model.num_moe_layers)
            found[place] = estimate.value
        return found

    def _ratios_of(self, has_prompts: bool) -> Floats:
        """Exact over fast time of a few layers under each set of constants, in a step with or without prompts, (D,)."""
        if has_prompts not in self._ratios:
            self._ratios[has_prompts] = np.ones(len(self._sets))
            if self.engine == "fast" and self._num_ranks > 2:
                ratios = self._compared(has_prompts)
                difference = float(np.abs(ratios - 1).max())
                if difference > MOST_DIFFERENCE and self._deployment.scenario.engine == "auto":
                    self.engine, self.difference = "exact", 0.0
                    self._ratios = dict.fromkeys((False, True), np.ones(len(self._sets)))
                    self._known.clear()
                else:
                    self._ratios[has_prompts], self.difference = ratios, max(difference, self.difference)
        return self._ratios[has_prompts]

    def _compared(self, has_prompts: bool) -> Floats:
        groups = self._num_ranks // self._tensor
        each = _PROBED_PROMPT if has_prompts else _PROBED_DECODED
        number, few = power_of_two(each * groups), _some(self._layers, _PROBED_LAYERS)
        node = Node(number, 0, groups, 0) if has_prompts else Node(0, number, 0, 0)
        batches = self._batches(node, draw=0, draws=1)
        timed = [[batch.times(conditions) for batch in batches] for conditions in self._sets]
        fast, exact = (self._ends(batches, timed, few, engine)[:, -1] for engine in _ENGINES)
        return exact / fast

    def _ends(
        self, batches: Sequence[_Batch], timed: Sequence[Sequence[ComputeTimes]], layers: Sequence[PassLayer], engine: Engine
    ) -> Floats:
        """Seconds until the last rank has left each of some layers, which follow each other, under each set, (D, S)."""
        scenario, model = self._deployment.scenario, self._deployment.model
        first, exchanges = self._sets[0], [batch.exchanges for batch in batches]
        if engine == "fast" or can_be_compiled(exchanges, first.network, shared_cores=first.shared_cores):
            (batch,) = batches
            inputs = PassInputs(
                exchanges=batch.exchanges,
                group=batch.group,
                times=[one for (one,) in timed],
                networks=[conditions.network for conditions in self._sets],
                layers=layers,
                overlap=scenario.overlap,
            )
            passed, _ = fast_passes(inputs) if engine == "fast" else compiled_passes(inputs)
            return np.stack([one.layer_ends for one in passed])
        found = []
        for conditions, each in zip(self._sets, timed, strict=True):
            both = zip(batches, each, strict=True)
            step = step_time(
                model,
                [MicroBatch(times=one, exchanges=batch.exchanges, group=batch.group) for batch, one in both],
                conditions.network,
                overlap=scenario.overlap,
                tolerance=scenario.communication.tolerance,
                shared_cores=conditions.shared_cores,
                layers=layers,
            )
            found.append(step.layer_ends)
        return np.stack(found)

    def _batches(self, node: Node, *, draw: int, draws: int) -> list[_Batch]:
        """The step of a node, in one batch or in two halves."""
        repeat = max(1.0, (node.prefill + node.decode) / _MOST_TOKENS)
        taken = [int(np.ceil(number / repeat)) for number in (node.prefill, node.decode)]
        prompts = self.tokens.prompts(taken[0], max(node.places, 1))
        decoded = self.tokens.decoded(taken[1], draw=draw, draws=draws)
        tokens, sequence = (np.concatenate(pair) for pair in zip(prompts, decoded, strict=True))
        is_prompt = np.arange(len(tokens)) < taken[0]
        home = self.tokens.homes(tokens, sequence, is_prompt)
        parts = halves(home) if self._is_split else [np.arange(len(tokens))]
        repeat = (node.prefill + node.decode) / len(tokens)
        return [
            self._batch(
                _Tokens(tokens[part], sequence[part], home[part], is_prompt[part]),
                repeat=repeat,
                delay=delay_at(node.delay) / len(parts),
            )
            for part in parts
        ]

    def _batch(self, taken: _Tokens, *, repeat: float, delay: float) -> _Batch:
        """Some tokens of the workload as a micro-batch.

        Args:
            taken: Which, and where they are.
            repeat: How many tokens each stands for.
            delay: Seconds that attention takes longer.
        """
        deployment = self._deployment
        parts = deployment.parts
        tokens, sequence, home, is_prompt = taken
        count = np.rint(np.bincount(home, minlength=self._num_ranks) * repeat).astype(np.int64)
        none = np.zeros_like(count)
        load = load_of(np.stack([count, *[none] * 8]))
        exchanges: Sequence[LayerExchanges] = []
        if deployment.trace is not None and deployment.placement is not None:
            traffic = count_traffic(
                deployment.trace.select(tokens),
                deployment.placement,
                home,
                deduplicate=deployment.scenario.communication.deduplicate,
                topology=deployment.topology,
            )
            exchanges = Exchanges(traffic, parts, repeat=repeat)
            slots = np.rint(traffic.slots * repeat).astype(np.int64)
            load = replace(load, slots=slots, active_experts=traffic.active_experts)
        owed = together(
            self.tokens.prompt_attention(sequence[is_prompt], home[is_prompt]),
            self.tokens.decode_attention(tokens[~is_prompt], home[~is_prompt]),
        )
        group = exchanges_around(load.tokens, owed, parts, repeat=repeat)
        return _Batch(load=load, exchanges=exchanges, group=group, delay=delay)


class _Tokens(NamedTuple):
    """Tokens of the workload in a step: place of each prompt token or number of each decoded one, home, which it is."""

    tokens: Ints
    sequence: Ints
    home: Ints
    is_prompt: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """A micro-batch before its compute times; ``delay`` are the seconds that attention takes longer."""

    load: RankLoad
    exchanges: Sequence[LayerExchanges]
    group: GroupExchanges | None
    delay: float

    def times(self, conditions: Conditions) -> ComputeTimes:
        """Its compute times under a set of constants, without the head."""
        deployment = conditions.deployment
        layout = deployment.scenario.parallelism
        times = compute_times(
            deployment.model, self.load, conditions.rates, tensor=layout.tensor, expert_tensor=layout.expert_tensor
        )
        return replace(times, attention=times.attention.delayed(self.delay), head=np.zeros_like(times.head))


def _some(layers: Sequence[PassLayer], most: int) -> list[PassLayer]:
    return [layers[index] for index in evenly_spaced(len(layers), most).tolist()]


def load_of(rows: Ints) -> RankLoad:
    """A load without routed experts.

    Args:
        rows: Prompt tokens, pairs, earlier tokens, prompts that end, decoded tokens and their contexts; then pairs, earlier
            tokens and contexts within the window of the model's sliding layers (0 without), shape (9, R).
    """
    prefill, pairs, earlier, ends, decode, context, near_pairs, near_earlier, near_context = rows
    none = np.zeros((1, rows.shape[1]), dtype=np.int64)
    return RankLoad(
        prefill=prefill,
        pairs=pairs,
        earlier=earlier,
        decode=decode,
        context=context,
        outputs=ends + decode,
        slots=none,
        active_experts=none,
        near_pairs=near_pairs,
        near_earlier=near_earlier,
        near_context=near_context,
    )
