"""What the numbers of a point depend on, as a hash: the version of the model, the scenario, and the data that it names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel
from ruamel.yaml import YAML

from smoes_sim.compute import find_device
from smoes_sim.models import find_model
from smoes_sim.prediction.constants import calibration_file
from smoes_sim.prediction.router import REFERENCE_WORKLOAD
from smoes_sim.routing.targets import published
from smoes_sim.scenario import Scenario
from smoes_sim.topology.shipped import shipped_file

MODEL = 3
"""Version of the model that turns a scenario into numbers.

Raise it when predictions change on purpose (tests/sweeps/test_golden.py tells), and say so in the changelog: points that
were computed with another version are computed again.
"""
_RELEASED = {
    "8624cd381a7da4ff4d9cdfafe742f9269736b2194d8a2c7c512bd24edd249224": 1,  # 0.1.0 in a checkout
    "38aef80965c7cf50d38eeb136f66605afad31e8964cafb5513395cbe46f2fecd": 1,  # 0.1.0 installed from a wheel
}
"""Hash of the source files of a release that named points by it -> the version of its model."""
_WORDS = {"also", "description", "source", "sources", "image_source", "meaning", "command", "version"}
"""Keys of shipped data that document it."""


def digest_of(scenario: Scenario) -> str:
    """Name of a point: a hash of the model's version, the resolved scenario, and :func:`data_of` it."""
    return digest_with(scenario, data_of(scenario))


def digest_with(scenario: Scenario, data: str) -> str:
    """The digest of a scenario whose data have a known hash."""
    return hash_of({"model": MODEL, "scenario": resolved(scenario), "data": data})


def resolved(scenario: Scenario) -> dict[str, Any]:
    """The scenario with every default filled in, as JSON."""
    return scenario.model_dump(mode="json", by_alias=True)


def data_of(scenario: Scenario) -> str:
    """A hash of the data that the scenario names.

    Of a file of the user every byte counts; of shipped data the content without what documents it, so that points survive
    an edited comment, a moved file and new entries beside those that they name.
    """
    shipped: dict[str, Any] = {
        "device": _without_words(find_device(scenario.compute.device)),
    }
    if (routing := published().get(scenario.routing.fitted.policy)) is not None:
        shipped["routing"] = [_without_words(routing), _without_words(REFERENCE_WORKLOAD.filled())]
    if isinstance(scenario.model, str):
        shipped["model"] = _without_words(find_model(scenario.model))
    if isinstance(scenario.topology, str) and (path := shipped_file(scenario.topology)) is not None:
        shipped["topology"] = _content(path.read_bytes())
    if scenario.calibration is not None and (path := calibration_file(scenario.calibration)) is not None:
        shipped["calibration"] = _content(path.read_bytes())
    if scenario.workload.preset is not None and not scenario.workload.is_from_trace:
        shipped["workload"] = _without_words(scenario.workload.filled())
    return hash_of({"files": files_named_in(resolved(scenario)), "shipped": shipped})


def released_model(digest: str, scenario: Mapping[str, Any]) -> int | None:
    """Version of the model of a point that a release before 0.2.0 wrote; None if its name is not of such a release.

    Args:
        digest: Name of the point.
        scenario: The resolved scenario that was stored with it.
    """
    files = files_named_in(scenario)
    return next((model for code, model in _RELEASED.items() if hash_of([code, scenario, files]) == digest), None)


def files_named_in(scenario: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the content of each file that a resolved scenario names, by path."""
    return {text: _file_hash(Path(text)) for text in _texts(scenario) if os.path.isfile(text)}


def hash_of(parts: Any) -> str:
    """SHA-256 of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _without_words(part: BaseModel) -> Any:
    """What a part of the shipped data sets, without its documentation."""
    return _bare(part.model_dump(mode="json", by_alias=True, exclude_defaults=True))


@cache
def _content(text: bytes) -> str:
    """A hash of a shipped YAML or JSON file without its documentation; ``device`` of a topology only warns."""
    parsed = orjson.loads(text) if text.startswith(b"{") else YAML(typ="safe", pure=True).load(StringIO(text.decode()))
    return hash_of(_bare({key: value for key, value in parsed.items() if key != "device"}))


def _bare(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _bare(value) for key, value in node.items() if key not in _WORDS}
    return [_bare(part) for part in node] if isinstance(node, list) else node


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for part in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(part)


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
