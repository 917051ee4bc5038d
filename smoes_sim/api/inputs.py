"""Scenarios from names, paths and objects; overrides from strings, mappings and keywords."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smoes_sim.errors import ConfigError
from smoes_sim.scenario import Scenario, load_scenario, with_named_sections
from smoes_sim.yaml_files import MappingDocument

ScenarioLike = str | Path | Scenario | Mapping[str, Any]
"""A shipped name, the path of a file, a scenario, or a mapping with the keys of a file."""


def changed(scenario: Scenario, overrides: Sequence[str]) -> Scenario:
    """A scenario with ``a.b=value`` overrides.

    Raises:
        ConfigError: If an override breaks a rule.
    """
    return _of_mapping(scenario.model_dump(mode="json", by_alias=True, exclude_unset=True), overrides)


def _of_mapping(data: Mapping[str, Any], overrides: Sequence[str]) -> Scenario:
    document = with_named_sections(MappingDocument(copy.deepcopy(dict(data)), name="scenario"))
    for override in overrides:
        document.override(override)
    return document.validate(Scenario)


def resolve(scenario: ScenarioLike, overrides: Sequence[str] = ()) -> tuple[str, Scenario]:
    """The name and the scenario of what was given.

    Raises:
        ConfigError: If there is no such scenario, or it breaks a rule.
    """
    if isinstance(scenario, Mapping):
        return "scenario", _of_mapping(scenario, overrides)
    if isinstance(scenario, Scenario):
        return "scenario", changed(scenario, overrides) if overrides else scenario
    if isinstance(scenario, str | Path):
        return str(scenario), load_scenario(str(scenario), overrides)
    raise ConfigError(f"{scenario!r} is no scenario. Give a shipped name, the path of a file, a Scenario or a mapping.")
