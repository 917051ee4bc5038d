"""Print documents for people: tables on stdout, talk and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from smoes_sim.display.tables import Table, as_text
from smoes_sim.display.tables import pairs as display_pairs
from smoes_sim.errors import ConfigError
from smoes_sim.units import parse_bandwidth, parse_duration, parse_size

if TYPE_CHECKING:
    from smoes_sim.prediction.comparison import Comparison

Row = dict[str, Any]


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
