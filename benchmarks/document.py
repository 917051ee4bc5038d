"""What was measured, as text for a terminal and as docs/accuracy/performance.md with its plot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Outcome

_WIDTH = 190
_PLOT = "performance.png"
_COLUMNS = ("work", "target", "reached", "peak memory", "makespan error", "ratio", "", "why missed")


def machine_line(machine: dict[str, Any]) -> str:
    """Date, processor, load and versions, in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    load = " ".join(f"{value:.2f}" for value in machine["load_average"])
    return (
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_GB']} GB, load average {load} at "
        f"the start, Python {machine['python']}, {versions}"
    )


def _cells(outcome: Outcome) -> list[str]:
    memory = "-" if outcome.peak_MB is None else f"{outcome.peak_MB / 1e3:.2f} GB"
    verdict = {True: "hit", False: "MISSED", None: ""}[outcome.hit]
    return [
        outcome.work,
        outcome.target,
        outcome.reached,
        memory,
        outcome.error,
        outcome.ratio,
        verdict,
        outcome.reason,
    ]


def outcome_text(outcomes: Sequence[Outcome]) -> str:
    """The table of rows for a terminal."""
    return _text(_COLUMNS, [_cells(outcome) for outcome in outcomes])


def growth_text(points: Sequence[dict[str, Any]]) -> str:
    """The table of growth for a terminal."""
    return _text(_GROWTH_COLUMNS, [_growth_cells(point) for point in points])


def _text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(width=_WIDTH, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


_GROWTH_COLUMNS = ("against", "series", "at", "ranks", "flows", "links", "CPU-s", "wall s", "peak memory")


def _growth_cells(point: dict[str, Any]) -> list[str]:
    first = [point["panel"], point["series"], "-" if point["x"] is None else f"{point['x']:,g}", f"{point['ranks']:,}"]
    if "error" in point:
        return [*first, "-", "-", point["error"], "-", "-"]
    counts = [f"{point[key]:,}" if key in point else "-" for key in ("flows", "links")]
    times = [f"{point[key]:.3g}" if key in point else "-" for key in ("cpu_s", "wall_s")]
    return [*first, *counts, *times, f"{point['peak_MB'] / 1e3:.2f} GB"]


def write_document(folder: Path, document: dict[str, Any]) -> None:
    """Put tables between the markers of ``performance.md`` in a folder, and the plot beside it.

    Raises:
        SystemExit: If there is no such file, or a marker is missing.
    """
    path = folder / "performance.md"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}. --docs takes a folder that holds performance.md.") from None
    where = machine_line(document["machine"])
    if "rows" in document:
        rows = [_cells(Outcome(**row)) for row in document["rows"]]
        text = between(text, "targets", f"{where}\n\n{markdown(_COLUMNS, rows)}", path)
    if "growth" in document:
        from benchmarks.chart import save_growth  # noqa: PLC0415 (altair is an extra, and large)

        save_growth(document["growth"], folder / _PLOT)
        table = markdown(_GROWTH_COLUMNS, [_growth_cells(point) for point in document["growth"]])
        picture = f"![CPU seconds against ranks, flows, links crossed and skew]({_PLOT})"
        text = between(text, "growth", f"{where}\n\n{picture}\n\n{table}", path)
    path.write_text(text, encoding="utf-8")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def between(text: str, marker: str, content: str, path: Path) -> str:
    """A page with other content between two of its markers.

    Raises:
        SystemExit: If a marker is missing.
    """
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{path}: has no <!-- {marker} --> ... <!-- end -->. Put the two lines where the table belongs.")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)
