"""Constants that only measurements can give, with draws that express how well they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Annotated

import numpy as np
import orjson
from pydantic import Field, ValidationError

from smoes_sim.display.tables import Table
from smoes_sim.errors import ConfigError
from smoes_sim.network import Network
from smoes_sim.scenario import Scenario
from smoes_sim.yaml_files import Spec, nearest, read_text, write_bytes

_SHIPPED = Path(__file__).parents[1] / "data" / "calibrations"
CONSTANTS = (
    "per_message",
    "per_exchange",
    "curve",
    "jitter",
    "per_receive",
    "flops_efficiency",
    "memory_efficiency",
    "launch",
    "per_layer",
    "per_prefill",
)
"""Names a draw may set, besides ``efficiency.<link kind>`` and ``half_size.<link kind>``: seconds, shares of the nominal
rate, bytes, an exponent."""
_OF_LINKS = ("efficiency.", "half_size.")
_OF_LIBRARIES = (
    "these are constants of communication libraries, which only `smoes-sim validate` can use today. Give constants of a "
    "machine (from `smoes-sim calibrate ROWS.csv -o FILE`), or none for nominal links."
)
INTERVAL = (10, 90)
"""Percentiles of a calibrated prediction: an 80% interval."""
NUM_STATED = 3
"""Number of sets of constants of a prediction without calibration."""
_NOISE = 19
"""Number of quantiles of the model's error over which every draw is spread."""


class Parameter(Spec):
    """A fitted constant: its median, the range of its draws, and whether the data identify it.

    ``prior`` is its value without data; ``traded_with`` names constants from which the data cannot separate it.
    """

    value: float = Field(description="Median over the draws, in SI units.")
    low: float = Field(description="10th percentile over the draws.")
    high: float = Field(description="90th percentile over the draws.")
    identified: bool = Field(description="Whether the data determine it.")
    meaning: str = Field(description="What it is, with its unit.")
    prior: float | None = Field(None, description="Its value without data.")
    traded_with: list[str] = Field(default_factory=list, description="Constants from which the data cannot separate it.")


class FittedRow(Spec):
    """A measurement that was fitted."""

    id: str = Field(description="Id of the row in the measurements table.")
    quantity: str = Field(description="What was measured: an operation, ttft or tpot.")
    seconds: float = Field(description="Measured time, seconds.")


class Calibration(Spec):
    """A calibration file.

    ``draws`` holds sets of constants that explain the data equally well; every prediction is made with each of them.
    ``spread`` is the error of the model itself: the standard deviation of log(measured / predicted) on held-out rows; 0 if
    it was not estimated. ``spreads`` has the same by kind of row: a schedule, ``sendrecv``, a phase. ``repeat_spread`` is
    that of the repetitions of one row, below which no model can go.
    """

    scenario: str = Field("", description="Scenario whose TTFT and TPOT were fitted; empty if rows were fitted.")
    parameters: dict[str, Parameter] = Field(description="Fitted constants by name.")
    draws: Annotated[dict[str, list[float]], Field(min_length=1, description="Values of each constant in every draw.")]
    fitted_on: list[FittedRow] = Field(description="Measurements that were fitted.")
    spread: Annotated[float, Field(ge=0, description="Error of the model: std of log(measured / predicted).")] = 0.0
    spreads: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="The same by kind of row: a schedule, sendrecv, a phase."
    )
    repeat_spread: Annotated[float, Field(ge=0, description="The same over repetitions of one row.")] = 0.0
    sizes: list[float] | None = Field(
        None, min_length=2, max_length=2, description="Smallest and largest bytes per rank of the fitted rows."
    )
    data_hash: str = Field(description="SHA-256 of the measurements table.")
    command: str = Field(description="Command that creates the file.")
    version: str = Field(description="Version of smoes_sim that created the file.")

    @classmethod
    def load(cls, name: str | Path) -> Calibration:
        """A shipped calibration, or that of a file.

        Raises:
            ConfigError: If there is none, or it breaks a rule.

        Example:
            >>> Calibration.load("two-orin-baseline").num_draws
            16
        """
        return load_calibration(str(name))

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON.

        Raises:
            ConfigError: If the file cannot be written.
        """
        save_calibration(self, Path(path))

    @property
    def num_draws(self) -> int:
        """Number of draws, the same for every constant."""
        return len(next(iter(self.draws.values())))

    def spread_of(self, kind: str) -> float:
        """Standard deviation of log(measured / predicted) for one kind of row; that of all rows for a kind not fitted."""
        return max(self.spreads.get(kind, self.spread), self.repeat_spread)

    def draw(self, index: int) -> dict[str, float]:
        """One set of constants."""
        return {name: values[index] for name, values in self.draws.items()}


def check_draws(draws: Mapping[str, Sequence[float]]) -> None:
    """Check that every constant is known and every value possible.

    Raises:
        ConfigError: For the first unknown name or value out of range.
    """
    for name, values in draws.items():
        if name not in CONSTANTS and not name.startswith(_OF_LINKS):
            known = (*CONSTANTS, *(f"{prefix}<link kind>" for prefix in _OF_LINKS))
            raise ConfigError(f'unknown constant "{name}". {nearest(name, known)}')
        is_share = "efficiency" in name
        for value in values:
            if value < 0 or (is_share and not 0 < value <= 1):
                rule = "a share must lie in (0, 1]" if is_share else "it must be >= 0"
                raise ConfigError(f"draws.{name} holds {value}: {rule}. Create the file again with `smoes-sim calibrate`.")


def calibration_file(name: str) -> Path | None:
    """The file of a shipped calibration; None if none has the name."""
    path = _SHIPPED / f"{name}.json"
    return path if path.is_file() and "/" not in name else None


def calibration_names() -> list[str]:
    """Names of the shipped calibrations, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.json"))


