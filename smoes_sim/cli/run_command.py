"""``smoes-sim run``: execute the MoE layers of a scenario; ranks are started here, in a lab, or by ``torchrun``."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.errors import ConfigError


def run(
    scenario: Annotated[str, typer.Argument(metavar="SCENARIO", help="Shipped scenario or path of a file.")],
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="KEY=VALUE", help="Overrides, such as seed=1.")] = None,
    ranks: Annotated[
        Optional[int], typer.Option(min=2, metavar="N", help="Number of ranks to start here. [that of the topology]")
    ] = None,
    lab: Annotated[Optional[str], typer.Option(help="Build a lab of this topology and run in it (needs root).")] = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Number of measurements.")] = 10,
    backend: Annotated[Literal["auto", "gloo", "nccl"], typer.Option(help="auto: nccl where there are GPUs.")] = "auto",
    timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Timeout for the ranks to join, and for each phase.")
    ] = "60 s",
    out: Annotated[Optional[Path], typer.Option(help="Folder for rows, summary, scenario and trace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Execute the MoE layers of a scenario, and print measured times beside predicted ones.

    For example: smoes-sim run my.yaml --lab lab-star-4 --out measured; on a cluster: torchrun ... runners/ep.py my.yaml
    """
    seconds = show.duration("--timeout", timeout)
    if seconds <= 0:
        raise ConfigError(f"--timeout = {timeout}: must be more than 0. Write 60 s.")
    if ranks is not None and lab is not None:
        raise ConfigError("--ranks and --lab both say which ranks to start. Give one of them.")
    if find_spec("torch") is None:
        raise ConfigError("run needs torch. Install it with: pip install 'smoes-sim[torch]'")
    if ranks is None and lab is None and "RANK" in os.environ:
        _take_part(scenario, overrides or [], repeats, backend, seconds, out, as_json=as_json)
        return 0
    own = ["--repeats", str(repeats), "--backend", backend, "--timeout", timeout, *(["--json"] if as_json else [])]
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smoes-sim-run-")))
        code = _launch(scenario, overrides or [], ranks, lab, folder, own)
    if out is not None and code == 0:
        show.talk(f"results: {out}")
    return code


def _launch(name: str, overrides: list[str], ranks: int | None, lab: str | None, folder: Path, own: list[str]) -> int:
    """Start all ranks with the scenario as it is executed, and wait for them."""
    from smoes_sim.cli.lab_commands import built_lab
    from smoes_sim.distributed import launch
    from smoes_sim.distributed.runnable import as_executed, check_runnable, num_ranks_of, with_trace, write_scenario
    from smoes_sim.scenario import load_scenario
    from smoes_sim.topology.shipped import find_spec

    asked = load_scenario(name, overrides)
    check_runnable(asked)
    scenario = as_executed(asked)
    if scenario.communication.library != asked.communication.library:
        show.talk("two_hop with deduplicate node: its stages run, and are predicted, one after the other (as direct)")
    with ExitStack() as stack:
        built = None
        if lab is not None:
            built = stack.enter_context(built_lab(lab, seed=scenario.seed))
            scenario = scenario.model_copy(update={"topology": find_spec(str(built.topology_file))})
        num_ranks = num_ranks_of(scenario)
        if ranks is not None and ranks != num_ranks:
            raise ConfigError(
                f"--ranks = {ranks}: the scenario's topology has {num_ranks} ranks. Give as many, or override it."
            )
        path = write_scenario(with_trace(scenario, folder), folder)
        command = launch.python_command("run", str(path), "--out", str(folder), *own)
        start = launch.on_this_machine(command, num_ranks) if built is None else launch.in_lab(built, command)
        return launch.exit_code(launch.run_ranks(start, num_ranks))


def _take_part(
    name: str,
    overrides: list[str],
    repeats: int,
    backend: Literal["auto", "gloo", "nccl"],
    timeout: float,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Run as one of the ranks that ``torchrun`` or :func:`_launch` started; rank 0 writes and prints."""
    from smoes_sim.distributed.run import execute
    from smoes_sim.distributed.run_files import write_run
    from smoes_sim.distributed.run_result import summarise
    from smoes_sim.results.write import to_json
    from smoes_sim.scenario import load_scenario

    scenario = load_scenario(name, overrides)
    measured = execute(scenario, repeats=repeats, folder=out, backend=backend, timeout=timeout)
    if measured is None:
        return
    result = summarise(measured)
    if out is not None:
        write_run(out, result)
    typer.echo(to_json(result.to_dict()) if as_json else f"{result!r}\n", nl=False)
