"""The measurements table (CSV): one row a measured operation, in the columns of ``published.csv`` and some optional ones."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from smoes_sim.errors import MeasurementError
from smoes_sim.yaml_files import nearest, read_text, write_bytes


class _Column(NamedTuple):
    """A column: the attribute it becomes, what its cells hold, and the factor to SI."""

    attribute: str
    kind: Literal["text", "count", "index", "number", "positive"] = "text"
    factor: float = 1.0


_COLUMNS = {
    "id": _Column("id"),
    "system": _Column("system"),
    "nodes": _Column("nodes", "count"),
    "ranks_per_node": _Column("ranks_per_node", "count"),
    "intra_link": _Column("intra_link"),
    "intra_GBps": _Column("intra_bandwidth", "number", 1e9),
    "inter_link": _Column("inter_link"),
    "nic_Gbps": _Column("nic_bandwidth", "number", 1e9 / 8),
    "library": _Column("library"),
    "mode": _Column("mode"),
    "op": _Column("op"),
    "bytes_per_rank": _Column("size", "number"),
    "tokens_per_rank": _Column("tokens_per_rank", "number"),
    "hidden": _Column("hidden", "count"),
    "bytes_per_element": _Column("bytes_per_element", "positive"),
    "top_k": _Column("top_k", "count"),
    "experts": _Column("experts", "count"),
    "node_limit": _Column("node_limit", "count"),
    "time_us": _Column("duration", "positive", 1e-6),
    "bandwidth_GBps": _Column("bandwidth", "positive", 1e9),
    "bandwidth_kind": _Column("bandwidth_kind"),
    "derived": _Column("derived", "index"),
    "variant": _Column("variant"),
    "source": _Column("source"),
    "notes": _Column("notes"),
    "topology": _Column("topology"),
    "matrix": _Column("matrix"),
    "schedule": _Column("schedule"),
    "order": _Column("order"),
    "send_buffer_bytes": _Column("send_buffer", "number"),
    "scenario": _Column("scenario"),
    "phase": _Column("phase"),
    "layer": _Column("layer", "index"),
    "repeats": _Column("repeats", "count"),
    "time_p10_us": _Column("duration_p10", "positive", 1e-6),
    "time_p90_us": _Column("duration_p90", "positive", 1e-6),
}
COLUMNS = list(_COLUMNS)
"""Names of all columns, in the order in which they are written."""
NUMBERS = frozenset(name for name, column in _COLUMNS.items() if column.kind != "text")
"""Columns that hold numbers."""
_NEEDED = ("id", "nodes", "ranks_per_node", "mode", "op", "time_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A measured operation. What the table leaves empty is None, or "" where it would be a word.

    Attributes:
        id: Name of the row, unlike all others of its file.
        system: Hardware as its source names it.
        nodes: Nodes.
        ranks_per_node: Ranks of a node.
        intra_link: Link inside a node, as named.
        intra_bandwidth: Its nominal rate per rank and direction, B/s.
        inter_link: Network between nodes, as named.
        nic_bandwidth: Nominal rate of the NIC per rank and direction, B/s.
        library: Software.
        mode: ``alltoall``, ``sendrecv``, ``ep_normal``, ...; ``step`` for a forward pass, ``run`` for a phase of one.
        op: ``alltoall``, ``dispatch``, ``ttft``, ...
        size: Bytes that one rank sends, its own block included.
        tokens_per_rank: Tokens of a rank.
        hidden: Elements of a token.
        bytes_per_element: Bytes of an element.
        top_k: Experts of a token.
        experts: Experts of a layer.
        node_limit: Most nodes that a token may visit.
        duration: Seconds; the median where there are repeats.
        bandwidth: B/s where no time is given.
        bandwidth_kind: What that bandwidth counts.
        derived: 1 if the time was computed from a published bandwidth.
        variant: What tells the row from others of its operation.
        source: Where it was published.
        notes: Read them before you believe the row.
        topology: Shipped name, or a file, relative to ``folder``.
        matrix: File of bytes from rank to rank, relative to ``folder``; equal blocks when empty.
        schedule: What the library posts (``network.Schedule``).
        order: In which order a rank posts its messages.
        send_buffer: Last bytes of a message that the sender's kernel takes early, where it takes as many of each.
        scenario: Resolved scenario file, relative to ``folder``.
        phase: Part of a step: ``dispatch``, ``experts``, ``combine``, ``layer``, ...
        layer: MoE layer, from 0.
        repeats: Repetitions that ``duration`` is the median of.
        duration_p10: 10th percentile over repeats, seconds.
        duration_p90: 90th percentile over repeats, seconds.
        folder: Folder of the table, which paths are relative to.
    """

    id: str
    nodes: int
    ranks_per_node: int
    mode: str
    op: str
    system: str = ""
    intra_link: str = ""
    intra_bandwidth: float | None = None
    inter_link: str = ""
    nic_bandwidth: float | None = None
    library: str = ""
    size: float | None = None
    tokens_per_rank: float | None = None
    hidden: int | None = None
    bytes_per_element: float | None = None
    top_k: int | None = None
    experts: int | None = None
    node_limit: int | None = None
    duration: float | None = None
    bandwidth: float | None = None
    bandwidth_kind: str = ""
    derived: int | None = None
    variant: str = ""
    source: str = ""
    notes: str = ""
    topology: str = ""
    matrix: str = ""
    schedule: str = ""
    order: str = ""
    send_buffer: float | None = None
    scenario: str = ""
    phase: str = ""
    layer: int | None = None
    repeats: int | None = None
    duration_p10: float | None = None
    duration_p90: float | None = None
    folder: Path = field(default=Path(), compare=False)

    @property
    def num_ranks(self) -> int:
        """Ranks."""
        return self.nodes * self.ranks_per_node

    @property
    def topology_name(self) -> str:
        """The topology as ``find_topology`` takes it: the file beside the table if there is one, else a shipped name."""
        path = self.folder / self.topology
        return str(path) if path.is_file() else self.topology


