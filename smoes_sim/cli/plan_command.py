"""``smoes-sim plan``: the cheapest system on a price list that is fast enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.first_use import compilation_told


def plan(
    file: Annotated[str, typer.Argument(metavar="PLAN", help="A shipped plan or a file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides of the plan, such as slo.ttft='2 s'.")
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON and the resolved scenarios.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Find the cheapest system on a price list that meets an SLO, and what holds each back.

    Ctrl-C ends it with the answer for the offers that are finished.
    """
    from smoes_sim.display.tables import as_text
    from smoes_sim.planning import load_plan, make_plan
    from smoes_sim.results.write import resolved_yaml, to_json, write_tables
    from smoes_sim.yaml_files import write_bytes

    loaded = load_plan(file, overrides or [])
    with compilation_told(may_compile=True), show.progress("offers", len(loaded.offers)) as advance:
        found = make_plan(loaded, on_progress=advance, keeps_finished=True)
    document = found.to_dict()
    if out is not None:
        scenarios = [(row.point.name, row.point.scenario) for row in loaded.offers]
        write_tables(out, document["options"], document)
        known = [(name, scenario) for name, scenario in scenarios if scenario is not None]
        write_bytes(out / "scenario.resolved.yaml", resolved_yaml(known))
        show.talk(f"results: {out}; a page of them: smoes-sim report {out} -o plan.html")
    typer.echo(to_json(document) if as_json else as_text(found.tables()), nl=False)
    if found.offers_left:
        finished = found.offers - found.offers_left
        where = f" and in {out}" if out is not None else ""
        show.talk(f"interrupted: kept above{where}: {finished} of {found.offers} offers")
        raise typer.Exit(show.INTERRUPTED)
