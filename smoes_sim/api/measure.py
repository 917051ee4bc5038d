"""Fit constants to measurements, and compare predictions with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smoes_sim.api.inputs import ScenarioLike, resolve
from smoes_sim.calibration import fit_rows, fit_step_latencies
from smoes_sim.calibration.fit_result import CalibrationFit
from smoes_sim.display.progress import Progress
from smoes_sim.errors import ConfigError
from smoes_sim.libraries.published import PUBLISHED, LibraryCalibration, is_library_file, load_libraries
from smoes_sim.measurements import Measurements
from smoes_sim.measurements import read_measurements as read_table
from smoes_sim.prediction.constants import Calibration, load_calibration, save_calibration
from smoes_sim.validation import Validation, published_errors, validate_table

MeasurementsLike = str | Path | Measurements
"""A measurements table, or the path of one (CSV or Parquet)."""


def read_measurements(path: str | Path) -> Measurements:
    """The rows of a measurements table.

    Args:
        path: A CSV or Parquet file, or ``"published"`` for the shipped measurements of published systems.

    Returns:
        :class:`Measurements`: a sequence of typed rows; ``to_polars()`` and ``to_pandas()`` give frames.

    Raises:
        MeasurementError: If the file breaks a rule, with its line.

    Example:
        >>> from smoes_sim import read_measurements
        >>> {row.op for row in read_measurements("published")} >= {"alltoall", "dispatch", "combine", "sendrecv"}
        True
    """
    return read_table(PUBLISHED if str(path) == "published" else Path(path))


def calibrate(
    measurements: MeasurementsLike,
    *,
    fit: Sequence[str] = (),
    scenario: ScenarioLike | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    show_progress: Progress = "auto",
) -> CalibrationFit:
    """Fit the constants of a machine to measurements.

    Args:
        measurements: A table whose rows name a topology or a scenario.
        fit: Conditions that choose the rows to fit, such as ``["mode=sendrecv", "bytes_per_rank=1 MiB"]``: a row that meets
            any of them (all parts of one, separated by commas) is fitted, the others are held out. Default: all rows.
        scenario: Fit to the measured TTFT and TPOT of this scenario instead (rows of mode ``step``).
        out: File to write the calibration to (JSON).
        seed: Random seed of the bootstrap draws.
        show_progress: Where to show how far it has come.

    Returns:
        A :class:`CalibrationFit`: its ``calibration`` goes into ``simulate(..., calibration="FILE")`` and :func:`validate`;
        ``residuals`` are those of the fitted rows.

    Raises:
        ConfigError: If the table breaks a rule.
        CalibrationError: If the constants cannot be fitted to the rows.

    Example:
        ``calibrate("rows.csv", fit=["mode=sendrecv", "bytes_per_rank=1 MiB"], out="machine.json")``

        >>> calibrate("rows.csv")
        Traceback (most recent call last):
        smoes_sim.errors.ConfigError: rows.csv: cannot be read (No such file or directory). Check the path and its rights.
    """
    rows = _rows(measurements)
    if scenario is not None:
        if fit:
            raise ConfigError("fit chooses rows, scenario uses those of mode step. Give one of them.")
        name, loaded = resolve(scenario)
        found = fit_step_latencies(rows, loaded, name=name, seed=seed)
    else:
        found = fit_rows(rows, fit=fit, seed=seed, show_progress=show_progress)
    if out is not None:
        save_calibration(found.calibration, Path(out))
    return found


def validate(
    measurements: MeasurementsLike | None = None,
    *,
    calibration: str | Path | Calibration | LibraryCalibration | None = None,
    show_progress: Progress = "auto",
) -> Validation:
    """Compare predictions with measurements.

    Args:
        measurements: A table; default: the shipped measurements of published systems, each predicted by constants that were
            fitted without it.
        calibration: Constants of the prediction: a file, or an object. Default: nominal links, and the shipped constants of
            libraries.
        show_progress: Where to show how far it has come.

    Returns:
        A :class:`Validation`: predicted and measured seconds by row, relative errors by family.

    Raises:
        ConfigError: If the table or the calibration breaks a rule.

    Example:
        ``validate("rows.csv", calibration="machine.json").to_polars()``

        >>> table = read_measurements("published")
        >>> len(validate(table.with_rows(table.rows[:2])).rows)
        2
    """
    if measurements is None:
        if calibration is not None:
            raise ConfigError("calibration needs a table of yours; the published one is fitted here. Remove it.")
        return published_errors(show_progress=show_progress)
    return validate_table(_rows(measurements), calibration=constants(calibration), show_progress=show_progress)


def _rows(measurements: MeasurementsLike) -> Measurements:
    return measurements if isinstance(measurements, Measurements) else read_measurements(measurements)


def constants(
    calibration: str | Path | Calibration | LibraryCalibration | None,
) -> Calibration | LibraryCalibration | None:
    """The constants of a machine or of libraries: those given, or those in the file; None for None.

    Raises:
        ConfigError: If there is no such file, or it breaks a rule.
    """
    if not isinstance(calibration, str | Path):
        return calibration
    if str(calibration) == "published":
        return load_libraries()
    path = Path(calibration)
    return load_libraries(path) if path.is_file() and is_library_file(path) else load_calibration(str(calibration))
