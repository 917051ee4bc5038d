"""README and pages show what their commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from shared_predictions import predictions_made_once
from shown_output import Shown, blocks

ROOT = Path(__file__).parent.parent
MARKED = [
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if re.search(r"^<!-- (output of[: ]|printed)", path.read_text(encoding="utf-8"), re.MULTILINE)
]


def assert_equal_to_the_last_digits(printed: str, shown: str) -> None:
    """Fits may differ in their last digit between processors: words must be the same, numbers within 0.3 or 3%."""
    number = re.compile(r"\d+\.\d+|\d+")
    for line, wanted in zip(printed.splitlines(), shown.splitlines(), strict=False):
        assert number.sub("#", line).split() == number.sub("#", wanted).split()
        found, figures = ([float(value) for value in number.findall(text)] for text in (line, wanted))
        assert found == pytest.approx(figures, abs=0.3, rel=0.03)
    assert len(printed.splitlines()) >= len(shown.splitlines())


def assert_shown(block: Shown) -> None:
    if block.is_beginning:
        assert_equal_to_the_last_digits(block.printed.strip("\n"), block.shown.strip("\n"))
    else:
        stripped = [line.rstrip() for line in block.printed.strip("\n").splitlines()]
        assert stripped == block.shown.strip("\n").splitlines(), block.what


def test_the_readme_shows_output() -> None:
    assert "README.md" in MARKED


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MARKED)
def test_commands_print_what_the_page_shows(name: str) -> None:
    with predictions_made_once():
        for block in blocks(ROOT / name):
            assert_shown(block)
