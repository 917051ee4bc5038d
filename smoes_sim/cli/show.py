"""Print documents for people: tables on stdout, notes and progress on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import typer

from smoes_sim.errors import ConfigError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def talk(text: str) -> None:
    """Print a line on stderr: something that is not the answer."""
    typer.echo(text, err=True)


@contextmanager
def interruption_told() -> Iterator[None]:
    """After Ctrl-C print in one line what is kept, which the exception says, and end with exit code 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        talk(": ".join(["interrupted", *map(str, stop.args)]))
        raise typer.Exit(INTERRUPTED) from None


def duration(option: str, text: str) -> float:
    """A duration given as an option, in seconds."""
    from smoes_sim.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def bandwidth(option: str, text: str) -> float:
    """A rate given as an option, in bytes per second."""
    from smoes_sim.units import parse_bandwidth

    try:
        return parse_bandwidth(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def progress(what: str, total: int) -> AbstractContextManager[Callable[[float], None]]:
    """A function that takes the number of finished units: a bar on a terminal, a line a minute elsewhere."""
    from smoes_sim.display.progress import progress as shown

    return shown(what, total, "lines")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns as text, the first ``left`` of them to the left."""
    from smoes_sim.display.tables import Table, as_text

    return as_text([Table(header=header, rows=rows, left=left)])


def columns(rows: Sequence[dict[str, Any]]) -> str:
    """Dictionaries with the same keys as a table of text."""
    return table(list(rows[0]), [[str(value) for value in row.values()] for row in rows], left=len(rows[0]))
