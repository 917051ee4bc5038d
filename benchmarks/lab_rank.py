"""One rank of all measurements in one lab: ``python -m benchmarks.lab_rank PLAN.json`` in every namespace.

torch is loaded once, then the process group is joined anew for every table, so that connections are those of the table;
each time at another port, as the meeting point before may still be open.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lab_cases import Group, exchange_groups
from smoes_sim.distributed.bench import BenchOptions, run_bench
from smoes_sim.distributed.run import execute
from smoes_sim.distributed.run_files import write_run
from smoes_sim.distributed.run_result import summarise
from smoes_sim.distributed.runnable import SCENARIO
from smoes_sim.scenario import load_scenario
from smoes_sim.topology import find_topology

_TIMEOUT = 60.0


def main(path: Path) -> None:
    """Measure what the plan says and write the tables beside it."""
    plan = json.loads(path.read_bytes())
    first = int(os.environ["MASTER_PORT"])
    for number, measure in enumerate(_tables(plan, path.parent)):
        os.environ["MASTER_PORT"] = str(first + number)
        measure()


def _tables(plan: dict[str, Any], folder: Path) -> Iterator[Callable[[], None]]:
    """What writes each table."""
    for group in exchange_groups(plan["name"], seed=plan["seed"]):
        for ending in plan["exchanges"]:
            yield partial(_exchanges, plan, group, folder / f"{group.name}{ending}.csv")
    for name in plan["scenarios"]:
        yield partial(_layers, folder / name, plan["repeats"])


def _exchanges(plan: dict[str, Any], group: Group, out: Path) -> None:
    options = BenchOptions(
        schedule=group.schedule,
        warmup=1,
        repeats=plan["repeats"],
        seed=plan["seed"],
        timeout=_TIMEOUT,
        backend="gloo",
        topology=find_topology(plan["topology"]),
        topology_name=plan["topology"],
        traffic=", ".join(group.words),
        out=out,
    )
    run_bench(group.cases, options, on_start=lambda _: None, on_row=lambda _: None)


def _layers(out: Path, repeats: int) -> None:
    measured = execute(load_scenario(str(out / SCENARIO)), repeats=repeats, folder=out, backend="gloo")
    if measured is not None:
        write_run(out, summarise(measured))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