def read_measurements(path: Path) -> list[Measurement]:
    """Read a measurements table (CSV).

    Raises:
        MeasurementError: If a column is missing, a value is no number, or two rows have one id, with file and line.
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
        if name not in _COLUMNS:
            raise MeasurementError(f'{path}:1: unknown column "{name}". {nearest(name, COLUMNS)}')
        if header.count(name) > 1:
            raise MeasurementError(f"{path}:1: the column {name} stands there twice. Leave one out.")
    rows: list[Measurement] = []
    lines: dict[str, int] = {}
    for cells in reader:
        row = _row(path, reader.line_num, cells)
        if row.id in lines:
            raise MeasurementError(
                f'{path}:{reader.line_num}: id = "{row.id}" is that of line {lines[row.id]} too. Give each row its own.'
            )
        lines[row.id] = reader.line_num
        rows.append(row)
    if not rows:
        raise MeasurementError(f"{path}: has no row. Add at least one measured operation.")
    return rows


def _row(path: Path, line: int, cells: dict[str, Any]) -> Measurement:
    if None in cells or None in cells.values():
        problem = "more" if None in cells else "fewer"
        raise MeasurementError(
            f"{path}:{line}: has {problem} cells than the header. Quote commas; leave unknown cells empty."
        )
    values = {
        column.attribute: _value(f"{path}:{line}: {name}", cells[name].strip(), column, is_needed=name in _NEEDED)
        for name, column in _COLUMNS.items()
        if name in cells
    }
    return Measurement(**values, folder=path.parent)


def _value(place: str, text: str, column: _Column, *, is_needed: bool) -> Any:
    """A cell in SI units; None for an empty one that holds no word."""
    if column.kind == "text":
        return text
    if not text and not (is_needed and column.kind == "count"):
        return None
    if column.kind in {"count", "index"}:
        lowest = 1 if column.kind == "count" else 0
        whole = _parse(text, int)
        if whole is None or whole < lowest:
            raise MeasurementError(f'{place} = "{text}" is not a whole number >= {lowest}. Mend it.')
        return whole
    value = _parse(text, float)
    if value is None or not math.isfinite(value) or value < 0:
        raise MeasurementError(f'{place} = "{text}" is not a number >= 0. Mend it or leave it empty.')
    if value == 0 and column.kind == "positive":
        raise MeasurementError(f"{place} = 0: a measured value must be > 0. Mend it or leave it empty.")
    return value * column.factor


def _parse(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        return None


def write_measurements(path: Path, rows: Sequence[Measurement]) -> None:
    """Write a table that :func:`read_measurements` reads back, with the columns that are in use.

    Paths in the rows are written as they are: they must be relative to the folder of ``path``.

    Raises:
        MeasurementError: If two rows have one id.
        ConfigError: If the file cannot be written.
    """
    ids = [row.id for row in rows]
    for name in ids:
        if ids.count(name) > 1:
            raise MeasurementError(f'{path}: id = "{name}" stands there {ids.count(name)} times. Give each row its own.')
    used = [
        name
        for name, column in _COLUMNS.items()
        if name in _NEEDED or any(getattr(row, column.attribute) not in {None, ""} for row in rows)
    ]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(used)
    writer.writerows([_cell(getattr(row, _COLUMNS[name].attribute), _COLUMNS[name]) for name in used] for row in rows)
    write_bytes(path, stream.getvalue().encode())


def _cell(value: Any, column: _Column) -> str:
    if value is None:
        return ""
    return f"{value / column.factor:.12g}" if column.kind in {"number", "positive"} else str(value)


def value_of(row: Measurement, column: str) -> str | float | None:
    """What a cell of a row holds, numbers in the column's own unit."""
    known = _COLUMNS[column]
    value = getattr(row, known.attribute)
    return value if known.kind == "text" or value is None else float(value) / known.factor


def measured_time(row: Measurement) -> float | None:
    """Seconds of a row: as given, or from an algbw or busbw of its size; None where neither says."""
    if row.duration is not None:
        return row.duration
    share = {"algbw": 1.0, "busbw": (row.num_ranks - 1) / row.num_ranks}.get(row.bandwidth_kind)
    return share * row.size / row.bandwidth if share and row.size and row.bandwidth else None


def data_hash(path: Path) -> str:
    """SHA-256 of a measurements file, so that a calibration can say what it was fitted on."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
