"""Compare predictions with measurements: errors by family and by system, and the coverage of the 80% intervals.

A predictor maps a row to seconds with an 80% interval, or to the reason why there is none. Rows that name a topology or a
scenario are predicted by the simulator. For other rows the columns describe the topology, and the model of the library
predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from smoes_sim.calibration.cases import CaseReader, ExchangeCase, SimulatedCase
from smoes_sim.display.progress import Progress, progress
from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.bandwidth import relative_error
from smoes_sim.libraries.published import LibraryCalibration, RowPrediction, load_libraries, predict_row
from smoes_sim.libraries.system import Skip
from smoes_sim.measurements import Measurement, Measurements, measured_time
from smoes_sim.prediction.constants import Calibration, interval_of
from smoes_sim.validation.errors import SkippedRow, UnmeasuredRow, ValidatedRow, errors_by, repeatability_of
from smoes_sim.validation.result import CalibrationSource, Validation

_START_UP = 0.5
"""Share of software start-up in the time of an exchange from which it is named as the weakness."""
_SAME_TIME = 1e-6
"""Largest relative difference of two times that count as the same measurement."""
_SAME_DIGITS = 1e-4
"""The same where the fitted time was written with five digits."""


Predictor = Callable[[Measurement], RowPrediction | Skip]


def predictor(calibration: Calibration | None, libraries: LibraryCalibration | None = None) -> Predictor:
    """A predictor: the simulator for rows that name a topology or scenario, else the model of the row's library.

    Topology and scenario files are read once per predictor.

    Args:
        calibration: Constants of a machine, for the simulator; links at nominal rates if None.
        libraries: Constants of libraries; the shipped ones if None.
    """
    libraries = libraries or load_libraries()
    fitted = {row.id: row.seconds for row in libraries.fitted_on}
    reader = CaseReader()

    def predict(row: Measurement) -> RowPrediction | Skip:
        if row.topology or row.scenario:
            return _simulated(row, calibration, reader)
        return _of_library(row, libraries, fitted)

    return predict


def _of_library(row: Measurement, libraries: LibraryCalibration, fitted: Mapping[str, float]) -> RowPrediction | Skip:
    """Prediction by the library's model on the topology that the columns describe."""
    answer = predict_row(row, libraries)
    if isinstance(answer, Skip):
        return answer
    known = fitted.get(row.id)
    is_fitted = known is not None and math.isclose(known, answer.measured or math.nan, rel_tol=_SAME_DIGITS)
    return replace(answer, is_fitted=is_fitted)


def _simulated(row: Measurement, calibration: Calibration | None, reader: CaseReader) -> RowPrediction | Skip:
    """Prediction by the simulator on the row's topology or scenario, under every draw of the calibration."""
    try:
        case = reader.read(row)
    except ConfigError as error:
        return Skip(str(error))
    system = Path(row.topology or row.scenario).stem
    if calibration is None:
        return RowPrediction(seconds=case.duration({}), family=case.family, system=system, doubt="nothing is fitted")
    draws = [case.duration(calibration.draw(index)) for index in range(calibration.num_draws)]
    spread = calibration.spread_of(case.kind)
    seconds, low, high = interval_of(draws, spread=spread)
    doubt = _doubt(case, calibration, seconds, is_open=interval_of(draws, spread=0.0)[2] > seconds * math.exp(spread))
    return RowPrediction(seconds=seconds, low=low, high=high, family=case.family, system=system, doubt=doubt)


def _doubt(case: SimulatedCase, calibration: Calibration, seconds: float, *, is_open: bool) -> str:
    """The most serious known weakness of a prediction, "" if there is none; ``is_open``: its draws disagree."""
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
            return "mostly software start-up, which varies most"
        if case.schedule == "all_to_all_single":
            return "the first direction of a pair depends on the rank that arrives late"
    elif case.row.phase in {"experts", "shared", "layer", "step"}:
        return "computation: cores may be shared, small matrices are slower than a roofline"
    return f"the fit leaves open: {', '.join(open_ended)}" if is_open and open_ended else ""


