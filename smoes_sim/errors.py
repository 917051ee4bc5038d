"""The exceptions that smoes_sim raises.

    SmoesError
    +-- ConfigError (ValueError)     a file, an override or an argument breaks a rule
    |   +-- TopologyError            a topology is invalid: ranks without a route, a link without an end
    |   +-- TraceError               a routing trace is broken or does not fit the model
    |   +-- PlacementError           experts or tokens cannot be placed by the rule
    |   +-- MeasurementError         a measurements table is broken
    +-- CalibrationError             constants cannot be fitted
    +-- RunError                     a run on real processes ended early: a rank died, hangs or received wrong data
    +-- LabError                     a lab cannot be built or used on this machine
    +-- SimulationError (RuntimeError)  an internal check failed (our bug)

Messages read ``where: what, with the values: the rule. What to do.`` The place (file, line, column) is prepended by the
caller that knows it, with :meth:`SmoesError.at`.
"""

from __future__ import annotations

from typing import Self


class SmoesError(Exception):
    """Base of all exceptions that smoes_sim raises on purpose.

    Example:
        >>> from smoes_sim import SmoesError, simulate
        >>> try:
        ...     simulate("olmoe-two-orin", "seed=-1")
        ... except SmoesError as error:
        ...     print(error)
        "seed=-1": seed = -1: input should be greater than or equal to 0.
    """

    def at(self, place: str) -> Self:
        """The same error with ``place`` prepended to the message."""
        return type(self)(f"{place}: {self}")


class ConfigError(SmoesError, ValueError):
    """A file, an override or an argument breaks a rule.

    Example:
        >>> from smoes_sim import ConfigError, Topology
        >>> try:
        ...     Topology.load("8x-h10")
        ... except ConfigError as error:
        ...     print(error)
        topology "8x-h10" is neither shipped nor a file. Did you mean "8x-h100"?
    """


class TopologyError(ConfigError):
    """A topology is invalid: ranks without a route to each other, or a link without an end."""


class TraceError(ConfigError):
    """A routing trace is broken, or does not fit the model or the workload."""


class PlacementError(ConfigError):
    """Experts or tokens cannot be placed by the rule."""


class MeasurementError(ConfigError):
    """A measurements table is broken or has no row that can be used."""


class CalibrationError(SmoesError):
    """Constants cannot be fitted to the measurements given."""


class RunError(SmoesError):
    """A run on real processes ended early: a rank died, hangs or received wrong data."""


class LabError(SmoesError):
    """A lab of network namespaces cannot be built or used on this machine."""


class SimulationError(SmoesError, RuntimeError):
    """An internal check failed, such as a time below the lower bound. This is a bug; please report it."""
