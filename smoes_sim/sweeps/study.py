"""The study file of a sweep: a base scenario, the settings to try, and the picture to draw."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.scenario import Scenario, scenario_document, with_named_sections
from smoes_sim.yaml_files import Document, Spec, named_document, nearest

_SHIPPED = Path(__file__).parents[1] / "data" / "sweeps"
Settings = Annotated[dict[str, Any], Field(min_length=1)]
LABEL = "label"
"""Key of an entry of ``list`` that names the entry and sets nothing."""


class PlotSpec(Spec):
    """The picture of a sweep: a metric over one swept key, with lines, bars or rows by others, and optionally panels."""

    metric: Annotated[str, Field(description="A column of runs.parquet, such as ttft_s or change_ttft_s.")]
    over: Annotated[str, Field(description="The swept key along the horizontal axis.")]
    by: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | None,
        Field(description="The swept key, or keys, that make the lines, or the rows of a heat map."),
    ] = None
    panels: Annotated[str | None, Field(description="The swept key with a panel for each value.")] = None
    kind: Literal["lines", "bars", "heat_map"] = Field("lines", description="Kind of picture. Default lines.")

    @model_validator(mode="after")
    def _heat_map_has_rows(self) -> PlotSpec:
        if self.kind == "heat_map" and self.by is None:
            raise ValueError("kind = heat_map needs a second swept key. Give by, or kind: lines.")
        return self

    @property
    def lines(self) -> list[str]:
        """The keys that make the lines."""
        return [self.by] if isinstance(self.by, str) else self.by or []

    @property
    def axes(self) -> list[str]:
        """All keys that give a point its place."""
        return [self.over, *self.lines, *([self.panels] if self.panels else [])]


class SweepFile(Spec):
    """The file: every entry of ``list`` under every combination of ``grid``, on top of ``scenario``.

    Keys are those of overrides, such as ``workload.batch``. An entry of ``list`` changes several keys together; its
    ``label`` is what tables and pictures call it.
    """

    description: str = Field("", description="What the study asks, in one line. Default empty.")
    scenario: Annotated[
        str | dict[str, Any], Field(description="A shipped scenario, a file, or a scenario written in place.")
    ]
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field({}, description="Values to try for each key.")
    entries: list[Settings] = Field([], alias="list", description="Points one by one: settings by key.")
    against: Settings | None = Field(
        None,
        description="Settings of the point to compare with. Keys of the grid that are not given are those of each point.",
    )
    plot: PlotSpec | None = Field(None, description="The picture to draw. Default none.")
    caution: str = Field("", description="Where the answer should not be trusted.")

    @model_validator(mode="after")
    def _something_is_swept(self) -> SweepFile:
        if not self.grid and not self.entries:
            raise ValueError("neither grid nor list is given: there is nothing to sweep. Add one.")
        listed = {key for entry in self.entries for key in entry}
        if both := sorted(listed & self.grid.keys()):
            raise ValueError(f"{both[0]} is in grid and in list. Keep one of them.")
        labels = [entry[LABEL] for entry in self.entries if LABEL in entry]
        if labels and (
            len(set(map(text_of, labels))) < len(self.entries) or not all(isinstance(name, str) for name in labels)
        ):
            raise ValueError("list: labels must be words, one for each entry, all different. Fix them, or leave all out.")
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

    @model_validator(mode="after")
    def _points_have_their_base(self) -> SweepFile:
        if self.against is not None:
            known = {key for point in self.settings() for key in point}
            if unknown := sorted(self.against.keys() - known):
                raise ValueError(f'against: "{unknown[0]}" is not swept. {nearest(unknown[0], known)}')
            self.bases()
        return self

    def bases(self) -> list[int]:
        """Index of the point that each point is compared with; empty if nothing is compared.

        Raises:
            ValueError: If a point has none.

        Example:
            A grid of batch 1 and 2 and policies standard and smoes against policy standard: 0, 0, 2, 2.
        """
        if self.against is None:
            return []
        points = self.settings()
        in_list = {key: value for key, value in self.against.items() if key not in self.grid}
        found = []
        for point in points:
            base = {**point, **self.against}
            if in_list:
                base = {**self._entry_like(point, in_list), **{key: base[key] for key in self.grid}}
            if base not in points:
                raise ValueError(f"against: no point sets {in_one_line(base)}. Add it, or leave out what differs.")
            found.append(points.index(base))
        return found

    def _entry_like(self, point: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
        """The entry of ``list`` that has the wanted settings and, if several have, shares most others with the point."""
        entries = [entry for entry in self.entries if wanted.items() <= entry.items()]
        shared = [sum(point.get(key, entry) == value for key, value in entry.items()) for entry in entries]
        if not shared or shared.count(max(shared)) > 1:
            count = shared.count(max(shared, default=0))
            raise ValueError(
                f"against: {count} entries of list set {in_one_line(wanted)} and are as near to {in_one_line(point)}; "
                "it must be exactly one."
            )
        return entries[shared.index(max(shared))]

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
        name: The settings in one line; with a label only that and what the grid sets.
        problem: The rule that is broken, in one line; empty with a scenario.
    """

    settings: Mapping[str, Any]
    scenario: Scenario | None
    name: str
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A study file and its points."""

    file: SweepFile
    points: Sequence[Point]

    def swept(self) -> list[str]:
        """Keys that have more than one value over the points; for a list with labels ``label`` and those of the grid."""
        if any(LABEL in entry for entry in self.file.entries):
            return [LABEL, *self.file.grid]
        keys = dict.fromkeys(key for point in self.points for key in point.settings)
        return [key for key in keys if len({text_at(point.settings, key) for point in self.points}) > 1]


def in_one_line(settings: Mapping[str, Any]) -> str:
    """Settings in the form of overrides.

    Example:
        >>> in_one_line({"workload.batch": 2, "routing.skip": {"text": 0.5}})
        'workload.batch=2 routing.skip={"text":0.5}'
    """
    return " ".join(f"{key}={text_of(value)}" for key, value in settings.items())


def text_of(value: Any) -> str:
    """A value of a study file in one line: a word as it is, everything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def text_at(settings: Mapping[str, Any], key: str) -> str:
    """A setting in one line; ``-`` where the point keeps the value of the base scenario."""
    return text_of(settings[key]) if key in settings else "-"


