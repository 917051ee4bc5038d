"""The commands, and what happens to their errors: one line on stderr, exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from smoes_sim.cli import lab_commands, measurements_commands, placement_commands, topology_commands, trace_commands
from smoes_sim.cli.adapt_command import adapt
from smoes_sim.cli.alltoall_command import alltoall
from smoes_sim.cli.bench_command import bench
from smoes_sim.cli.fit_commands import calibrate, validate
from smoes_sim.cli.list_command import list_
from smoes_sim.cli.plan_command import plan
from smoes_sim.cli.predict_commands import compare, simulate
from smoes_sim.cli.report_command import report
from smoes_sim.cli.run_command import run
from smoes_sim.cli.serve_command import serve
from smoes_sim.cli.sweep_command import sweep
from smoes_sim.cli.train_command import train
from smoes_sim.errors import SmoesError
from smoes_sim.version import __version__

_PREDICT, _MEASURE, _LEARN, _PLAN, _LOOK = "Predict", "Measure", "Learn and place", "Plan and report", "Look up"

app = typer.Typer(
    help="What expert parallelism costs on a topology, and what SMoES, another placement or another network saves.",
    epilog="First: smoes-sim simulate olmoe-two-orin",
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smoes-sim {__version__}")
        raise typer.Exit


def _warm_up(wanted: bool) -> None:
    """Compile, and say where to: jobs that cannot write there compile again and again."""
    if not wanted:
        return
    from smoes_sim.api.warm_up import compile_all

    folders = compile_all()
    if not folders:
        typer.echo("compiled, and not kept: no folder can be written. Name one by the environment variable NUMBA_CACHE_DIR.")
    for folder in folders:
        typer.echo(f"compiled code is in {folder}")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    warm_up: Annotated[
        bool,
        typer.Option("--warm-up", callback=_warm_up, is_eager=True, help="Compile now what is compiled on first use."),
    ] = False,
) -> None:
    del version, warm_up  # their callbacks have done it


app.command(rich_help_panel=_PREDICT)(simulate)
app.command(rich_help_panel=_PREDICT)(compare)
app.command(rich_help_panel=_PREDICT)(alltoall)
app.command(rich_help_panel=_PREDICT)(serve)
app.command(rich_help_panel=_PREDICT)(sweep)
app.add_typer(measurements_commands.app, name="measurements", rich_help_panel=_MEASURE, help="Import logs of measurements.")
app.command(rich_help_panel=_MEASURE)(calibrate)
app.command(rich_help_panel=_MEASURE)(validate)
app.command(rich_help_panel=_MEASURE)(run)
app.command(rich_help_panel=_MEASURE)(bench)
app.add_typer(
    lab_commands.app,
    name="lab",
    rich_help_panel=_MEASURE,
    help="Build a topology as a real, shaped network on this machine: up, exec, down, run.",
)
app.add_typer(
    trace_commands.app,
    name="trace",
    rich_help_panel=_LEARN,
    help="Make and convert routing traces: capture, synthesize, import, export, info.",
)
app.add_typer(placement_commands.app, name="placement", rich_help_panel=_LEARN, help="Place experts on ranks: make, judge.")
app.command(rich_help_panel=_LEARN)(adapt)
app.command(rich_help_panel=_LEARN)(train)
app.command(rich_help_panel=_PLAN)(plan)
app.command(rich_help_panel=_PLAN)(report)
app.command("list", rich_help_panel=_LOOK)(list_)
app.add_typer(
    topology_commands.app, name="topology", rich_help_panel=_LOOK, help="Show what is wired to what: list, show, check."
)


@app.command(rich_help_panel=_LOOK)
def schema(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="scenario, topology, calibration, measurements, sweep or plan.")
    ],
) -> None:
    """Print the JSON Schema of a kind of file, for editors."""
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
