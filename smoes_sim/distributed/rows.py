"""The rows of a run, and what they say: medians beside predictions, in one document and one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from smoes_sim.distributed.prediction import PHASES, Predicted, predict_layers
from smoes_sim.distributed.runnable import SCENARIO, with_trace, write_scenario
from smoes_sim.measurements import Measurement, write_measurements
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.results.write import to_json
from smoes_sim.version import __version__
from smoes_sim.yaml_files import write_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """What one rank did in one phase.

    Attributes:
        step: 0 for the prefill, then the decode steps.
        layer: MoE layer, 0..L-1.
        phase: ``dispatch``, ``experts``, ``combine``, ``shared``, or ``layer``: all of them, without barriers.
        rank: The rank.
        repeat: 0, 1, ...
        time_s: From the common start until this rank was done, seconds; the phase takes the largest over the ranks.
        cpu_s: CPU time of the rank's main thread meanwhile, seconds: less than ``time_s`` where it waited.
        bytes_sent: Bytes to other ranks.
        bytes_received: Bytes from other ranks.
        tokens: Tokens at home on the rank.
        routed_tokens: Routed tokens that its experts process.
        active_experts: Its experts that process any.
    """

    step: int
    layer: int
    phase: str
    rank: int
    repeat: int
    time_s: float
    cpu_s: float
    bytes_sent: int
    bytes_received: int
    tokens: int
    routed_tokens: int
    active_experts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What rank 0 knows at the end of a run.

    Attributes:
        deployment: What was executed.
        rows: Rows of all ranks.
        facts: How it was run, JSON values.
    """

    deployment: Deployment
    rows: Sequence[RunRow]
    facts: dict[str, Any]


def summarise(measured: Measured) -> dict[str, Any]:
    """The document of a run: what was run on what, and medians with the simulator's predictions beside them."""
    deployment = measured.deployment
    scenario = deployment.scenario
    communication = scenario.communication
    tokens = [sum(step.batches[0].load.tokens.tolist()) for step in (deployment.prefill, *deployment.decode)]
    return {
        "model": deployment.model.name,
        "topology": deployment.topology.name,
        "ranks": deployment.topology.num_ranks,
        "nodes": deployment.topology.num_nodes,
        "moe_layers": list(deployment.model.moe_layer_indices),
        "token_placement": scenario.placement.tokens,
        "expert_placement": str(scenario.expert_rule),
        **communication.model_dump(include={"library", "deduplicate", "dispatch", "combine"}),
        "calibration": scenario.calibration,
        "steps": [{"step": step, "phase": "decode" if step else "prefill", "tokens": n} for step, n in enumerate(tokens)],
        "medians": medians(measured.rows, predict_layers(deployment)),
        "facts": measured.facts,
    }


def medians(rows: Sequence[RunRow], predictions: dict[tuple[int, int, str], Predicted]) -> list[dict[str, Any]]:
    """Per step, layer and phase what was measured and what was predicted, in the order in which they ran.

    ``measured_s`` is the median over repeats of the largest time over ranks, ``measured_p10_s`` and ``measured_p90_s`` are
    percentiles of the same; ``cpu_s`` is the median over repeats of the busiest rank's CPU time; ``bytes_remote`` all bytes
    between ranks in one repeat; ``relative_error`` is (predicted - measured) / measured.
    """
    key = ["step", "layer", "phase"]
    repeats = (
        pl.DataFrame([asdict(row) for row in rows])
        .group_by([*key, "repeat"])
        .agg(pl.col("time_s").max(), pl.col("cpu_s").max(), pl.col("bytes_sent").sum())
    )
    time = pl.col("time_s")
    table = repeats.group_by(key).agg(
        time.median().alias("measured_s"),
        time.quantile(0.1, "linear").alias("measured_p10_s"),
        time.quantile(0.9, "linear").alias("measured_p90_s"),
        pl.col("cpu_s").median(),
        pl.col("bytes_sent").max().alias("bytes_remote"),
    )
    found = sorted(table.iter_rows(named=True), key=lambda row: (row["step"], row["layer"], PHASES.index(row["phase"])))
    return [_beside(row, predictions[row["step"], row["layer"], row["phase"]]) for row in found]


def _beside(row: dict[str, Any], predicted: Predicted) -> dict[str, Any]:
    return row | {
        "predicted_s": predicted.value,
        "predicted_low_s": predicted.low,
        "predicted_high_s": predicted.high,
        "relative_error": (predicted.value - row["measured_s"]) / row["measured_s"],
    }


def measurements(measured: Measured, document: dict[str, Any], *, name: str) -> list[Measurement]:
    """The prefill's medians as rows of the measurements table, which ``calibrate`` and ``validate`` read.

    Args:
        measured: The run.
        document: What :func:`summarise` made of it.
        name: Begins the id of every row.
    """
    deployment, facts = measured.deployment, measured.facts
    model, topology = deployment.model, deployment.topology
    return [
        Measurement(
            id=f"{name}-layer{row['layer']}-{row['phase']}",
            system=facts["per_rank"][0]["device"],
            nodes=topology.num_nodes,
            ranks_per_node=-(-topology.num_ranks // topology.num_nodes),
            library=facts["library"],
            mode="run",
            op=row["phase"],
            tokens_per_rank=document["steps"][0]["tokens"] / topology.num_ranks,
            hidden=model.hidden,
            top_k=model.top_k,
            experts=model.experts,
            duration=row["measured_s"],
            duration_p10=row["measured_p10_s"],
            duration_p90=row["measured_p90_s"],
            repeats=facts["repeats"],
            schedule=document["library"],
            scenario=SCENARIO,
            phase=row["phase"],
            layer=row["layer"],
            source=f"smoes-sim run {__version__}",
            notes=f"clock: {facts['clock']}",
        )
        for row in document["medians"]
        if row["step"] == 0
    ]


def write_run(folder: Path, measured: Measured, document: dict[str, Any]) -> None:
    """Write what there is to keep of a run.

    ``rows.parquet``, ``summary.json``, ``measurements.csv``, ``scenario.resolved.yaml``, and ``trace.npz`` if the routing is
    synthetic.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    stream = BytesIO()
    metadata = {"smoes_sim.version": __version__, "smoes_sim.schema": "run-rows/1", "units": "in the column names"}
    pl.DataFrame([asdict(row) for row in measured.rows]).write_parquet(stream, metadata=metadata)
    write_bytes(folder / "rows.parquet", stream.getvalue())
    write_bytes(folder / "summary.json", to_json(document))
    write_measurements(folder / "measurements.csv", measurements(measured, document, name=folder.name))
    write_scenario(with_trace(measured.deployment.scenario, folder), folder)
