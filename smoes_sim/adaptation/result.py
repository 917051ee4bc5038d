"""The result of re-placing experts over time: totals of each policy, and times of each window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from smoes_sim.adaptation.charts import adaptation_chart
from smoes_sim.display.result import Result
from smoes_sim.display.tables import Interval, Table, ranged, seconds, size
from smoes_sim.placement import ExpertRule, TokenRule

if TYPE_CHECKING:
    import altair as alt


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTotals:
    """What one policy takes over all windows; medians over the sets of constants.

    Attributes:
        name: ``never``, ``every N`` (prefill steps) or ``oracle``.
        every_steps: Prefill steps between re-placements; None for ``never`` and ``oracle``.
        total_s: Seconds of all steps and of moving weights.
        moving_s: Seconds of moving weights.
        saved: Share of the time of ``never`` that is saved, weights moving between steps.
        saved_if_hidden: The same if moving weights took no time.
        replacements: Number of re-placements.
        moved_bytes: Bytes of weights that moved from rank to rank.
        imbalance: Load of the busiest rank over the mean, mean over windows.
        bytes_remote_per_step: Bytes that cross from rank to rank in a step, mean over windows.
        break_even_steps: Prefill steps between re-placements from which on they save more than they cost; None if never.
        intervals: Intervals over the sets of constants by field, where there are several sets.
    """

    name: str
    every_steps: int | None
    total_s: float
    moving_s: float
    saved: float
    saved_if_hidden: float
    replacements: int
    moved_bytes: float
    imbalance: float
    bytes_remote_per_step: float
    break_even_steps: float | None
    intervals: Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTimes:
    """One window under one policy; medians over the sets of constants.

    Attributes:
        name: The policy.
        window: Index of the window.
        vision_share: Share of vision tokens.
        step_s: Seconds of a prefill step.
        moving_s: Seconds of moving weights before the window.
        imbalance: Load of the busiest rank over the mean.
    """

    name: str
    window: int
    vision_share: float
    step_s: float
    moving_s: float
    imbalance: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Adaptation(Result):
    """Policies of re-placing experts while the mix of modalities drifts.

    Attributes:
        name: Name of the scenario.
        rule: Rule that places the experts.
        spare: Spare slots of each rank.
        token_placement: Rule for the home ranks of tokens.
        windows: Number of windows, W.
        steps_per_window: Prefill steps of a window.
        expert_bytes: Bytes of one expert's weights in one layer.
        policies: Totals of each policy; ``never`` is the first, ``oracle`` the last.
        over_time: Each policy in each window.

    Example:
        >>> from smoes_sim import adapt
        >>> small = {"workload": {"preset": "mmbench", "batch": 2, "output_tokens": 1}, "calibration": None}
        >>> found = adapt("olmoe-two-orin", small, placement__experts="bins", windows=2, every=[1])
        >>> [policy.name for policy in found.policies]
        ['never', 'every 100', 'oracle']

    """

    name: str
    rule: ExpertRule
    spare: int
    token_placement: TokenRule
    windows: int
    steps_per_window: int
    expert_bytes: float
    policies: Sequence[PolicyTotals]
    over_time: Sequence[WindowTimes]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``adapt --json``."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """One row per policy and window."""
        return [asdict(row) for row in self.over_time]

    def tables(self) -> Sequence[Table]:
        """Time of each policy, then what moves and how even the load is."""
        first, last = (self.over_time[window].vision_share for window in (0, self.windows - 1))
        title = (
            f"# {self.name}: {self.rule} with {self.spare} spare slots per rank, tokens {self.token_placement}\n"
            f"# {self.windows} windows of {self.steps_per_window} prefill steps; vision tokens {first:.0%} -> {last:.0%}\n"
            "# saved: relative to never, with weights moving between steps; if hidden: behind the steps"
        )
        times = [
            [
                row.name,
                f"{row.total_s:.5g}",
                _percent(row, "saved"),
                _percent(row, "saved_if_hidden"),
                "-" if row.break_even_steps is None else f"{row.break_even_steps:.3g}",
            ]
            for row in self.policies
        ]
        moves = [
            [
                row.name,
                str(row.replacements),
                size(row.moved_bytes),
                seconds(row.moving_s),
                f"{row.imbalance:.2f}",
                size(row.bytes_remote_per_step),
            ]
            for row in self.policies
        ]
        return [
            Table(
                title=title,
                header=["re-placed", "total (s)", "saved (%)", "if hidden (%)", "break-even (steps)"],
                rows=times,
            ),
            Table(header=["re-placed", "times", "moved", "moving", "max/mean", "bytes per step"], rows=moves),
        ]

    def plot(self) -> alt.TopLevelMixin:
        """Time of a step by window, one line per policy, above the share of vision tokens."""
        title = f"{self.name}: {self.rule}, {self.spare} spare slots per rank"
        return adaptation_chart(self.records(), [policy.name for policy in self.policies], title=title)


def _percent(row: PolicyTotals, key: str) -> str:
    """A share in %, with its sign and interval."""
    return ranged(getattr(row, key), row.intervals.get(key), lambda share: f"{100 * share:+.1f}")
