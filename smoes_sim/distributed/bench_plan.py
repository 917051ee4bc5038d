"""What a benchmark sends and how it is reported: cases in, rows of nccl-tests' columns and of the measurements table out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.distributed.matrix import Matrix, aligned, as_written, even_blocks, one_way
from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.alltoall import Demand, choose_matrices
from smoes_sim.exchanges.bandwidth import alltoall_bandwidth
from smoes_sim.measurements import Measurement
from smoes_sim.version import __version__

Operation = Literal["alltoall", "sendrecv"]
Row = dict[str, Any]
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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation of one size.

    Attributes:
        operation: ``alltoall`` sends a matrix; ``sendrecv`` sends one message there and back.
        matrix: Bytes from rank to rank, the own blocks on the diagonal, shape (R, R).
        is_even: Whether all blocks are equal by construction, so that the size says all.
    """

    operation: Operation
    matrix: Matrix
    is_even: bool

    @property
    def collective(self) -> str:
        """``alltoall``, ``alltoallv`` or ``sendrecv``, as nccl-tests calls it."""
        return "alltoallv" if self.operation == "alltoall" and not self.is_even else self.operation

    @property
    def size(self) -> int:
        """Bytes: the largest sum over a row or column; for equal blocks what a rank sends, its own block included."""
        return int(max(self.matrix.sum(axis=0).max(), self.matrix.sum(axis=1).max()))

    @property
    def words(self) -> str | None:
        """What is sent, where the demand does not say it."""
        if self.operation == "alltoall":
            return None
        source, destination = np.argwhere(self.matrix)[0].tolist()
        return f"from rank {source} to rank {destination} and back, half of the time for both"

    @property
    def name(self) -> str:
        """For messages and progress."""
        return f"{self.collective} of {self.size} B"


def choose_cases(operation: Operation, num_ranks: int, demand: Demand, *, pair: tuple[int, int], seed: int) -> list[Case]:
    """The cases that are asked for, one a size.

    Args:
        operation: What is measured.
        num_ranks: R.
        demand: Sizes and skew; for ``sendrecv`` sizes only.
        pair: Ranks between which ``sendrecv`` goes.
        seed: Of the skew.

    Raises:
        ConfigError: If the demand contradicts itself, or nothing would be sent.
    """
    matrices = choose_matrices(num_ranks, demand, seed=seed)
    if operation == "sendrecv":
        if not demand.is_uniform:
            raise ConfigError("sendrecv sends one message there and back. Give only --bytes or --sweep.")
        if not (min(pair) >= 0 and max(pair) < num_ranks and pair[0] != pair[1]):
            raise ConfigError(f"--pair = {pair[0]}:{pair[1]}: must be two of the ranks 0 to {num_ranks - 1}. Write 0:1.")
        sizes = [round(float(matrix.sum(axis=1)[0])) for matrix in matrices]
        cases = [Case(operation=operation, matrix=one_way(num_ranks, *pair, size), is_even=False) for size in sizes]
    elif demand.matrix is not None:
        cases = [Case(operation=operation, matrix=as_written(matrices[0], str(demand.matrix)), is_even=False)]
    else:
        whole = even_blocks if demand.is_uniform else aligned
        cases = [Case(operation=operation, matrix=whole(matrix), is_even=demand.is_uniform) for matrix in matrices]
    if num_ranks < 2:
        raise ConfigError("1 rank has nobody to send to. Use --ranks 2 or more.")
    for case in cases:
        if not (case.matrix * (1 - np.eye(num_ranks, dtype=np.int64))).any():
            raise ConfigError(f"{case.name}: no rank sends anything to another. Give a larger size.")
    return cases


def case_row(case: Case, *, schedule: str, times: NDArray[np.float64]) -> Row:
    """What is reported of a case.

    Args:
        case: What was sent.
        schedule: How.
        times: Seconds of each rank and repeat, shape (R, repeats).
    """
    slowest = times.max(axis=0)
    low, middle, high = np.quantile(slowest, [0.1, 0.5, 0.9]).tolist()
    algbw, busbw = alltoall_bandwidth(case.size, middle, len(case.matrix))
    return {
        "op": case.collective,
        "schedule": schedule,
        "size_bytes": case.size,
        "mean_bytes": float(case.matrix.sum() / len(case.matrix)),
        "time_s": middle,
        "time_p10_s": low,
        "time_p90_s": high,
        "algbw_GBps": algbw / 1e9,
        "busbw_GBps": (algbw if case.operation == "sendrecv" else busbw) / 1e9,
        "wrong": 0,
        "repeats": len(slowest),
    }


def table_head(document: Row) -> str:
    """What is measured and how, as comments, and the names of the columns."""
    lines = [
        f"{document['collective']}: ranks {document['ranks']}, nodes {document['nodes']}, {document['library']}; "
        f"{document['traffic']}",
        f"schedule {document['schedule']}; median, 10th and 90th percentile over {document['repeats']} repeats of the "
        f"slowest rank, after {document['warmup']} to warm up; clock: {document['clock']}",
        *(
            ["size is the most that a rank sends or receives, its own block included"]
            * (document["collective"] != "sendrecv")
        ),
    ]
    return "".join(f"# {line}\n" for line in lines) + _line(list(_COLUMNS))


def table_line(row: Row) -> str:
    """A row in nccl-tests' columns. Every byte was compared with what was sent, so #wrong is 0 or there is no row."""
    return _line(
        (
            str(row["size_bytes"]),
            str(row["size_bytes"] // 4),
            "float",
            "none",
            "-1",
            f"{row['time_s'] * 1e6:.2f}",
            *(f"{row[key]:.4f}" for key in ("algbw_GBps", "busbw_GBps")),
            str(row["wrong"]),
            *(f"{row[key] * 1e6:.2f}" for key in ("time_p10_s", "time_p90_s")),
        )
    )


def _line(cells: Sequence[str]) -> str:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True)).rstrip() + "\n"


def files_folder(out: Path) -> Path:
    """The folder of what belongs to a table: matrices, journals, facts, a lab's topology; ``rows.files`` of ``rows.csv``."""
    return out.with_suffix(".files")


def measurement(
    case: Case,
    row: Row,
    *,
    out: Path,
    index: int,
    system: str,
    library: str,
    nodes: int,
    topology: str | None,
    clock: str,
    send_buffer: float | None,
) -> Measurement:
    """The row of the measurements table; the matrix is where :func:`matrix_file` says."""
    num_ranks = len(case.matrix)
    return Measurement(
        id=f"{out.stem}-{index}-{row['op']}-{row['schedule']}-{case.size}",
        system=system,
        nodes=nodes,
        ranks_per_node=-(-num_ranks // nodes),
        library=library,
        mode=case.operation,
        op=row["op"],
        size=float(case.size),
        duration=row["time_s"],
        duration_p10=row["time_p10_s"],
        duration_p90=row["time_p90_s"],
        repeats=row["repeats"],
        schedule=row["schedule"],
        order="" if row["schedule"] == "all_to_all_single" else "shifted",
        send_buffer=send_buffer,
        topology="" if topology is None else _beside(out, topology),
        matrix="" if case.is_even else _beside(out, str(matrix_file(out, index))),
        source=f"smoes-sim bench {__version__}",
        notes=f"clock: {clock}",
        folder=out.parent,
    )


def matrix_file(out: Path, index: int) -> Path:
    """Where the matrix of a case is written."""
    return files_folder(out) / f"matrix-{index}.txt"


def _beside(out: Path, name: str) -> str:
    """A file as seen from the table's folder; a shipped name as it is."""
    return os.path.relpath(name, out.parent) if Path(name).is_file() else name
