"""Examples print what is recorded beside them, and the notebooks run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shared_predictions import predictions_made_once
from test_readme import assert_equal_to_the_last_digits

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
IN_A_PROCESS_OF_ITS_OWN = {"capture_a_tiny_model", "own_topology"}  # the one with torch, and a quick one as a user runs it
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_is_recorded(path: Path, tmp_path: Path) -> None:
    printed = printed_by_process(path, tmp_path) if path.stem in IN_A_PROCESS_OF_ITS_OWN else printed_here(path, tmp_path)
    recorded = path.with_suffix(".out").read_text(encoding="utf-8")
    assert len(printed.splitlines()) == len(recorded.splitlines())
    assert_equal_to_the_last_digits(printed, recorded)


def printed_here(path: Path, folder: Path) -> str:
    """What an example prints that is executed in this process: Python and numpy need not start again for each."""
    out = io.StringIO()
    source = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), predictions_made_once():
        exec(source, {"__name__": "__main__", "__file__": str(path)})
    return out.getvalue()


def printed_by_process(path: Path, folder: Path) -> str:
    if "transformers" in path.read_text(encoding="utf-8"):
        pytest.importorskip("transformers", reason="transformers is missing: pip install 'smoes-sim[capture]'")
    found = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_there_are_examples_and_two_notebooks() -> None:
    assert len(EXAMPLES) >= 8
    assert len(NOTEBOOKS) == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run_and_hold_no_output(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    variables: dict[str, object] = {}
    with predictions_made_once():
        for number, cell in enumerate(cells):
            source = "".join(cell["source"])
            exec(compile(source, f"{path.name}[{number}]", "exec"), variables)
            last = source.splitlines()[-1]
            if last.isidentifier():  # what a notebook shows at the end of a cell
                assert variables[last]._repr_html_()
    capsys.readouterr()
