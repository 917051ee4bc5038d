"""Tables as plain text of at most 100 columns, or as HTML; units are chosen per column."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

WIDTH = 100
"""Columns of a terminal that a table should not exceed."""
Interval = tuple[float, float]
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table and what stands above and below it.

    Attributes:
        header: Names of the columns; empty for a list of pairs.
        rows: Cells, one sequence per row, as many as the header has names.
        title: Lines above; none where empty.
        left: Number of leading columns that are aligned to the left.
        words: Number of trailing columns that are aligned to the left too.
        notes: Lines below.
    """

    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    title: str = ""
    left: int = 1
    words: int = 0
    notes: Sequence[str] = ()


def as_text(parts: Iterable[Table], *, width: int = WIDTH) -> str:
    """Tables one below the other, an empty line between them, ending with a newline.

    If a table is wider than ``width`` columns, its last column of words is wrapped; without such a column its rows are
    numbered, below a list of what the numbers stand for.
    """
    return "\n".join(_text_of(part, width=width) for part in parts)


def _text_of(part: Table, *, width: int) -> str:
    lines = [part.title] if part.title else []
    if part.rows or part.header:
        body = aligned(part.header, part.rows, left=part.left, words=part.words)
        if part.header and max(map(len, body)) > width:
            if part.words:
                body = _wrapped(part, width=width)
            elif part.left > 1:
                body = _numbered(part)
        lines += body
    return "".join(f"{line}\n" for line in [*lines, *part.notes])


def _wrapped(part: Table, *, width: int) -> list[str]:
    """Lines in which the last column is wrapped; it keeps a third of the width at least."""
    others = aligned([*part.header[:-1], ""], [[*row[:-1], ""] for row in part.rows], left=part.left, words=part.words)
    indent = max(map(len, others)) + 2
    room = max(width - indent, width // 3)
    lines = []
    for line, row in zip(others, [part.header, *part.rows], strict=True):
        first, *rest = textwrap.wrap(row[-1], room) or [""]
        lines.append(f"{line:<{indent}}{first}".rstrip())
        lines += [f"{'':<{indent}}{more}" for more in rest]
    return lines


def _numbered(part: Table) -> list[str]:
    """The labels of the rows as a table of their own, then the numbers."""
    left, numbers = part.left, [str(number) for number in range(1, len(part.rows) + 1)]
    labels = [[number, *row[:left]] for number, row in zip(numbers, part.rows, strict=True)]
    values = [[number, *row[left:]] for number, row in zip(numbers, part.rows, strict=True)]
    return [
        *aligned(["row", *part.header[:left]], labels, left=left + 1),
        *aligned(["row", *part.header[left:]], values, words=part.words),
    ]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, words: int = 0) -> list[str]:
    """Lines of aligned columns, the first ``left`` and the last ``words`` of them to the left, the others to the right."""
    lines = [list(header), *[list(row) for row in rows]] if header else [list(row) for row in rows]
    if not lines:
        return []
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index < left or index >= len(widths) - words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def pairs(document: dict[str, str], *, title: str = "", notes: Sequence[str] = ()) -> Table:
    """A table of one line per key."""
    return Table(rows=[[key, value] for key, value in document.items()], title=title, left=2, notes=notes)


def wrapped(lines: Iterable[str], *, width: int = WIDTH) -> list[str]:
    """Lines of at most ``width`` columns, such as notes of a table; continuations are indented by two blanks.

    Example:
        >>> wrapped(["four rows fitted", "short"], width=10)
        ['four rows', '  fitted', 'short']
    """
    return [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ")]


def as_html(parts: Iterable[Table]) -> str:
    """The same tables as HTML, every text escaped."""
    return "".join(_html_of(part) for part in parts)


def _html_of(part: Table) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        side = ["left" if index < part.left or index >= len(row) - part.words else "right" for index in range(len(row))]
        return "".join(
            f'<{tag} style="text-align:{where}">{html.escape(cell)}</{tag}>' for where, cell in zip(side, row, strict=True)
        )

    title = f"<p><b>{html.escape(part.title).replace(chr(10), '<br>')}</b></p>" if part.title else ""
    head = f"<thead><tr>{cells('th', part.header)}</tr></thead>" if part.header else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in part.rows)
    table = f"<table>{head}<tbody>{body}</tbody></table>" if part.rows else ""
    return title + table + "".join(f"<p>{html.escape(note)}</p>" for note in part.notes)


def percent(value: float | None) -> str:
    """A share in %, one decimal; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def _largest(value: float, steps: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit of which ``value`` has at least one; the smallest for less than that."""
    return next((step for step in steps if abs(value) >= step[0]), steps[-1])


def seconds(value: float | None) -> str:
    """A time with four digits and its unit: s, ms or us.

    Example:
        >>> seconds(0.0123456)
        '12.35 ms'
    """
    return "-" if value is None else _quantity(value, _TIMES)


def size(value: float | None) -> str:
    """A number of bytes with four digits and its decimal unit.

    Example:
        >>> size(743604224)
        '743.6 MB'
    """
    return "-" if value is None else _quantity(value, _BYTES)


def _quantity(value: float, steps: Sequence[tuple[float, str]]) -> str:
    if value == 0:
        return f"0 {steps[0][1] if steps is _TIMES else 'B'}"
    factor, unit = _largest(value, steps)
    return f"{value / factor:.4g} {unit}"


def ranged(value: float | None, interval: Interval | None, form: Callable[[float], str]) -> str:
    """A value, and its interval in brackets where it has one that is wider than what is printed.

    Example:
        >>> ranged(1.5, (1.0, 2.0), "{:g}".format), ranged(1.5, (1.5, 1.5), "{:g}".format)
        ('1.5 [1, 2]', '1.5')
    """
    if value is None:
        return "-"
    ends = None if interval is None else [form(end) for end in interval]
    if ends is None or ends[0] == ends[1]:
        return form(value)
    return f"{form(value)} [{ends[0]}, {ends[1]}]"


def time_column(values: Iterable[float | None]) -> tuple[str, Callable[[float], str]]:
    """The unit in which a column of times is printed, and the form of a cell: three digits, no unit.

    Example:
        >>> unit, form = time_column([0.0123, None, 0.5])
        >>> unit, form(0.0123)
        ('ms', '12.3')
    """
    known = [abs(value) for value in values if value]
    factor, unit = _largest(min(known), _TIMES) if known else _TIMES[0]
    return unit, lambda value: _three_digits(value / factor)


def _three_digits(value: float) -> str:
    """Three significant digits, without an exponent from 1 on."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
