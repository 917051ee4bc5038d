"""``smoes-sim lab``: a topology built on this machine from network namespaces, and programs that run in it."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.errors import LabError

if TYPE_CHECKING:
    from smoes_sim.lab import Lab, LabPlan
    from smoes_sim.lab.check import LabCheck

app = typer.Typer()
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Topology = Annotated[str, typer.Argument(metavar="TOPOLOGY", help="Shipped topology or path of a file.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name that lab up printed.")]
Command = Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="Program and its arguments.")]
Scale = Annotated[Optional[float], typer.Option(help="Factor on all rates. [chosen so that two cores keep up]")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the choice among equal routes; use that of the prediction.")]
Check = Annotated[bool, typer.Option("--check/--no-check", help="Measure every link before use.")]


@app.command()
def up(
    topology: Topology,
    scale: Scale = None,
    name: Annotated[Optional[str], typer.Option(help="Name of the lab. [name of the topology]")] = None,
    seed: Seed = 0,
    check: Check = True,
    as_json: Json = False,
) -> None:
    """Build a topology from network namespaces; it stays up until lab down."""
    from smoes_sim.lab import Lab
    from smoes_sim.results.write import to_json

    with _ending_on_signals():
        plan = _plan(topology, scale=scale, seed=seed)
        lab = Lab.up(plan, name=name, kept=True)
        try:
            checked = _check(lab) if check else None
        except BaseException:
            lab.down()
            raise
    typer.echo(to_json(_document(lab, checked)) if as_json else _table(lab), nl=False)
    if not as_json:
        show.talk(f"predict on what was built: smoes-sim alltoall {lab.topology_file}")
        show.talk(f"use it: smoes-sim lab exec {lab.name} RANK -- COMMAND; end it: smoes-sim lab down {lab.name}")


@app.command("exec")
def exec_(name: Name, rank: Annotated[int, typer.Argument(metavar="RANK")], command: Command) -> None:
    """Run a program as one rank of a lab, and exit with its exit code."""
    from smoes_sim.lab import find_lab
    from smoes_sim.lab.launch import exit_code

    with _ending_on_signals(), find_lab(name).popen(rank, command) as process:
        try:
            code = process.wait()
        finally:
            process.kill()
    raise typer.Exit(exit_code(code))


@app.command()
def down(
    name: Annotated[Optional[str], typer.Argument(metavar="[NAME]", help="May be left out if only one lab is up.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All labs made by lab up; those of running programs stay.")
    ] = False,
) -> None:
    """End the programs in a lab and delete it."""
    from smoes_sim.lab import find_lab, standing_labs, sweep
    from smoes_sim.lab.namespaces import require_root

    require_root()
    swept = sweep()
    if swept.namespaces or swept.labs:
        show.talk(f"cleared what dead processes left: {len(swept.labs)} labs, {len(swept.namespaces)} namespaces")
    if name in swept.labs:
        return
    standing = [lab for lab in standing_labs() if lab.kept]
    if everything:
        chosen = standing
    elif name is not None:
        chosen = [find_lab(name)]
    elif len(standing) == 1:
        chosen = standing
    elif swept.labs and not standing:
        return
    else:
        known = f"Up: {', '.join(lab.name for lab in standing)}." if standing else "None is up."
        raise LabError(f"lab down needs a name, or --all. {known}")
    for lab in chosen:
        lab.down()
        show.talk(f"down: {lab.name}")


@app.command()
def run(topology: Topology, command: Command, scale: Scale = None, seed: Seed = 0, check: Check = True) -> None:
    """Build a topology, run a program in every rank, take the lab down; a failing rank ends the others within a second."""
    from smoes_sim.lab.launch import run_everywhere

    with built_lab(topology, scale=scale, seed=seed, check=check) as lab:
        code = run_everywhere(lab, command)
    raise typer.Exit(code)


@contextmanager
def built_lab(topology: str, *, scale: float | None = None, seed: int = 0, check: bool = True) -> Iterator[Lab]:
    """A lab of a shipped topology or a file, measured if ``check``, and taken down however the command ends."""
    from smoes_sim.lab import Lab

    with _ending_on_signals(), Lab.up(_plan(topology, scale=scale, seed=seed)) as lab:
        if check:
            _check(lab)
        yield lab


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into exceptions, so that nothing is left behind."""

    def leave(number: int, _: Any) -> None:
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # nohup keeps working
    for number in heeded:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def _plan(topology: str, *, scale: float | None, seed: int) -> LabPlan:
    from smoes_sim.lab import plan_lab
    from smoes_sim.lab.namespaces import can_delay, require_root
    from smoes_sim.topology import find_topology

    found = find_topology(topology)
    require_root()
    plan = plan_lab(found, scale=scale, seed=seed, has_delay=can_delay())
    show.talk(f"rates x {plan.scale:g}: all links busy at once are {plan.load * 8e-9:.2f} Gb/s")
    for what in plan.left_out:
        show.talk(f"left out: {what}")
    return plan


def _check(lab: Lab) -> LabCheck:
    """Measure the links; a lab that misses its rates is exit code 1."""
    from smoes_sim.lab.check import check_lab

    checked = check_lab(lab)
    show.talk(f"check: {checked.verdict()}")
    if not checked.is_passed:
        raise typer.Exit(1)
    return checked


def _table(lab: Lab) -> str:
    header = ["rank", "node", "namespace", "address", "interface", "Mb/s"]
    rows = [
        [str(rank.rank), str(rank.node), rank.namespace, rank.address, rank.interface, f"{rank.bandwidth * 8e-6:g}"]
        for rank in lab.ranks
    ]
    return show.table(header, rows, left=5)


def _document(lab: Lab, checked: LabCheck | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": lab.name,
        "scale": lab.scale,
        "topology_file": str(lab.topology_file),
        "left_out": list(lab.left_out),
        "ranks": [dataclasses.asdict(rank) for rank in lab.ranks],
        "check": None,
    }
    if checked is not None:
        document["check"] = {
            "pairs": [list(pair) for pair in checked.pairs],
            "promised_Bps": checked.promised,
            "measured_Bps": checked.measured,
            "processors_busy": checked.busy,
        }
    return document
