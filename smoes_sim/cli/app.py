"""The commands, and what happens to their errors: one line on stderr, exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from smoes_sim.cli import lab_commands, measurements_commands, placement_commands, show, topology_commands, trace_commands
from smoes_sim.cli.adapt_command import adapt
from smoes_sim.cli.alltoall_command import GroupedCommand, alltoall
from smoes_sim.cli.bench_command import bench
from smoes_sim.cli.first_use import compilation_told
from smoes_sim.cli.fit_commands import calibrate, validate
from smoes_sim.cli.plan_command import plan
from smoes_sim.cli.report_command import report
from smoes_sim.cli.run_command import run
from smoes_sim.cli.serve_command import serve
from smoes_sim.cli.sweep_command import sweep
from smoes_sim.cli.train_command import train
from smoes_sim.errors import ConfigError, SmoesError

app = typer.Typer(
    help="What expert parallelism costs on a topology, and what SMoES, another placement or network saves.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(topology_commands.app, name="topology", help="What is wired to what: list, show, check.")
app.add_typer(trace_commands.app, name="trace", help="Routing traces: capture, synthesize, import, export, info.")
app.add_typer(lab_commands.app, name="lab", help="A topology built on this box for real: up, exec, down, run.")
app.add_typer(measurements_commands.app, name="measurements", help="What others measured: import their logs.")
app.command()(train)
app.command()(run)
app.command()(serve)
app.add_typer(placement_commands.app, name="placement", help="Where experts go: make, judge.")
app.command()(adapt)
app.command()(sweep)
app.command()(plan)
app.command()(report)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Overrides = Annotated[Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as seed=1.")]


@app.command()
def simulate(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario or a file.")],
    overrides: Overrides = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON and the resolved scenario.")] = None,
    timeline: Annotated[Optional[Path], typer.Option(help="Chrome trace of the prefill (.json or .json.gz).")] = None,
    as_json: Json = False,
) -> None:
    """Predict one deployment."""
    from smoes_sim.api.inputs import resolve
    from smoes_sim.api.predict import simulate as simulate_scenario
    from smoes_sim.results.write import to_json, write_results

    given = overrides or []
    with compilation_told(may_compile=True):
        prediction = simulate_scenario(scenario, *given, timeline=timeline, show_progress="lines")
    if timeline is not None:
        show.talk(f"timeline: {timeline} (open it at https://ui.perfetto.dev)")
    if out is not None:
        write_results(out, [prediction.to_dict()], [resolve(scenario, given)])
        show.talk(f"results: {out}")
    typer.echo(to_json(prediction.to_dict()) if as_json else prediction, nl=not as_json)


@app.command()
def compare(
    arguments: Annotated[list[str], typer.Argument(metavar="SCENARIO... [KEY=VALUE,VALUE]...")],
    baseline: Annotated[int, typer.Option(help="Row that the others are compared with.")] = 0,
    out: Annotated[Optional[Path], typer.Option(help="Folder for Parquet, JSON, SVG and PNG.")] = None,
    as_json: Json = False,
) -> None:
    """Predict several deployments and what changes; KEY=A,B tries each value."""
    from smoes_sim.api.predict import compare as compare_scenarios
    from smoes_sim.results.write import to_json, write_results

    names = [argument for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if not names:
        raise ConfigError("no scenario is named. Write for example: smoes-sim compare olmoe-two-orin seed=0,1")
    with compilation_told(may_compile=True):
        found = compare_scenarios(names, *overrides, baseline=baseline, show_progress="lines")
    if out is not None:
        scenarios = [(candidate.name, candidate.scenario) for candidate in found.candidates]
        write_results(out, found.row_dicts(), scenarios, about={"baseline": baseline})
        plots = show.save_comparison(found, out)
        show.talk(f"results: {out / 'runs.parquet'}, {out / 'summary.json'}")
    typer.echo(to_json(found.to_dict()) if as_json else found, nl=not as_json)
    if out is not None and plots and not as_json:
        typer.echo(f"plot: {plots[0]}")


app.command(cls=GroupedCommand)(alltoall)
app.command(cls=GroupedCommand)(bench)


app.command()(validate)
app.command()(calibrate)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="scenario, topology, calibration, measurements, sweep or plan.")],
) -> None:
    """Print the JSON Schema of a file kind, for editors."""
    from smoes_sim.cli.schemas import schema_of
    from smoes_sim.results.write import to_json

    typer.echo(to_json(schema_of(kind)), nl=False)


def _usage(error: Any) -> str:
    """What is wrong with the arguments, in one line, and the command whose help says what is right."""
    problem = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{problem}. See {context.command_path if context else 'smoes-sim'} --help."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 ok, 1 a check failed, 2 bad input."""
    command = typer.main.get_command(app)
    debug = bool(os.environ.get("SMOES_SIM_DEBUG"))
    try:
        result = command.main(
            args=list(arguments) if arguments is not None else None, prog_name="smoes-sim", standalone_mode=False
        )
        sys.stdout.flush()
    except SmoesError as error:
        if debug:
            raise
        typer.echo(f"smoes-sim: {' '.join(str(error).split())}", err=True)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        typer.echo("smoes-sim: interrupted", err=True)
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        typer.echo(f"smoes-sim: {_usage(error)}", err=True)
        return 2
    return result if isinstance(result, int) else 0
