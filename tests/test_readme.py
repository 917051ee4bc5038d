"""The README's commands print what the README says they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from smoes_sim.cli import main

README = Path(__file__).parent.parent / "README.md"


def test_the_first_command_prints_the_readmes_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = README.read_text()
    command = re.search(r"\.venv/bin/smoes-sim (compare .*)\n", text)
    block = re.search(r"<!-- output of the first command -->\n```\n(.*?)\n```\n<!-- end -->", text, re.DOTALL)
    assert command is not None
    assert block is not None
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command[1])) == 0
    assert capsys.readouterr().out.strip() == block[1].strip()
    assert (tmp_path / "results" / "paper" / "comparison.svg").is_file()


def test_other_commands_print_what_the_readme_shows(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"<!-- output of: (.*?) -->\n```\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert blocks
    for command, output in blocks:
        assert main(shlex.split(command)) == 0
        assert capsys.readouterr().out.strip() == output.strip()


def test_tables_that_the_readme_begins_to_show_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Fits may differ in their last digit between processors: words must be the same, numbers within 0.3 or 3%."""
    number = re.compile(r"\d+\.\d+|\d+")
    blocks = re.findall(r"<!-- output of `(.*?)` begins -->\n```\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert blocks
    for command, beginning in blocks:
        assert main(shlex.split(command)) == 0
        printed = capsys.readouterr().out.splitlines()[: len(beginning.splitlines())]
        for line, shown in zip(printed, beginning.splitlines(), strict=True):
            assert number.sub("#", line).split() == number.sub("#", shown).split()
            found, wanted = ([float(value) for value in number.findall(text)] for text in (line, shown))
            assert found == pytest.approx(wanted, abs=0.3, rel=0.03)
