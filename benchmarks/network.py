"""``python -m benchmarks.network``: every number that the network core promises, measured in one run.

Each line is work in a process of its own, after a warm-up that fills numba's cache: wall and CPU seconds from the
topology's specification to the answer, peak memory of the process, the makespan's error, a ratio, hit or missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.document import growth_text, machine_line, outcome_text, write_document
from benchmarks.growth import measure_growth
from benchmarks.peers import peer_rows
from benchmarks.processes import Lab, machine
from benchmarks.rows import Outcome, Row, core_rows
from benchmarks.whole import whole_rows


def rows(*, quick: bool, full: bool) -> list[Row]:
    """All rows, in the order of the table."""
    return [*core_rows(quick=quick), *peer_rows(quick=quick, full=full), *whole_rows(quick=quick)]


def chosen(every: Sequence[Row], prefixes: Sequence[str]) -> list[Row]:
    """Rows whose name starts with one of some prefixes; all of them without any.

    Raises:
        SystemExit: If nothing starts so.
    """
    selected = [row for row in every if not prefixes or row.name.startswith(tuple(prefixes))]
    if not selected:
        raise SystemExit(f"--only {' '.join(prefixes)}: no row starts so. Rows: {', '.join(row.name for row in every)}")
    return selected


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; exit code 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network", description=__doc__.partition(":")[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="rows whose name starts so; repeatable")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; targets mean nothing then")
    parser.add_argument(
        "--full", action="store_true", help="SimGrid at 128 ranks, which takes it two minutes, and growth unless --only"
    )
    parser.add_argument(
        "--growth", action="store_true", help="cost against ranks, flows, links and skew, instead of the rows"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="put the results into DIR/performance.md (docs/accuracy)")
    options = parser.parse_args(arguments)
    document: dict[str, Any] = {"machine": machine()}
    print(machine_line(document["machine"]), flush=True)
    lab, missed = Lab(), False
    if options.full or not options.growth:
        outcomes = _measured(lab, chosen(rows(quick=options.quick, full=options.full), options.only))
        missed = any(outcome.hit is False for outcome in outcomes)
        document["rows"] = [asdict(outcome) for outcome in outcomes]
        print("\n" + outcome_text(outcomes))
    if options.growth or (options.full and not options.only):
        document["growth"] = measure_growth(lab, quick=options.quick)
        print("\n" + growth_text(document["growth"]))
    if options.docs is not None:
        write_document(options.docs, document)
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return int(missed)


def _measured(lab: Lab, selected: Sequence[Row]) -> list[Outcome]:
    outcomes = []
    for row in selected:
        print(f"{row.name} ...", end=" ", file=sys.stderr, flush=True)
        outcomes.append(row.measure(lab))
        print(outcomes[-1].reached, file=sys.stderr, flush=True)
    return outcomes


if __name__ == "__main__":
    raise SystemExit(main())
