"""Predict a scenario: routing, placement, traffic, network and compute meet here.

``trace + placement -> traffic -> network -> times``, once for every set of constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from smoes_sim.display.tables import Interval
from smoes_sim.prediction.constants import interval, load_calibration
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.describe import describe
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.prediction.times import all_times
from smoes_sim.scenario import Scenario

_IN_INTERVAL = 1.2816
"""Standard errors on either side of an 80% interval."""


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
        on_pass: Called after each of the :func:`num_passes` forward passes.
    """
    sets = [deployment.under(constants) for constants in constant_sets(deployment)]
    timed = all_times(deployment, sets, on_pass=on_pass)
    flat = [times.flat() for times in timed]
    draws = {key: [values[key] for values in flat] for key in flat[0]}
    medians = {key: float(np.median(series)) for key, series in draws.items()}
    middle = timed[len(timed) // 2]
    return Prediction(
        **describe(deployment).values(),  # type: ignore[arg-type]  # fields by name, of the same types
        **medians,  # type: ignore[arg-type]
        engine=middle.asked.engine,
        engine_error=middle.asked.engine_error,
        decode_engine=None if middle.decode is None else middle.decode.engine,
        decode_engine_error=None if middle.decode is None else middle.decode.engine_error,
        layers=deployment.model.num_moe_layers,
        layers_simulated=len(deployment.simulated),
        decode_steps=deployment.num_decode_steps,
        decode_steps_simulated=len(deployment.decode),
        intervals=_intervals(draws, middle.sampling(), is_calibrated=deployment.scenario.calibration is not None),
        draws=draws,
    )


def _intervals(draws: Mapping[str, list[float]], errors: Mapping[str, float], *, is_calibrated: bool) -> dict[str, Interval]:
    """Intervals over the draws and the sample; none of zero width where no calibration says that a time is so well known.

    The half-widths of the draws and of the sample are independent and add in squares.

    Args:
        draws: Values under each set of constants, by key.
        errors: Relative standard error of the sample, by key.
        is_calibrated: Whether the constants were fitted.
    """
    found = {}
    for key, series in draws.items():
        middle, error = float(np.median(series)), _IN_INTERVAL * errors.get(key, 0.0)
        low, high = interval(series)
        low, high = (middle + side * math.hypot(end - middle, error * middle) for side, end in ((-1, low), (1, high)))
        if (len(series) > 1 and is_calibrated) or low < high:
            found[key] = (low, high)
    return found


def num_passes(deployment: Deployment) -> int:
    """Number of forward passes that :func:`predict` simulates, each under all sets of constants."""
    return len(deployment.chunks) + len(deployment.decode) + (deployment.mixed is not None)


def middle_conditions(deployment: Deployment, prediction: Prediction) -> Conditions:
    """The deployment under the one set of constants whose TTFT (TPOT where there is none) is nearest the median."""
    if deployment.scenario.calibration is None:
        return deployment.under({})
    key = "tpot_s" if prediction.ttft_s is None else "ttft_s"
    away = np.abs(np.array(prediction.draws[key]) - getattr(prediction, key))
    return deployment.under(load_calibration(deployment.scenario.calibration).draw(int(away.argmin())))
