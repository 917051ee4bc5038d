"""Output that README and pages show: found, printed again, compared or written anew.

``python -m tests.shown_output README.md docs/start/first-prediction.md`` replaces the blocks by what the commands print now.

Blocks that follow one of these lines take part; all of a page share a new folder as working directory::

    <!-- file: mine.yaml -->          the block is written to that file
    <!-- output of: simulate x -->    the block is the command, behind a "$ ", and its output
    <!-- output of `validate` begins -->  the same with the beginning of the output; last digits may differ
    <!-- python -->                   the block is executed; what it prints is the block after the next line
    <!-- printed -->
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"<!-- (?P<kind>file: (?P<file>\S+)|output of: (?P<command>.*?)|output of `(?P<begins>.*?)` begins|python|printed) -->\n"
    r"(?P<open>```\w*\n)(?P<text>.*?)```\n",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A block with output: what it shows, what is printed, where it stands in the page."""

    what: str
    shown: str
    printed: str
    is_beginning: bool
    span: tuple[int, int]


def printed_by(command: str) -> str:
    """Standard output of a command line of smoes-sim.

    Raises:
        RuntimeError: If it fails.
    """
    from smoes_sim.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(shlex.split(command))
    if code != 0:
        raise RuntimeError(f"smoes-sim {command}: exit code {code}")
    return out.getvalue()


def printed_by_python(source: str) -> str:
    """What a block of Python prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, "block", "exec"), {"__name__": "__main__"})
    return out.getvalue()


def blocks(page: Path) -> Iterator[Shown]:
    """The blocks of a page with what their commands print now, run in a new folder."""
    text, source = page.read_text(encoding="utf-8"), ""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for found in _BLOCK.finditer(text):
                if found["file"]:
                    Path(found["file"]).write_text(found["text"], encoding="utf-8")
                elif found["kind"] == "python":
                    source = found["text"]
                elif found["kind"] == "printed":
                    yield _shown(found, source, printed_by_python(source))
                else:
                    command = found["command"] or found["begins"]
                    yield _shown(found, command, printed_by(command))
        finally:
            os.chdir(before)


def _shown(found: re.Match[str], what: str, printed: str) -> Shown:
    prompt = "" if found["kind"] == "printed" else f"$ smoes-sim {what}\n"
    return Shown(
        what=what,
        shown=found["text"],
        printed=prompt + printed,
        is_beginning=bool(found["begins"]),
        span=found.span("text"),
    )


def record(page: Path) -> None:
    """Write what the commands print now into a page; beginnings keep their number of lines."""
    text, parts, end = page.read_text(encoding="utf-8"), [], 0
    for block in blocks(page):
        lines = block.printed.strip("\n").splitlines()
        kept = lines[: len(block.shown.splitlines())] if block.is_beginning else lines
        parts += [text[end : block.span[0]], "\n".join(line.rstrip() for line in kept), "\n"]
        end = block.span[1]
    page.write_text("".join(parts) + text[end:], encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        record(Path(name).absolute())
