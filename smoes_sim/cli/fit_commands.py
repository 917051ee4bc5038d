"""``smoes-sim calibrate`` and ``validate``: fit constants on some rows, and see how wrong predictions of others are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.display.tables import percent, seconds

if TYPE_CHECKING:
    from smoes_sim.calibration import Fitted
    from smoes_sim.libraries.published import LibraryCalibration
    from smoes_sim.prediction.constants import Calibration

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_WORST = 5
"""Cases that are named below the table of errors."""


def calibrate(
    measurements: Annotated[
        Path, typer.Argument(help="A measurements table (CSV) whose rows name a topology or scenario; or: published.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Calibration file to write.")],
    fit: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="COLUMN=VALUE[,...]",
            help="Fit rows that meet it (all conditions of one --fit, any of several); the others are held out. [all rows]",
        ),
    ] = None,
    scenario: Annotated[
        Optional[str], typer.Option(help="Fit to this scenario's rows of mode step, op ttft and tpot, instead.")
    ] = None,
    add: Annotated[
        Optional[list[Path]], typer.Option(metavar="TABLE.csv", help="With published: a table of yours, fitted too.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit the constants of a machine to what was measured on it.

    For example: smoes-sim calibrate rows.csv --fit mode=sendrecv --fit 'bytes_per_rank=1 MiB' -o machine.json
    """
    from smoes_sim.calibration import fit_rows, select_rows
    from smoes_sim.errors import ConfigError
    from smoes_sim.measurements import read_measurements
    from smoes_sim.prediction.constants import save_calibration
    from smoes_sim.results.write import to_json

    if scenario is not None:
        if fit:
            raise ConfigError("--fit picks rows, --scenario takes those of mode step. Give one of them.")
        _calibrate_step(measurements, scenario, out, seed=seed, as_json=as_json)
        return
    if str(measurements) == "published":
        if fit:
            raise ConfigError("--fit picks rows of a table of yours; published takes all. Leave it out.")
        _calibrate_libraries(add or [], out, as_json=as_json)
        return
    if add:
        raise ConfigError("--add gives published more rows. Write: smoes-sim calibrate published --add rows.csv -o FILE")
    rows = read_measurements(measurements)
    chosen = select_rows(rows, fit or [])
    options = "".join(f" --fit {shlex.quote(expression)}" for expression in fit or [])
    command = f"smoes-sim calibrate {shlex.quote(measurements.name)}{options} --seed {seed}"
    fitted = fit_rows(measurements, chosen, command=command, seed=seed)
    save_calibration(fitted.calibration, out)
    show.talk(f"calibration: {out}")
    held_out = len(rows) - len(fitted.residuals)
    document = fitted.calibration.model_dump() | {"residuals": fitted.document(), "held_out": held_out}
    typer.echo(to_json(document) if as_json else _calibration_text(fitted, held_out=held_out), nl=False)


def _calibrate_step(measurements: Path, scenario: str, out: Path, *, seed: int, as_json: bool) -> None:
    """Fit to the two latencies of a scenario."""
    from smoes_sim.calibration import fit_step_latencies
    from smoes_sim.prediction.constants import save_calibration
    from smoes_sim.results.write import to_json
    from smoes_sim.scenario import load_scenario

    calibration = fit_step_latencies(measurements, load_scenario(scenario), name=scenario, seed=seed)
    save_calibration(calibration, out)
    show.talk(f"calibration: {out}")
    typer.echo(to_json(calibration.model_dump()) if as_json else show.calibration(calibration), nl=False)


def _calibrate_libraries(tables: list[Path], out: Path, *, as_json: bool) -> None:
    """Fit the library models to the published systems, and to tables of one's own."""
    from smoes_sim.libraries.published import PUBLISHED, fit_libraries, save_libraries
    from smoes_sim.results.write import to_json

    command = " ".join(["smoes-sim calibrate published", *(f"--add {shlex.quote(path.name)}" for path in tables)])
    libraries = fit_libraries([PUBLISHED, *tables], command=command)
    save_libraries(libraries, out)
    show.talk(f"calibration: {out}")
    typer.echo(to_json(libraries.model_dump()) if as_json else show.parameters(libraries.parameters), nl=False)


def _calibration_text(fitted: Fitted, *, held_out: int) -> str:
    calibration = fitted.calibration
    text = show.calibration(calibration)
    text += f"\nModel's own error, on rows left out of the fit: {100 * calibration.spread:.2g} % (standard deviation)"
    if calibration.repeat_spread:
        text += f"; repeats of one row scatter by {100 * calibration.repeat_spread:.2g} %"
    if len(calibration.spreads) > 1:
        text += "\nBy kind: " + ", ".join(f"{kind} {100 * spread:.2g} %" for kind, spread in calibration.spreads.items())
    return text + (f"\n{held_out} rows are held out; smoes-sim validate predicts them\n" if held_out else "\n")


