"""One rank of all measurements in one lab: ``python -m benchmarks.lab_rank PLAN.json`` in every namespace.

torch is loaded once, then the process group is joined anew for every table, so that connections are those of the table.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.lab_cases import exchange_groups
from smoes_sim.config import load_scenario
from smoes_sim.distributed.bench import BenchOptions, run_bench
from smoes_sim.distributed.rows import summarise, write_run
from smoes_sim.distributed.run import execute
from smoes_sim.topology import find_topology

_TIMEOUT = 60.0


def main(path: Path) -> None:
    plan = json.loads(path.read_bytes())
    folder = path.parent
    for group in exchange_groups(plan["name"], seed=plan["seed"]):
        for table in plan["exchanges"]:
            options = BenchOptions(
                schedule=group.schedule,
                warmup=1,
                repeats=plan["repeats"],
                seed=plan["seed"],
                timeout=_TIMEOUT,
                backend="gloo",
                topology=find_topology(plan["topology"]),
                topology_name=plan["topology"],
                out=folder / f"{group.name}{table}.csv",
            )
            run_bench(group.cases, options, on_start=lambda _: None, on_row=lambda _: None)
    for name in plan["scenarios"]:
        out = folder / name
        measured = execute(
            load_scenario(str(out / "scenario.resolved.yaml")), repeats=plan["repeats"], folder=out, backend="gloo"
        )
        if measured is not None:
            write_run(out, measured, summarise(measured))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]))
