"""The measurements table: one row per measured operation, with the columns of ``published.csv`` and some optional ones."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table
from smoes_sim.errors import MeasurementError
from smoes_sim.yaml_files import nearest, read_text, write_bytes


class _Column(NamedTuple):
    """A column: attribute of a :class:`Measurement`, meaning with unit, type of its cells, and factor to SI units."""

    attribute: str
    meaning: str
    kind: Literal["text", "count", "index", "number", "positive"] = "text"
    factor: float = 1.0


_COLUMNS = {
    "id": _Column("id", "Name of the row, unique in its file"),
    "system": _Column("system", "Hardware as its source names it"),
    "nodes": _Column("nodes", "Number of nodes", "count"),
    "ranks_per_node": _Column("ranks_per_node", "Number of ranks per node", "count"),
    "intra_link": _Column("intra_link", "Link inside a node, as the source names it"),
    "intra_GBps": _Column("intra_bandwidth", "Its nominal rate per rank and direction, GB/s", "number", 1e9),
    "inter_link": _Column("inter_link", "Network between nodes, as the source names it"),
    "nic_Gbps": _Column("nic_bandwidth", "Nominal rate of the NIC per rank and direction, Gb/s", "number", 1e9 / 8),
    "library": _Column("library", "Communication library with its version"),
    "mode": _Column(
        "mode",
        "Kind of row: alltoall, sendrecv, alltoall_rdma, ep_normal, ep_low_latency, run, step",
    ),
    "op": _Column("op", "Operation: alltoall, alltoallv, sendrecv, dispatch, combine, ttft, tpot, ..."),
    "bytes_per_rank": _Column("size", "Bytes that one rank sends, its own block included", "number"),
    "tokens_per_rank": _Column("tokens_per_rank", "Number of tokens per rank", "number"),
    "hidden": _Column("hidden", "Number of elements of a token", "count"),
    "bytes_per_element": _Column("bytes_per_element", "Bytes per element", "positive"),
    "top_k": _Column("top_k", "Number of experts per token", "count"),
    "experts": _Column("experts", "Number of experts of a layer", "count"),
    "node_limit": _Column("node_limit", "Largest number of nodes that a token may be sent to", "count"),
    "time_us": _Column("duration", "Measured time, us; the median over repeats", "positive", 1e-6),
    "bandwidth_GBps": _Column("bandwidth", "Published bandwidth, GB/s, where no time is given", "positive", 1e9),
    "bandwidth_kind": _Column("bandwidth_kind", "Definition of that bandwidth: algbw, busbw, logical_inter, logical_intra"),
    "derived": _Column("derived", "1 if the time was computed from a published bandwidth", "index"),
    "variant": _Column("variant", "Setting in which the row differs from others of its operation"),
    "source": _Column("source", "Where it was published"),
    "notes": _Column("notes", "Caveats of the source"),
    "topology": _Column("topology", "Name of a shipped topology, or a file relative to the table"),
    "matrix": _Column("matrix", "File with bytes from rank to rank, relative to the table; equal blocks where it is empty"),
    "schedule": _Column("schedule", "Schedule of the library: direct, pairwise, two_hop, ..."),
    "order": _Column("order", "Order in which a rank posts its messages: naive, shifted, ..."),
    "send_buffer_bytes": _Column("send_buffer", "Bytes at the end of a message that the sender's kernel buffers", "number"),
    "scenario": _Column("scenario", "Scenario file, relative to the table"),
    "phase": _Column(
        "phase",
        "Part of a forward pass: dispatch, experts, combine, shared, layer, step, attention_gather, attention_scatter",
    ),
    "layer": _Column("layer", "Index of the MoE layer, from 0", "index"),
    "repeats": _Column("repeats", "Number of repetitions of which time_us is the median", "count"),
    "time_p10_us": _Column("duration_p10", "10th percentile over repeats, us", "positive", 1e-6),
    "time_p90_us": _Column("duration_p90", "90th percentile over repeats, us", "positive", 1e-6),
}
COLUMNS = list(_COLUMNS)
"""Names of all columns, in the order in which they are written."""
NUMBERS = frozenset(name for name, column in _COLUMNS.items() if column.kind != "text")
"""Columns that hold numbers."""
MEANINGS = {name: column.meaning for name, column in _COLUMNS.items()}
"""Meaning of each column, with its unit."""
_NEEDED = ("id", "nodes", "ranks_per_node", "mode", "op", "time_us")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A measured operation. Empty cells are None, or "" in columns of text.

    Attributes:
        id: Name of the row, unique in its file.
        system: Hardware as its source names it.
        nodes: Number of nodes.
        ranks_per_node: Number of ranks per node.
        intra_link: Link inside a node, as the source names it.
        intra_bandwidth: Its nominal rate per rank and direction, B/s.
        inter_link: Network between nodes, as the source names it.
        nic_bandwidth: Nominal rate of the NIC per rank and direction, B/s.
        library: Communication library with its version.
        mode: ``alltoall``, ``sendrecv``, ``ep_normal``, ...; ``step`` for a forward pass, ``run`` for a phase of one.
        op: ``alltoall``, ``dispatch``, ``ttft``, ...
        size: Bytes that one rank sends, its own block included.
        tokens_per_rank: Number of tokens per rank.
        hidden: Number of elements of a token.
        bytes_per_element: Bytes per element.
        top_k: Number of experts per token, K.
        experts: Number of experts of a layer, E.
        node_limit: Largest number of nodes that a token may be sent to.
        duration: Seconds; the median where there are repeats.
        bandwidth: Published bandwidth in B/s, where no time is given.
        bandwidth_kind: Definition of that bandwidth: ``algbw``, ``busbw``, ``logical_inter``, ``logical_intra``.
        derived: 1 if the time was computed from a published bandwidth.
        variant: Setting in which the row differs from others of its operation.
        source: Where it was published.
        notes: Caveats of the source.
        topology: Name of a shipped topology, or a file relative to ``folder``.
        matrix: File with bytes from rank to rank, relative to ``folder``; equal blocks where it is empty.
        schedule: Schedule of the library (``network.Schedule``).
        order: Order in which a rank posts its messages (``network.Order``).
        send_buffer: Bytes at the end of a message that the sender's kernel buffers, so that the sender returns early.
        scenario: Resolved scenario file, relative to ``folder``.
        phase: Part of a forward pass: ``dispatch``, ``experts``, ``combine``, ``shared``, ``layer``, ``step``,
            ``attention_gather``, ``attention_scatter``.
        layer: Index of the MoE layer, from 0.
        repeats: Number of repetitions of which ``duration`` is the median.
        duration_p10: 10th percentile over repeats, seconds.
        duration_p90: 90th percentile over repeats, seconds.
        folder: Folder of the table; paths in the row are relative to it.
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
        """Number of ranks, R."""
        return self.nodes * self.ranks_per_node

    @property
    def topology_name(self) -> str:
        """The topology as ``find_topology`` takes it: the file beside the table if there is one, else a shipped name."""
        path = self.folder / self.topology
        return str(path) if path.is_file() else self.topology


@dataclass(frozen=True, kw_only=True, repr=False)
class Measurements(Result, Sequence[Measurement]):
    """A measurements table; a sequence of :class:`Measurement`.

    Attributes:
        rows: One measured operation each.
        path: The file they were read from; None where they were made in Python.
        data_hash: SHA-256 of that file, so that a calibration can say what it was fitted on; "" without a file.

    Example:
        >>> from smoes_sim import read_measurements
        >>> table = read_measurements("published")
        >>> table[0].op, table.to_polars().height == len(table)
        ('alltoall', True)

    """

    rows: tuple[Measurement, ...]
    path: Path | None = None
    data_hash: str = ""

    @property
    def name(self) -> str:
        """The file, for error messages."""
        return "measurements" if self.path is None else str(self.path)

    def with_rows(self, rows: Sequence[Measurement]) -> Measurements:
        """Other rows, or some of the same, under the name of the same file."""
        return replace(self, rows=tuple(rows))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Measurement: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Measurement, ...]: ...
    def __getitem__(self, index: int | slice) -> Measurement | tuple[Measurement, ...]:
        return self.rows[index]

    def to_dict(self) -> dict[str, Any]:
        """File, hash, and the rows with the columns that are in use."""
        return {
            "file": None if self.path is None else str(self.path),
            "data_hash": self.data_hash,
            "rows": self.records(),
        }

    def records(self) -> list[dict[str, Any]]:
        """The rows by column of the file, in the units that the names of the columns state; columns in use only."""
        used = _used_columns(self.rows)
        return [{name: _record_value(row, _COLUMNS[name]) for name in used} for row in self.rows]

    def tables(self) -> list[Table]:
        """Number of rows and of rows with a time, by what was measured."""
        groups = Counter(_group(row) for row in self.rows)
        timed = Counter(_group(row) for row in self.rows if measured_time(row))
        return [
            Table(
                title=f"{self.name}: {len(self.rows)} rows",
                header=["mode", "op", "measured on", "rows", "with a time"],
                rows=[[*group, str(number), str(timed[group])] for group, number in groups.items()],
                left=3,
            )
        ]


def _record_value(row: Measurement, column: _Column) -> str | float | None:
    """Value of a row in the column's unit; whole numbers stay whole."""
    value: str | float | None = getattr(row, column.attribute)
    return value / column.factor if isinstance(value, float) else value


