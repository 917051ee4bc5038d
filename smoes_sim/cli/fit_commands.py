"""``smoes-sim calibrate`` and ``validate``: fit constants to measurements, and compare predictions with measurements."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from smoes_sim.cli import show

if TYPE_CHECKING:
    from smoes_sim.display.result import Result

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def calibrate(
    measurements: Annotated[
        Path,
        typer.Argument(
            metavar="MEASUREMENTS", help="Measurements table (CSV) whose rows name a topology or scenario; or: published."
        ),
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
    from smoes_sim.api import measure
    from smoes_sim.errors import ConfigError

    if str(measurements) == "published" and scenario is None:
        if fit:
            raise ConfigError("--fit chooses rows of your own table; published uses all rows. Remove it.")
        _calibrate_libraries(add or [], out, as_json=as_json)
        return
    if add:
        raise ConfigError("--add adds rows to published. Write: smoes-sim calibrate published --add rows.csv -o FILE")
    fitted = measure.calibrate(measurements, fit=fit or [], scenario=scenario, out=out, seed=seed, show_progress="lines")
    show.talk(f"calibration: {out}")
    _print(fitted, as_json=as_json)


def _print(result: Result, *, as_json: bool) -> None:
    from smoes_sim.display.tables import as_text
    from smoes_sim.results.write import to_json

    typer.echo(to_json(result.to_dict()) if as_json else as_text(result.tables()), nl=False)


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
        typer.Argument(
            metavar="MEASUREMENTS",
            help="Measurements table (CSV). [the published systems, each predicted by a fit without it]",
        ),
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
    from smoes_sim.api import measure
    from smoes_sim.libraries.published import PUBLISHED
    from smoes_sim.report.page import check_page_file
    from smoes_sim.report.validation_page import write_validation_page

    if report is not None:
        check_page_file(report)
    result = measure.validate(measurements, calibration=calibration, show_progress="lines")
    if report is not None:
        name = measurements.name if measurements else PUBLISHED.name
        write_validation_page(result, report, measurements=name, calibration=calibration or "shipped, of libraries")
        show.talk(f"report: {report}")
    _print(result, as_json=as_json)
