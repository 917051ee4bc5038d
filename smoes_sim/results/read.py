"""Read a folder of results: what was asked, what came out, and the scenarios behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from smoes_sim.errors import ConfigError
from smoes_sim.results.expected import Kind, check_summary
from smoes_sim.scenario import Scenario
from smoes_sim.yaml_files import read_text

Row = dict[str, Any]
_REMEDY = "Name the --out folder of simulate, compare, sweep or plan."


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A folder of results.

    Attributes:
        kind: The command that wrote it.
        document: ``summary.json``.
        rows: One per prediction; failed ones are left out.
        scenarios: The scenario of each row.
    """

    kind: Kind
    document: Row
    rows: Sequence[Row]
    scenarios: Sequence[Scenario]


def read_results(folder: Path) -> Results:
    """Read the --out folder of ``simulate``, ``compare``, ``sweep`` or ``plan``.

    Raises:
        ConfigError: If it is none, is damaged, or holds no prediction.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: holds no results (no summary.json). {_REMEDY}")
    document = _json(path)
    kind = _kind(document)
    if kind is None:
        raise ConfigError(f"{path}: is not of simulate, compare, sweep or plan. {_REMEDY}")
    check_summary(document, kind, path)
    rows = [row for row in document["options" if kind == "plan" else "rows"] if row.get("ttft_s") is not None]
    if not rows:
        raise ConfigError(f"{path}: holds no prediction, so there is nothing to report. Mend what failed and run it again.")
    if kind == "sweep":
        return Results(kind=kind, document=document, rows=rows, scenarios=_of_points(folder, rows))
    scenarios = _resolved(folder / "scenario.resolved.yaml")
    numbers = [row["scenario"] for row in rows] if kind == "plan" else list(range(len(rows)))
    if max(numbers) >= len(scenarios):
        raise ConfigError(f"{folder}: {len(scenarios)} scenarios for {max(numbers) + 1} rows. Run the command again.")
    return Results(kind=kind, document=document, rows=rows, scenarios=[scenarios[number] for number in numbers])


def _kind(document: Any) -> Kind | None:
    """The command that wrote a document; None if it is of another, such as ``serve``."""
    if not isinstance(document, dict):
        return None
    rows = document.get("options", document.get("rows"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        return None
    if "options" in document:
        return "plan"
    if "points" in document:
        return "sweep"
    if not all("ttft_s" in row for row in rows):
        return None
    return "compare" if any("change" in row for row in rows) else "simulate"


def _json(path: Path) -> Any:
    try:
        return orjson.loads(read_text(path))
    except orjson.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: is not JSON ({error.msg}). Run the command again."
        ) from None


def _resolved(path: Path) -> list[Scenario]:
    """The scenarios of a file of YAML documents."""
    try:
        documents = list(YAML(typ="safe", pure=True).load_all(StringIO(read_text(path))))
    except YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({str(error).splitlines()[0]}). Run the command again.") from None
    return [_scenario(document, path) for document in documents]


def _scenario(document: Any, path: Path) -> Scenario:
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "a scenario"
        raise ConfigError(f"{path}: {place}: {problem['msg']}. Run the command again with this version.") from None


def _of_points(folder: Path, rows: Sequence[Row]) -> list[Scenario]:
    """The scenario of each row of a sweep: that of the point whose values it has."""
    known: dict[bytes, tuple[Any, Path]] = {}
    for path in sorted((folder / "points").glob("[!.]*.json")):
        point = _json(path)
        if isinstance(point, dict) and isinstance(point.get("values"), dict):
            known[_key(point["values"])] = (point.get("scenario"), path)
    found = []
    for row in rows:
        values = {key: value for key, value in row.items() if key not in {"name", "set", "error", "change"}}
        if _key(values) not in known:
            raise ConfigError(f'{folder}: no file in points has the values of "{row["name"]}". Run the sweep again.')
        found.append(_scenario(*known[_key(values)]))
    return found


def _key(values: Row) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
