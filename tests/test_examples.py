"""Examples print what is recorded beside them, and the notebooks run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_readme import assert_equal_to_the_last_digits

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_is_recorded(path: Path, tmp_path: Path) -> None:
    if "transformers" in path.read_text(encoding="utf-8"):
        pytest.importorskip("transformers", reason="transformers is missing: pip install 'smoes-sim[capture]'")
    found = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    recorded = path.with_suffix(".out").read_text(encoding="utf-8")
    assert len(found.stdout.splitlines()) == len(recorded.splitlines())
    assert_equal_to_the_last_digits(found.stdout, recorded)


def test_there_are_examples_and_two_notebooks() -> None:
    assert len(EXAMPLES) >= 8
    assert len(NOTEBOOKS) == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run_and_hold_no_output(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    variables: dict[str, object] = {}
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        exec(compile(source, f"{path.name}[{number}]", "exec"), variables)
        last = source.splitlines()[-1]
        if last.isidentifier():  # what a notebook shows at the end of a cell
            assert variables[last]._repr_html_()
    capsys.readouterr()
