"""Which engine times a step, and by how much the fast one differs from the exact one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.step.build import Step
from smoes_sim.step.fast import PassTime, can_be_fast, fast_passes
from smoes_sim.step.layers import PassLayer, some_layers

MOST_ERROR = 0.01
"""Relative difference to the exact engine up to which ``auto`` uses the fast one."""
_PROBED_LAYERS = 2
"""MoE layers of the pass that both engines time, to measure the difference."""
_MOST_PROBED = 70_000
"""Messages of an exchange up to which it is measured: those of 256 ranks. The exact engine needs minutes for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """How the passes of a prediction are timed.

    Attributes:
        name: ``exact``: the event loop of SimPy. ``fast``: one fluid solution an exchange, without an event loop.
        error: Relative difference of the fast to the exact duration of the first layers of a pass of this deployment, under
            its middle constants; 0 with the exact engine, None where that was too large to be measured.
    """

    name: str
    error: float | None


def choose_engine(deployment: Deployment, sets: Sequence[Conditions]) -> EngineChoice:
    """The engine that the scenario asks for; ``auto`` takes the fast one where it can time the steps and is near the exact.

    Raises:
        ConfigError: If the fast engine is asked for and cannot time the steps.
    """
    wanted = deployment.scenario.engine
    if wanted == "exact":
        return EngineChoice(name="exact", error=0.0)
    steps = [step for step in (*deployment.chunks[:1], *deployment.decode[:1]) if step.batches]
    middle = sets[len(sets) // 2]
    if not all(can_be_fast(middle.micro_batches(step), middle.network, shared_cores=middle.shared_cores) for step in steps):
        if wanted == "fast":
            raise ConfigError(
                "engine = fast times exchanges of one phase, without two_batch, shared_cores or send_buffer. "
                "Use engine: auto, which takes the exact engine for others."
            )
        return EngineChoice(name="exact", error=0.0)
    errors = [_error(middle, step, deployment.layers_simulated) for step in steps]
    error = None if None in errors else max((found for found in errors if found is not None), default=0.0)
    if wanted == "auto" and error is not None and error > MOST_ERROR:
        return EngineChoice(name="exact", error=0.0)
    return EngineChoice(name="fast", error=error)


def passes(
    choice: EngineChoice, sets: Sequence[Conditions], step: Step, layers: Sequence[PassLayer]
) -> tuple[list[PassTime], list[PassTime], float]:
    """Times of a step under each set of constants: as it is, with dispatch and combine at no cost, and the lateness, s."""
    if choice.name == "fast":
        return *fast_times(sets, step, layers), 0.0
    free = at_no_cost(step)
    real_times, free_times, lateness = [], [], 0.0
    for conditions in sets:
        real = conditions.time(step, layers=layers)
        ideal = conditions.time(free, layers=layers, expert_network=conditions.network.at_no_cost())
        lateness = max(lateness, real.lateness)
        real_times.append(PassTime(duration=real.duration, layer_ends=real.layer_ends))
        free_times.append(PassTime(duration=ideal.duration, layer_ends=ideal.layer_ends))
    return real_times, free_times, lateness


def fast_times(sets: Sequence[Conditions], step: Step, layers: Sequence[PassLayer]) -> tuple[list[PassTime], list[PassTime]]:
    """Times of a step by the fast engine under each set of constants: as it is, and with dispatch and combine at no cost."""
    deployment = sets[0].deployment
    (batch,) = step.batches
    return fast_passes(
        batch.exchanges,
        batch.group,
        [conditions.micro_batches(step)[0].times for conditions in sets],
        [conditions.network for conditions in sets],
        layers,
        overlap=deployment.scenario.overlap,
        shares_feed_forward=deployment.model.shares_feed_forward,
    )


def at_no_cost(step: Step) -> Step:
    """The same step with dispatch and combine that take no time."""
    batches = [replace(batch, exchanges=[layer.at_no_cost() for layer in batch.exchanges]) for batch in step.batches]
    return replace(step, batches=batches)


def _error(conditions: Conditions, step: Step, layers: Sequence[PassLayer]) -> float | None:
    """Relative difference of the two engines on the first layers of a step; None if that would take too long."""
    rows = [layer.moe for layer in layers if layer.moe is not None][:_PROBED_LAYERS]
    few = some_layers(layers, rows)
    (batch,) = step.batches
    if rows and len(batch.exchanges[rows[0]].dispatch[0]) > _MOST_PROBED:
        return None
    ((fast,), _) = fast_times([conditions], step, few)
    exact = conditions.time(step, layers=few).duration
    return abs(fast.duration / exact - 1) if exact else 0.0