def validate(
    measurements: Annotated[
        Optional[Path],
        typer.Argument(help="A measurements table (CSV). [the published systems, each predicted by a fit without it]"),
    ] = None,
    calibration: Annotated[
        Optional[str],
        typer.Option(metavar="FILE", help="Predict with these constants. [links at nominal rates; libraries as shipped]"),
    ] = None,
    report: Annotated[Optional[Path], typer.Option(metavar="FILE.html", help="Write a page with plots.")] = None,
    as_json: Json = False,
) -> None:
    """Hold predictions against measurements; rows that were fitted, and rows without a time, are printed apart.

    For example: smoes-sim validate rows.csv --calibration machine.json --report errors.html
    """
    from smoes_sim.cli.published_text import published_text
    from smoes_sim.errors import ConfigError
    from smoes_sim.libraries.published import PUBLISHED
    from smoes_sim.measurements import read_measurements
    from smoes_sim.report.page import check_page_file
    from smoes_sim.report.validation_page import write_validation_page
    from smoes_sim.results.write import to_json
    from smoes_sim.validation.published import published_errors
    from smoes_sim.validation.validate import predictor
    from smoes_sim.validation.validate import validate as validate_rows

    if report is not None:
        check_page_file(report)
    if measurements is None:
        if calibration:
            raise ConfigError("--calibration is for a table of yours; the published one is fitted here. Leave it out.")
        document = published_errors(PUBLISHED)
    else:
        rows = read_measurements(measurements)
        constants, libraries = _constants(calibration)
        uses_libraries = any(not (row.topology or row.scenario) for row in rows)
        known = constants or (libraries if uses_libraries else None)
        document = validate_rows(rows, predictor(constants, libraries), calibration=known, path=measurements)
    if report is not None:
        name = measurements.name if measurements else PUBLISHED.name
        write_validation_page(document, report, measurements=name, calibration=calibration or "shipped, of libraries")
        show.talk(f"report: {report}")
    text = validation_text if measurements else published_text
    typer.echo(to_json(document) if as_json else text(document), nl=False)


def _constants(name: str | None) -> tuple[Calibration | None, LibraryCalibration]:
    """Constants of a machine, if such a file is named, and of libraries: the named file's, or those that are shipped."""
    from smoes_sim.libraries.published import is_library_file, load_libraries
    from smoes_sim.prediction.constants import load_calibration

    if name is not None and Path(name).is_file() and is_library_file(Path(name)):
        return None, load_libraries(Path(name))
    return load_calibration(name) if name else None, load_libraries()


def validation_text(document: dict[str, Any]) -> str:
    """Errors by family and system, the worst cases, and what was skipped."""
    known = document["calibrated_on"]
    unmeasured = _unmeasured(document["unmeasured"])
    if not document["rows"] and unmeasured:
        return unmeasured + _skipped(document["skipped"])
    text = "Absolute relative error (%)"
    if known is None:
        text += ", predictions at nominal link rates; nothing is fitted\n"
    else:
        text += (
            f" of rows that were not fitted; 80%: share inside the 80% interval; constants fitted on {known['rows']} rows\n"
        )
        if not known["same_file"]:
            text += "note: this is not the file that was fitted (or it has changed); fitted rows are told by id and time\n"
        if known["open"]:
            text += f"note: not pinned down by the fit: {', '.join(known['open'])}\n"
    text += _errors_table("family", document["families"])
    if len(document["systems"]) > 1:
        text += "\n" + _errors_table("system", document["systems"])
    if document["repeatability"] is not None:
        text += f"\nRepeats of one row differ by {100 * document['repeatability']:.2g} %: no model can be better\n"
    if document["in_sample"]:
        text += "\nIn-sample: rows that were fitted, which say little\n" + _errors_table("family", document["in_sample"])
    text += _worst(document["rows"], is_fitted=known is not None)
    return text + ("\n" + unmeasured if unmeasured else "") + _skipped(document["skipped"])


def _errors_table(what: str, groups: dict[str, dict[str, Any]]) -> str:
    keys = ("median_ape", "mape", "p90_ape", "max_ape", "coverage")
    body = [[name, str(errors["n"]), *(percent(errors[key]) for key in keys)] for name, errors in groups.items()]
    return show.table([what, "n", "median", "mean", "p90", "worst", "80%"], body)


def _worst(rows: list[dict[str, Any]], *, is_fitted: bool) -> str:
    """The largest errors, with what may be the cause."""
    held_out = [row for row in rows if not row["in_sample"]]
    if not is_fitted or not held_out:
        return ""
    worst = sorted(held_out, key=lambda row: (-abs(row["relative_error"]), row["id"]))[:_WORST]
    body = [
        [row["id"], row["doubt"] or "no known cause", seconds(row["measured_s"]), seconds(row["predicted_s"]),
         f"{100 * row['relative_error']:+.1f}"]
        for row in worst
    ]  # fmt: skip
    lines = show.table(["id", "perhaps because", "measured", "predicted", "error (%)"], body, left=2)
    return "\nLargest errors\n" + lines


def _unmeasured(rows: list[dict[str, Any]]) -> str:
    """Predictions of rows without a time."""
    body = [
        [row["id"], row["family"], *(seconds(row[key]) for key in ("predicted_s", "low_s", "high_s")), row["doubt"]]
        for row in rows
    ]
    header = ["id", "family", "predicted", "10%", "90%", "beware"]
    return f"Rows without a time: predicted\n{show.table(header, body, left=2)}" if rows else ""


def _skipped(skipped: list[dict[str, str]]) -> str:
    if not skipped:
        return ""
    reasons: dict[str, int] = {}
    for entry in skipped:
        reasons[entry["reason"]] = reasons.get(entry["reason"], 0) + 1
    body = [[str(count), reason] for reason, count in reasons.items()]
    return f"\nSkipped {len(skipped)} rows\n" + show.table(["n", "reason"], body, left=2)