def load_calibration(name: str) -> Calibration:
    """A shipped calibration or a file.

    Raises:
        ConfigError: If there is none, or it breaks a rule.
    """
    if name == "published":
        raise ConfigError(f"calibration {name}: {_OF_LIBRARIES}")
    path = calibration_file(name) or Path(name)
    if not path.exists() and path.suffix != ".json":
        known = [entry.stem for entry in _SHIPPED.glob("*.json")]
        raise ConfigError(f'calibration "{name}" is neither shipped nor a file. {nearest(name, known)}')
    try:
        document = orjson.loads(read_text(path))
        if isinstance(document, dict) and document.get("kind") == "libraries":
            raise ConfigError(f"{path}: {_OF_LIBRARIES}")
        calibration = Calibration.model_validate(document)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: is not JSON ({error.msg}). Fix the file.") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in problem["loc"])
        raise ConfigError(f"{path}: {place}{problem['msg']}. Create the file again with `smoes-sim calibrate`.") from None
    lengths = {name: len(values) for name, values in calibration.draws.items()}
    if len(set(lengths.values())) != 1 or not calibration.num_draws:
        raise ConfigError(
            f"{path}: draws have the lengths {lengths}; every constant needs the same number of draws, at least one. "
            "Create the file again with `smoes-sim calibrate`."
        )
    try:
        check_draws(calibration.draws)
    except ConfigError as error:
        raise error.at(str(path)) from None
    return calibration


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON."""
    write_bytes(path, orjson.dumps(calibration.model_dump(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def network_under(network: Network, constants: Mapping[str, float]) -> Network:
    """The network under a draw of constants; constants that the draw does not name keep their values."""

    def of_links(prefix: str) -> dict[str, float]:
        return {name.removeprefix(prefix): value for name, value in constants.items() if name.startswith(prefix)}

    return network.with_constants(
        efficiency={**network.efficiency, **of_links("efficiency.")},
        per_message=constants.get("per_message", network.per_message),
        per_exchange=constants.get("per_exchange", network.per_exchange),
        half_size={**network.half_size, **of_links("half_size.")},
        curve=constants.get("curve", network.curve),
        jitter=constants.get("jitter", network.jitter),
        per_receive=constants.get("per_receive", network.per_receive),
    )


def middle_constants(scenario: Scenario) -> dict[str, float]:
    """The median of each constant of the scenario's calibration; none without one."""
    if scenario.calibration is None:
        return {}
    return {name: float(np.median(values)) for name, values in load_calibration(scenario.calibration).draws.items()}


def interval(series: Sequence[float]) -> tuple[float, float]:
    """The 10th and 90th percentile over the draws of a calibration; the extremes of the three of stated ranges."""
    if len(series) <= NUM_STATED:
        return float(min(series)), float(max(series))
    low, high = np.percentile(series, INTERVAL)
    return float(low), float(high)


def interval_of(durations: Sequence[float], *, spread: float) -> tuple[float, float, float]:
    """Median over the draws and the ends of the 80% interval, in seconds.

    The interval includes the scatter of the draws and the error of the model: each draw's time is spread over 19 quantiles
    of a log-normal error with standard deviation ``spread``.

    Args:
        durations: Seconds under each draw.
        spread: Standard deviation of log(measured / predicted).

    Example:
        One draw of 1 s; the 10th percentile of a log-normal error of 0.1 is exp(-0.128) = 0.88.

        >>> [round(value, 2) for value in interval_of([1.0], spread=0.1)]
        [1.0, 0.88, 1.14]
    """
    levels = np.array([NormalDist().inv_cdf((index + 0.5) / _NOISE) for index in range(_NOISE)])
    spread_out = np.multiply.outer(np.asarray(durations), np.exp(spread * levels)).ravel()
    low, high = np.percentile(spread_out, INTERVAL, method="hazen")
    return float(np.median(durations)), float(low), float(high)


def calibration_table(calibration: Calibration) -> Table:
    """The constants of a calibration, and which of them the data leave open."""
    sets = f"{calibration.num_draws} sets of constants"
    if calibration.scenario:
        known = ", ".join(f"{row.quantity.upper()} {row.seconds:g} s" for row in calibration.fitted_on)
        title = f"Constants fitted on {known} of {calibration.scenario}\n{sets} explain all of it exactly"
    else:
        title = f"Constants fitted on {len(calibration.fitted_on)} rows; {sets} express how well they are known"
    return parameter_table(calibration.parameters, title=title)


def parameter_table(parameters: Mapping[str, Parameter], *, title: str = "") -> Table:
    """Fitted constants, one per line: median, 80% interval, whether the data identify it."""
    rows = [
        [
            name,
            f"{found.value:.3g}",
            f"{found.low:.3g}",
            f"{found.high:.3g}",
            "yes" if found.identified else "NO",
            found.meaning,
        ]
        for name, found in parameters.items()
    ]
    notes = []
    for name, found in parameters.items():
        if found.traded_with:
            notes.append(f"{name}: the data cannot separate it from {', '.join(found.traded_with)}")
        if found.prior is not None and not found.identified:
            notes.append(f"{name}: prior {found.prior:.3g}")
    return Table(
        title=title,
        header=["constant", "median", "10%", "90%", "identified", "meaning"],
        rows=rows,
        words=1,
        notes=notes,
    )
