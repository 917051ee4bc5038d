"""``smoes-sim trace``: what the router did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from smoes_sim.cli import show

app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("synthesize")
def synthesize(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario or a file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Trace file to write (.npz).")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Json = False,
) -> None:
    """Write the synthetic routing of a scenario as a trace file."""
    from smoes_sim.config import load_scenario
    from smoes_sim.deployment import synthesize_trace
    from smoes_sim.routing import save_trace

    trace = synthesize_trace(load_scenario(scenario, overrides or []))
    save_trace(trace, out)
    show.talk(f"trace: {out}")
    _print(out, as_json)


@app.command("inspect")
def inspect(trace: Annotated[Path, typer.Argument(help="A trace file (.npz).")], as_json: Json = False) -> None:
    """Say what a trace file holds."""
    _print(trace, as_json)


app.command("info", hidden=True)(inspect)


def _print(path: Path, as_json: bool) -> None:
    from smoes_sim import results
    from smoes_sim.routing import load_trace
    from smoes_sim.routing.information import describe

    document = describe(load_trace(path))
    typer.echo(results.to_json(document) if as_json else show.pairs(document), nl=False)
