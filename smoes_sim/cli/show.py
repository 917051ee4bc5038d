"""Print documents for people: tables on stdout, talk and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from smoes_sim.display.tables import Table, as_text, percent
from smoes_sim.display.tables import pairs as display_pairs
from smoes_sim.errors import ConfigError
from smoes_sim.units import parse_bandwidth, parse_duration, parse_size, print_bandwidth

if TYPE_CHECKING:
    from smoes_sim.prediction.comparison import Comparison

Row = dict[str, Any]
_TCP_WINDOW = "65535 B (TCP's first)"
"""The default of ``fifo`` and ``packet`` (``network.fifo.TCP_WINDOW``) in words."""
_ROUNDING = 1e-12
"""Smaller errors are those of floating-point sums."""


def talk(text: str) -> None:
    """Say something that is not data."""
    typer.echo(text, err=True)


def duration(option: str, text: str) -> float:
    """A duration given as an option, in seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def size(option: str, text: str) -> float:
    """A number of bytes given as an option."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def bandwidth(option: str, text: str) -> float:
    """A rate given as an option, in bytes per second."""
    try:
        return parse_bandwidth(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing in a pipe; yields a function that takes how many are done."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, TimeRemainingColumn

    with Progress(
        *Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns as text, the first ``left`` of them to the left."""
    return as_text([Table(header=header, rows=rows, left=left)])


def columns(rows: Sequence[Row]) -> str:
    """Dictionaries of equal keys as a table of words."""
    return table(list(rows[0]), [[str(value) for value in row.values()] for row in rows], left=len(rows[0]))


def pairs(document: Row) -> str:
    """A dictionary as one line per key."""
    return as_text([display_pairs({key: _plain(value) for key, value in document.items()})])


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_plain(part) for part in value)
    return str(value)


def save_comparison(found: Comparison, folder: Path) -> list[Path]:
    """Plot a comparison as PNG and SVG; without the report extra say so and plot nothing."""
    from smoes_sim.display.charts import save_chart

    try:
        chart = found.plot()
    except ConfigError as error:
        talk(str(error))
        return []
    paths = [folder / "comparison.png", folder / "comparison.svg"]
    for path in paths:
        save_chart(chart, path)
    return paths


def alltoall(document: Row) -> str:
    """nccl-tests' columns with the bound beside them, what the answer rests on, and the busiest links."""
    rows = document["rows"]
    is_uneven = document["collective"] == "alltoallv"
    body = [
        [
            f"{row['size_bytes']:.0f}",
            f"{row['size_bytes'] / 4:.0f}",
            "float",
            "none",
            "-1",
            f"{row['time_s'] * 1e6:.2f}",
            f"{row['algbw_GBps']:.2f}",
            f"{row['busbw_GBps']:.2f}",
            *(f"{row[key] * 1e6:.2f}" for key in ("low_s", "high_s") if key in row),
            f"{row['bound_s'] * 1e6:.2f}",
            f"{row['flows']}",
            *([f"{row['mean_bytes']:.0f}"] if is_uneven else []),
        ]
        for row in rows
    ]
    header = ["size(B)", "count", "type", "redop", "root", "time(us)", "algbw(GB/s)", "busbw(GB/s)"]
    header += ["10%(us)", "90%(us)"] * ("low_s" in rows[0]) + ["bound(us)", "flows"]
    text = _alltoall_head(document) + table(header + ["mean(B)"] * is_uneven, body, left=0)
    if "hot_links" not in rows[-1]:
        return text
    return text + _hot_links(rows[-1], is_windowed=document["tolerance"] > 0)


def _alltoall_head(document: Row) -> str:
    """What was asked and what the answer rests on, as comments."""
    rows, fidelity = document["rows"], document["fidelity"]
    size = "what a rank sends" if document["collective"] == "alltoall" else "the most that a rank sends or receives"
    window = "no window" if document["window"] == "inf" else f"window {document['window'] or _TCP_WINDOW}"
    queues = f"{document['order']} order, {document['injection']} injection, {window}"
    model = {
        "bound": "bound (no schedule beats it)",
        "fluid": "fluid (links shared max-min fairly; no packets, no queues)",
        "fifo": f"fifo (chunks through ports, {queues})",
        "packet": f"packet (every packet, {queues})",
    }
    error = max(row["error_bound"] for row in rows)
    certainty = f"within {max(error, _ROUNDING):.1g} of two runs with wider windows" if error else "exact for this model"
    lines = [
        f"{document['collective']} on {document['topology']}: {document['ranks']} ranks, {rows[0]['links']} directed links; "
        + document["traffic"],
        f"size is {size}, its own block included" + ("; mean is what a rank sends" * (size != "what a rank sends")),
        f"schedule {document['schedule']}; {model[fidelity]}; error: {certainty}",
    ]
    if document["calibration"]:
        lines.append(f"constants of {document['calibration']}; 10% and 90% are the ends of the 80% interval")
    return "".join(f"# {line}\n" for line in lines)


def _hot_links(row: Row, *, is_windowed: bool) -> str:
    """Which links are busiest in one exchange, when, how full."""
    body = [
        [
            hot["link"],
            hot["kind"],
            f"{hot['bytes']:.0f}",
            print_bandwidth(float(f"{hot['capacity_Bps']:.6g}")),
            f"{hot['busy_s'] * 1e6:.2f}",
            percent(hot["utilisation"]),
            *("-" if hot[key] is None else f"{hot[key] * 1e6:.2f}" for key in ("first_s", "last_s", "full_s")),
        ]
        for hot in row["hot_links"]
    ]
    if not body:
        return "\n# no link carries anything\n"
    header = ["link", "kind", "bytes", "capacity", "busy(us)", "busy(%)", "first(us)", "last(us)", "full(us)"]
    size = f"{row['size_bytes']:.0f}"
    head = f"\n# busiest links at size {size} B; busy: bytes at full rate; first, last: in use; full: at 99.9% or more\n"
    if is_windowed and body[0][-1] != "-":
        head += "# first, last and full are to within a window in large cases; --tolerance 0 is exact\n"
    return head + table(header, body, left=2)
