"""Predict a scenario: routing, placement, traffic, network and compute meet here.

``trace + placement -> traffic -> network -> times``, once for every set of constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from smoes_sim.display.tables import Interval
from smoes_sim.prediction.constants import interval, load_calibration
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.describe import describe
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.prediction.times import ExchangeTimes, times_under
from smoes_sim.scenario import Scenario


def simulate(scenario: Scenario, *, name: str = "") -> Prediction:
    """The prediction of a scenario.

    Raises:
        ConfigError: If its parts do not fit together.
    """
    return replace(predict(deploy(scenario)), name=name)


def predict(deployment: Deployment, *, on_pass: Callable[[], None] = lambda: None) -> Prediction:
    """The prediction of a deployment: medians over its sets of constants, and an interval for each time.

    Args:
        deployment: What to predict.
        on_pass: Called after each of :func:`num_passes` simulated forward passes.
    """
    alone = ExchangeTimes(deployment.scenario.communication.tolerance)
    sets = constant_sets(deployment)
    timed = [times_under(deployment.under(constants), alone, on_pass=on_pass).flat() for constants in sets]
    draws = {key: [values[key] for values in timed] for key in timed[0]}
    medians = {key: float(np.median(series)) for key, series in draws.items()}
    return Prediction(
        **describe(deployment).values(),  # type: ignore[arg-type]  # fields by name, of the same types
        **medians,  # type: ignore[arg-type]
        intervals=_intervals(draws, is_calibrated=deployment.scenario.calibration is not None),
        draws=draws,
    )


def _intervals(draws: dict[str, list[float]], *, is_calibrated: bool) -> dict[str, Interval]:
    """Intervals over the draws; none of zero width where no calibration says that a time is known so well."""
    found = {key: interval(series) for key, series in draws.items() if len(series) > 1}
    return {key: ends for key, ends in found.items() if is_calibrated or ends[0] < ends[1]}


def num_passes(deployment: Deployment) -> int:
    """Number of forward passes that :func:`predict` simulates: prefill and some decode steps, for each set of constants."""
    steps = len(deployment.chunks) + len(deployment.decode) + (deployment.mixed is not None)
    return steps * len(constant_sets(deployment))


def middle_conditions(deployment: Deployment, prediction: Prediction) -> Conditions:
    """The deployment under the one set of constants whose TTFT is nearest the median of a prediction."""
    if deployment.scenario.calibration is None:
        return deployment.under({})
    away = np.abs(np.array(prediction.draws["ttft_s"]) - prediction.ttft_s)
    return deployment.under(load_calibration(deployment.scenario.calibration).draw(int(away.argmin())))
