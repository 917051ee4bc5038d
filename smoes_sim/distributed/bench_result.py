"""What a benchmark gives: one row per size, as nccl-tests' columns, as JSON, and for the measurements table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table
from smoes_sim.distributed.bench_plan import BenchCase
from smoes_sim.distributed.hosts import RankFacts, SystemFacts, network_words
from smoes_sim.exchanges.bandwidth import alltoall_bandwidth
from smoes_sim.measurements import Measurement
from smoes_sim.version import __version__

_COLUMNS = {
    "size(B)": 12,
    "count": 12,
    "type": 6,
    "redop": 6,
    "root": 6,
    "time(us)": 12,
    "algbw(GB/s)": 12,
    "busbw(GB/s)": 12,
    "#wrong": 7,
    "p10(us)": 12,
    "p90(us)": 12,
}
"""Names and widths: fixed, so that a row can be printed as soon as it is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One size.

    Attributes:
        op: ``alltoall``, ``alltoallv`` or ``sendrecv``.
        schedule: Name of the exchange.
        size_bytes: The most that a rank sends or receives, its own block included; of ``sendrecv`` the message.
        mean_bytes: Bytes that a rank sends on average, its own block included.
        time_s: Median over repeats of the slowest rank's time, seconds.
        time_p10_s: 10th percentile of the same.
        time_p90_s: 90th percentile of the same.
        algbw_GBps: Size over time, 1e9 bytes per second.
        busbw_GBps: The part of it that goes to other ranks, as nccl-tests defines it.
        wrong: Number of wrong elements: 0, as every byte was compared, or there is no row.
        repeats: Number of exchanges that count.
    """

    op: str
    schedule: str
    size_bytes: int
    mean_bytes: float
    time_s: float
    time_p10_s: float
    time_p90_s: float
    algbw_GBps: float  # noqa: N815 (a unit)
    busbw_GBps: float  # noqa: N815 (a unit)
    wrong: int
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFacts:
    """What a benchmark is made on and how.

    Attributes:
        system: Versions and backend.
        nodes: Number of nodes, of the topology where one is named.
        library: Software that moves the bytes.
        clock: Kind of clock.
        topology: Name of the topology of the ranks; None if none is named.
        schedule: Name of the exchange.
        warmup: Number of exchanges before the first that counts.
        repeats: Number of exchanges that count.
        seed: Seed of the bytes that are sent.
        per_rank: Hosts and interfaces, in the order of the ranks.
        collective: Operation, as nccl-tests calls it.
        traffic: What is sent, in words.
    """

    system: SystemFacts
    nodes: int
    library: str
    clock: str
    topology: str | None
    schedule: str
    warmup: int
    repeats: int
    seed: int
    per_rank: tuple[RankFacts, ...]
    collective: str
    traffic: str

    def to_dict(self) -> dict[str, Any]:
        """One flat JSON object."""
        fields = asdict(self)
        return fields.pop("system") | fields | {"per_rank": [asdict(rank) for rank in self.per_rank]}

    @property
    def comments(self) -> list[str]:
        """What stands above the table: what is measured, on what, and how."""
        lines = [
            f"{self.collective}: {network_words(self.system, self.per_rank)}, nodes {self.nodes}, {self.library}; "
            f"{self.traffic}",
            f"schedule {self.schedule}; median, 10th and 90th percentile over {self.repeats} repeats of the slowest rank, "
            f"after {self.warmup} to warm up; clock: {self.clock}",
        ]
        if self.collective != "sendrecv":
            lines.append("size is the most that a rank sends or receives, its own block included")
        return lines


@dataclass(frozen=True, kw_only=True, repr=False)
class BenchResult(Result):
    """What was measured.

    Attributes:
        facts: On what and how.
        rows: One per size.
    """

    facts: BenchFacts
    rows: tuple[BenchRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``smoes-sim bench``."""
        document = self.facts.to_dict()
        said = {key: document.pop(key) for key in ("collective", "traffic")}
        return document | {"rows": [asdict(row) for row in self.rows]} | said

    def records(self) -> list[dict[str, Any]]:
        """One row per size."""
        return [asdict(row) for row in self.rows]

    def tables(self) -> Sequence[Table]:
        """The columns of nccl-tests."""
        return [Table(header=list(_COLUMNS), rows=[_cells(row) for row in self.rows], left=0, notes=self.facts.comments)]


