"""Hold predictions against measurements: how wrong are we, by family and by system, and do the intervals hold?

A predictor takes a row and gives seconds with an 80% interval, or the reason why it cannot. Rows that name a topology or a
scenario go to the simulator itself; for others the row's columns build the topology, and the model of its library predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smoes_sim.calibration.cases import CaseReader, ExchangeCase, SimulatedCase
from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.bandwidth import relative_error
from smoes_sim.libraries.published import LibraryCalibration, load_libraries, predict_row
from smoes_sim.libraries.system import Skip
from smoes_sim.measurements import Measurement, data_hash, measured_time
from smoes_sim.prediction.constants import Calibration, interval_of

_START_UP = 0.5
"""An exchange is called ruled by its start-up if that takes this share of its time."""
_SAME_TIME = 1e-6
"""Times within this, relatively, are one measurement written twice."""
_SAME_DIGITS = 1e-4
"""As above, where the fitted time was written with five digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What is said of a row.

    Attributes:
        seconds: The prediction.
        low: 10th percentile; None where nothing says how wrong the prediction may be.
        high: 90th percentile.
        family: Kind of operation: rows whose errors belong in one line.
        system: Hardware or topology.
        doubt: Known reason to be wrong, for the list of worst cases; "" if there is none.
        measured: Seconds that the row's bandwidth means, where it reports no time.
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


Predictor = Callable[[Measurement], Predicted | Skip]


def predictor(calibration: Calibration | None, libraries: LibraryCalibration | None = None) -> Predictor:
    """The predictor that suits each row: the simulator where a row names what ran, else the model of its library.

    Args:
        calibration: Constants of a machine, for the simulator; nominal link rates when None.
        libraries: Constants of libraries; those that are shipped when left out.
    """
    libraries = libraries or load_libraries()
    fitted = {row.id: row.seconds for row in libraries.fitted_on}
    reader = CaseReader()

    def predict(row: Measurement) -> Predicted | Skip:
        if row.topology or row.scenario:
            return _simulated(row, calibration, reader)
        return _of_library(row, libraries, fitted)

    return predict


def _of_library(row: Measurement, libraries: LibraryCalibration, fitted: Mapping[str, float]) -> Predicted | Skip:
    """The library model of a row on the topology that its columns describe."""
    answer = predict_row(row, libraries)
    if isinstance(answer, Skip):
        return answer
    known = fitted.get(row.id)
    return Predicted(
        seconds=answer.seconds,
        low=answer.low,
        high=answer.high,
        family=answer.family,
        system=answer.system,
        doubt=answer.doubt,
        measured=answer.measured,
        is_fitted=known is not None and math.isclose(known, answer.measured or math.nan, rel_tol=_SAME_DIGITS),
    )


def _simulated(row: Measurement, calibration: Calibration | None, reader: CaseReader) -> Predicted | Skip:
    """The simulator on the row's topology or scenario, under every draw of the calibration."""
    try:
        case = reader.read(row)
    except ConfigError as error:
        return Skip(str(error))
    system = Path(row.topology or row.scenario).stem
    if calibration is None:
        return Predicted(seconds=case.duration({}), family=case.family, system=system, doubt="nothing is fitted")
    draws = [case.duration(calibration.draw(index)) for index in range(calibration.num_draws)]
    spread = calibration.spread_of(case.kind)
    seconds, low, high = interval_of(draws, spread=spread)
    doubt = _doubt(case, calibration, seconds, is_open=interval_of(draws, spread=0.0)[2] > seconds * math.exp(spread))
    return Predicted(seconds=seconds, low=low, high=high, family=case.family, system=system, doubt=doubt)


def _doubt(case: SimulatedCase, calibration: Calibration, seconds: float, *, is_open: bool) -> str:
    """What is known to be weak about a prediction, the gravest first; ``is_open``: its draws disagree."""
    missing = sorted(name for name in case.constants if name.startswith("efficiency.") and name not in calibration.draws)
    if missing:
        return f"not fitted, so at the nominal rate: {', '.join(name.partition('.')[2] for name in missing)}"
    open_ended = [name for name in case.constants if (known := calibration.parameters.get(name)) and not known.identified]
    size = case.row.size
    if size and calibration.sizes and not calibration.sizes[0] <= size <= calibration.sizes[1]:
        return "larger than anything fitted" if size > calibration.sizes[1] else "smaller than anything fitted"
    if isinstance(case, ExchangeCase):
        constants = {name: float(np.median(values)) for name, values in calibration.draws.items()}
        start_up = case.duration(constants | {"per_message": 0.0, "per_exchange": 0.0})
        if 1 - start_up / seconds >= _START_UP:
            return "ruled by software start-up, which varies most"
        if case.schedule == "all_to_all_single":
            return "which direction of a pair goes first depends on who arrives late"
    elif case.row.phase in {"experts", "shared", "layer", "step"}:
        return "computation: cores may be shared, small matrices are slower than a roofline"
    return f"the fit leaves open: {', '.join(open_ended)}" if is_open and open_ended else ""


