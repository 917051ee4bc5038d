"""Predictions of the parts of an MoE layer that a run measures, and of nothing else in the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smoes_sim.calibration.cases import phase_time
from smoes_sim.compute import compute_times
from smoes_sim.prediction.constants import interval
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.step.build import Step

PHASES = ("dispatch", "experts", "combine", "shared", "layer")
"""Phases that are timed: the parts of an MoE layer, each from a common start, and the whole layer without barriers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedPhase:
    """Seconds until the last rank is done: the median over the sets of constants, and their interval."""

    value: float
    low: float
    high: float


def predict_layers(deployment: Deployment) -> dict[tuple[int, int, str], PredictedPhase]:
    """Predictions by (step, MoE layer 0..L-1, phase); steps are those of the deployment, the prefill first.

    Attention, gate, dense layers and the head are left out, as the runner leaves them out; everything else is what
    ``simulate`` computes, under the same sets of constants.
    """
    series: dict[tuple[int, int, str], list[float]] = {}
    for constants in constant_sets(deployment):
        conditions = deployment.under(constants)
        for index, step in enumerate(deployment.steps):
            for key, value in _step(conditions, step).items():
                series.setdefault((index, *key), []).append(value)
    return {key: _summary(values) for key, values in series.items()}


def _summary(values: Sequence[float]) -> PredictedPhase:
    low, high = interval(values)
    return PredictedPhase(value=float(np.median(values)), low=low, high=high)


def _step(conditions: Conditions, step: Step) -> dict[tuple[int, str], float]:
    (batch,) = step.batches
    times = compute_times(conditions.deployment.model, batch.load, conditions.rates)
    tolerance = conditions.deployment.scenario.communication.tolerance
    return {
        (layer, phase): phase_time(conditions, step, [times], layer, phase=phase, tolerance=tolerance)
        for layer in range(len(batch.exchanges))
        for phase in PHASES
    }
