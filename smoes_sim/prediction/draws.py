"""The sets of constants that a prediction is made with."""

from __future__ import annotations

from smoes_sim.prediction.constants import NUM_STATED, load_calibration
from smoes_sim.prediction.deployment import Deployment, efficiency_range

_STATED = tuple(part / (NUM_STATED - 1) for part in range(NUM_STATED))
"""Quantiles of a prediction without calibration: both efficiencies at the low end, the middle, the high end."""


def constant_sets(deployment: Deployment) -> list[dict[str, float]]:
    """The sets of constants of a prediction: the draws of the calibration, or three points of the stated efficiencies."""
    name = deployment.scenario.calibration
    if name is not None:
        calibration = load_calibration(name)
        return [calibration.draw(index) for index in range(calibration.num_draws)]
    ranges = {
        "flops_efficiency": efficiency_range(deployment.scenario, "flops_efficiency"),
        "memory_efficiency": efficiency_range(deployment.scenario, "memory_efficiency"),
    }
    if all(found.low == found.high for found in ranges.values()):
        return [{}]
    return [{key: found.quantile(part) for key, found in ranges.items()} for part in _STATED]
