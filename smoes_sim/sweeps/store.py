"""Finished points on disk: one file each, named by a hash of everything that its numbers depend on."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from smoes_sim.errors import ConfigError
from smoes_sim.results.write import to_json
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps.study import Point
from smoes_sim.topology.shipped import folder as topology_folder
from smoes_sim.version import __version__
from smoes_sim.yaml_files import write_bytes

Outcome = dict[str, Any]
"""``values`` of a prediction and the ``draws`` of what may be compared, or ``error`` in one line."""
_PACKAGE = Path(__file__).parents[1]
_MODEL = ("smoes_sim.scenario", "smoes_sim.prediction.simulate")
"""The modules that turn a scenario into numbers; what they import counts too."""
_NO_INPUT = {"measurements", "plans", "scenarios", "studies", "sweeps"}
"""Folders of shipped data that no prediction reads; scenarios count once they are resolved."""


def digest_of(scenario: Scenario) -> str:
    """A hash of the resolved scenario, of the content of the files it names, and of the model's code and data."""
    resolved = scenario.model_dump(mode="json", by_alias=True)
    files = {text: _file_hash(Path(text)) for text in _texts(resolved) if os.path.isfile(text)}
    return _hash([model_fingerprint(), resolved, files])


def digest_of_point(point: Point) -> str:
    """The digest of its scenario, or of its settings and problem if it has none."""
    return _hash([dict(point.settings), point.problem]) if point.scenario is None else digest_of(point.scenario)


@cache
def model_fingerprint() -> str:
    """A hash of the source files that a prediction imports, and of the shipped data that it may read."""
    data = [path for path in (_PACKAGE / "data").rglob("*") if not _NO_INPUT & set(path.relative_to(_PACKAGE).parts)]
    files = {path.name: path for path in topology_folder().glob("*.yaml")}
    files |= {str(path.relative_to(_PACKAGE)): path for path in [*data, *_sources()] if path.is_file()}
    return _hash({name: _file_hash(path) for name, path in files.items()})


def _sources() -> set[Path]:
    """Source files of the model and of all modules of this package that they import, directly or not."""
    found: set[Path] = set()
    names = list(_MODEL)
    while names:
        name = names.pop()
        path = _source(name)
        if path is None or path in found:
            continue
        found.add(path)
        names.append(name.rpartition(".")[0])
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _source(name: str) -> Path | None:
    """The file of a module of this package; None for anything else."""
    first, *parts = name.split(".")
    if first != _PACKAGE.name:
        return None
    path = _PACKAGE.joinpath(*parts)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for part in node.values() if isinstance(node, dict) else node:
            yield from _texts(part)


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash(parts: Any) -> str:
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


class Store:
    """The points in a folder; use :meth:`open` to write."""

    def __init__(self, folder: Path) -> None:
        self._points = folder / "points"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Make the folder; whoever is alone in it clears what a killed run left half-written.

        Raises:
            ConfigError: If the folder cannot be written.
        """
        lock = self._points / "lock"
        try:
            self._points.mkdir(parents=True, exist_ok=True)
            stream = lock.open("w")
        except OSError as error:
            raise ConfigError(f"{lock}: cannot be written ({error.strerror}). Choose another --out.") from None
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                for left in self._points.glob(".*.json"):
                    left.unlink()
            fcntl.flock(stream, fcntl.LOCK_SH)
            yield

    def read(self, digest: str) -> Outcome | None:
        """What is known of a point; None if nothing is, or its file is damaged."""
        try:
            outcome = orjson.loads((self._points / f"{digest}.json").read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        return outcome if isinstance(outcome, dict) and outcome.get("digest") == digest else None

    def write(self, digest: str, point: Point, outcome: Outcome) -> None:
        """Keep the outcome of a point, and what it is the outcome of."""
        scenario = point.scenario and point.scenario.model_dump(mode="json", by_alias=True)
        document = {"digest": digest, "version": __version__, "scenario": scenario, **outcome}
        write_bytes(self._points / f"{digest}.json", to_json(document))
