"""What is kept of a run: rows, summary, measurements table, scenario and trace."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from smoes_sim.distributed.runnable import SCENARIO, with_trace, write_scenario
from smoes_sim.measurements import Measurement, write_measurements
from smoes_sim.results.write import to_json
from smoes_sim.version import __version__
from smoes_sim.yaml_files import write_bytes

if TYPE_CHECKING:
    from smoes_sim.distributed.run_result import RunResult


def measurements(result: RunResult, *, name: str) -> list[Measurement]:
    """The medians of the first pass as rows of the measurements table, which ``calibrate`` and ``validate`` read.

    That is the prefill, or the first decode step where only decode was asked for.

    Args:
        result: The run.
        name: Begins the id of every row.
    """
    deployment, facts = result.measured.deployment, result.measured.facts
    model, topology = deployment.model, deployment.topology
    return [
        Measurement(
            id=f"{name}-layer{row.layer}-{row.phase}",
            system=facts.per_rank[0].device,
            nodes=topology.num_nodes,
            ranks_per_node=-(-topology.num_ranks // topology.num_nodes),
            library=facts.library,
            mode="run",
            op=row.phase,
            tokens_per_rank=result.steps[0].tokens / topology.num_ranks,
            hidden=model.hidden,
            top_k=model.top_k,
            experts=model.experts,
            duration=row.measured_s,
            duration_p10=row.measured_p10_s,
            duration_p90=row.measured_p90_s,
            repeats=facts.repeats,
            schedule=deployment.scenario.communication.library,
            scenario=SCENARIO,
            phase=row.phase,
            layer=row.layer,
            source=f"smoes-sim run {__version__}",
            notes=f"clock: {facts.clock}",
        )
        for row in result.medians
        if row.step == 0
    ]


def write_run(folder: Path, result: RunResult) -> None:
    """Write what there is to keep of a run.

    ``rows.parquet``, ``summary.json``, ``measurements.csv``, ``scenario.resolved.yaml``, and ``trace.npz`` if the routing is
    synthetic.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    stream = BytesIO()
    metadata = {"smoes_sim.version": __version__, "smoes_sim.schema": "run-rows/1", "units": "in the column names"}
    pl.DataFrame([asdict(row) for row in result.measured.rows]).write_parquet(stream, metadata=metadata)
    write_bytes(folder / "rows.parquet", stream.getvalue())
    write_bytes(folder / "summary.json", to_json(result.summary()))
    write_measurements(folder / "measurements.csv", measurements(result, name=folder.name))
    write_scenario(with_trace(result.measured.deployment.scenario, folder), folder)
