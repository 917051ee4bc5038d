"""The rows of a run: one per repeat, phase, layer and rank, in JSON lines while it runs, then as tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from smoes_sim import __version__
from smoes_sim.distributed.prediction import Predicted
from smoes_sim.errors import ConfigError
from smoes_sim.files import write_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one rank did in one phase.

    Attributes:
        step: 0 for the prefill, then the decode steps.
        layer: MoE layer, 0..L-1.
        phase: ``dispatch``, ``experts``, ``combine``, ``shared`` or ``layer`` (all of them, without barriers).
        rank: The rank.
        repeat: 0, 1, ...
        time_s: From the common start until this rank was done, seconds; the phase takes the largest over the ranks.
        cpu_s: CPU time of the rank's own thread meanwhile, seconds; less than ``time_s`` where it waited.
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


class RowFile:
    """A JSON-lines file to which a rank appends its rows, so that those of a run that dies can be read."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"rows.rank{rank}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("wb")
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot be written ({error.strerror}). Choose another place.") from None

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows and hand them to the operating system."""
        self._stream.write(to_lines(rows))
        self._stream.flush()

    def close(self) -> None:
        """Write everything to disk."""
        os.fsync(self._stream.fileno())
        self._stream.close()


def to_lines(rows: Iterable[Row]) -> bytes:
    """Rows as JSON lines."""
    return b"".join(orjson.dumps(asdict(row)) + b"\n" for row in rows)


def from_lines(lines: bytes) -> list[Row]:
    """Rows of JSON lines; a last line that was not finished is left out."""
    whole, _, _ = lines.rpartition(b"\n")
    return [Row(**orjson.loads(line)) for line in whole.splitlines()]


def medians(
    rows: Sequence[Row], predictions: dict[tuple[int, int, str], Predicted], *, moe_layers: Sequence[int]
) -> list[dict[str, Any]]:
    """Per step, layer and phase the median over repeats of the largest time over ranks, and the prediction beside it.

    ``spread_s`` is half the distance from the 10th to the 90th percentile of the repeats: how well a repeat agrees with
    another; ``cpu_s`` is the median of the busiest rank's CPU time; bytes are those that all ranks sent in one repeat.
    """
    table = pl.DataFrame([asdict(row) for row in rows])
    key = ["step", "layer", "phase"]
    repeats = table.group_by([*key, "repeat"]).agg(pl.col("time_s").max(), pl.col("cpu_s").max(), pl.col("bytes_sent").sum())
    found = (
        repeats.group_by(key)
        .agg(
            pl.col("time_s").median().alias("measured_s"),
            ((pl.col("time_s").quantile(0.9, "linear") - pl.col("time_s").quantile(0.1, "linear")) / 2).alias("spread_s"),
            pl.col("cpu_s").median(),
            pl.col("bytes_sent").max().alias("bytes_remote"),
        )
        .sort(key)
    )
    return [_with_prediction(row, predictions, moe_layers) for row in found.iter_rows(named=True)]


def _with_prediction(
    row: dict[str, Any], predictions: dict[tuple[int, int, str], Predicted], moe_layers: Sequence[int]
) -> dict[str, Any]:
    predicted = predictions[row["step"], row["layer"], row["phase"]]
    return row | {
        "model_layer": moe_layers[row["layer"]],
        "predicted_s": predicted.value,
        "predicted_low_s": predicted.low,
        "predicted_high_s": predicted.high,
    }


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``rows.parquet``."""
    stream = BytesIO()
    metadata = {"smoes_sim.version": __version__, "smoes_sim.schema": "run-rows/1", "units": "in the column names"}
    pl.DataFrame([asdict(row) for row in rows]).write_parquet(stream, metadata=metadata)
    write_bytes(folder / "rows.parquet", stream.getvalue())
