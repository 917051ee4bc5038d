"""The study file of a sweep: a base scenario, what is tried on it, and which picture answers the question."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, model_validator

from smoes_sim.config import Scenario, scenario_document
from smoes_sim.errors import ConfigError
from smoes_sim.files import Document, Spec, named_document, nearest

_SHIPPED = Path(__file__).parents[1] / "data" / "sweeps"
Settings = Annotated[dict[str, Any], Field(min_length=1)]


class PlotSpec(Spec):
    """The picture of a sweep: a metric over one swept key, lines or rows by others, perhaps in panels by one more."""

    metric: Annotated[str, Field(description="A column of runs.parquet, such as ttft_s.")]
    over: Annotated[str, Field(description="The swept key along the horizontal axis.")]
    by: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | None,
        Field(description="The swept key, or keys, that make the lines, or the rows of a heat map."),
    ] = None
    panels: Annotated[str | None, Field(description="The swept key with a panel for each value.")] = None
    kind: Literal["lines", "heat_map"] = "lines"

    @model_validator(mode="after")
    def _heat_map_has_rows(self) -> PlotSpec:
        if self.kind == "heat_map" and self.by is None:
            raise ValueError("kind = heat_map needs a second swept key. Give by, or kind: lines.")
        return self

    @property
    def lines(self) -> list[str]:
        """The keys of ``by``."""
        return [self.by] if isinstance(self.by, str) else self.by or []

    @property
    def axes(self) -> list[str]:
        """All keys that give a point its place."""
        return [self.over, *self.lines, *([self.panels] if self.panels else [])]


class SweepFile(Spec):
    """The file: every entry of ``list`` under every combination of ``grid``, on top of ``scenario``.

    Keys are those of overrides, such as ``workload.batch``. An entry of ``list`` changes several keys together.
    """

    description: str = ""
    scenario: Annotated[
        str | dict[str, Any], Field(description="A shipped scenario, a file, or a scenario written in place.")
    ]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field({}, description="Values to try for each key.")
    entries: list[Settings] = Field([], alias="list", description="Points one by one: settings by key.")
    plot: PlotSpec | None = None

    @model_validator(mode="after")
    def _something_is_swept(self) -> SweepFile:
        if not self.grid and not self.entries:
            raise ValueError("neither grid nor list is given: there is nothing to sweep. Add one.")
        listed = {key for entry in self.entries for key in entry}
        if both := sorted(listed & self.grid.keys()):
            raise ValueError(f"{both[0]} is in grid and in list. Keep one of them.")
        return self

    @model_validator(mode="after")
    def _plot_is_clear(self) -> SweepFile:
        if self.plot is None:
            return self
        points = self.settings()
        known = {key for point in points for key in point}
        for key in self.plot.axes:
            if key not in known:
                raise ValueError(f'plot: "{key}" is not swept. {nearest(key, known)}')
        places = [tuple(text_at(point, key) for key in self.plot.axes) for point in points]
        if len(set(places)) < len(places):
            others = sorted(known - set(self.plot.axes))
            raise ValueError(
                f"plot: several points share each place; {', '.join(others)} are swept too. Give them one value."
            )
        return self

    def settings(self) -> list[dict[str, Any]]:
        """What each point sets, in order: the last key of the grid changes fastest."""
        combinations = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return [{**entry, **combination} for entry in self.entries or [{}] for combination in combinations]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One scenario of a sweep.

    Attributes:
        settings: What it sets, by key.
        scenario: The scenario, or None if the settings break one of its rules.
        problem: The rule that is broken, in one line; empty with a scenario.
    """

    settings: Mapping[str, Any]
    scenario: Scenario | None
    problem: str = ""

    @property
    def name(self) -> str:
        """The settings in one line."""
        return " ".join(f"{key}={text_of(value)}" for key, value in self.settings.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A study file and its points."""

    file: SweepFile
    points: Sequence[Point]

    def swept(self) -> list[str]:
        """Keys that have more than one value over the points."""
        keys = dict.fromkeys(key for point in self.points for key in point.settings)
        return [key for key in keys if len({text_at(point.settings, key) for point in self.points}) > 1]


def text_of(value: Any) -> str:
    """A value of a study file in one line: a word as it is, everything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def text_at(settings: Mapping[str, Any], key: str) -> str:
    """A setting in one line; ``-`` where the base's value stands."""
    return text_of(settings[key]) if key in settings else "-"


def sweep_names() -> list[str]:
    """Names of the shipped studies, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_sweep(name: str, overrides: Sequence[str] = ()) -> Sweep:
    """A shipped study or a file; ``a.b=value`` overrides change its base scenario.

    A point that breaks a rule of scenarios is kept with its problem, so that the others can go on.

    Raises:
        ConfigError: If the file breaks a rule, if an override is itself swept, or if no point is a valid scenario.
    """
    document = named_document(name, _SHIPPED, what="sweep study")
    file = document.validate(SweepFile)
    base = scenario_document(file.scenario) if isinstance(file.scenario, str) else document.fork("scenario")
    settings = file.settings()
    for assignment in overrides:
        key = assignment.partition("=")[0].strip()
        for swept in {swept for point in settings for swept in point}:
            if f"{key}.".startswith(f"{swept}."):
                raise ConfigError(f'"{assignment}": {swept} is swept by {document.name}. Leave the override out.')
        base.override(assignment)
    points = [make_point(base, point) for point in settings]
    if all(point.scenario is None for point in points):
        raise ConfigError(f"{document.name}: no point is a valid scenario: {points[0].problem}")
    return Sweep(file=file, points=points)


def make_point(base: Document, settings: Mapping[str, Any]) -> Point:
    """The base with settings put in, sections before what is inside them."""
    document = base.fork()
    try:
        for key in sorted(settings, key=lambda key: key.count(".")):
            document.put(key, settings[key], said=f"{key}={text_of(settings[key])}")
        return Point(settings=settings, scenario=document.validate(Scenario))
    except ConfigError as error:
        return Point(settings=settings, scenario=None, problem=str(error))
