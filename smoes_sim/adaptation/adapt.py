"""Placement that follows the traffic: experts are placed again every few windows, from the counts of the window before.

``total = steps * sum(step time of each window) + time of moving weights``. Weights move over the same network, between
two steps, with no other traffic; the time saved if they moved at no cost (fully overlapped) is given beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.adaptation.result import Adaptation, PolicyTotals, WindowTimes
from smoes_sim.adaptation.schedule import ReplacementSchedule, ScheduleMaker
from smoes_sim.adaptation.windows import Window, drifting_windows, windows_of_trace
from smoes_sim.compute.formats import weight_bytes
from smoes_sim.errors import ConfigError
from smoes_sim.network import exchange_time, phases_of
from smoes_sim.placement import EXPERT_RULES, ExpertRule
from smoes_sim.prediction.constants import interval
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.scenario import ExpertFile, Scenario
from smoes_sim.step.build import Step

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """Seconds under one set of constants, in each window.

    Attributes:
        step: Of one prefill step, shape (W,).
        moving: Of moving weights before the window, shape (W,).
    """

    step: Floats
    moving: Floats


def adapt(
    scenario: Scenario,
    *,
    name: str,
    windows: int,
    steps: int,
    every: Sequence[int],
    images: tuple[float, float],
    on_timed: Callable[[int], None] = lambda _: None,
) -> Adaptation:
    """Times of several intervals of re-placement, beside never re-placing and an oracle.

    All start with the placement from the window before the first. ``every k`` places again before windows k, 2k, ... from
    the counts of the window that has just ended. The oracle places from the counts of the window itself and moves nothing
    over the network. Under token placement ``modality`` the same counts decide which ranks serve text.

    Args:
        scenario: Its rule for experts is applied again; only its prefill is used.
        name: Name of the scenario, for tables.
        windows: Number of windows, W.
        steps: Prefill steps of a window; one is simulated and represents all.
        every: Windows between re-placements to try.
        images: Share of sequences with images in the first and the last window; unused where the scenario has a trace.
        on_timed: Called with the number of sets of constants done.

    Raises:
        ConfigError: If the scenario's placement does not depend on the traffic, or its workload cannot drift.
    """
    rule = _rule(scenario)
    deployment = deploy(scenario, whole=True)
    cut = (
        windows_of_trace(scenario.routing, windows=windows)
        if scenario.routing.trace
        else drifting_windows(scenario, windows=windows, images=images)
    )
    maker = ScheduleMaker(deployment, rule, cut)
    schedules = [
        maker.schedule("never", None),
        *(maker.schedule(f"every {number * steps}", number) for number in every),
        maker.oracle(),
    ]
    draws: list[list[_Times]] = []
    for done, constants in enumerate(constant_sets(deployment)):
        draws.append(_timed(deployment, schedules, constants))
        on_timed(done + 1)
    of_schedule = [[draw[index] for draw in draws] for index in range(len(schedules))]
    return Adaptation(
        name=name,
        rule=rule,
        spare=scenario.placement.spare,
        token_placement=scenario.placement.tokens,
        windows=windows,
        steps_per_window=steps,
        expert_bytes=_expert_bytes(deployment),
        policies=[
            _totals(schedule, times, of_schedule[0], steps=steps, expert_bytes=_expert_bytes(deployment))
            for schedule, times in zip(schedules, of_schedule, strict=True)
        ],
        over_time=[
            row
            for schedule, times in zip(schedules, of_schedule, strict=True)
            for row in _over_time(schedule, times, cut[1:])
        ],
    )


def _rule(scenario: Scenario) -> ExpertRule:
    """The scenario's rule for experts, if it depends on the traffic."""
    rule = scenario.expert_rule
    if isinstance(rule, ExpertFile) or not EXPERT_RULES[rule].follows_traffic:
        raise ConfigError(f"placement.experts = {rule} does not follow the traffic. Use bins, eplb or coactivation.")
    if not scenario.model_shape.experts:
        raise ConfigError(f"model = {scenario.model_shape.name} has no experts to place. Choose a model with experts.")
    if scenario.workload.phase == "decode":
        raise ConfigError("workload.phase = decode: adapt simulates whole prefills. Write phase: prefill or both.")
    layout = scenario.parallelism
    if layout.tensor > 1 or layout.expert_tensor > 1 or layout.prefill_chunk is not None:
        raise ConfigError(
            "parallelism: adapt simulates whole prefills with attention on each rank and whole experts. Leave out all but "
            "expert."
        )
    return rule


