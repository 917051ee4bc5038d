"""``smoes-sim bench``: measure exchanges between real ranks; started here, in a lab, or by ``torchrun``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.cli.alltoall_command import option
from smoes_sim.errors import ConfigError

if TYPE_CHECKING:
    from smoes_sim.distributed.bench import BenchOptions
    from smoes_sim.distributed.bench_plan import BenchCase
    from smoes_sim.exchanges.demand import Demand
    from smoes_sim.lab import Lab
    from smoes_sim.topology import Topology

_SIZES, _SKEW = "Sizes", "Traffic (at most one of them; default: equal blocks)"
_RANKS, _HOW, _OUTPUT = "Ranks", "Method", "Output"
_SWEEP = "1 KiB:1 MiB"
_OF_LAUNCHER = ("ranks", "lab")
"""Options of the launcher, which are not passed on to the ranks."""


def bench(
    context: typer.Context,
    operation: Annotated[
        Literal["alltoall", "sendrecv"],
        typer.Argument(metavar="OPERATION", help="All to all, or one message there and back."),
    ] = "alltoall",
    ranks: Annotated[Optional[int], option("Number of ranks to start on this machine.", _RANKS, min=2, metavar="N")] = None,
    lab: Annotated[
        Optional[str], option("Start the ranks in this lab, or in one built of this topology (needs root).", _RANKS)
    ] = None,
    topology: Annotated[Optional[str], option("Topology of the ranks, for two_hop and for the table.", _RANKS)] = None,
    size: Annotated[
        Optional[str], option("Bytes that a rank sends, its own block included.", _SIZES, "--bytes", metavar="SIZE")
    ] = None,
    sweep: Annotated[
        Optional[str], option(f'Sizes from LOW to HIGH, doubling. ["{_SWEEP}"]', _SIZES, metavar="LOW:HIGH")
    ] = None,
    matrix: Annotated[
        Optional[Path],
        option("File of bytes [source][destination], in the format of nccl-tests' alltoallv.", _SKEW, metavar="FILE"),
    ] = None,
    zipf: Annotated[Optional[float], option("Zipf exponent of the popularity of destinations.", _SKEW, metavar="S")] = None,
    workload: Annotated[Optional[str], option("A named imbalance, W0 to W7, as in alltoall.", _SKEW, metavar="NAME")] = None,
    trace: Annotated[Optional[Path], option("Proportions of a routing trace (.npz).", _SKEW, metavar="FILE")] = None,
    pair: Annotated[Optional[str], option("sendrecv: the two ranks. [first and last]", _HOW, metavar="A:B")] = None,
    schedule: Annotated[
        Literal["direct", "pairwise", "two_hop", "all_to_all_single"], option("Schedule of the messages.", _HOW)
    ] = "direct",
    warmup: Annotated[int, option("Number of warm-up exchanges before each size.", _HOW, min=1, metavar="N")] = 5,
    repeats: Annotated[int, option("Number of measured exchanges.", _HOW, min=1, metavar="N")] = 20,
    backend: Annotated[Literal["auto", "gloo", "nccl"], option("auto: nccl where there are GPUs.", _HOW)] = "auto",
    timeout: Annotated[str, option("Timeout for the ranks to join, and for each exchange.", _HOW, metavar="TIME")] = "60 s",
    seed: Annotated[int, option("Seed of the skew and of the bytes.", _HOW, min=0, metavar="N")] = 0,
    out: Annotated[
        Optional[Path],
        option(
            "Measurements table (.csv); its other files go to a folder beside it.",
            _OUTPUT,
            "-o",
            "--out",
            metavar="FILE",
        ),
    ] = None,
    export: Annotated[Optional[Path], option("Only write the matrix for nccl-tests.", _OUTPUT, metavar="FILE")] = None,
    as_json: Annotated[bool, option("Print one JSON document.", _OUTPUT, "--json")] = False,
) -> int:
    """Measure exchanges between real ranks, in nccl-tests' columns.

    For example: smoes-sim bench --ranks 4 --sweep "64 KiB:4 MiB" -o rows.csv; on a cluster: torchrun ... runners/bench.py
    """
    from smoes_sim.exchanges.demand import Demand

    demand = Demand(
        size=size, sweep=_SWEEP if size is None and sweep is None and matrix is None else sweep, matrix=matrix, zipf=zipf,
        workload=workload, trace=trace,
    )  # fmt: skip
    if out is not None and out.suffix != ".csv":
        raise ConfigError(f"--out = {out}: a measurements table ends in .csv. Write {out.with_suffix('.csv')}.")
    if ranks is not None and lab is not None:
        raise ConfigError("--ranks and --lab both say which ranks to start. Give one of them.")
    if export is not None:
        _export(context, demand, export)
        return 0
    if find_spec("torch") is None:
        raise ConfigError("bench needs the torch extra. Install it with: pip install 'smoes-sim[torch]'")
    if ranks is None and lab is None:
        _take_part(context, demand)
        return 0
    return _launch(context, demand)


def _cases(context: typer.Context, demand: Demand, num_ranks: int) -> list[BenchCase]:
    from smoes_sim.distributed.bench_plan import choose_cases

    given = context.params
    return choose_cases(given["operation"], num_ranks, demand, pair=_pair(given["pair"], num_ranks), seed=given["seed"])


def _pair(text: str | None, num_ranks: int) -> tuple[int, int]:
    if text is None:
        return 0, num_ranks - 1
    first, _, second = text.partition(":")
    if not (first.isdecimal() and second.isdecimal()):
        raise ConfigError(f'--pair = "{text}" is not A:B. Write 0:1.')
    return int(first), int(second)


def _find(name: str | None) -> Topology | None:
    from smoes_sim.topology import find_topology

    return None if name is None else find_topology(name)


def _export(context: typer.Context, demand: Demand, path: Path) -> None:
    """Write the requested matrix."""
    from smoes_sim.distributed.matrix import write_matrix

    found = _find(context.params["lab"] or context.params["topology"])
    num_ranks = context.params["ranks"] if found is None else found.num_ranks
    if num_ranks is None:
        raise ConfigError("--export needs the number of ranks. Give --ranks or --topology.")
    cases = _cases(context, demand, num_ranks)
    if len(cases) > 1:
        raise ConfigError(f"--export writes one matrix, not one for each of {len(cases)} sizes. Give --bytes.")
    write_matrix(path, cases[0].matrix)
    show.talk(f"matrix: {path} (for NCCL_TESTS_ALLTOALLV_MATRIX_FILE and --matrix)")


def _launch(context: typer.Context, demand: Demand) -> int:
    """Start the ranks, each with the same command, and wait for them."""
    from smoes_sim.distributed import launch

    _timeout(context)
    command = launch.python_command("bench", *_own_arguments(context))
    if context.params["ranks"] is not None:
        num_ranks = context.params["ranks"]
        _check_topology(_find(context.params["topology"]), num_ranks)
        _cases(context, demand, num_ranks)
        return launch.exit_code(launch.run_ranks(launch.on_this_machine(command, num_ranks), num_ranks))
    return _launch_in_lab(context, demand, command)


def _launch_in_lab(context: typer.Context, demand: Demand, command: list[str]) -> int:
    """Use the lab of that name, or build one and take it down."""
    from smoes_sim.cli.lab_commands import built_lab
    from smoes_sim.lab import standing_labs
    from smoes_sim.topology import find_topology

    name = context.params["lab"]
    if context.params["topology"] is not None:
        raise ConfigError("--lab already names the topology. Leave --topology out.")
    standing = [lab for lab in standing_labs() if lab.kept and lab.name == name]
    if standing:
        _cases(context, demand, len(standing[0].ranks))
        return _run_in(standing[0], command, context.params["out"])
    _cases(context, demand, find_topology(name).num_ranks)
    with built_lab(name) as lab:
        return _run_in(lab, command, context.params["out"])


def _run_in(lab: Lab, command: list[str], out: Path | None) -> int:
    """Run in a lab, on the topology that was built; a copy of it stays beside the table."""
    from smoes_sim.distributed import launch
    from smoes_sim.distributed.bench_result import files_folder

    topology = lab.topology_file
    if out is not None:
        topology = files_folder(out) / topology.name
        from smoes_sim.yaml_files import write_bytes

        write_bytes(topology, lab.topology_file.read_bytes())
    started = launch.in_lab(lab, [*command, "--topology", str(topology)])
    return launch.exit_code(launch.run_ranks(started, len(lab.ranks)))


def _check_topology(topology: Topology | None, num_ranks: int) -> None:
    if topology is not None and topology.num_ranks != num_ranks:
        raise ConfigError(f"--ranks = {num_ranks}: topology {topology.name} has {topology.num_ranks} ranks. Give as many.")


def _own_arguments(context: typer.Context) -> list[str]:
    """Command-line arguments without those of the launcher."""
    arguments: list[str] = [context.params["operation"]]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params[str(parameter.name)]
        source = context.get_parameter_source(name)
        is_given = source is not None and source.name == "COMMANDLINE"
        if parameter.param_type_name == "option" and is_given and name not in _OF_LAUNCHER:
            arguments += [parameter.opts[-1]] if value is True else [parameter.opts[-1], str(value)]
    return arguments


def _take_part(context: typer.Context, demand: Demand) -> None:
    """Run as one of the ranks that ``torchrun`` or :func:`_launch` started."""
    if "RANK" not in os.environ:
        raise ConfigError("no ranks: give --ranks N or --lab TOPOLOGY, or start runners/bench.py with torchrun.")
    from smoes_sim.distributed.bench import BenchOptions
    from smoes_sim.distributed.group import place_in

    given = context.params
    cases = _cases(context, demand, place_in(os.environ).num_ranks)
    options = BenchOptions(
        schedule=given["schedule"],
        warmup=given["warmup"],
        repeats=given["repeats"],
        seed=given["seed"],
        timeout=_timeout(context),
        backend=given["backend"],
        topology=_find(given["topology"]),
        topology_name=given["topology"],
        traffic=demand.description,
        out=given["out"],
    )
    _report(cases, options, as_json=given["as_json"])


def _report(cases: list[BenchCase], options: BenchOptions, *, as_json: bool) -> None:
    """Measure, and print on rank 0: each row as it is measured, or one JSON document at the end."""
    from smoes_sim.distributed.bench import run_bench
    from smoes_sim.distributed.bench_result import table_head, table_line
    from smoes_sim.results.write import to_json

    def say(text: str) -> None:
        if not as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    result = run_bench(
        cases, options, on_start=lambda facts: say(table_head(facts)), on_row=lambda row: say(table_line(row))
    )
    if as_json and os.environ["RANK"] == "0":
        typer.echo(to_json(result.to_dict()), nl=False)


def _timeout(context: typer.Context) -> float:
    seconds = show.duration("--timeout", context.params["timeout"])
    if seconds <= 0:
        raise ConfigError(f"--timeout = {seconds:g} s: must be more than 0. Write 60 s.")
    return seconds
