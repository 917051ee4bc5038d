"""The exceptions a caller can meet.

    SmoesError
    +-- ConfigError (ValueError)     a file, an override or an argument breaks a rule
    |   +-- TopologyError            what is wired to what makes no sense
    |   +-- TraceError               a routing trace is broken or does not fit the model
    |   +-- PlacementError           experts or tokens cannot be placed as asked
    |   +-- MeasurementError         a measurements table is broken
    +-- CalibrationError             constants cannot be fitted
    +-- RunError                     a run on real processes ended early: a rank died, hangs or received wrong data
    +-- LabError                     a lab cannot be built or used on this machine
    +-- SimulationError (RuntimeError)  a prediction broke one of its own rules (our bug)

Messages read ``where: what, with the values: the rule. What to do.`` The place (file, line, column) is put in front by
whoever knows it, with :meth:`SmoesError.at`.
"""

from __future__ import annotations

from typing import Self


class SmoesError(Exception):
    """Anything that smoes_sim raises on purpose."""

    def at(self, place: str) -> Self:
        """The same error with the place where it happened in front of the message."""
        return type(self)(f"{place}: {self}")


class ConfigError(SmoesError, ValueError):
    """A file, an override or an argument breaks a rule."""


class TopologyError(ConfigError):
    """A topology makes no sense: ranks that cannot reach each other, a link without an end."""


class TraceError(ConfigError):
    """A routing trace is broken, or does not fit the model or the workload."""


class PlacementError(ConfigError):
    """Experts or tokens cannot be placed as asked."""


class MeasurementError(ConfigError):
    """A measurements table is broken or has no row that can be used."""


class CalibrationError(SmoesError):
    """Constants cannot be fitted to the measurements given."""


class RunError(SmoesError):
    """A run on real processes ended early: a rank died, hangs or received wrong data."""


class LabError(SmoesError):
    """A lab of network namespaces cannot be built or used on this machine."""


class SimulationError(SmoesError, RuntimeError):
    """A prediction broke one of its own rules (below the bound, bytes lost): a bug of ours."""