def validate(
    rows: Sequence[Measurement],
    predict: Predictor,
    *,
    calibration: Calibration | LibraryCalibration | None = None,
    path: Path | None = None,
) -> dict[str, Any]:
    """Predict what can be predicted and count the errors; rows that were fitted are counted apart.

    Returns:
        ``families`` and ``systems`` (n, median, mean, 90th percentile and largest absolute relative error, share inside
        the 80% interval), the same of ``in_sample``, ``rows``, ``unmeasured``
        (predictions of rows without a time), ``skipped`` with reasons, ``repeatability`` (median
        relative scatter of repeats), and ``calibrated_on``: None if nothing was fitted.
    """
    predicted: list[dict[str, Any]] = []
    unmeasured: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    fitted = _FittedRows(calibration, path)
    for row in rows:
        answer = predict(row)
        if isinstance(answer, Skip):
            skipped.append({"id": row.id, "reason": answer.reason})
            continue
        measured = answer.measured or measured_time(row)
        if measured is None:
            unmeasured.append(_without_time(row, answer))
        else:
            predicted.append(row_of(row, answer, measured, is_fitted=answer.is_fitted or row in fitted))
    held_out = [row for row in predicted if not row["in_sample"]]
    in_sample = [row for row in predicted if row["in_sample"]]
    return {
        "families": errors_by(held_out, "family"),
        "systems": errors_by(held_out, "system"),
        "in_sample": errors_by(in_sample, "family"),
        "rows": predicted,
        "unmeasured": unmeasured,
        "skipped": skipped,
        "repeatability": _repeatability(predicted),
        "calibrated_on": fitted.document(),
    }


class _FittedRows:
    """Which rows a calibration was fitted on: those with a fitted id, and the fitted time unless the file is the same."""

    def __init__(self, calibration: Calibration | LibraryCalibration | None, path: Path | None) -> None:
        self._calibration = calibration
        self._times = {row.id: row.seconds for row in calibration.fitted_on} if calibration else {}
        self._is_same = bool(calibration and path and data_hash(path) == calibration.data_hash)

    def __contains__(self, row: Measurement) -> bool:
        fitted = self._times.get(row.id)
        measured = measured_time(row)
        if fitted is None or measured is None:
            return False
        return self._is_same or math.isclose(fitted, measured, rel_tol=_SAME_TIME)

    def document(self) -> dict[str, Any] | None:
        """What the calibration was fitted on, and whether this is that file."""
        if self._calibration is None:
            return None
        return {
            "rows": len(self._times),
            "data_hash": self._calibration.data_hash,
            "same_file": self._is_same,
            "command": self._calibration.command,
            "open": self._open(),
        }

    def _open(self) -> list[str]:
        """Constants that the fit leaves open; those of libraries are open to a degree, which their intervals carry."""
        if not isinstance(self._calibration, Calibration):
            return []
        return [name for name, known in self._calibration.parameters.items() if not known.identified]


def _without_time(row: Measurement, answer: Predicted) -> dict[str, Any]:
    """The prediction of a row without a time, by JSON key."""
    return {
        "id": row.id,
        "family": answer.family,
        "system": answer.system or row.system,
        "size_bytes": row.size,
        "predicted_s": answer.seconds,
        "low_s": answer.low,
        "high_s": answer.high,
        "doubt": answer.doubt,
    }


def row_of(row: Measurement, answer: Predicted, measured: float, *, is_fitted: bool) -> dict[str, Any]:
    """A prediction beside its measurement, by JSON key."""
    is_inside = None if answer.low is None or answer.high is None else bool(answer.low <= measured <= answer.high)
    scatter = None
    if row.duration_p10 and row.duration_p90:
        scatter = (row.duration_p90 - row.duration_p10) / 2 / measured
    return {
        "id": row.id,
        "family": answer.family,
        "system": answer.system or row.system,
        "ranks": row.num_ranks,
        "size_bytes": row.size,
        "measured_s": measured,
        "predicted_s": answer.seconds,
        "low_s": answer.low,
        "high_s": answer.high,
        "inside": is_inside,
        "relative_error": relative_error(answer.seconds, measured),
        "repeatability": scatter,
        "in_sample": is_fitted,
        "doubt": answer.doubt,
    }


def errors_by(rows: Iterable[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Errors of rows that have the same value of ``key``."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return {name: _errors(groups[name]) for name in sorted(groups)}


def _errors(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    absolute = np.abs([row["relative_error"] for row in rows])
    inside = [row["inside"] for row in rows if row["inside"] is not None]
    return {
        "n": len(rows),
        "median_ape": float(np.median(absolute)),
        "mape": float(absolute.mean()),
        "p90_ape": float(np.percentile(absolute, 90)),
        "max_ape": float(absolute.max()),
        "coverage": float(np.mean(inside)) if inside else None,
    }


def _repeatability(rows: Sequence[dict[str, Any]]) -> float | None:
    """Median over rows of half the distance from the 10th to the 90th percentile of repeats, relative."""
    known = [row["repeatability"] for row in rows if row["repeatability"] is not None]
    return float(np.median(known)) if known else None