def sweep_names() -> list[str]:
    """Names of the shipped studies, sorted."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def load_sweep(name: str, overrides: Sequence[str] = ()) -> Sweep:
    """A shipped study or a file; ``a.b=value`` overrides change its base scenario.

    A point that breaks a rule of scenarios is kept with its problem; the others are still computed.

    Raises:
        ConfigError: If the file breaks a rule, if an override is itself swept, or if no point is a valid scenario.
    """
    document = named_document(name, _SHIPPED, what="sweep study")
    file = document.validate(SweepFile)
    base = (
        scenario_document(file.scenario)
        if isinstance(file.scenario, str)
        else with_named_sections(document.fork("scenario"))
    )
    settings = file.settings()
    for assignment in overrides:
        key = assignment.partition("=")[0].strip()
        for swept in {swept for point in settings for swept in point}:
            if f"{key}.".startswith(f"{swept}."):
                raise ConfigError(f'"{assignment}": {swept} is swept by {document.name}. Leave the override out.')
        base.override(assignment)
    points = [make_point(base, point, shown=[LABEL, *file.grid] if LABEL in point else None) for point in settings]
    if all(point.scenario is None for point in points):
        raise ConfigError(f"{document.name}: no point is a valid scenario: {points[0].problem}")
    return Sweep(file=file, points=points)


def make_point(base: Document, settings: Mapping[str, Any], *, shown: Sequence[str] | None = None) -> Point:
    """The base scenario with settings applied, sections before keys inside them; the name has the keys ``shown``, or all."""
    document = base.fork()
    name = in_one_line(settings if shown is None else {key: settings[key] for key in shown})
    try:
        for key in sorted(settings, key=lambda key: key.count(".")):
            if key != LABEL:
                document.put(key, settings[key], assignment=f"{key}={text_of(settings[key])}")
        return Point(settings=settings, scenario=document.validate(Scenario), name=name)
    except ConfigError as error:
        return Point(settings=settings, scenario=None, name=name, problem=str(error))
