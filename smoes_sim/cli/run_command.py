"""``smoes-sim run``: execute a scenario for real; started here, in a lab, or by ``torchrun``."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from smoes_sim.cli import show
from smoes_sim.errors import ConfigError

Row = dict[str, Any]


def run(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario or a file.")],
    overrides: Annotated[
        Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as seed=1.")
    ] = None,
    ranks: Annotated[
        Optional[int], typer.Option(min=2, metavar="N", help="Start N ranks here. [as many as the topology has]")
    ] = None,
    lab: Annotated[
        Optional[str], typer.Option(help="Build a lab of this topology, and run there instead (needs root).")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, metavar="N", help="Times that everything is measured.")] = 10,
    backend: Annotated[Literal["auto", "gloo", "nccl"], typer.Option(help="auto: nccl where there are GPUs.")] = "auto",
    timeout: Annotated[str, typer.Option(metavar="TIME", help="For the ranks to come, and for each phase.")] = "60 s",
    out: Annotated[Optional[Path], typer.Option(help="Folder for rows, summary, scenario and trace.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> int:
    """Execute the MoE layers of a scenario, and print what was measured beside what was predicted.

    For example: smoes-sim run my.yaml --lab lab-star-4 --out measured; on a cluster: torchrun ... runners/ep.py my.yaml
    """
    seconds = show.duration("--timeout", timeout)
    if seconds <= 0:
        raise ConfigError(f"--timeout = {timeout}: must be more than 0. Write 60 s.")
    if ranks is not None and lab is not None:
        raise ConfigError("--ranks and --lab each say which ranks to start. Give one of them.")
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
    """Start every rank with the scenario as it is to be executed, and wait for them."""
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
    """Be one of the ranks that ``torchrun`` or :func:`_launch` started; rank 0 writes and prints."""
    from smoes_sim.distributed.rows import summarise, write_run
    from smoes_sim.distributed.run import execute
    from smoes_sim.results.write import to_json
    from smoes_sim.scenario import load_scenario

    scenario = load_scenario(name, overrides)
    measured = execute(scenario, repeats=repeats, folder=out, backend=backend, timeout=timeout)
    if measured is None:
        return
    document = summarise(measured)
    if out is not None:
        write_run(out, measured, document)
    if as_json:
        typer.echo(to_json(document | {"rows": [asdict(row) for row in measured.rows]}), nl=False)
    else:
        typer.echo(_table(document), nl=False)


def _table(document: Row) -> str:
    """Sums over the layers, per step and phase; decode as the mean over its steps."""
    facts, num_layers = document["facts"], len(document["moe_layers"])
    lines = [
        f"{document['model']}, {num_layers} MoE layers, {facts['activation']} activations; {document['topology']}: "
        f"{document['ranks']} ranks on {document['nodes']} nodes; {facts['library']}; "
        f"{facts['per_rank'][0]['cpus']} processors a host",
        f"experts {document['expert_placement']}, tokens {document['token_placement']}; {document['library']}, deduplicate "
        f"{document['deduplicate']}, dispatch {document['dispatch']}, combine {document['combine']}",
        f"summed over layers; measured: median of {facts['repeats']} repeats of the slowest rank, [10%, 90%]; cpu: busiest",
        "predicted: "
        + (f"with {document['calibration']}, [10%, 90%] of its draws" if document["calibration"] else _UNCALIBRATED),
    ]
    body = [[kind, phase, *_cells(rows, num_layers)] for (kind, phase), rows in _by_phase(document).items()]
    header = ["step", "phase", "measured (ms)", "predicted (ms)", "error (%)", "MB between ranks", "cpu (ms)"]
    return "".join(f"# {line}\n" for line in lines) + show.table(header, body, left=2)


_UNCALIBRATED = "NOT calibrated: nominal rates, efficiencies in their stated ranges (give the scenario a calibration)"


def _by_phase(document: Row) -> dict[tuple[str, str], list[Row]]:
    kinds = {step["step"]: step["phase"] for step in document["steps"]}
    found: dict[tuple[str, str], list[Row]] = {}
    for row in document["medians"]:
        found.setdefault((kinds[row["step"]], row["phase"]), []).append(row)
    return found


def _cells(rows: list[Row], num_layers: int) -> list[str]:
    """One line: sums over layers, means over steps."""
    steps = len(rows) / num_layers

    def total(key: str, factor: float) -> float:
        return factor * sum(row[key] for row in rows) / steps

    measured, predicted = total("measured_s", 1e3), total("predicted_s", 1e3)
    low, high = total("predicted_low_s", 1e3), total("predicted_high_s", 1e3)
    return [
        f"{measured:.4g} [{total('measured_p10_s', 1e3):.4g}, {total('measured_p90_s', 1e3):.4g}]",
        f"{predicted:.4g}" + (f" [{low:.4g}, {high:.4g}]" if low < high else ""),
        f"{100 * (predicted / measured - 1):+.1f}",
        f"{total('bytes_remote', 1e-6):.4g}",
        f"{total('cpu_s', 1e3):.4g}",
    ]