def _expert_bytes(deployment: Deployment) -> float:
    """Bytes of one expert's weights in one layer."""
    model = deployment.model
    return model.expert_bytes(weight_bytes(deployment.scenario.compute.weights, "experts", hidden=model.hidden))


def _timed(deployment: Deployment, schedules: Sequence[ReplacementSchedule], constants: Mapping[str, float]) -> list[_Times]:
    """Times of each schedule under one set of constants."""
    conditions = deployment.under(constants)
    network = conditions.network
    of_step: dict[int, float] = {}

    def step_seconds(step: Step) -> float:
        if id(step) not in of_step:  # schedules share steps, which are as large as their traffic
            of_step[id(step)] = conditions.time(step).duration
        return of_step[id(step)]

    def move_seconds(moved: NDArray[np.int64] | None) -> float:
        if moved is None or not moved.any():
            return 0.0
        phases = phases_of(network, [moved * _expert_bytes(deployment)])
        return exchange_time(network, phases, tolerance=deployment.scenario.communication.tolerance).duration

    return [
        _Times(
            step=np.array([step_seconds(step) for step in schedule.steps]),
            moving=np.array([move_seconds(moved) for moved in schedule.moved]),
        )
        for schedule in schedules
    ]


def _totals(
    schedule: ReplacementSchedule,
    times: Sequence[_Times],
    times_of_never: Sequence[_Times],
    *,
    steps: int,
    expert_bytes: float,
) -> PolicyTotals:
    """Totals over all windows, from the times under each set of constants."""
    never = np.array([steps * draw.step.sum() for draw in times_of_never])
    work = np.array([steps * draw.step.sum() for draw in times])
    moving = np.array([draw.moving.sum() for draw in times])
    total, saved, hidden = work + moving, 1 - (work + moving) / never, 1 - work / never
    break_even = None
    if schedule.every is not None and (gain := float(np.median(never - work)) / steps) > 0:
        break_even = schedule.every * float(np.median(moving)) / gain
    series = {"total_s": total, "moving_s": moving, "saved": saved, "saved_if_hidden": hidden}
    return PolicyTotals(
        name=schedule.name,
        every_steps=schedule.every and schedule.every * steps,
        total_s=float(np.median(total)),
        moving_s=float(np.median(moving)),
        saved=float(np.median(saved)),
        saved_if_hidden=float(np.median(hidden)),
        replacements=sum(moved is not None for moved in schedule.moved),
        moved_bytes=float(sum(moved.sum() for moved in schedule.moved if moved is not None)) * expert_bytes,
        imbalance=float(np.mean([step.traffic.imbalance() for step in schedule.steps if step.traffic])),
        bytes_remote_per_step=float(np.mean([step.bytes_remote for step in schedule.steps])),
        break_even_steps=break_even,
        intervals={key: interval(values.tolist()) for key, values in series.items()} if len(times) > 1 else {},
    )


def _over_time(schedule: ReplacementSchedule, times: Sequence[_Times], windows: Sequence[Window]) -> list[WindowTimes]:
    """Times of one schedule in each window; medians over the sets of constants."""
    return [
        WindowTimes(
            name=schedule.name,
            window=number,
            vision_share=windows[number].vision_share,
            step_s=float(np.median([draw.step[number] for draw in times])),
            moving_s=float(np.median([draw.moving[number] for draw in times])),
            imbalance=step.traffic.imbalance() if step.traffic else 1.0,
        )
        for number, step in enumerate(schedule.steps)
    ]
