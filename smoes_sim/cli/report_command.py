"""``smoes-sim report``: a folder of results as one page to mail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The --out folder of simulate, compare, sweep or plan.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write (.html).")],
) -> None:
    """Write one self-contained HTML page: the answer, pictures, assumptions, and how to reproduce them."""
    from smoes_sim.report.page import check_page_file
    from smoes_sim.report.results_page import write_report

    check_page_file(out)
    with compilation_told(may_compile=True):
        answer = write_report(results, out)
    show.talk(f"report: {out}")
    typer.echo(answer)
