"""Measurements of real systems: one row a measured operation, in the columns of ``published.csv``."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoes_sim.errors import MeasurementError
from smoes_sim.files import nearest, read_text

COLUMNS = [
    "id",
    "system",
    "nodes",
    "ranks_per_node",
    "intra_link",
    "intra_GBps",
    "inter_link",
    "nic_Gbps",
    "library",
    "mode",
    "op",
    "bytes_per_rank",
    "tokens_per_rank",
    "hidden",
    "bytes_per_element",
    "top_k",
    "experts",
    "node_limit",
    "time_us",
    "bandwidth_GBps",
    "bandwidth_kind",
    "derived",
    "variant",
    "source",
    "notes",
]
_NEEDED = ("id", "nodes", "ranks_per_node", "mode", "op", "time_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A measured operation.

    Attributes:
        id: Name of the row.
        system: Hardware as its source names it.
        nodes: Nodes.
        ranks_per_node: Ranks of a node.
        intra_link: Link inside a node, as named.
        intra_bandwidth: Its nominal rate per rank and direction, B/s.
        nic_bandwidth: Nominal rate of the NIC per rank and direction, B/s.
        library: Software.
        mode: ``alltoall``, ``sendrecv``, ``ep_normal``, ...; ``step`` for a forward pass.
        op: ``alltoall``, ``dispatch``, ``ttft``, ...
        size: Bytes that one rank sends, its own block included.
        duration: Seconds.
        bandwidth: B/s where no time is given.
        bandwidth_kind: What that bandwidth counts.
    """

    id: str
    system: str
    nodes: int
    ranks_per_node: int
    intra_link: str
    intra_bandwidth: float | None
    nic_bandwidth: float | None
    library: str
    mode: str
    op: str
    size: float | None
    duration: float | None
    bandwidth: float | None
    bandwidth_kind: str


def read_measurements(path: Path) -> list[Measurement]:
    """Read a measurements table (CSV).

    Raises:
        MeasurementError: If a column is missing or a value is no number, with file, line and column name.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return _read(path, reader)
    except csv.Error as error:
        line = reader.reader.line_num
        raise MeasurementError(f"{path}:{line}: is not CSV: {error}. Mend the quotes of the row that ends here.") from None


def _read(path: Path, reader: csv.DictReader[str]) -> list[Measurement]:
    header = reader.fieldnames or []
    for name in _NEEDED:
        if name not in header:
            raise MeasurementError(f"{path}:1: the column {name} is missing. Columns: {', '.join(COLUMNS)}.")
    for name in header:
        if name not in COLUMNS:
            raise MeasurementError(f'{path}:1: unknown column "{name}". {nearest(name, COLUMNS)}')
        if header.count(name) > 1:
            raise MeasurementError(f"{path}:1: the column {name} stands there twice. Leave one out.")
    rows = [_row(path, reader.line_num, row) for row in reader]
    if not rows:
        raise MeasurementError(f"{path}: has no row. Add at least one measured operation.")
    return rows


def _row(path: Path, line: int, row: dict[str, Any]) -> Measurement:
    if None in row or None in row.values():
        problem = "more" if None in row else "fewer"
        raise MeasurementError(
            f"{path}:{line}: has {problem} cells than the header. Quote commas; leave unknown cells empty."
        )

    def number(name: str, factor: float = 1.0) -> float | None:
        text = (row.get(name) or "").strip()
        if not text:
            return None
        value = _parse(text, float)
        if value is None or not math.isfinite(value) or value < 0:
            raise MeasurementError(f'{path}:{line}: {name} = "{text}" is not a number >= 0. Mend it or leave it empty.')
        return value * factor

    def positive(name: str, factor: float) -> float | None:
        value = number(name, factor)
        if value == 0:
            raise MeasurementError(f"{path}:{line}: {name} = 0: a measured value must be > 0. Mend it or leave it empty.")
        return value

    def count(name: str) -> int:
        value = _parse((row.get(name) or "").strip(), int)
        if value is None or value < 1:
            raise MeasurementError(f'{path}:{line}: {name} = "{row.get(name)}" is not a whole number >= 1. Mend it.')
        return value

    return Measurement(
        id=row["id"],
        system=row.get("system") or "",
        nodes=count("nodes"),
        ranks_per_node=count("ranks_per_node"),
        intra_link=row.get("intra_link") or "",
        intra_bandwidth=number("intra_GBps", 1e9),
        nic_bandwidth=number("nic_Gbps", 1e9 / 8),
        library=row.get("library") or "",
        mode=row["mode"],
        op=row["op"],
        size=number("bytes_per_rank"),
        duration=positive("time_us", 1e-6),
        bandwidth=positive("bandwidth_GBps", 1e9),
        bandwidth_kind=row.get("bandwidth_kind") or "",
    )


def _parse(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def data_hash(path: Path) -> str:
    """SHA-256 of a measurements file, so that a calibration can say what it was fitted on."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
