"""Read a folder of results: what was asked, what came out, and the scenarios behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.changes import Change, changes_of_dict
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.results.expected import (
    REMEDY,
    ComparedRow,
    FailedPoint,
    Kind,
    PredictedOption,
    PredictedPoint,
    PredictedRow,
    StoredPlan,
    baseline_of,
    checked,
    checked_plan,
)
from smoes_sim.scenario import Scenario
from smoes_sim.yaml_files import read_text

_FOLDER = "Name the --out folder of simulate, compare, sweep or plan."


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRow:
    """A prediction in a folder of results.

    Attributes:
        prediction: The prediction; its draws are not stored.
        scenario: The scenario that was predicted.
        changes: Changes from the row that it is compared with; None if it was not compared.
        settings: What a point of a sweep sets, by key; empty for other commands.
    """

    prediction: Prediction
    scenario: Scenario
    changes: Mapping[str, Change] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.prediction.name


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResults:
    """A folder of ``simulate``, ``compare`` or ``sweep``.

    Attributes:
        kind: The command that wrote it.
        rows: The predictions; at least one.
        failed: Points of a sweep that have none.
        baseline: Index of the row that the others of a comparison are compared with.
        description: What the sweep is about; empty without.
        caution: Where the answer of the sweep should not be trusted; empty without.
        against: Settings of the points that others of the sweep are compared with; None without.
    """

    kind: Literal["simulate", "compare", "sweep"]
    rows: Sequence[StoredRow]
    failed: Sequence[FailedPoint] = ()
    baseline: int = 0
    description: str = ""
    caution: str = ""
    against: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPlanResults:
    """A folder of ``plan``.

    Attributes:
        plan: The document.
        options: Its options that were predicted; at least one.
        scenarios: The scenario of each of those.
    """

    plan: StoredPlan
    options: Sequence[PredictedOption]
    scenarios: Sequence[Scenario]


def read_results(folder: Path) -> StoredResults | StoredPlanResults:
    """The content of the --out folder of ``simulate``, ``compare``, ``sweep`` or ``plan``.

    Raises:
        ConfigError: If it is of no such command, is damaged, or holds no prediction.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: holds no results (no summary.json). {_FOLDER}")
    document = _json(path)
    kind = _kind(document)
    if kind is None:
        raise ConfigError(f"{path}: is not of simulate, compare, sweep or plan. {_FOLDER}")
    if kind == "plan":
        return _plan_results(document, folder, path)
    if kind == "sweep":
        return _sweep_results(document, folder, path)
    baseline = baseline_of(document, len(document["rows"]), path) if kind == "compare" and document["rows"] else 0
    model = ComparedRow if kind == "compare" else PredictedRow
    predictions = [_prediction(row, model, number, path) for number, row in enumerate(document["rows"])]
    _some(predictions, path)
    scenarios = _resolved(folder, number=len(predictions))
    rows = [
        StoredRow(prediction=prediction, scenario=scenario, changes=_changes(row))
        for prediction, scenario, row in zip(predictions, scenarios, document["rows"], strict=False)
    ]
    return StoredResults(kind=kind, rows=rows, baseline=baseline)


def _sweep_results(document: Mapping[str, Any], folder: Path, path: Path) -> StoredResults:
    known, failed = [], []
    for number, row in enumerate(document["rows"]):
        if row.get("tokens_per_s") is None:
            failed.append(checked(FailedPoint, row, ("rows", number), path))
        else:
            known.append((row, _prediction(row, PredictedPoint, number, path)))
    _some(known, path)
    scenarios = _of_points(folder, [prediction for _, prediction in known])
    rows = [
        StoredRow(prediction=prediction, scenario=scenario, changes=_changes(row), settings=row["set"])
        for (row, prediction), scenario in zip(known, scenarios, strict=True)
    ]
    return StoredResults(
        kind="sweep",
        rows=rows,
        failed=failed,
        description=str(document.get("description") or ""),
        caution=str(document.get("caution") or ""),
        against=document.get("against"),
    )


def _plan_results(document: Mapping[str, Any], folder: Path, path: Path) -> StoredPlanResults:
    plan = checked_plan(document, path)
    options = [option for option in plan.options if isinstance(option, PredictedOption)]
    _some(options, path)
    scenarios = _resolved(folder, number=1 + max(option.scenario for option in options))
    return StoredPlanResults(plan=plan, options=options, scenarios=[scenarios[option.scenario] for option in options])


def _some(predicted: Sequence[object], path: Path) -> None:
    if not predicted:
        raise ConfigError(f"{path}: holds no prediction, so there is nothing to report. Fix what failed and run it again.")


def _prediction(row: Mapping[str, Any], model: type[PredictedRow], number: int, path: Path) -> Prediction:  # type: ignore[valid-type]
    """The prediction of a row whose keys have been checked."""
    checked(model, row, ("rows", number), path)
    try:
        return Prediction.of_dict(row)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path}: rows.{number}: is not a prediction ({error}). {REMEDY}") from None


def _changes(row: Mapping[str, Any]) -> dict[str, Change] | None:
    return None if row.get("change") is None else changes_of_dict(row["change"])


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


def _resolved(folder: Path, *, number: int) -> list[Scenario]:
    """The scenarios of a folder, at least ``number`` of them, from a file of YAML documents."""
    path = folder / "scenario.resolved.yaml"
    try:
        documents = list(YAML(typ="safe", pure=True).load_all(StringIO(read_text(path))))
    except YAMLError as error:
        raise ConfigError(f"{path}: is not YAML ({str(error).splitlines()[0]}). Run the command again.") from None
    scenarios = [_scenario(document, path) for document in documents]
    if number > len(scenarios):
        raise ConfigError(f"{folder}: {len(scenarios)} scenarios for {number} rows. Run the command again.")
    return scenarios


def _scenario(document: Any, path: Path) -> Scenario:
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "a scenario"
        raise ConfigError(f"{path}: {place}: {problem['msg']}. {REMEDY}") from None


def _of_points(folder: Path, rows: Sequence[Prediction]) -> list[Scenario]:
    """The scenario of each row of a sweep: that of the point with the same prediction."""
    known: dict[bytes, tuple[Any, Path]] = {}
    for path in sorted((folder / "points").glob("[!.]*.json")):
        point = _json(path)
        if isinstance(point, dict) and isinstance(point.get("values"), dict):
            known[_values(point["values"])] = (point.get("scenario"), path)
    found = []
    for row in rows:
        key = _values(row.to_dict())
        if key not in known:
            raise ConfigError(f'{folder}: no file in points has the values of "{row.name}". Run the sweep again.')
        found.append(_scenario(*known[key]))
    return found


def _values(document: Mapping[str, Any]) -> bytes:
    """What a prediction says, whatever version wrote it; empty for what is none."""
    try:
        return orjson.dumps(Prediction.of_dict(document).values(), option=orjson.OPT_SORT_KEYS)
    except (KeyError, TypeError):
        return b""
