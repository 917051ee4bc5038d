"""Requests that arrive over time, and the cheapest system that serves them well enough."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from smoes_sim.api.inputs import ScenarioLike, resolve
from smoes_sim.display.progress import Progress, progress
from smoes_sim.errors import ConfigError
from smoes_sim.planning import Plan, PlanAnswer, load_plan, make_plan
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.serving import (
    Limits,
    Objective,
    Request,
    ServedSystem,
    ServiceCurve,
    ServiceResult,
    check_both_phases,
    forecast,
    forecast_curve,
    limits_of,
    poisson_requests,
    read_requests,
    runs_of_curve,
)
from smoes_sim.units import parse_arrivals, parse_duration
from smoes_sim.yaml_files import Override, assignments

NUM_REQUESTS = 400
"""Number of requests of a run when neither a number nor a duration is given."""


def serve(
    scenario: ScenarioLike,
    *overrides: Override,
    rate: str | None = None,
    arrivals: str | Path | None = None,
    slo: str | None = None,
    requests: int | None = None,
    duration: str | None = None,
    max_batch_tokens: int = 8192,
    max_sequences: int = 256,
    show_progress: Progress = "auto",
    **settings: object,
) -> ServiceResult | ServiceCurve:
    """Put requests through continuous batching: TTFT, TPOT, goodput; or find the largest rate that keeps an objective.

    Args:
        scenario: A shipped name, a path or a :class:`Scenario`; its own batch does not matter.
        overrides: Changes of it.
        rate: Poisson arrivals, such as ``"2/s"``.
        arrivals: File of requests instead (CSV or JSON Lines): ``arrival_s, prompt_tokens, output_tokens[, images]``.
        slo: Objective, such as ``"ttft=2s,tpot=50ms"``. With neither a rate nor arrivals, the largest rate is found at which
            90% of the requests meet it.
        requests: Number of requests. Default: 400.
        duration: All requests that arrive in this time, such as ``"60 s"``, instead of a number.
        max_batch_tokens: Largest number of tokens of an attention group in a step.
        max_sequences: Largest number of sequences of a group that run at a time.
        show_progress: Where to show how far it has come.
        settings: Changes as keywords, two underscores for the dot.

    Returns:
        A :class:`ServiceResult` of one service; or without rate and arrivals a :class:`ServiceCurve` over rates.

    Raises:
        ConfigError: If arguments contradict each other, or the scenario breaks a rule.

    Example:
        >>> small = {"workload": {"text_tokens": 8, "output_tokens": 2, "batch": 2}, "calibration": None}
        >>> found = serve("olmoe-two-orin", small, rate="1/s", requests=4)
        >>> found.served.requests, found.served.ttft_p50_s <= found.served.ttft_p90_s
        (4, True)
    """
    _check(rate=rate, arrivals=arrivals, slo=slo, requests=requests, duration=duration)
    per_second = None if rate is None else _parsed("rate", rate, parse_arrivals)
    objective = None if slo is None else Objective.parse(slo)
    name, loaded = resolve(scenario, assignments(overrides, settings))
    check_both_phases(loaded)
    deployment = deploy(loaded, whole=True)
    limits = limits_of(deployment, max_batch_tokens=max_batch_tokens, max_sequences=max_sequences)
    system = _system(name, deployment, limits, objective)
    if per_second is None and arrivals is None:
        return _curve(system, deployment, objective or Objective(), requests or NUM_REQUESTS, show_progress)
    chosen = _requests(deployment, per_second, arrivals, requests, duration)
    done = itertools.count(1)
    with progress("services", len(constant_sets(deployment)), show_progress) as advance:
        served = forecast(deployment, chosen, limits, objective, on_run=lambda: advance(next(done)))
    return ServiceResult(
        system=system, rate_per_s=per_second, arrivals=None if arrivals is None else str(arrivals), served=served
    )


def _check(
    *, rate: str | None, arrivals: str | Path | None, slo: str | None, requests: int | None, duration: str | None
) -> None:
    """Refuse arguments that contradict each other."""
    if rate is None and arrivals is None and slo is None:
        raise ConfigError(
            "nothing says when requests arrive. Give rate (such as 2/s), arrivals (a file), or slo to find the rate."
        )
    if rate is not None and arrivals is not None:
        raise ConfigError("rate and arrivals both say when requests arrive. Remove one.")
    if requests is not None and duration is not None:
        raise ConfigError("requests and duration both say how many arrive. Remove one.")
    if arrivals is not None and (requests is not None or duration is not None):
        raise ConfigError("arrivals says how many arrive. Remove requests and duration.")
    if duration is not None and rate is None:
        raise ConfigError("duration needs rate: every rate of a search serves the same requests. Give requests.")


def _parsed(name: str, text: str, parse: Callable[[str], float]) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{name} = {error}") from None


def _system(name: str, deployment: Deployment, limits: Limits, objective: Objective | None) -> ServedSystem:
    return ServedSystem(
        scenario=name,
        model=deployment.model.name,
        topology=deployment.topology.name,
        ranks=deployment.topology.num_ranks,
        policy=deployment.scenario.routing.name,
        slo=None if objective is None else str(objective),
        limits=limits,
        calibration=deployment.scenario.calibration,
    )


def _requests(
    deployment: Deployment, rate: float | None, arrivals: str | Path | None, number: int | None, duration: str | None
) -> list[Request]:
    """Requests of a file, or of a Poisson process of a rate."""
    if arrivals is not None:
        return read_requests(Path(arrivals))
    seconds = None if duration is None else _parsed("duration", duration, parse_duration)
    if seconds is not None:
        return poisson_requests(deployment, rate or 0.0, duration=seconds)
    return poisson_requests(deployment, rate or 0.0, number=number or NUM_REQUESTS)


def _curve(system: ServedSystem, deployment: Deployment, objective: Objective, number: int, mode: Progress) -> ServiceCurve:
    done = itertools.count(1)
    with progress("services", runs_of_curve(deployment), mode) as advance:
        found = forecast_curve(deployment, system.limits, objective, number=number, on_run=lambda: advance(next(done)))
    return ServiceCurve(
        system=system,
        max_rate_per_s=found.max_rate_per_s,
        intervals=found.intervals,
        rates=found.rates,
        rows=found.rows,
    )


def plan(
    file: str | Path | Plan,
    *overrides: Override,
    show_progress: Progress = "auto",
    **settings: object,
) -> PlanAnswer:
    """Find the cheapest system on a price list that meets an objective, and what holds each one back.

    Args:
        file: A shipped plan (``catalogue("plans")``) or the path of a file.
        overrides: Changes of the plan, such as ``"slo.ttft=2 s"``.
        show_progress: Where to show how far it has come.
        settings: Changes as keywords, two underscores for the dot.

    Returns:
        A :class:`PlanAnswer`: every option with cost, times and what binds it; the cheapest that meets the objective.

    Raises:
        ConfigError: If the plan breaks a rule.

    Example:
        ``plan("document-chat", "slo.ttft=2 s").to_polars()``

        >>> plan("document-chat", "slo.tfft=2 s")
        Traceback (most recent call last):
        smoes_sim.errors.ConfigError: "slo.tfft=2 s": unknown key "tfft". Did you mean "ttft"?
    """
    loaded = file if isinstance(file, Plan) else load_plan(str(file), assignments(overrides, settings))
    with progress("offers", len(loaded.offers), show_progress) as advance:
        return make_plan(loaded, on_progress=advance)
