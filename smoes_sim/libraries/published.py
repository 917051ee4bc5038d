"""Constants of all families as a file, fitted on a measurements table; the shipped file is fitted on published systems.

``smoes-sim calibrate published -o FILE`` makes the shipped file again, byte for byte; ``--add`` also fits rows of your own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import Field, ValidationError

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table, wrapped
from smoes_sim.errors import CalibrationError, ConfigError
from smoes_sim.libraries.families import FAMILIES, prepare_case, prepare_cases
from smoes_sim.libraries.family import Constant, kind_of
from smoes_sim.libraries.leave_out import fit_scaled, outcome_of
from smoes_sim.libraries.pooling import FittedPool, PreparedCase, terms_of
from smoes_sim.libraries.system import Skip
from smoes_sim.measurements import Measurement, data_hash, read_measurements
from smoes_sim.prediction.constants import FittedRow, Parameter
from smoes_sim.version import __version__
from smoes_sim.yaml_files import Spec, read_text, write_bytes

_DATA = Path(__file__).parent.parent / "data"
PUBLISHED = _DATA / "measurements" / "published.csv"
"""Public measurements, each with its source."""
_SHIPPED = _DATA / "libraries" / "published.json"
LARGE = 2.0**20
"""Bytes per rank from which bandwidth rather than start-up should determine the time."""
_DIGITS = 5
"""Significant digits in the file: more would be noise, and would differ between machines."""
_IDENTIFIED = 0.5
"""A constant is identified if the data leave at most this share of its prior standard deviation."""
_Z80 = 1.2815515655446004
"""Standard deviations from the middle to either end of an 80% interval."""


class Pool(Spec):
    """Fitted deviations of families that share constants."""

    rows: int = Field(description="Number of fitted rows.")
    systems: list[str] = Field(description="Hardware and software of the fitted rows.")
    deviations: dict[str, float] = Field(
        description="Fitted deviations by name: of the logarithm of a constant, or of the logit of a share."
    )
    covariance: list[list[float]] = Field(
        description="Covariance of the deviations in the same order: the lower triangle, row by row."
    )
    scale_seen: float = Field(description="Factor on the standard deviation of predictions for fitted systems.")
    scale_unseen: float = Field(description="Factor on the standard deviation of predictions for other systems.")


class LibraryCalibration(Result, Spec):
    """Constants of communication libraries, shared over transport classes, software and systems."""

    kind: Literal["libraries"] = Field("libraries", description="Tells the file from the calibration of one machine.")
    pools: dict[str, Pool] = Field(description="Fitted deviations by pool of families.")
    parameters: dict[str, Parameter] = Field(
        description="Constants by pool and name, for a system that was not fitted; SI units."
    )
    fitted_on: list[FittedRow] = Field(description="Fitted rows with their measured times, seconds.")
    data_hash: str = Field(description="SHA-256 of the fitted tables, separated by spaces.")
    command: str = Field(description="Command that makes the file.")
    version: str = Field(description="Version of smoes_sim that made the file.")

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return self.model_dump()

    def records(self) -> list[dict[str, Any]]:
        """The constants, one row each, in SI units."""
        columns = ("value", "low", "high", "prior", "identified", "meaning")
        return [
            {"constant": name, **{column: getattr(known, column) for column in columns}}
            for name, known in self.parameters.items()
        ]

    def tables(self) -> list[Table]:
        """The constants and their meanings."""
        rows = [
            [
                name,
                *("-" if value is None else f"{value:.3g}" for value in (known.value, known.low, known.high, known.prior)),
                "yes" if known.identified else "NO",
            ]
            for name, known in self.parameters.items()
        ]
        meanings: dict[str, list[str]] = {}
        for name, known in self.parameters.items():
            meanings.setdefault(known.meaning, []).append(name)
        return [
            Table(
                title=f"Constants of communication libraries (SI units), fitted on {len(self.fitted_on)} rows",
                header=["constant", "median", "10%", "90%", "prior", "identified"],
                rows=rows,
            ),
            Table(title="Meanings", notes=wrapped(f"{', '.join(names)}: {what}" for what, names in meanings.items())),
        ]

    def fitted(self, pool: str) -> FittedPool:
        """The fit of a pool; priors alone where nothing was fitted."""
        return _unpack(self.pools[pool]) if pool in self.pools else FittedPool(deviations={}, covariance=np.zeros((0, 0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPrediction:
    """The prediction for one measured row.

    Attributes:
        seconds: Predicted time, seconds.
        family: Kind of operation; rows of one family share a line of the table of errors.
        low: 10th percentile of the prediction, seconds; None where no error of the model is known.
        high: 90th percentile of the prediction, seconds; None where no error of the model is known.
        system: Hardware and software, or topology.
        doubt: Known weakness of the prediction; "" if there is none.
        measured: Measured time in seconds where it must be computed from the row's bandwidth; else None.
        is_fitted: Whether the constants were fitted on this row.
    """

    seconds: float
    family: str
    low: float | None = None
    high: float | None = None
    system: str = ""
    doubt: str = ""
    measured: float | None = None
    is_fitted: bool = False


def predict_row(row: Measurement, calibration: LibraryCalibration) -> RowPrediction | Skip:
    """Prediction for a row by the model of its library, or the reason why there is none."""
    prepared = prepare_case(row)
    if isinstance(prepared, Skip):
        return prepared
    fitted = calibration.fitted(prepared.family.pool)
    outcome = outcome_of(fitted, prepared)
    return RowPrediction(
        seconds=outcome.seconds,
        low=outcome.low,
        high=outcome.high,
        measured=prepared.measured,
        family=prepared.family.name,
        system=prepared.case.system,
        doubt=doubt_of(prepared, fitted),
    )


def doubt_of(prepared: PreparedCase, fitted: FittedPool) -> str:
    """The most serious known weakness of a prediction; "" for a fitted system."""
    case = prepared.case
    if case.system in fitted.systems:
        return ""
    keys = fitted.deviations.keys()
    classes = sorted({term.name.partition(".")[2] for term in terms_of(prepared.family, case)} - {""})
    unseen = [kind for kind in classes if not any(key.partition("@")[0].endswith(f".{kind}") for key in keys)]
    if unseen:
        return f"{' and '.join(unseen)} never fitted: constants of other classes and priors"
    if not any(key.endswith(f"@{case.software}") for key in keys):
        return f"{case.software} never fitted: constants of other software and priors"
    if case.row.size is not None and case.row.size < LARGE:
        return "mostly software start-up, which varies most"
    return "system never fitted"


def fit_libraries(paths: Sequence[Path], *, command: str) -> LibraryCalibration:
    """Fit all families to measurements tables.

    Raises:
        CalibrationError: If no row can be predicted and was measured.
    """
    cases = [prepared for path in paths for prepared in prepare_cases(read_measurements(path)).cases]
    if not cases:
        names = ", ".join(map(str, paths))
        raise CalibrationError(
            f"{names}: no row has a known library model and a time. See docs/accuracy/predicted-vs-measured.md."
        )
    pools = by_pool(cases)
    fitted = {name: fit_scaled(members) for name, members in pools.items()}
    return LibraryCalibration(
        pools={name: _pack(fitted[name], members) for name, members in pools.items()},
        parameters={
            f"{name}.{key}": parameter
            for name, found in fitted.items()
            for key, parameter in _parameters(name, found).items()
        },
        fitted_on=[
            FittedRow(id=prepared.case.row.id, quantity=prepared.family.name, seconds=_round(prepared.measured or math.nan))
            for prepared in cases
        ],
        data_hash=" ".join(data_hash(path) for path in paths),
        command=command,
        version=__version__,
    )


def by_pool(cases: Sequence[PreparedCase]) -> dict[str, list[PreparedCase]]:
    """Cases, grouped by the pool of their family."""
    pools: dict[str, list[PreparedCase]] = {}
    for prepared in cases:
        pools.setdefault(prepared.family.pool, []).append(prepared)
    return pools


def _pack(fitted: FittedPool, members: Sequence[PreparedCase]) -> Pool:
    return Pool(
        rows=len(members),
        systems=sorted(fitted.systems & {prepared.case.system for prepared in members}),
        deviations={key: _round(value) for key, value in fitted.deviations.items()},
        covariance=[[_round(value) for value in row[: index + 1]] for index, row in enumerate(fitted.covariance.tolist())],
        scale_seen=_round(fitted.scale_seen),
        scale_unseen=_round(fitted.scale_unseen),
    )


def _unpack(pool: Pool) -> FittedPool:
    covariance = np.zeros((len(pool.deviations), len(pool.deviations)))
    for index, row in enumerate(pool.covariance):
        covariance[index, : index + 1] = covariance[: index + 1, index] = row
    return FittedPool(
        deviations=pool.deviations,
        covariance=covariance,
        scale_seen=pool.scale_seen,
        scale_unseen=pool.scale_unseen,
    )


def _round(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _parameters(pool: str, fitted: FittedPool) -> dict[str, Parameter]:
    """Each constant for a system that was not fitted, by name; of its transport class where it has one."""
    constants = {
        constant.what: constant for family in FAMILIES.values() if family.pool == pool for constant in family.constants
    }
    named = {key.partition("@")[0] for key in fitted.deviations if "@" in key}
    named |= {what for what in constants if what in fitted.deviations and f"{what}." not in " ".join(fitted.deviations)}
    return {
        key: _parameter(constants[key.partition(".")[0]], key, fitted) for key in sorted(fitted.deviations) if key in named
    }


def _parameter(constant: Constant, name: str, fitted: FittedPool) -> Parameter:
    what, _, transport = name.partition(".")
    keys = [key for key in dict.fromkeys((what, f"{what}.{kind_of(transport)}", name)) if key in fitted.deviations]
    position = [list(fitted.deviations).index(key) for key in keys]
    moved = sum(fitted.deviations[key] for key in keys)
    deviation = math.sqrt(float(fitted.covariance[np.ix_(position, position)].sum()))
    prior = math.hypot(constant.spread, constant.between * math.sqrt(len(keys) - 1))
    before = constant.prior_of(transport)
    return Parameter(
        value=_round(constant.moved(before, moved)),
        low=_round(constant.moved(before, moved - _Z80 * deviation)),
        high=_round(constant.moved(before, moved + _Z80 * deviation)),
        identified=deviation <= _IDENTIFIED * prior,
        meaning=constant.meaning,
        prior=_round(before),
    )


def save_libraries(calibration: LibraryCalibration, path: Path) -> None:
    """Write a calibration as JSON."""
    write_bytes(path, orjson.dumps(calibration.model_dump(), option=orjson.OPT_APPEND_NEWLINE))


def load_libraries(path: Path | None = None) -> LibraryCalibration:
    """Constants of libraries from a file; the shipped ones if ``path`` is None.

    Raises:
        ConfigError: If the file cannot be read or is not such a calibration.
    """
    path = path or _SHIPPED
    try:
        return LibraryCalibration.model_validate(orjson.loads(read_text(path)))
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}:{error.colno}: is not JSON ({error.msg}). Fix the file.") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = "".join(f"{part}: " for part in problem["loc"])
        raise ConfigError(f"{path}: {place}{problem['msg']}. Make the file with `calibrate published`.") from None


def is_library_file(path: Path) -> bool:
    """Whether a file declares itself a calibration of libraries; it may still be invalid."""
    try:
        document = orjson.loads(read_text(path))
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and document.get("kind") == "libraries"
