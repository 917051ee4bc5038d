"""Schedules of re-placement: which placement is used in each window, and what moves before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.adaptation.windows import Window
from smoes_sim.placement import (
    EXPERT_RULES,
    ExpertPlacement,
    ExpertRule,
    home_tokens,
    keep_in_place,
    moved_experts,
    place_experts,
)
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.step.build import Step, make_step
from smoes_sim.step.parts import RoutedExperts


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacementSchedule:
    """The placement in each window, and what moved before it.

    Attributes:
        name: Name in tables: ``never``, ``every N`` or ``oracle``.
        every: Windows between re-placements; None: never, or (oracle) in every window at no cost.
        steps: The step of each window.
        moved: Number of experts that moved from rank to rank before each window, shape (R, R); None without re-placement.
    """

    name: str
    every: int | None
    steps: Sequence[Step]
    moved: Sequence[NDArray[np.int64] | None]


@dataclass
class ScheduleMaker:
    """Builds schedules; the step of a window under one placement is built once.

    Attributes:
        deployment: The deployment; its tokens and placement are replaced by those of each window.
        rule: Rule that places the experts.
        windows: The window before the start, then the windows that are timed.
        known: Steps built so far, by window, window of the counts, and placement.
    """

    deployment: Deployment
    rule: ExpertRule
    windows: Sequence[Window]
    known: dict[tuple[int, int, bytes], Step] = field(default_factory=dict)

    def schedule(self, name: str, every: int | None) -> ReplacementSchedule:
        """Place before the first window, then again every ``every`` windows (None: never again)."""
        source, placement = 0, self._place(0)
        steps: list[Step] = []
        moved: list[NDArray[np.int64] | None] = []
        for number in range(len(self.windows) - 1):
            change = None
            if every is not None and number and number % every == 0:
                source, new = number, self._place(number)
                new = keep_in_place(placement, new) if EXPERT_RULES[self.rule].ranks_are_equal else new
                change, placement = moved_experts(placement, new), new
            moved.append(change)
            steps.append(self._step(number + 1, placement, source))
        return ReplacementSchedule(name=name, every=every, steps=steps, moved=moved)

    def oracle(self) -> ReplacementSchedule:
        """Every window under the placement from its own counts."""
        numbers = range(1, len(self.windows))
        steps = [self._step(number, self._place(number), number) for number in numbers]
        return ReplacementSchedule(name="oracle", every=None, steps=steps, moved=[None] * len(steps))

    def _place(self, source: int) -> ExpertPlacement:
        """The placement from the counts of one window (0: the window before the start)."""
        return place_experts(
            self.rule,
            self.windows[source].trace,
            num_ranks=self.deployment.topology.num_ranks,
            ep_size=self.deployment.scenario.parallelism.expert,
            rng=np.random.default_rng([self.deployment.scenario.seed, 4]),
            spare=self.deployment.scenario.placement.spare,
        )

    def _step(self, number: int, placement: ExpertPlacement, source: int) -> Step:
        key = (number, source, placement.physical_to_logical_map.tobytes())
        if key not in self.known:
            window, rule = self.windows[number], self.deployment.scenario.placement.tokens
            home = home_tokens(rule, window.trace, placement, decide_by=self.windows[source].trace)
            experts = RoutedExperts(trace=window.trace, placement=placement)
            parts = replace(self.deployment.parts, workload=window.workload, experts=experts, home=home)
            self.known[key] = make_step(parts, np.arange(window.trace.num_tokens))
        return self.known[key]
