"""Predict deployments: one, or several side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from smoes_sim.api.inputs import ScenarioLike, resolve
from smoes_sim.display.progress import Progress, progress
from smoes_sim.errors import ConfigError
from smoes_sim.placement import EXPERT_RULES, ExpertPlacement, ExpertRule, place_experts
from smoes_sim.prediction.comparison import ComparedScenario, Comparison
from smoes_sim.prediction.comparison import compare as compare_candidates
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.prediction.router import synthesize_trace
from smoes_sim.prediction.simulate import middle_conditions, num_passes, predict
from smoes_sim.routing import RoutingTrace
from smoes_sim.scenario import Scenario
from smoes_sim.step.perfetto import write_chrome_trace
from smoes_sim.validation_errors import nearest
from smoes_sim.yaml_files import Override, assignments


def simulate(
    scenario: ScenarioLike,
    *overrides: Override,
    timeline: str | Path | None = None,
    show_progress: Progress = "auto",
    **settings: object,
) -> Prediction:
    """Predict one deployment: what travels between ranks, what it holds, and how long everything takes.

    Args:
        scenario: A shipped name (``catalogue("scenarios")``), the path of a file, or a :class:`Scenario`.
        overrides: Changes of the scenario, as ``"routing.policy=smoes"`` or ``{"routing.policy": "smoes"}``.
        timeline: File for a Chrome trace of the prefill (decode alone: of its middle step), ``.json`` or ``.json.gz``, for
            https://ui.perfetto.dev.
        show_progress: Where to show how far it has come.
        settings: Changes as keywords, two underscores for the dot: ``routing__policy="smoes"``.

    Returns:
        A :class:`Prediction`: times in seconds, sizes in bytes, an interval for each time.

    Raises:
        ConfigError: If the scenario breaks a rule, in one line with the place and what to do.

    Example:
        >>> from smoes_sim import simulate
        >>> found = simulate("olmoe-two-orin", "routing.policy=smoes", placement__tokens="modality")
        >>> found.policy, found.token_placement, f"{found.bytes_remote / 1e9:.3f} GB"
        ('smoes', 'modality', '0.238 GB')
    """
    if timeline is not None and not str(timeline).endswith((".json", ".json.gz")):
        raise ConfigError(f"timeline = {timeline}: a Chrome trace is .json or .json.gz. Write for example step.json.gz.")
    name, loaded = resolve(scenario, assignments(overrides, settings))
    deployment = deploy(loaded)
    prediction = replace(_predict(deployment, show_progress), name=name)
    if timeline is not None:
        shown = deployment.asked[len(deployment.asked) // 2]
        step = middle_conditions(deployment, prediction).time(shown, record_links=True)
        write_chrome_trace(step, deployment.topology, Path(timeline))
    return prediction


def _predict(deployment: Deployment, mode: Progress) -> Prediction:
    done = itertools.count(1)
    with progress("simulated forward passes", num_passes(deployment), mode) as advance:
        return predict(deployment, on_pass=lambda: advance(next(done)))


def compare(
    scenarios: ScenarioLike | Sequence[ScenarioLike],
    *overrides: Override | Mapping[str, Sequence[object]],
    baseline: int = 0,
    show_progress: Progress = "auto",
    **settings: object,
) -> Comparison:
    """Predict several deployments, and the change of each from one of them.

    Every scenario is predicted under every combination of the values of the overrides.

    Args:
        scenarios: One or several shipped names, paths or :class:`Scenario` objects.
        overrides: Changes; a string with several values separated by commas, ``"seed=0,1"``, or a mapping to a list,
            ``{"routing.policy": ["standard", "smoes"]}``, tries each value.
        baseline: Index of the row that the others are compared with.
        show_progress: Where to show how far it has come.
        settings: Changes as keywords, two underscores for the dot; a list tries each value.

    Returns:
        A :class:`Comparison` with a :class:`Prediction` per row. Changes are taken draw by draw, so that what is unknown in
        both rows cancels.

    Raises:
        ConfigError: If a scenario or an override breaks a rule, or there is no such baseline.

    Example:
        >>> from smoes_sim import compare
        >>> found = compare("olmoe-two-orin", {"routing.policy": ["standard", "smoes"]}, placement__tokens="modality")
        >>> [f"{row.bytes_remote / 1e9:.3f} GB" for row in found.rows]
        ['0.743 GB', '0.238 GB']
    """
    several = [scenarios] if isinstance(scenarios, str | Path | Scenario | Mapping) else list(scenarios)
    if not several:
        raise ConfigError("compare: no scenario is named. Name at least one.")
    choices = [_choices(override) for override in _single(overrides, settings)]
    candidates = [_candidate(scenario, chosen) for scenario in several for chosen in itertools.product(*choices)]
    names = [candidate.name for candidate in candidates]
    if len(set(names)) < len(names):
        candidates = [
            replace(candidate, name=f"{candidate.name} {number}") for number, candidate in enumerate(candidates, 1)
        ]
    with progress("deployments", len(candidates), show_progress) as advance:
        return compare_candidates(candidates, baseline=baseline, on_progress=advance)


def _single(overrides: Sequence[Override], settings: Mapping[str, object]) -> list[Override]:
    """Overrides of one key each."""
    found: list[Override] = []
    for override in overrides:
        found += [{key: value} for key, value in override.items()] if isinstance(override, Mapping) else [override]
    return found + [{key.replace("__", "."): value} for key, value in settings.items()]


def _choices(override: Override) -> list[str]:
    """The assignments that an override of one key stands for."""
    if isinstance(override, str):
        key, separator, text = override.partition("=")
        if not separator or text[:1] in {"{", "["}:
            return [override]
        return [f"{key}={value}" for value in text.split(",")]
    ((key, values),) = override.items()
    if isinstance(values, list | tuple) and not values:
        raise ConfigError(f"{key} = []: there is no value to try. Give at least one.")
    several = values if isinstance(values, list | tuple) else [values]
    return assignments([{key: value} for value in several], {})


def _candidate(scenario: ScenarioLike, chosen: Sequence[str]) -> ComparedScenario:
    name, loaded = resolve(scenario, chosen)
    varied = {key.strip(): value for key, _, value in (text.partition("=") for text in chosen)}
    return ComparedScenario(name=" ".join([name, *chosen]), scenario=loaded, varied=varied)


def synthesize(scenario: ScenarioLike, *overrides: Override, **settings: object) -> RoutingTrace:
    """The synthetic routing of a scenario: which expert every token of its workload goes to, in every MoE layer.

    Args:
        scenario: A shipped name, a path or a :class:`Scenario`.
        overrides: Changes of it.
        settings: Changes as keywords.

    Returns:
        A :class:`Trace`; ``expert_ids`` has the shape (tokens, MoE layers, top-k).

    Raises:
        ConfigError: If the scenario takes its routing from a file, or its model has no experts.

    Example:
        >>> from smoes_sim import synthesize
        >>> synthesize("olmoe-two-orin", "workload.batch=1", "workload.decode_batch=1").expert_ids.shape[1:]
        (16, 8)
    """
    return synthesize_trace(resolve(scenario, assignments(overrides, settings))[1])


def place(
    rule: ExpertRule, trace: RoutingTrace | str | Path, *, ranks: int, spare: int = 0, seed: int = 0
) -> ExpertPlacement:
    """Place experts on ranks, decided by the routing of a trace.

    Args:
        rule: ``contiguous``, ``random``, ``bins`` (SMoES), ``eplb``, ``coactivation`` or ``optimal`` (small cases).
        trace: The routing that decides, or the path of its file; for ``contiguous`` and ``random`` only its numbers of
            layers and experts count.
        ranks: Number of ranks.
        spare: Slots of each rank for replicas, in addition to its share of the experts.
        seed: Random seed of ``random``.

    Returns:
        A :class:`Placement`; ``physical_to_logical_map`` has the shape (MoE layers, slots).

    Raises:
        PlacementError: If some ranks have no expert, or the rule cannot fill spare slots.

    Example:
        >>> from smoes_sim import place, synthesize
        >>> trace = synthesize("olmoe-two-orin", "workload.batch=1", "workload.decode_batch=1")
        >>> place("bins", trace, ranks=2)
        <placement of 64 experts in 64 slots on 2 ranks, 16 layers>
    """
    if rule not in EXPERT_RULES:
        raise ConfigError(f'rule = "{rule}" is unknown. {nearest(str(rule), EXPERT_RULES)}')
    if not isinstance(trace, RoutingTrace):
        trace = RoutingTrace.load(trace)
    return place_experts(rule, trace, num_ranks=ranks, rng=np.random.default_rng(seed), spare=spare)
