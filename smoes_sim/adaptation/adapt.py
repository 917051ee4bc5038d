"""Placement that follows the traffic: experts are placed anew every few windows, from the counts of the window before.

``total = steps * sum(step time of each window) + time of moving weights``. Weights move over the same network, between
two steps, and nothing else runs meanwhile; what is saved if they moved at no cost (fully overlapped) is stated beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.adaptation.windows import Window, drifting_windows, windows_of_trace
from smoes_sim.compute.layers import ELEMENT_SIZE
from smoes_sim.errors import ConfigError
from smoes_sim.network import exchange_time, phases_of
from smoes_sim.placement import ExpertPlacement, ExpertRule, home_tokens, keep_in_place, moved_experts, place_experts
from smoes_sim.prediction.constants import interval
from smoes_sim.prediction.deployment import Deployment, deploy
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.scenario import ExpertFile, Scenario
from smoes_sim.step.build import Step, make_step

_FIXED = ("contiguous", "random")
_RANKS_ALIKE: tuple[ExpertRule, ...] = ("eplb", "coactivation", "optimal")
"""Rules that do not care which rank is which; their ranks are renamed so that few weights move."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is in place in each window, and what moved before it.

    Attributes:
        name: For tables.
        every: Windows between re-placements; None: never, or (oracle) at no cost in every window.
        steps: The step of each window.
        moved: Experts that moved from rank to rank before each window, (R, R) each; None: nothing was placed anew.
    """

    name: str
    every: int | None
    steps: Sequence[Step]
    moved: Sequence[NDArray[np.int64] | None]


def adapt(
    scenario: Scenario,
    *,
    windows: int,
    steps: int,
    every: Sequence[int],
    images: tuple[float, float],
    on_timed: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare re-placing at several intervals with never doing it and with an oracle.

    All start with the placement made from the window before the first. ``every k`` places anew before windows k, 2k, ...
    from the counts of the window that has just ended. The oracle places from the counts of the very window and moves
    nothing over the network. Where tokens live by modality, the same counts say where.

    Args:
        scenario: Its rule for experts is the one that is applied again; only its prefill counts.
        windows: Stretches of time, W.
        steps: Prefill steps of each; one is simulated and stands for all.
        every: Windows between re-placements to try.
        images: Share of sequences with images in the first and the last window; unused where the scenario has a trace.
        on_timed: Called with the number of sets of constants done.

    Raises:
        ConfigError: If the scenario has no placement that could adapt.
    """
    rule = _rule(scenario)
    deployment = deploy(scenario)
    cut = (
        windows_of_trace(scenario.routing, windows=windows)
        if scenario.routing.trace
        else drifting_windows(scenario, windows=windows, images=images)
    )
    maker = _Maker(deployment, rule, cut)
    plans = [maker.plan("never", None), *(maker.plan(f"every {number * steps}", number) for number in every), maker.oracle()]
    times = []
    for done, constants in enumerate(constant_sets(deployment)):
        times.append(_timed(deployment, plans, constants))
        on_timed(done + 1)
    return {
        "rule": rule,
        "spare": scenario.placement.spare,
        "token_placement": scenario.placement.tokens,
        "windows": windows,
        "steps_per_window": steps,
        "expert_bytes": _expert_bytes(deployment),
        "policies": _summary(plans, times, steps=steps, expert_bytes=_expert_bytes(deployment)),
        "over_time": _over_time(plans, times, cut[1:]),
    }


def _rule(scenario: Scenario) -> ExpertRule:
    rule = scenario.expert_rule
    if isinstance(rule, ExpertFile) or rule in _FIXED:
        raise ConfigError(f"placement.experts = {rule} does not follow the traffic. Use bins, eplb or coactivation.")
    if not scenario.model_shape.experts:
        raise ConfigError(f"model = {scenario.model_shape.name} has no experts to place. Choose a model with experts.")
    layout = scenario.parallelism
    if layout.tensor > 1 or layout.prefill_chunk is not None:
        raise ConfigError("parallelism: adapt looks at whole prefills with attention on each rank. Leave the section out.")
    return rule


def _expert_bytes(deployment: Deployment) -> float:
    """Bytes of one expert's weights in one layer."""
    return float(deployment.model.expert_bytes(ELEMENT_SIZE[deployment.scenario.compute.weights]))