def _group(row: Measurement) -> tuple[str, str, str]:
    """Mode, operation and hardware of a row."""
    return row.mode, row.op, row.system or row.topology or row.scenario


def read_measurements(path: Path | str) -> Measurements:
    """The measurements table in a file: Parquet if its name ends in .parquet, else CSV.

    Raises:
        MeasurementError: If a column is missing, a value is not a number, or two rows have one id, with file and line.
        ConfigError: If the file cannot be read.
    """
    path = Path(path)
    text = _parquet_as_csv(path) if path.suffix == ".parquet" else read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return Measurements(rows=tuple(_read(path, reader)), path=path, data_hash=data_hash(path))
    except csv.Error as error:
        line = reader.reader.line_num
        raise MeasurementError(f"{path}:{line}: is not CSV: {error}. Fix the quotes of the row that ends here.") from None


def _parquet_as_csv(path: Path) -> str:
    """The rows of a Parquet file as CSV, so that both formats follow the same rules."""
    import polars as pl  # noqa: PLC0415  # heavy, and only for this format

    try:
        return pl.read_parquet(path).write_csv()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise MeasurementError(f"{path}: cannot be read as Parquet ({error}). Give a Parquet or CSV file.") from None


def _read(path: Path, reader: csv.DictReader[str]) -> list[Measurement]:
    header = reader.fieldnames or []
    for name in _NEEDED:
        if name not in header:
            raise MeasurementError(f"{path}:1: the column {name} is missing. Columns: {', '.join(COLUMNS)}.")
    for name in header:
        if name not in _COLUMNS:
            raise MeasurementError(f'{path}:1: unknown column "{name}". {nearest(name, COLUMNS)}')
        if header.count(name) > 1:
            raise MeasurementError(f"{path}:1: the column {name} occurs twice. Remove one.")
    rows: list[Measurement] = []
    lines: dict[str, int] = {}
    for cells in reader:
        row = _row(path, reader.line_num, cells)
        if row.id in lines:
            raise MeasurementError(
                f'{path}:{reader.line_num}: id = "{row.id}" is also that of line {lines[row.id]}. Give each row its own.'
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
    """Value of a cell in SI units; None for an empty cell of a column of numbers."""
    if column.kind == "text":
        return text
    if not text and not (is_needed and column.kind == "count"):
        return None
    if column.kind in {"count", "index"}:
        lowest = 1 if column.kind == "count" else 0
        whole = _parse(text, int)
        if whole is None or whole < lowest:
            raise MeasurementError(f'{place} = "{text}" is not an integer >= {lowest}. Fix it.')
        return whole
    value = _parse(text, float)
    if value is None or not math.isfinite(value) or value < 0:
        raise MeasurementError(f'{place} = "{text}" is not a number >= 0. Fix it or leave it empty.')
    if value == 0 and column.kind == "positive":
        raise MeasurementError(f"{place} = 0: a measured value must be > 0. Fix it or leave it empty.")
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
            raise MeasurementError(f'{path}: id = "{name}" occurs {ids.count(name)} times. Give each row its own id.')
    used = _used_columns(rows)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(used)
    writer.writerows([_cell(getattr(row, _COLUMNS[name].attribute), _COLUMNS[name]) for name in used] for row in rows)
    write_bytes(path, stream.getvalue().encode())


def _used_columns(rows: Sequence[Measurement]) -> list[str]:
    """Columns that every table has, and those that some row fills."""
    return [
        name
        for name, column in _COLUMNS.items()
        if name in _NEEDED or any(getattr(row, column.attribute) not in {None, ""} for row in rows)
    ]


def _cell(value: Any, column: _Column) -> str:
    if value is None:
        return ""
    return f"{value / column.factor:.12g}" if column.kind in {"number", "positive"} else str(value)


def value_of(row: Measurement, column: str) -> str | float | None:
    """The value of a row in a column of the file: text, or a number in the column's unit; None where it is empty."""
    known = _COLUMNS[column]
    value = getattr(row, known.attribute)
    return value if known.kind == "text" or value is None else float(value) / known.factor


def measured_time(row: Measurement) -> float | None:
    """Measured time of a row in seconds: as given, or computed from an algbw or busbw of its size; None without either."""
    if row.duration is not None:
        return row.duration
    share = {"algbw": 1.0, "busbw": (row.num_ranks - 1) / row.num_ranks}.get(row.bandwidth_kind)
    return share * row.size / row.bandwidth if share and row.size and row.bandwidth else None


def data_hash(path: Path) -> str:
    """SHA-256 of a measurements file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
