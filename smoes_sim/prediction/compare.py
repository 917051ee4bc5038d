"""Several deployments side by side: what changes, draw by draw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.changes import changes
from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import Scenario, load_scenario


def expand(names: Sequence[str], overrides: Sequence[str]) -> list[tuple[str, Scenario]]:
    """Every scenario under every combination of overrides; ``a.b=x,y`` stands for two values.

    Raises:
        ConfigError: If a scenario or an override breaks a rule.
    """
    choices = [_values(assignment) for assignment in overrides]
    return [
        (" ".join([name, *chosen]), load_scenario(name, chosen))
        for name, chosen in itertools.product(names, itertools.product(*choices))
    ]


def _values(assignment: str) -> list[str]:
    key, separator, text = assignment.partition("=")
    if not separator or text[:1] in {"{", "["}:
        return [assignment]
    return [f"{key}={value}" for value in text.split(",")]


def compare(
    deployments: Sequence[tuple[str, Scenario]], *, baseline: int = 0, on_row: Callable[[int], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Predict each deployment and its change from the baseline.

    Changes are relative, ``value / baseline - 1``; with calibrations of equally many draws they are taken draw by draw,
    so that what both rows do not know cancels, and come with an interval.

    Args:
        deployments: Names and scenarios.
        baseline: Index of the row that the others are compared with.
        on_row: Called with the number of rows done.

    Raises:
        ConfigError: If there is no such row.
    """
    if not 0 <= baseline < len(deployments):
        raise ConfigError(
            f"--baseline = {baseline} is none of the {len(deployments)} rows. Use 0 to {len(deployments) - 1}."
        )
    predictions = []
    for number, (_, scenario) in enumerate(deployments, start=1):
        predictions.append(simulate(scenario))
        on_row(number)
    return [
        {"name": name} | prediction.values | {"change": changes(prediction, predictions[baseline])}
        for (name, _), prediction in zip(deployments, predictions, strict=True)
    ]
