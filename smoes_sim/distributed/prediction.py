"""Predictions of the parts of an MoE layer that a run measures, and of nothing else in the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smoes_sim.calibration.cases import phase_time
from smoes_sim.compute import compute_times
from smoes_sim.network import exchange_time
from smoes_sim.prediction.constants import interval
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.step.build import Step

LAYER_PHASES = ("dispatch", "experts", "combine", "shared", "layer")
"""Phases that are timed in every MoE layer: its parts, each from a common start, and the whole layer without barriers."""
ATTENTION_PHASES = ("cache_move", "attention_gather", "attention_scatter")
"""Exchanges of attention that are timed where sequences live on several ranks."""
PHASES = (*ATTENTION_PHASES, *LAYER_PHASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedPhase:
    """Seconds until the last rank is done: the median over the sets of constants, and their interval."""

    value: float
    low: float
    high: float


def predict_layers(deployment: Deployment) -> dict[tuple[int, int, str], PredictedPhase]:
    """Predictions by (step, MoE layer 0..L-1, phase); steps are those of the deployment, the prefill first.

    Scores of attention, gate, dense layers and the head are left out, as the runner does not time them; everything else is
    what ``simulate`` computes, under the same sets of constants. The exchanges of attention are those of one layer; the
    cache moves once, for all layers, which counts as layer 0 of the first decode step.
    """
    series: dict[tuple[int, int, str], list[float]] = {}
    for constants in constant_sets(deployment):
        conditions = deployment.under(constants)
        for index, step in enumerate(deployment.steps):
            for key, value in _step(conditions, step).items():
                series.setdefault((index, *key), []).append(value)
        if deployment.cache_move is not None:
            moved = exchange_time(conditions.network, deployment.cache_move.phases, tolerance=_tolerance(deployment))
            series.setdefault((first_decode(deployment), 0, "cache_move"), []).append(moved.duration)
    return {key: _summary(values) for key, values in series.items()}


def first_decode(deployment: Deployment) -> int:
    """Number of the first decode step."""
    return len(deployment.steps) - len(deployment.decode)


def _tolerance(deployment: Deployment) -> float:
    return deployment.scenario.communication.tolerance


def _summary(values: Sequence[float]) -> PredictedPhase:
    low, high = interval(values)
    return PredictedPhase(value=float(np.median(values)), low=low, high=high)


def _step(conditions: Conditions, step: Step) -> dict[tuple[int, str], float]:
    (batch,) = step.batches
    times = compute_times(conditions.deployment.model, batch.load, conditions.rates)

    def seconds(layer: int, phase: str) -> float:
        return phase_time(conditions, step, [times], layer, phase=phase, tolerance=_tolerance(conditions.deployment))

    layers = range(len(batch.exchanges))
    found = {(layer, phase): seconds(layer, phase) for layer in layers for phase in LAYER_PHASES}
    if batch.attention is not None and batch.group is not None:
        around = {"attention_gather": batch.group.gather, "attention_scatter": batch.group.scatter}
        for phase in (phase for phase, messages in around.items() if messages):
            found |= dict.fromkeys(((layer, phase) for layer in layers), seconds(0, phase))
    return found
