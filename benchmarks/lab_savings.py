"""What SMoES saves against standard routing in a lab, measured and predicted, under each token placement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from benchmarks.lab_cases import PLACEMENTS, TWO_NODES
from smoes_sim.calibration.cases import CaseReader
from smoes_sim.measurements import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """One token placement; shares of what standard routing needs.

    Attributes:
        tokens: Token placement.
        bytes_measured: Saved bytes between ranks, as the ranks counted them.
        bytes_predicted: The same from the traffic matrices.
        time_measured: Saved seconds of MoE layers; filled in where predictions are made.
        standard_s: Seconds of the layers under standard routing, measured.
        smoes_s: Seconds of the layers under SMoES, measured.
    """

    tokens: str
    bytes_measured: float
    bytes_predicted: float
    time_measured: float
    standard_s: float
    smoes_s: float


def savings(folder: Path, layers: Sequence[Measurement]) -> list[Saving]:
    """Savings on two nodes by token placement; empty if that lab was not measured.

    Args:
        folder: Of all labs.
        layers: Rows of whole layers, with paths as seen from the folder.
    """
    found = []
    for tokens in PLACEMENTS:
        of_policy = {policy: _rows(layers, f"{policy}-{tokens}") for policy in ("standard", "smoes")}
        if not all(of_policy.values()):
            continue
        seconds = {policy: sum(row.duration or 0.0 for row in rows) for policy, rows in of_policy.items()}
        counted = {policy: _counted(folder, f"{policy}-{tokens}") for policy in of_policy}
        predicted = {policy: _traffic(rows[0]) for policy, rows in of_policy.items()}
        found.append(
            Saving(
                tokens=tokens,
                bytes_measured=1 - counted["smoes"] / counted["standard"],
                bytes_predicted=1 - predicted["smoes"] / predicted["standard"],
                time_measured=1 - seconds["smoes"] / seconds["standard"],
                standard_s=seconds["standard"],
                smoes_s=seconds["smoes"],
            )
        )
    return found


def _rows(layers: Sequence[Measurement], variant: str) -> list[Measurement]:
    return [row for row in layers if row.variant == variant and row.id.startswith(f"{TWO_NODES}-{variant}-")]


def _counted(folder: Path, label: str) -> int:
    """Bytes that the ranks sent to others in the layers of one repeat."""
    rows = pl.read_parquet(folder / TWO_NODES / label / "rows.parquet")
    return int(rows.filter((pl.col("phase") == "layer") & (pl.col("repeat") == 0))["bytes_sent"].sum())


def _traffic(row: Measurement) -> float:
    """Bytes between ranks that the simulator counts for the row's scenario."""
    case = CaseReader().read(row)
    return float(case.deployment.steps[0].bytes_remote)  # type: ignore[union-attr]  # a row with a scenario
