"""The rows of a run, their medians beside predictions, and the folder that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from smoes_sim.distributed.hosts import RankFacts, SystemFacts
from smoes_sim.distributed.prediction import PHASES, PredictedPhase
from smoes_sim.prediction.deployment import Deployment


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One phase of one MoE layer on one rank.

    Attributes:
        step: 0 for the first pass: the prefill, if there is one, then the decode steps.
        layer: MoE layer, 0..L-1.
        phase: ``dispatch``, ``experts``, ``combine``, ``shared``, or ``layer``: all of them, without barriers; where
            sequences live on several ranks also ``attention_gather``, ``attention_scatter`` and, once, ``cache_move``.
        rank: The rank.
        repeat: 0, 1, ...
        time_s: From the common start until this rank was done, seconds; the phase takes the largest over the ranks.
        cpu_s: CPU time of the rank's main thread meanwhile, seconds: less than ``time_s`` where it waited.
        bytes_sent: Bytes to other ranks.
        bytes_received: Bytes from other ranks.
        tokens: Number of tokens at home on the rank.
        routed_tokens: Number of routed tokens that its experts process.
        active_experts: Number of its experts that process any.
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
class LayerRow:
    """One phase of one MoE layer: medians over the repeats, and the prediction.

    Attributes:
        step: 0 for the first pass: the prefill, if there is one, then the decode steps.
        layer: MoE layer, 0..L-1.
        phase: As in :class:`RunRow`.
        measured_s: Median over repeats of the slowest rank's time, seconds.
        measured_p10_s: 10th percentile of the same.
        measured_p90_s: 90th percentile of the same.
        cpu_s: Median over repeats of the busiest rank's CPU time, seconds.
        bytes_remote: Bytes between ranks in one repeat.
        predicted_s: Predicted time on the scenario's topology, seconds.
        predicted_low_s: Low end of its interval.
        predicted_high_s: High end of its interval.
        relative_error: (predicted - measured) / measured.
    """

    step: int
    layer: int
    phase: str
    measured_s: float
    measured_p10_s: float
    measured_p90_s: float
    cpu_s: float
    bytes_remote: int
    predicted_s: float
    predicted_low_s: float
    predicted_high_s: float
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """How a run was made.

    Attributes:
        system: Versions and backend.
        library: Software that moved the bytes.
        clock: Kind of clock.
        activation: Element type of the activations.
        warmup: Number of repeats before the first that counts.
        repeats: Number of repeats that count.
        per_rank: Hosts and interfaces, in the order of the ranks.
    """

    system: SystemFacts
    library: str
    clock: str
    activation: str
    warmup: int
    repeats: int
    per_rank: tuple[RankFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """One flat JSON object."""
        fields = asdict(self)
        return fields.pop("system") | fields | {"per_rank": [asdict(rank) for rank in self.per_rank]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What rank 0 knows at the end of a run.

    Attributes:
        deployment: What was executed.
        rows: Rows of all ranks.
        facts: How it was run.
    """

    deployment: Deployment
    rows: Sequence[RunRow]
    facts: RunFacts


def layer_rows(rows: Sequence[RunRow], predictions: dict[tuple[int, int, str], PredictedPhase]) -> list[LayerRow]:
    """Medians and predictions per step, layer and phase, in the order in which they ran."""
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


def _beside(measured: dict[str, Any], predicted: PredictedPhase) -> LayerRow:
    return LayerRow(
        **measured,
        predicted_s=predicted.value,
        predicted_low_s=predicted.low,
        predicted_high_s=predicted.high,
        relative_error=(predicted.value - measured["measured_s"]) / measured["measured_s"],
    )
