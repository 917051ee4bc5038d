"""Predictions beside published serving figures: ``python -m benchmarks.serving [ID ...]``.

Nothing is fitted: nominal link rates, no software overhead, and for kernels the ranges of efficiency that the devices state
(:mod:`smoes_sim.compute.devices`). The rows, with their sources, are in ``smoes_sim/data/measurements/serving.csv``.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from smoes_sim.exchanges.bandwidth import relative_error
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.scenario import load_scenario
from smoes_sim.serving.step_cost import StepBatch, StepCosts

ROWS = Path(__file__).parent.parent / "smoes_sim" / "data" / "measurements" / "serving.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A published figure.

    Attributes:
        id: Its name.
        scenario: File beside this module, without its suffix.
        overrides: What differs from that.
        phase: ``prefill`` or ``decode``.
        tokens: Tokens (of prompts, or sequences) a rank processes in a step.
        context: Prompt length, or tokens in the cache.
        quantity: ``tokens_per_s_node``, ``tokens_per_s_rank`` or ``ttft_s``.
        measured: Its value.
        source: Who printed it, and where.
    """

    id: str
    scenario: str
    overrides: tuple[str, ...]
    phase: str
    tokens: int
    context: int
    quantity: str
    measured: float
    source: str


def read_figures() -> list[Figure]:
    """All rows of the table."""
    with ROWS.open(encoding="utf-8", newline="") as file:
        return [
            Figure(
                id=row["id"],
                scenario=row["scenario"],
                overrides=tuple(part for part in row["overrides"].split(";") if part),
                phase=row["phase"],
                tokens=int(row["tokens_per_rank"]),
                context=int(row["context"]),
                quantity=row["quantity"],
                measured=float(row["measured"]),
                source=row["source"],
            )
            for row in csv.DictReader(file)
        ]


def predict_figure(figure: Figure) -> tuple[float, float, float]:
    """The figure with the low end, the middle and the high end of the efficiencies."""
    path = Path(__file__).parent / f"{figure.scenario}.yaml"
    deployment = deploy(load_scenario(str(path), figure.overrides))
    batch = _batch(figure, deployment)
    low, middle, high = (
        _quantity(figure, deployment, StepCosts(deployment.under(constants)).seconds(batch))
        for constants in constant_sets(deployment)
    )
    return low, middle, high


def _batch(figure: Figure, deployment: Deployment) -> StepBatch:
    ranks = deployment.topology.num_ranks
    if figure.phase == "decode":
        return StepBatch(decode=(figure.context,) * (figure.tokens * ranks))
    if figure.quantity == "ttft_s":
        return StepBatch(prefill=((figure.context, 0),))
    return StepBatch(prefill=((figure.context, 0),) * (figure.tokens * ranks // figure.context))


def _quantity(figure: Figure, deployment: Deployment, seconds: float) -> float:
    if figure.quantity == "ttft_s":
        return seconds
    per_rank = figure.tokens / seconds
    if figure.quantity == "tokens_per_s_rank":
        return per_rank
    return per_rank * deployment.topology.num_ranks / deployment.topology.num_nodes


def main(names: list[str]) -> None:
    """Print a line per figure; with names only those."""
    print(f"{'figure':32} {'quantity':18} {'measured':>9} {'predicted':>9} {'[low, high]':>18} {'error':>7}")
    for figure in read_figures():
        if names and figure.id not in names:
            continue
        values = predict_figure(figure)
        low, high = sorted((values[0], values[2]))
        error = relative_error(values[1], figure.measured)
        span = f"[{low:.4g}, {high:.4g}]"
        print(
            f"{figure.id:32} {figure.quantity:18} {figure.measured:9.4g} {values[1]:9.4g} {span:>18} {100 * error:+6.0f}%",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
