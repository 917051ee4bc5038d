"""Build a lab, measure everything in it, and put the rows into one table."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.lab_cases import exchange_groups, layer_scenarios
from smoes_sim.distributed import launch
from smoes_sim.distributed.runnable import as_executed, with_trace, write_scenario
from smoes_sim.lab import Lab, plan_lab
from smoes_sim.lab.check import check_lab
from smoes_sim.measurements import Measurement, read_measurements, write_measurements
from smoes_sim.scenario import Scenario
from smoes_sim.topology import find_topology

AGAIN = "-again"
"""Ends the name of a table of the same exchanges, measured once more."""
TABLE = "rows.csv"


def measure_lab(name: str, folder: Path, *, seed: int, repeats: int) -> None:
    """Measure all cases of a topology; the tables in ``folder`` are complete when ``rows.csv`` is there.

    Raises:
        SystemExit: If the lab does not keep its rates or a rank fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    with Lab.up(plan_lab(find_topology(name))) as lab:
        checked = check_lab(lab)
        say(f"{name}: {checked.verdict()}")
        if not checked.is_passed:
            raise SystemExit(f"{name}: the lab does not keep its rates. Measure when the machine is quiet.")
        topology = folder / "lab.yaml"
        topology.write_bytes(lab.topology_file.read_bytes())
        scenarios = layer_scenarios(name, seed=seed)
        for label, document in scenarios.items():
            scenario = Scenario.model_validate({"topology": str(topology), **document})
            write_scenario(with_trace(as_executed(scenario), folder / label), folder / label)
        plan = {
            "name": name,
            "topology": str(topology),
            "seed": seed,
            "repeats": repeats,
            "exchanges": ["", AGAIN],
            "scenarios": list(scenarios),
        }
        (folder / "plan.json").write_text(json.dumps(plan, indent=1))
        command = [sys.executable, "-m", "benchmarks.lab_rank", str(folder / "plan.json")]
        code = launch.exit_code(launch.run_ranks(launch.in_lab(lab, command), len(lab.ranks)))
    if code:
        raise SystemExit(f"{name}: a rank failed, see above.")
    _collect(name, folder, seed=seed, scenarios=list(scenarios))
    say(f"{name}: measured in {time.monotonic() - started:.0f} s")


def _collect(name: str, folder: Path, *, seed: int, scenarios: list[str]) -> None:
    """One table of all rows, and one of the exchanges as they were measured again."""
    first: list[Measurement] = []
    again: list[Measurement] = []
    for group in exchange_groups(name, seed=seed):
        for rows, ending in ((first, ""), (again, AGAIN)):
            table = read_measurements(folder / f"{group.name}{ending}.csv")
            rows += [
                replace(row, id=f"{name}-{group.name}-{index}-{word}", variant=word)
                for index, (row, word) in enumerate(zip(table, group.words, strict=True))
            ]
    for label in scenarios:
        layers = read_measurements(folder / label / "measurements.csv")
        first += [
            replace(row, id=f"{name}-{row.id}", scenario=f"{label}/{row.scenario}", variant=label, source="lab")
            for row in layers
        ]
    write_measurements(folder / f"rows{AGAIN}.csv", again)
    write_measurements(folder / TABLE, first)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
