"""Which engine times a step, and by how much the fast one differs from the exact one.

The fast engine leaves out that messages of neighbouring exchanges share links (:mod:`smoes_sim.step.fast`). What that takes
away is measured: both engines time a few layers of a pass of the deployment, and the fast times of all layers are
multiplied by the ratio. Where exchanges are small, compiled code finds the exact times and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.sampling import evenly_spaced
from smoes_sim.step.build import Step
from smoes_sim.step.compiled_pass import can_be_compiled, compiled_passes
from smoes_sim.step.fast import PassTime, can_be_fast, fast_passes, free_passes
from smoes_sim.step.layers import PassLayer, some_layers
from smoes_sim.step.legs import PassInputs
from smoes_sim.step.timeline import MicroBatch

Engine = Literal["fast", "exact"]
MOST_DIFFERENCE = 0.01
"""Relative difference of the two engines up to which ``auto`` corrects the fast one; above it uses the exact one."""
_PROBED_LAYERS = 6
"""MoE layers of a pass that both engines time; the first is not counted, since nothing precedes it."""
_FEWER_PROBED = 3
"""The same for exchanges above ``_PROBED_EACH``."""
_PROBED_EACH = 5_000
"""Messages of an exchange up to which they do under every set of constants (64 ranks); above, under the middle set."""
_MOST_PROBED = 70_000
"""Messages of an exchange up to which they do at all (256 ranks): the exact engine needs minutes for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePasses:
    """Times of one step under each set of constants.

    Attributes:
        engine: What timed them.
        difference: Largest relative difference of the fast to the exact engine on a few layers, which ``real`` corrects; 0
            if nothing was left out, None if that was too large to be measured.
        real: The step as it is.
        free: The step with dispatch and combine at no cost.
        lateness: Longest wait of a message for a window of the exact engine, seconds.
        batches: The micro-batches of the step.
    """

    engine: Engine
    difference: float | None
    real: Sequence[PassTime]
    free: Sequence[PassTime]
    lateness: float
    batches: Sequence[Sequence[MicroBatch]]


