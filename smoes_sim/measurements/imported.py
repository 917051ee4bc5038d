"""Rows of a measurements table from logs of nccl-tests and rccl-tests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table, pairs
from smoes_sim.errors import MeasurementError
from smoes_sim.measurements.nccl_tests import OPERATIONS, LoggedTest, read_tests
from smoes_sim.measurements.table import Measurement, Measurements
from smoes_sim.topology import find_topology


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts that the logs lack, or that replace theirs; empty or None where not given.

    Rates are in B/s per rank and direction.
    """

    topology: str = ""
    matrix: Path | None = None
    operation: str = ""
    system: str = ""
    library: str = ""
    nodes: int | None = None
    ranks_per_node: int | None = None
    intra_link: str = ""
    intra_bandwidth: float | None = None
    inter_link: str = ""
    nic_bandwidth: float | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class ImportedRows(Result):
    """Rows of the tests in some logs.

    Attributes:
        rows: One row per timed size, at least one.
        left_out: Number of rows left out, by reason.
        out: The table for which the rows are made.
        topology: Name of the measured topology; "" if none was given.
    """

    rows: tuple[Measurement, ...]
    left_out: dict[str, int]
    out: Path
    topology: str

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``smoes-sim measurements import``: what was read, without the rows."""
        first = self.rows[0]
        return {
            "file": str(self.out),
            "rows": len(self.rows),
            "left_out": self.left_out,
            "nodes": first.nodes,
            "ranks_per_node": first.ranks_per_node,
            "library": first.library,
            "topology": self.topology,
        }

    def records(self) -> list[dict[str, Any]]:
        """The rows by column of the table."""
        return Measurements(rows=self.rows).records()

    def tables(self) -> list[Table]:
        """What was read, one line per fact."""
        left_out = ", ".join(f"{number} ({reason})" for reason, number in self.left_out.items())
        document = self.to_dict() | {"left_out": left_out or "0"}
        return [pairs({key: str(value) for key, value in document.items()})]


def import_logs(paths: Sequence[Path], out: Path, facts: Facts) -> ImportedRows:
    """Rows of the tests in the logs, for a table at ``out`` (paths in the rows are relative to its folder).

    Raises:
        MeasurementError: If a log is broken, lacks a needed fact, or contradicts the facts.
        TopologyError: If the topology is invalid.
    """
    shape = _shape_of(facts.topology)
    rows: list[Measurement] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        for test in read_tests(path):
            operation = facts.operation or test.operation or _named(path)
            if operation not in OPERATIONS:
                left_out[f"operation {operation}: only {', '.join(OPERATIONS)} can be predicted"] += len(test.rows)
                continue
            left_out["size 0"] += test.num_empty
            rows += _rows(test, facts, path=path, out=out, operation=operation, shape=shape)
    if not rows:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in left_out.items() if count)
        raise MeasurementError(f"{paths[0]}: has no row to import ({reasons}). Give the log of alltoall_perf.")
    return ImportedRows(
        rows=tuple(_with_own_ids(rows)),
        left_out={reason: count for reason, count in left_out.items() if count},
        out=out,
        topology=facts.topology,
    )


def _named(path: Path) -> str:
    """Operation, from the name of the log."""
    known = [name for name in ("alltoallv", "alltoall", "sendrecv") if name in path.name.lower().replace("_", "")]
    if not known:
        raise MeasurementError(f"{path}: does not name its test. Add --op alltoall (or alltoallv, sendrecv).")
    return known[0]


def _shape_of(topology: str) -> tuple[int, int] | None:
    """Number of nodes and of ranks per node of a named topology; None without a name."""
    if not topology:
        return None
    built = find_topology(topology)
    return built.num_nodes, built.num_ranks // built.num_nodes


def _rows(
    test: LoggedTest, facts: Facts, *, path: Path, out: Path, operation: str, shape: tuple[int, int] | None
) -> list[Measurement]:
    nodes, ranks_per_node = _layout(path, test, facts, shape)
    if operation == "alltoallv" and facts.matrix is None:
        raise MeasurementError(f"{path}: alltoallv does not print its traffic matrix. Add --matrix FILE.")
    base = Measurement(
        id="",
        system=facts.system or test.device,
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        intra_link=facts.intra_link,
        intra_bandwidth=facts.intra_bandwidth,
        inter_link=facts.inter_link,
        nic_bandwidth=facts.nic_bandwidth,
        library=facts.library or test.library,
        mode="sendrecv" if operation == "sendrecv" else "alltoall",
        op=operation,
        topology=_relative(facts.topology, out),
        matrix=_relative(str(facts.matrix), out) if facts.matrix else "",
        schedule="direct" if facts.topology else "",
        source=str(path),
    )
    return [
        replace(
            base,
            id=f"{path.stem}-{operation}-{row.size:.0f}",
            size=row.size,
            duration=row.duration,
            duration_p10=row.duration_p10,
            duration_p90=row.duration_p90,
        )
        for row in test.rows
    ]


def _layout(path: Path, test: LoggedTest, facts: Facts, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Number of nodes and of ranks per node: of the topology, else as given, else from the log; they must agree."""
    nodes, ranks_per_node = shape or (facts.nodes or test.num_nodes, facts.ranks_per_node or 0)
    if not ranks_per_node and nodes and test.num_ranks % nodes == 0:
        ranks_per_node = test.num_ranks // nodes
    if not nodes or not ranks_per_node:
        raise MeasurementError(
            f"{path}: does not give the number of nodes and ranks. Add --topology, or --nodes and --ranks-per-node."
        )
    if test.num_ranks and nodes * ranks_per_node != test.num_ranks:
        what = f"the topology {facts.topology}" if shape else f"{nodes} nodes of {ranks_per_node}"
        raise MeasurementError(
            f"{path}: ran on {test.num_ranks} ranks, {what} has {nodes * ranks_per_node}. Name what was measured."
        )
    return nodes, ranks_per_node


def _relative(name: str, out: Path) -> str:
    """Path relative to the folder of the table; a shipped name is unchanged."""
    if not name or ("/" not in name and not Path(name).is_file()):
        return name
    return os.path.relpath(name, out.parent)


def _with_own_ids(rows: list[Measurement]) -> list[Measurement]:
    """Rows with unique ids: a size that was timed twice gets a number."""
    seen: Counter[str] = Counter()
    result = []
    for row in rows:
        seen[row.id] += 1
        result.append(replace(row, id=f"{row.id}-{seen[row.id]}") if seen[row.id] > 1 else row)
    return result
