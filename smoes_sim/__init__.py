"""What expert parallelism costs on a topology, and what SMoES, another placement or another network would save.

These are the public names; everything else is internal. Importing this package loads none of the heavy libraries: each
name is imported from its module on first use.

Example:
    >>> import smoes_sim as ss
    >>> found = ss.alltoall("two-orin-10gbe", size="1 MiB")
    >>> f"{found.rows[0].time_s * 1e6:.0f} us at nominal link rates"
    '439 us at nominal link rates'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from smoes_sim.version import __version__

if TYPE_CHECKING:
    from smoes_sim.adaptation.result import Adaptation
    from smoes_sim.api.catalogue import Catalogue, catalogue
    from smoes_sim.api.learn import capture, train
    from smoes_sim.api.measure import calibrate, read_measurements, validate
    from smoes_sim.api.predict import compare, place, simulate, synthesize
    from smoes_sim.api.service import plan, serve
    from smoes_sim.api.study import adapt, sweep
    from smoes_sim.calibration.fit_result import CalibrationFit
    from smoes_sim.errors import ConfigError, SmoesError
    from smoes_sim.exchanges import Alltoall, alltoall
    from smoes_sim.learning.trained_study import TrainedStudy
    from smoes_sim.measurements import Measurements
    from smoes_sim.models import ModelShape as Model
    from smoes_sim.placement import ExpertPlacement as Placement
    from smoes_sim.planning import PlanAnswer
    from smoes_sim.prediction.comparison import Comparison
    from smoes_sim.prediction.constants import Calibration
    from smoes_sim.prediction.prediction import Prediction
    from smoes_sim.routing import RoutingTrace as Trace
    from smoes_sim.scenario import Scenario
    from smoes_sim.serving import ServiceCurve, ServiceResult
    from smoes_sim.sweeps import Tally
    from smoes_sim.topology import Topology
    from smoes_sim.validation import Validation

_HOME = {
    "Adaptation": "adaptation.result:Adaptation",
    "Alltoall": "exchanges:Alltoall",
    "Calibration": "prediction.constants:Calibration",
    "CalibrationFit": "calibration.fit_result:CalibrationFit",
    "Catalogue": "api.catalogue:Catalogue",
    "Comparison": "prediction.comparison:Comparison",
    "ConfigError": "errors:ConfigError",
    "Measurements": "measurements:Measurements",
    "Model": "models:ModelShape",
    "Placement": "placement:ExpertPlacement",
    "PlanAnswer": "planning:PlanAnswer",
    "Prediction": "prediction.prediction:Prediction",
    "Scenario": "scenario:Scenario",
    "ServiceCurve": "serving:ServiceCurve",
    "ServiceResult": "serving:ServiceResult",
    "SmoesError": "errors:SmoesError",
    "Tally": "sweeps:Tally",
    "Topology": "topology:Topology",
    "Trace": "routing:RoutingTrace",
    "TrainedStudy": "learning.trained_study:TrainedStudy",
    "Validation": "validation:Validation",
    "adapt": "api.study:adapt",
    "alltoall": "exchanges:alltoall",
    "calibrate": "api.measure:calibrate",
    "capture": "api.learn:capture",
    "catalogue": "api.catalogue:catalogue",
    "compare": "api.predict:compare",
    "place": "api.predict:place",
    "plan": "api.service:plan",
    "read_measurements": "api.measure:read_measurements",
    "serve": "api.service:serve",
    "simulate": "api.predict:simulate",
    "sweep": "api.study:sweep",
    "synthesize": "api.predict:synthesize",
    "train": "api.learn:train",
    "validate": "api.measure:validate",
}
"""Public name -> module, and name in the module."""

__all__ = [
    "Adaptation",
    "Alltoall",
    "Calibration",
    "CalibrationFit",
    "Catalogue",
    "Comparison",
    "ConfigError",
    "Measurements",
    "Model",
    "Placement",
    "PlanAnswer",
    "Prediction",
    "Scenario",
    "ServiceCurve",
    "ServiceResult",
    "SmoesError",
    "Tally",
    "Topology",
    "Trace",
    "TrainedStudy",
    "Validation",
    "__version__",
    "adapt",
    "alltoall",
    "calibrate",
    "capture",
    "catalogue",
    "compare",
    "place",
    "plan",
    "read_measurements",
    "serve",
    "simulate",
    "sweep",
    "synthesize",
    "train",
    "validate",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'smoes_sim' has no attribute {name!r}")
    module, _, inside = _HOME[name].partition(":")
    found = getattr(import_module(f"smoes_sim.{module}"), inside)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