def validate(
    rows: Sequence[Measurement],
    predict: Predictor,
    *,
    calibration: Calibration | LibraryCalibration | None = None,
    show_progress: Progress = "none",
) -> Validation:
    """Errors of the predictions for all rows that can be predicted; fitted rows are counted apart.

    Args:
        rows: Measured rows; a :class:`Measurements` table also tells whether it is the file that was fitted.
        predict: The predictor, such as :func:`predictor`.
        calibration: The constants that the predictor uses, for the rows they were fitted on.
        show_progress: Where to show the number of finished rows.
    """
    predicted: list[ValidatedRow] = []
    unmeasured: list[UnmeasuredRow] = []
    skipped: list[SkippedRow] = []
    fitted = _FittedRows(calibration, rows.data_hash if isinstance(rows, Measurements) else "")
    with progress("rows", len(rows), show_progress) as advance:
        answers = []
        for number, row in enumerate(rows, start=1):
            answers.append(predict(row))
            advance(number)
    for row, answer in zip(rows, answers, strict=True):
        if isinstance(answer, Skip):
            skipped.append(SkippedRow(id=row.id, reason=answer.reason))
            continue
        measured = answer.measured or measured_time(row)
        if measured is None:
            unmeasured.append(_without_time(row, answer))
        else:
            is_fitted = answer.is_fitted or row in fitted
            predicted.append(validated_row(row, answer, measured, is_fitted=is_fitted))
    held_out = [row for row in predicted if not row.in_sample]
    in_sample = [row for row in predicted if row.in_sample]
    return Validation(
        families=errors_by(held_out, lambda row: [row.family]),
        systems=errors_by(held_out, lambda row: [row.system]),
        in_sample=errors_by(in_sample, lambda row: [row.family]),
        rows=tuple(predicted),
        unmeasured=tuple(unmeasured),
        skipped=tuple(skipped),
        repeatability=repeatability_of(predicted),
        calibrated_on=fitted.source(),
    )


def validate_table(
    measurements: Measurements,
    *,
    calibration: Calibration | LibraryCalibration | None = None,
    show_progress: Progress = "none",
) -> Validation:
    """Errors of predictions for a table under the constants of a machine or of libraries.

    Args:
        measurements: The table.
        calibration: Constants of a machine, for rows that name a topology or scenario, or of libraries, for all others.
            Without it links are at nominal rates and libraries have the shipped constants.
        show_progress: Where to show the number of finished rows.
    """
    libraries = calibration if isinstance(calibration, LibraryCalibration) else load_libraries()
    constants = calibration if isinstance(calibration, Calibration) else None
    uses_libraries = any(not (row.topology or row.scenario) for row in measurements)
    known = constants or (libraries if uses_libraries else None)
    return validate(measurements, predictor(constants, libraries), calibration=known, show_progress=show_progress)


class _FittedRows:
    """The rows that a calibration was fitted on: those with a fitted id, and the fitted time unless the file is the same."""

    def __init__(self, calibration: Calibration | LibraryCalibration | None, data_hash: str) -> None:
        self._calibration = calibration
        self._times = {row.id: row.seconds for row in calibration.fitted_on} if calibration else {}
        self._is_same = bool(calibration and data_hash and data_hash == calibration.data_hash)

    def __contains__(self, row: Measurement) -> bool:
        fitted = self._times.get(row.id)
        measured = measured_time(row)
        if fitted is None or measured is None:
            return False
        return self._is_same or math.isclose(fitted, measured, rel_tol=_SAME_TIME)

    def source(self) -> CalibrationSource | None:
        """What the calibration was fitted on, and whether the validated table is that file."""
        if self._calibration is None:
            return None
        return CalibrationSource(
            rows=len(self._times),
            data_hash=self._calibration.data_hash,
            same_file=self._is_same,
            command=self._calibration.command,
            open=self._open(),
        )

    def _open(self) -> tuple[str, ...]:
        """Constants of a machine that the fit leaves open; for those of libraries the intervals carry it."""
        if not isinstance(self._calibration, Calibration):
            return ()
        return tuple(name for name, known in self._calibration.parameters.items() if not known.identified)


def _without_time(row: Measurement, answer: RowPrediction) -> UnmeasuredRow:
    """The prediction for a row without a time."""
    return UnmeasuredRow(
        id=row.id,
        family=answer.family,
        system=answer.system or row.system,
        size_bytes=row.size,
        predicted_s=answer.seconds,
        low_s=answer.low,
        high_s=answer.high,
        doubt=answer.doubt,
    )


def validated_row(row: Measurement, answer: RowPrediction, measured: float, *, is_fitted: bool) -> ValidatedRow:
    """The prediction for a row beside its measured time in seconds."""
    is_inside = None if answer.low is None or answer.high is None else bool(answer.low <= measured <= answer.high)
    scatter = None
    if row.duration_p10 and row.duration_p90:
        scatter = (row.duration_p90 - row.duration_p10) / 2 / measured
    return ValidatedRow(
        id=row.id,
        family=answer.family,
        system=answer.system or row.system,
        ranks=row.num_ranks,
        size_bytes=row.size,
        measured_s=measured,
        predicted_s=answer.seconds,
        low_s=answer.low,
        high_s=answer.high,
        inside=is_inside,
        relative_error=relative_error(answer.seconds, measured),
        repeatability=scatter,
        in_sample=is_fitted,
        doubt=answer.doubt,
    )
