"""The parts of a page of results, before they are put into its template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from smoes_sim.scenario import Scenario

MOST_ROWS = 200
"""Rows of a table that a page shows."""
_BLANK_INSIDE = re.compile(r"(?<=,) (?=[^\[\]]*\])|(?<=\]) ")
"""Blanks of "39 [30, 60] ms" where no line may end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A picture: its caption, SVG, and CSS classes."""

    caption: str
    svg: str
    style: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """A table of a page.

    Attributes:
        title: Heading.
        header: Names of the columns.
        rows: Cells.
        left: Number of leading columns that are aligned to the left.
        words: Indices of columns of running text.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    words: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownScenario:
    """A scenario on the page and the file name under which a reader should save it."""

    name: str
    scenario: Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a page says of a folder of results, without the inside of the chosen deployment.

    Attributes:
        title: Heading of the page.
        answer: The first sentence.
        brackets: What the brackets mean.
        figures: Pictures of all rows.
        tables: Tables of all rows.
        assumptions: What the numbers rest on.
        reproduce: The commands that give the results again.
        scenarios: The scenarios that these commands need; the first is that of the chosen deployment.
        subject: Name of the chosen deployment.
    """

    title: str
    answer: str
    brackets: str
    tables: Sequence[PageTable]
    assumptions: Sequence[str]
    reproduce: str
    scenarios: Sequence[ShownScenario]
    subject: str
    figures: Sequence[Figure] = field(default_factory=list)


def page_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, words: Sequence[int] = ()
) -> PageTable:
    """A table whose values and intervals stay on one line."""
    tied = [[_BLANK_INSIDE.sub("\N{NO-BREAK SPACE}", cell) for cell in row] for row in rows]
    return PageTable(title=title, header=header, rows=tied, left=left, words=words)