class EngineChoice:
    """Times the steps of a phase with the engine that the scenario asks for; steps are compared with the exact one once.

    Args:
        deployment: What is timed.
        sets: The same under each set of constants.
        step: The step on which the engines are compared.

    Raises:
        ConfigError: If the scenario asks for the fast engine, and that cannot time the step.
    """

    def __init__(self, deployment: Deployment, sets: Sequence[Conditions], step: Step) -> None:
        self._layers, self.engine = deployment.layers_simulated, engine_of(sets[0], step)
        self._ratios, self._difference = [1.0] * len(sets), 0.0 if self.engine == "exact" else None
        if self.engine == "fast":
            self._compare(sets, step)
        if self._difference is not None and self._difference > MOST_DIFFERENCE and deployment.scenario.engine == "auto":
            self.engine, self._difference = "exact", 0.0

    def passes(self, sets: Sequence[Conditions], step: Step) -> EnginePasses:
        """Times of a step under each set of constants, over the simulated layers."""
        batches = [conditions.micro_batches(step) for conditions in sets]
        if self.engine == "fast":
            real, free = fast_passes(_inputs(sets, batches, self._layers))
            corrected = [_scaled(time, ratio) for time, ratio in zip(real, self._ratios, strict=True)]
            return EnginePasses(
                engine="fast", difference=self._difference, real=corrected, free=free, lateness=0.0, batches=batches
            )
        if _is_compiled(sets[0], step):
            real, free = compiled_passes(_inputs(sets, batches, self._layers))
            return EnginePasses(engine="exact", difference=0.0, real=real, free=free, lateness=0.0, batches=batches)
        exact = [conditions.time(step, layers=self._layers) for conditions in sets]
        free = self._free(sets, step, batches)
        lateness = max(time.lateness for time in exact)
        return EnginePasses(
            engine="exact",
            difference=0.0,
            real=[PassTime.of(time) for time in exact],
            free=free,
            lateness=lateness,
            batches=batches,
        )

    def _free(self, sets: Sequence[Conditions], step: Step, batches: Sequence[Sequence[MicroBatch]]) -> list[PassTime]:
        """Times with dispatch and combine at no cost; without SimPy where no micro-batches or ranks share a device."""
        first = sets[0]
        if len(step.batches) == 1 and first.shared_cores is None and not first.network.send_buffer:
            return free_passes(_inputs(sets, batches, self._layers))
        ideal = at_no_cost(step)
        networks = [conditions.network.at_no_cost() for conditions in sets]
        times = [
            conditions.time(ideal, layers=self._layers, expert_network=network)
            for conditions, network in zip(sets, networks, strict=True)
        ]
        return [PassTime.of(time) for time in times]

    def _compare(self, sets: Sequence[Conditions], step: Step) -> None:
        """Measure the ratios of the exact to the fast engine on a few layers."""
        rows = [layer.moe for layer in self._layers if layer.moe is not None]
        (batch,) = step.batches
        messages = max((len(batch.exchanges[row].dispatch[0]) for row in rows[:1]), default=0)
        most = _PROBED_LAYERS if messages <= _PROBED_EACH else _FEWER_PROBED
        rows = [rows[index] for index in evenly_spaced(len(rows), most)]
        if sets[0].network.topology.num_ranks <= 2 or not rows:
            self._difference = 0.0
            return
        if messages > _MOST_PROBED:
            return
        few = some_layers(self._layers, rows)
        probed = list(sets) if messages <= _PROBED_EACH else [sets[len(sets) // 2]]
        batches = [conditions.micro_batches(step) for conditions in probed]
        fast, _ = fast_passes(_inputs(probed, batches, few))
        exact = [PassTime.of(conditions.time(step, layers=few)) for conditions in probed]
        ratios = [_after_first(slow) / _after_first(quick) for slow, quick in zip(exact, fast, strict=True)]
        self._difference = max(abs(ratio - 1) for ratio in ratios)
        self._ratios = ratios if len(ratios) == len(sets) else ratios * len(sets)


def engine_of(conditions: Conditions, step: Step) -> Engine:
    """The engine that the scenario asks for; ``auto`` is the exact one where compiled code can time the step.

    Otherwise it is the fast one where that can time it, and between two ranks, where both agree and the fast one needs no
    numba.

    Raises:
        ConfigError: If the fast engine is asked for and cannot time the step.
    """
    wanted = conditions.deployment.scenario.engine
    if wanted == "exact":
        return "exact"
    if wanted == "auto" and conditions.network.topology.num_ranks > 2 and _is_compiled(conditions, step):
        return "exact"
    exchanges = [batch.exchanges for batch in step.batches]
    if can_be_fast(exchanges, conditions.network, shared_cores=conditions.shared_cores):
        return "fast"
    if wanted == "fast":
        raise ConfigError(
            "engine = fast cannot time schedules of many phases (two_hop, pairwise, ...), two_batch, shared_cores or "
            "send_buffer. Write engine: auto, which times these exactly."
        )
    return "exact"


def _inputs(sets: Sequence[Conditions], batches: Sequence[Sequence[MicroBatch]], layers: Sequence[PassLayer]) -> PassInputs:
    """What the engines without SimPy need.

    Args:
        sets: The deployment under each set of constants.
        batches: The micro-batches of the step under each set, of which there is one.
        layers: Layers of the pass, in order.
    """
    deployment, (first,) = sets[0].deployment, batches[0]
    return PassInputs(
        exchanges=first.exchanges,
        group=first.group,
        times=[batch.times for (batch,) in batches],
        networks=[conditions.network for conditions in sets],
        layers=layers,
        overlap=deployment.scenario.overlap,
        shares_feed_forward=deployment.model.shares_feed_forward,
    )


def pass_time(conditions: Conditions, step: Step, layers: Sequence[PassLayer]) -> PassTime:
    """Time of a step under one set of constants by the engine of the scenario; the fast one is not corrected."""
    engine = engine_of(conditions, step)
    if engine == "exact" and not _is_compiled(conditions, step):
        return PassTime.of(conditions.time(step, layers=layers))
    inputs = _inputs([conditions], [conditions.micro_batches(step)], layers)
    real, _ = fast_passes(inputs) if engine == "fast" else compiled_passes(inputs)
    return real[0]


def _is_compiled(conditions: Conditions, step: Step) -> bool:
    """Whether compiled code finds the exact times of a step."""
    exchanges = [batch.exchanges for batch in step.batches]
    return can_be_compiled(exchanges, conditions.network, shared_cores=conditions.shared_cores)


def at_no_cost(step: Step) -> Step:
    """The same step with dispatch and combine that take no time."""
    batches = [replace(batch, exchanges=[layer.at_no_cost() for layer in batch.exchanges]) for batch in step.batches]
    return replace(step, batches=batches)


def _after_first(time: PassTime) -> float:
    """Seconds of a pass after its first MoE layer, or of all of it where there is no other."""
    return time.duration - (float(time.layer_ends[0]) if len(time.layer_ends) > 1 else 0.0)


def _scaled(time: PassTime, ratio: float) -> PassTime:
    return PassTime(duration=time.duration * ratio, layer_ends=np.asarray(time.layer_ends * ratio))
