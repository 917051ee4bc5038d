"""Finished points on disk: one file each, named by a hash of everything that its numbers depend on."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.changes import CHANGES
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.results.write import to_json
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps.identity import MODEL, data_of, digest_of, digest_with, hash_of, released_model, resolved
from smoes_sim.sweeps.study import Point
from smoes_sim.version import __version__
from smoes_sim.yaml_files import write_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a point: a prediction, or the error in one line."""

    prediction: Prediction | None = None
    error: str | None = None


def digest_of_point(point: Point) -> str:
    """The digest of its scenario, or of its settings and problem if it has none."""
    return hash_of([dict(point.settings), point.problem]) if point.scenario is None else digest_of(point.scenario)


class Store:
    """The points in a folder; use :meth:`open` to write.

    Points that an earlier version named otherwise are found by their scenarios: each stored scenario is validated with
    today's models, so that keys added since have their defaults.
    """

    def __init__(self, folder: Path) -> None:
        self._points = folder / "points"

    @contextmanager
    def open(self) -> Iterator[None]:
        """Make the folder; a run that is alone in it removes files that a killed run left incomplete.

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
        """The outcome of a point; None if there is none, or its file is damaged."""
        document = _document(self._points / f"{digest}.json")
        if document is None and (path := self._renamed.get(digest)) is not None:
            document = _document(path)
        return None if document is None else _outcome(document)

    def write(self, digest: str, point: Point, outcome: Outcome) -> None:
        """Keep the outcome of a point and the scenario that it belongs to."""
        document: dict[str, Any] = {"digest": digest, "version": __version__, "model": MODEL}
        if point.scenario is None:
            document["scenario"] = None
        else:
            document |= {"data": data_of(point.scenario), "scenario": resolved(point.scenario)}
        prediction = outcome.prediction
        if prediction is None:
            document["error"] = outcome.error
        else:
            document["values"] = prediction.values()
            document["draws"] = {key: prediction.draws[key] for key in CHANGES if key in prediction.draws}
        write_bytes(self._points / f"{digest}.json", to_json(document))

    @cached_property
    def _renamed(self) -> dict[str, Path]:
        """Files of predictions that have another name today, by that name; read once, when a point is missing."""
        found: dict[str, Path] = {}
        for path in sorted(self._points.glob("[!.]*.json")):
            document = _document(path)
            if document is not None and (digest := _digest_today(document)) not in {None, path.stem}:
                found[str(digest)] = path
        return found


def _document(path: Path) -> dict[str, Any] | None:
    """The content of the file of a point; None if there is none, or it is damaged."""
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return document if isinstance(document, dict) and document.get("digest") == path.stem else None


def _outcome(document: Mapping[str, Any]) -> Outcome | None:
    if "draws" not in document:
        return Outcome(error=str(document.get("error")))
    try:
        return Outcome(prediction=Prediction.of_dict(document["values"], document["draws"]))
    except (KeyError, TypeError):
        return None


def _digest_today(document: Mapping[str, Any]) -> str | None:
    """The digest that a stored prediction has today; None if the model or the data differ, or there is no prediction."""
    stored = document.get("scenario")
    if "draws" not in document or not isinstance(stored, dict):
        return None
    try:
        scenario = Scenario.model_validate(stored)
    except ValidationError:
        return None
    data = data_of(scenario)
    if "model" in document:
        return digest_with(scenario, data) if (document["model"], document.get("data")) == (MODEL, data) else None
    return digest_with(scenario, data) if released_model(document["digest"], stored) == MODEL else None