@dataclass
class _Maker:
    """Makes plans; a step of the same window and placement is made once."""

    deployment: Deployment
    rule: ExpertRule
    windows: Sequence[Window]
    known: dict[tuple[int, int, bytes], Step] = field(default_factory=dict)

    def plan(self, name: str, every: int | None) -> Plan:
        """Place before the first window, and anew every so many."""
        source, placement = 0, self._place(0)
        steps: list[Step] = []
        moved: list[NDArray[np.int64] | None] = []
        for number in range(len(self.windows) - 1):
            change = None
            if every is not None and number and number % every == 0:
                source, new = number, self._place(number)
                new = keep_in_place(placement, new) if self.rule in _RANKS_ALIKE else new
                change, placement = moved_experts(placement, new), new
            moved.append(change)
            steps.append(self._step(number + 1, placement, source))
        return Plan(name=name, every=every, steps=steps, moved=moved)

    def oracle(self) -> Plan:
        """Every window under the placement that its own counts give."""
        numbers = range(1, len(self.windows))
        steps = [self._step(number, self._place(number), number) for number in numbers]
        return Plan(name="oracle", every=None, steps=steps, moved=[None] * len(steps))

    def _place(self, source: int) -> ExpertPlacement:
        """From the counts of one window (0: the one before the start)."""
        return place_experts(
            self.rule,
            self.windows[source].trace,
            num_ranks=self.deployment.topology.num_ranks,
            rng=np.random.default_rng([self.deployment.scenario.seed, 4]),
            spare=self.deployment.scenario.placement.spare,
        )

    def _step(self, number: int, placement: ExpertPlacement, source: int) -> Step:
        key = (number, source, placement.physical_to_logical_map.tobytes())
        if key not in self.known:
            window, rule = self.windows[number], self.deployment.scenario.placement.tokens
            home = home_tokens(rule, window.trace, placement, decide_by=self.windows[source].trace)
            parts = replace(
                self.deployment.parts, workload=window.workload, trace=window.trace, placement=placement, home=home
            )
            self.known[key] = make_step(parts, np.arange(window.trace.num_tokens))
        return self.known[key]


def _timed(deployment: Deployment, plans: Sequence[Plan], constants: Mapping[str, float]) -> list[tuple[Floats, Floats]]:
    """Per plan the seconds of a step and of moving weights in each window, (W,) each."""
    conditions = deployment.under(constants)
    network = conditions.network
    of_step: dict[int, float] = {}

    def step_seconds(step: Step) -> float:
        if id(step) not in of_step:
            of_step[id(step)] = conditions.time(step).duration
        return of_step[id(step)]

    def move_seconds(moved: NDArray[np.int64] | None) -> float:
        if moved is None or not moved.any():
            return 0.0
        phases = phases_of(network, [moved * _expert_bytes(deployment)])
        return exchange_time(network, phases, tolerance=deployment.scenario.communication.tolerance).duration

    return [
        (np.array([step_seconds(step) for step in plan.steps]), np.array([move_seconds(moved) for moved in plan.moved]))
        for plan in plans
    ]


def _summary(
    plans: Sequence[Plan], times: Sequence[list[tuple[Floats, Floats]]], *, steps: int, expert_bytes: float
) -> list[dict[str, Any]]:
    """A row a plan: medians over the sets of constants, and intervals."""
    never = [steps * draw[0][0].sum() for draw in times]
    rows = []
    for index, plan in enumerate(plans):
        work = [steps * draw[index][0].sum() for draw in times]
        moving = [draw[index][1].sum() for draw in times]
        values = {
            "total_s": [run + move for run, move in zip(work, moving, strict=True)],
            "moving_s": moving,
            "saved": [1 - (run + move) / base for run, move, base in zip(work, moving, never, strict=True)],
            "saved_if_hidden": [1 - run / base for run, base in zip(work, never, strict=True)],
        }
        row: dict[str, Any] = {"name": plan.name, "every_steps": plan.every and plan.every * steps}
        row |= {key: float(np.median(series)) for key, series in values.items()}
        row["replacements"] = sum(moved is not None for moved in plan.moved)
        row["moved_bytes"] = float(sum(moved.sum() for moved in plan.moved if moved is not None)) * expert_bytes
        row["imbalance"] = float(np.mean([step.traffic.imbalance() for step in plan.steps if step.traffic]))
        row["bytes_remote_per_step"] = float(np.mean([step.bytes_remote for step in plan.steps]))
        row["break_even_steps"] = None
        if plan.every is not None:
            gain = float(np.median(np.array(never) - np.array(work))) / steps
            row["break_even_steps"] = plan.every * float(np.median(moving)) / gain if gain > 0 else None
        row["intervals"] = {key: list(interval(series)) for key, series in values.items()} if len(times) > 1 else {}
        rows.append(row)
    return rows


def _over_time(
    plans: Sequence[Plan], times: Sequence[list[tuple[Floats, Floats]]], windows: Sequence[Window]
) -> list[dict[str, Any]]:
    """A row per plan and window."""
    return [
        {
            "name": plan.name,
            "window": number,
            "vision_share": windows[number].vision_share,
            "step_s": float(np.median([draw[index][0][number] for draw in times])),
            "moving_s": float(np.median([draw[index][1][number] for draw in times])),
            "imbalance": step.traffic.imbalance() if step.traffic else 1.0,
        }
        for index, plan in enumerate(plans)
        for number, step in enumerate(plan.steps)
    ]