def case_row(case: BenchCase, *, schedule: str, times: NDArray[np.float64]) -> BenchRow:
    """The row of a case.

    Args:
        case: What was sent.
        schedule: Name of the exchange.
        times: Seconds of each rank and repeat, shape (R, repeats).
    """
    slowest = times.max(axis=0)
    low, middle, high = np.quantile(slowest, [0.1, 0.5, 0.9]).tolist()
    algbw, busbw = alltoall_bandwidth(case.size, middle, len(case.matrix))
    return BenchRow(
        op=case.collective,
        schedule=schedule,
        size_bytes=case.size,
        mean_bytes=float(case.matrix.sum() / len(case.matrix)),
        time_s=middle,
        time_p10_s=low,
        time_p90_s=high,
        algbw_GBps=algbw / 1e9,
        busbw_GBps=(algbw if case.operation == "sendrecv" else busbw) / 1e9,
        wrong=0,
        repeats=len(slowest),
    )


def table_head(facts: BenchFacts) -> str:
    """The comments and the names of the columns, printed before the first measurement."""
    return "".join(f"# {line}\n" for line in facts.comments) + _line(list(_COLUMNS))


def table_line(row: BenchRow) -> str:
    """A row in the columns of nccl-tests."""
    return _line(_cells(row))


def _cells(row: BenchRow) -> list[str]:
    return [
        str(row.size_bytes),
        str(row.size_bytes // 4),
        "float",
        "none",
        "-1",
        f"{row.time_s * 1e6:.2f}",
        f"{row.algbw_GBps:.4f}",
        f"{row.busbw_GBps:.4f}",
        str(row.wrong),
        f"{row.time_p10_s * 1e6:.2f}",
        f"{row.time_p90_s * 1e6:.2f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True)).rstrip() + "\n"


def files_folder(out: Path) -> Path:
    """The folder of what belongs to a table: matrices, journals, facts, a lab's topology; ``rows.files`` of ``rows.csv``."""
    return out.with_suffix(".files")


def measurement(
    case: BenchCase, row: BenchRow, facts: BenchFacts, *, out: Path, index: int, system: str, topology: str | None
) -> Measurement:
    """The row of the measurements table; the matrix is where :func:`matrix_file` says.

    Args:
        case: What was sent.
        row: What was measured.
        facts: On what and how.
        out: The table.
        index: Number of the case, 0 for the first.
        system: Name of the device.
        topology: Name or file of the topology, if known.
    """
    num_ranks = len(case.matrix)
    return Measurement(
        id=f"{out.stem}-{index}-{row.op}-{row.schedule}-{case.size}",
        system=system,
        nodes=facts.nodes,
        ranks_per_node=-(-num_ranks // facts.nodes),
        library=facts.library,
        mode=case.operation,
        op=row.op,
        size=float(case.size),
        duration=row.time_s,
        duration_p10=row.time_p10_s,
        duration_p90=row.time_p90_s,
        repeats=row.repeats,
        schedule=row.schedule,
        order="" if row.schedule == "all_to_all_single" else "shifted",
        send_buffer=facts.system.send_buffer_bytes,
        topology="" if topology is None else _beside(out, topology),
        matrix="" if case.is_even else _beside(out, str(matrix_file(out, index))),
        source=f"smoes-sim bench {__version__}",
        notes=f"clock: {facts.clock}",
        folder=out.parent,
    )


def matrix_file(out: Path, index: int) -> Path:
    """Where the matrix of a case is written."""
    return files_folder(out) / f"matrix-{index}.txt"


def _beside(out: Path, name: str) -> str:
    """A file as seen from the table's folder; a shipped name as it is."""
    return os.path.relpath(name, out.parent) if Path(name).is_file() else name
