"""Predictions of shipped deployments, made once for all pages, examples and docstrings of a test process that show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import smoes_sim.api.predict
import smoes_sim.prediction.simulate
from smoes_sim.prediction.constants import calibration_file
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.topology import topology_names

_predict = smoes_sim.prediction.simulate.predict
_made: dict[str, Prediction] = {}


def is_shipped(deployment: Deployment) -> bool:
    """Whether the scenario alone decides the prediction: it names no topology, trace or calibration in a file."""
    scenario = deployment.scenario
    is_calibration_shipped = scenario.calibration is None or calibration_file(scenario.calibration) is not None
    return scenario.topology in topology_names() and scenario.routing.trace is None and is_calibration_shipped


def predict(deployment: Deployment, *, on_pass: Callable[[], None] = lambda: None) -> Prediction:
    """The prediction of a deployment; that of a shipped one is made once."""
    if not is_shipped(deployment):
        return _predict(deployment, on_pass=on_pass)
    key = deployment.scenario.model_dump_json()
    if key not in _made:
        _made[key] = _predict(deployment, on_pass=on_pass)
    return _made[key]


@contextmanager
def predictions_made_once() -> Iterator[None]:
    """Simulate and compare as always, but no shipped deployment a second time in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoes_sim.prediction.simulate, "predict", predict)
        patch.setattr(smoes_sim.api.predict, "predict", predict)
        yield
