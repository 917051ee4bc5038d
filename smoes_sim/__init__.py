"""What expert parallelism costs on a topology, and what SMoES, another placement or another network would save.

The public names; everything else is internal. Importing this package loads none of the heavy libraries: each name is
imported from its module on first use.

Example:
    >>> import smoes_sim as ss
    >>> ss.Scenario.__name__
    'Scenario'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from smoes_sim.version import __version__

if TYPE_CHECKING:
    from smoes_sim.api.predict import compare, simulate, synthesize
    from smoes_sim.errors import ConfigError, SmoesError
    from smoes_sim.models import ModelShape as Model
    from smoes_sim.placement import ExpertPlacement as Placement
    from smoes_sim.prediction.comparison import Comparison
    from smoes_sim.prediction.constants import Calibration
    from smoes_sim.prediction.prediction import Prediction
    from smoes_sim.routing import RoutingTrace as Trace
    from smoes_sim.scenario import Scenario
    from smoes_sim.topology import Topology

_HOME = {
    "Calibration": "prediction.constants:Calibration",
    "Comparison": "prediction.comparison:Comparison",
    "ConfigError": "errors:ConfigError",
    "Model": "models:ModelShape",
    "Placement": "placement:ExpertPlacement",
    "Prediction": "prediction.prediction:Prediction",
    "Scenario": "scenario:Scenario",
    "SmoesError": "errors:SmoesError",
    "Topology": "topology:Topology",
    "Trace": "routing:RoutingTrace",
    "compare": "api.predict:compare",
    "simulate": "api.predict:simulate",
    "synthesize": "api.predict:synthesize",
}
"""Public name -> module and name inside it."""

__all__ = [
    "Calibration",
    "Comparison",
    "ConfigError",
    "Model",
    "Placement",
    "Prediction",
    "Scenario",
    "SmoesError",
    "Topology",
    "Trace",
    "__version__",
    "compare",
    "simulate",
    "synthesize",
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
