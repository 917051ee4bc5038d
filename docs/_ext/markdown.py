"""Small helpers to write MyST Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence


def cell(text: object) -> str:
    """A text as a table cell: one line, no column separators, double backticks as single ones."""
    return re.sub(r"\s+", " ", str(text)).strip().replace("|", "\\|").replace("``", "`")


def code(text: object) -> str:
    """Inline code in a table cell; nothing for an empty text."""
    return f"`{cell(text)}`" if str(text) else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its cells have been escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def prose(docstring: str) -> str:
    """A Google docstring as Markdown: code in single backticks, an ``Example:`` section as a paragraph."""
    text = docstring.replace("``", "`")
    text = re.sub(r":(?:class|func|meth|mod):`~?([^`]*)`", r"`\1`", text)
    text = re.sub(r"^(Args|Returns|Raises|Attributes):\n(?:[ \t]+.*\n?|\n)*", "", text, flags=re.MULTILINE)

    def example(found: re.Match[str]) -> str:
        body = "\n".join(line.removeprefix("    ") for line in found[1].splitlines()).strip()
        return f"\n```python\n{body}\n```\n" if ">>>" in body else f"\n*Example:* {body}\n"

    return re.sub(r"^Examples?:\n((?:[ \t]+.*\n?|\n)+)", example, text, flags=re.MULTILINE).strip()
