"""How near predictions are to a real network: ``python -m benchmarks.lab`` (root, torch, a quiet machine, 20 minutes).

Builds every lab, measures exchanges and MoE layers in it, fits constants on ping-pong and one all-to-all size (and on the
layers of one scenario), predicts all other cases, prints the errors, and judges them against how well the same run repeats.
What was measured is kept in ``--out``, a folder of the day: a lab that is there already is not measured again, so ``--only``
can do them one by one. Figures and verdicts of every run are appended to ``history.jsonl`` beside those folders. Exit code 1
if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.lab_cases import FIT_EXCHANGES, FIT_LAYERS, QUICK, TOPOLOGIES
from benchmarks.lab_measure import AGAIN, TABLE, measure_lab, say
from benchmarks.lab_report import Accuracy, report, write_page
from benchmarks.lab_savings import savings
from benchmarks.lab_targets import keep, verdicts
from smoes_sim.calibration import fit_rows
from smoes_sim.measurements import Measurement, measured_time, read_measurements, write_measurements
from smoes_sim.prediction.constants import save_calibration
from smoes_sim.report.validation_page import write_validation_page
from smoes_sim.validation.validate import predictor, validate

SEED = 31
"""Of matrices and traces that are reported; models were chosen on seeds 1, 7, 11 and 23 (docs/accuracy/lab-accuracy.md)."""
REPEATS = 5
_HELP = argparse.RawDescriptionHelpFormatter


def main(arguments: list[str]) -> None:
    """Measure what is missing, then fit, predict and print."""
    options = _options(arguments)
    names = [name for name in (QUICK if options.quick else TOPOLOGIES) if not options.only or name in options.only]
    for name in names:
        if not (options.out / name / TABLE).is_file():
            measure_lab(name, options.out / name, seed=options.seed, repeats=REPEATS)
    accuracy = assess(options.out, names)
    document = accuracy.document()
    judged = verdicts(document)
    history = keep(options.out.parent, document, judged)
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        print(report(accuracy), end="")
    for verdict in judged:
        say(str(verdict))
    say(f"figures and verdicts: {history}")
    if options.docs is not None:
        write_page(options.docs, accuracy)
    if any(verdict.is_met is False for verdict in judged):
        raise SystemExit(1)


def _folder_of_today() -> Path:
    return Path("results", "labs", datetime.now(UTC).date().isoformat())


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab", description=__doc__, formatter_class=_HELP)
    parser.add_argument("--out", type=Path, default=_folder_of_today(), help="folder of what is measured [%(default)s]")
    parser.add_argument("--only", nargs="+", choices=TOPOLOGIES, default=[], help="labs to measure and judge")
    parser.add_argument("--quick", action="store_true", help="the two small labs: a third of the cases")
    parser.add_argument("--seed", type=int, default=SEED, help="of matrices and traces")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--docs", type=Path, help="folder with lab-accuracy.md to write the tables into (docs/accuracy)")
    return parser.parse_args(arguments)


def assess(folder: Path, names: list[str]) -> Accuracy:
    """Fit and predict what was measured in some labs; writes tables, calibrations and validation pages into the folder."""
    exchanges, layers, again = _merged(folder, names)
    write_measurements(folder / "exchanges.csv", exchanges)
    write_measurements(folder / "all.csv", [*exchanges, *layers])
    once, more = ({row.id: measured_time(row) or math.nan for row in rows} for rows in (exchanges, again))
    floors = {name: more[name] / seconds - 1 for name, seconds in once.items()}
    return Accuracy(
        exchanges=_judged(folder / "exchanges.csv", FIT_EXCHANGES, mode=None),
        layers=_judged(folder / "all.csv", FIT_LAYERS, mode="run"),
        floors=floors,
        savings=savings(folder, [row for row in layers if row.phase == "layer"]),
        labs=names,
    )


def _merged(folder: Path, names: list[str]) -> tuple[list[Measurement], list[Measurement], list[Measurement]]:
    """Exchanges and layers of all labs, and the exchanges once more, with paths as seen from the folder."""
    found: tuple[list[Measurement], list[Measurement], list[Measurement]] = ([], [], [])
    for name in names:
        for table, is_again in ((TABLE, False), (f"rows{AGAIN}.csv", True)):
            for row in read_measurements(folder / name / table):
                moved = replace(
                    row,
                    folder=folder,
                    matrix=row.matrix and f"{name}/{row.matrix}",
                    scenario=row.scenario and f"{name}/{row.scenario}",
                    topology=row.topology and f"{name}/lab.yaml",
                )
                found[2 if is_again else int(row.mode == "run")].append(moved)
    return found


def _judged(table: Path, fitted: tuple[str, ...], *, mode: str | None) -> dict[str, Any]:
    """Calibrate on some rows of a table and validate the others, of one mode if given; files beside the table."""
    rows = read_measurements(table)
    calibration = fit_rows(rows, fit=fitted).calibration
    save_calibration(calibration, table.with_suffix(".json"))
    judged = [row for row in rows if mode in {None, row.mode}]
    result = validate(rows.with_rows(judged), predictor(calibration), calibration=calibration)
    page = table.with_suffix(".html")
    write_validation_page(result, page, measurements=table.name, calibration=table.with_suffix(".json").name)
    say(f"validation page: {page}")
    return result.to_dict() | {"constants": {name: known.model_dump() for name, known in calibration.parameters.items()}}


if __name__ == "__main__":
    main(sys.argv[1:])
