"""Everything here needs the learning extra and skips, with a reason, without it."""

from __future__ import annotations

import contextlib
import fcntl
import io
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_MISSING = [name for name in ("torch", "safetensors", "easy_vqa", "PIL") if find_spec(name) is None]


class _Skipped(pytest.Module):
    """A test file that is not imported."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip(f"{', '.join(_MISSING)} missing: pip install 'smoes-sim[learning]'")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return _Skipped.from_parent(parent, path=module_path) if _MISSING else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "trained" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(300))  # the first of them trains the study


@dataclass(frozen=True)
class Trained:
    """The small study, trained by command once per session.

    Attributes:
        arguments: Of the command.
        out: Folder of the study.
        printed: Standard output.
        said: Standard error.
    """

    arguments: list[str]
    out: Path
    printed: str
    said: str


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Trained:
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent  # shared by the workers of pytest-xdist: the first one trains, the others wait for it
    with (folder / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _train(folder / "trained")


def _train(folder: Path) -> Trained:
    from learning.small import write_study

    from smoes_sim.cli import main

    arguments = ["train", str(folder / "small.yaml"), "--out", str(folder / "out")]
    if not folder.exists():
        folder.mkdir()
        write_study(folder)
        printed, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            assert main([*arguments, "--jobs", "2"]) == 0
        (folder / "printed").write_text(printed.getvalue())
        (folder / "said").write_text(said.getvalue())
    return Trained(arguments, folder / "out", (folder / "printed").read_text(), (folder / "said").read_text())


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two data-parallel processes computed, by name, from halves of a batch."""
    from learning.two_processes import halves, in_two_processes

    return in_two_processes(halves, tmp_path_factory.mktemp("ranks"))
