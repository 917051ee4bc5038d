"""Scenarios from names, paths and objects; overrides from strings, mappings and keywords."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import orjson

from smoes_sim.errors import ConfigError
from smoes_sim.scenario import Scenario, load_scenario, with_named_sections
from smoes_sim.yaml_files import Document, MappingDocument

ScenarioLike = str | Path | Scenario
"""A shipped name, the path of a file, or a scenario."""
Override = str | Mapping[str, object]
"""``"routing.policy=smoes"``, or ``{"routing.policy": "smoes"}``."""


def assignments(overrides: Iterable[Override], settings: Mapping[str, object]) -> list[str]:
    """Overrides as ``a.b=value``.

    Args:
        overrides: Strings and mappings, as they were given.
        settings: Keywords; two underscores stand for the dot: ``routing__policy="smoes"``.
    """
    found: list[str] = []
    for override in overrides:
        if isinstance(override, str):
            found.append(override)
        elif isinstance(override, Mapping):
            found += [assignment(key, value) for key, value in override.items()]
        else:
            raise ConfigError(
                f"{override!r} is no override. Write for example 'routing.policy=smoes' or {{'routing.policy': 'smoes'}}."
            )
    return found + [assignment(key.replace("__", "."), value) for key, value in settings.items()]


def assignment(key: str, value: object) -> str:
    """``key=value`` as the command line takes it; text that would read as something else is quoted.

    Example:
        >>> assignment("seed", 1), assignment("routing.policy", "smoes"), assignment("model", {"layers": 2})
        ('seed=1', 'routing.policy=smoes', 'model={"layers":2}')
    """
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and _reads_as_text(value):
        return f"{key}={value}"
    try:
        return f"{key}={orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()}"
    except TypeError:
        raise ConfigError(f"{key} = {value!r}: is not text, a number, a list or a mapping. Give one of these.") from None


def _reads_as_text(text: str) -> bool:
    """Whether YAML reads the text as itself, not as a number, a date or a list."""
    try:
        return bool(Document(f"a: {text}", name="").data == {"a": text})
    except ConfigError:
        return False


def changed(scenario: Scenario, overrides: Sequence[str]) -> Scenario:
    """A scenario with ``a.b=value`` overrides.

    Raises:
        ConfigError: If an override breaks a rule.
    """
    data = scenario.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document = with_named_sections(MappingDocument(data, name="scenario"))
    for override in overrides:
        document.override(override)
    return document.validate(Scenario)


def resolve(scenario: ScenarioLike, overrides: Sequence[str] = ()) -> tuple[str, Scenario]:
    """The name and the scenario of what was given.

    Raises:
        ConfigError: If there is no such scenario, or it breaks a rule.
    """
    if isinstance(scenario, Scenario):
        return "scenario", changed(scenario, overrides) if overrides else scenario
    if isinstance(scenario, str | Path):
        return str(scenario), load_scenario(str(scenario), overrides)
    raise ConfigError(f"{scenario!r} is no scenario. Give a shipped name, the path of a file, or a Scenario.")
