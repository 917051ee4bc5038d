"""``smoes-sim calibrate`` and ``validate``: fit constants to measurements, and compare predictions with measurements."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smoes_sim.cli import show

if TYPE_CHECKING:
    from smoes_sim.calibration import CalibrationFit
    from smoes_sim.display.result import Result
    from smoes_sim.libraries.published import LibraryCalibration
    from smoes_sim.prediction.constants import Calibration
    from smoes_sim.validation import Validation

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def calibrate(
    measurements: Annotated[
        Path, typer.Argument(help="Measurements table (CSV) whose rows name a topology or scenario; or: published.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Calibration file to write.")],
    fit: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="COLUMN=VALUE[,...]",
            help="Fit the rows that meet all conditions; repeat it to add rows. Other rows are held out. [all rows]",
        ),
    ] = None,
    scenario: Annotated[
        Optional[str],
        typer.Option(
            help="Fit to the measured TTFT and TPOT of this scenario instead (rows of mode step, op ttft and tpot)."
        ),
    ] = None,
    add: Annotated[
        Optional[list[Path]], typer.Option(metavar="TABLE.csv", help="With published: fit this table of yours too.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit the constants of a machine to measurements.

    For example: smoes-sim calibrate rows.csv --fit mode=sendrecv --fit 'bytes_per_rank=1 MiB' -o machine.json
    """
    from smoes_sim.calibration import fit_rows
    from smoes_sim.errors import ConfigError
    from smoes_sim.measurements import read_measurements

    if scenario is not None:
        if fit:
            raise ConfigError("--fit chooses rows, --scenario uses those of mode step. Give one of them.")
        _calibrate_step(measurements, scenario, out, seed=seed, as_json=as_json)
        return
    if str(measurements) == "published":
        if fit:
            raise ConfigError("--fit chooses rows of your own table; published uses all rows. Remove it.")
        _calibrate_libraries(add or [], out, as_json=as_json)
        return
    if add:
        raise ConfigError("--add adds rows to published. Write: smoes-sim calibrate published --add rows.csv -o FILE")
    _finish(fit_rows(read_measurements(measurements), fit=fit or [], seed=seed), out, as_json=as_json)


def _finish(fitted: CalibrationFit, out: Path, *, as_json: bool) -> None:
    """Write the calibration and print the fit."""
    from smoes_sim.prediction.constants import save_calibration

    save_calibration(fitted.calibration, out)
    show.talk(f"calibration: {out}")
    _print(fitted, as_json=as_json)


def _print(result: Result, *, as_json: bool) -> None:
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json

    typer.echo(to_json(result.to_dict()) if as_json else as_text(result.tables()), nl=False)


def _calibrate_step(measurements: Path, scenario: str, out: Path, *, seed: int, as_json: bool) -> None:
    """Fit to the two latencies of a scenario."""
    from smoes_sim.calibration import fit_step_latencies
    from smoes_sim.measurements import read_measurements
    from smoes_sim.scenario import load_scenario

    rows = read_measurements(measurements)
    _finish(fit_step_latencies(rows, load_scenario(scenario), name=scenario, seed=seed), out, as_json=as_json)


def _calibrate_libraries(tables: list[Path], out: Path, *, as_json: bool) -> None:
    """Fit the library models to the published systems, and to tables of the user."""
    from smoes_sim.libraries.published import PUBLISHED, fit_libraries, save_libraries

    command = " ".join(["smoes-sim calibrate published", *(f"--add {shlex.quote(path.name)}" for path in tables)])
    libraries = fit_libraries([PUBLISHED, *tables], command=command)
    save_libraries(libraries, out)
    show.talk(f"calibration: {out}")
    _print(libraries, as_json=as_json)


def validate(
    measurements: Annotated[
        Optional[Path],
        typer.Argument(help="Measurements table (CSV). [the published systems, each predicted by a fit without it]"),
    ] = None,
    calibration: Annotated[
        Optional[str],
        typer.Option(
            metavar="FILE", help="Constants of the prediction. [links at nominal rates; shipped constants of libraries]"
        ),
    ] = None,
    report: Annotated[Optional[Path], typer.Option(metavar="FILE.html", help="Write an HTML page with plots.")] = None,
    as_json: Json = False,
) -> None:
    """Compare predictions with measurements; fitted rows and rows without a time are printed separately.

    For example: smoes-sim validate rows.csv --calibration machine.json --report errors.html
    """
    from smoes_sim.errors import ConfigError
    from smoes_sim.libraries.published import PUBLISHED
    from smoes_sim.measurements import read_measurements
    from smoes_sim.report.page import check_page_file
    from smoes_sim.report.validation_page import write_validation_page
    from smoes_sim.validation import published_errors, validate_table

    if report is not None:
        check_page_file(report)
    if measurements is None and calibration:
        raise ConfigError("--calibration needs a table of yours; the published one is fitted here. Remove it.")
    result: Validation = (
        published_errors()
        if measurements is None
        else validate_table(read_measurements(measurements), calibration=_constants(calibration))
    )
    if report is not None:
        name = measurements.name if measurements else PUBLISHED.name
        write_validation_page(result, report, measurements=name, calibration=calibration or "shipped, of libraries")
        show.talk(f"report: {report}")
    _print(result, as_json=as_json)


def _constants(name: str | None) -> Calibration | LibraryCalibration | None:
    """The constants in a file, of a machine or of libraries; None without a name."""
    from smoes_sim.libraries.published import is_library_file, load_libraries
    from smoes_sim.prediction.constants import load_calibration

    if name is None:
        return None
    if name == "published":
        return load_libraries()
    return load_libraries(Path(name)) if Path(name).is_file() and is_library_file(Path(name)) else load_calibration(name)
