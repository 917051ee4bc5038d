"""How far the rules are from the optimum, on cases small enough to solve exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table
from smoes_sim.placement.coactivation import coactivation, kept_together
from smoes_sim.placement.expert_placement import ExpertPlacement
from smoes_sim.placement.experts import EXPERT_RULES, ExpertRule, place_experts
from smoes_sim.placement.optimal import most_together
from smoes_sim.routing.information import expert_counts
from smoes_sim.routing.trace import RoutingTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleGap:
    """One rule beside the optimum, over all layers.

    Attributes:
        rule: The rule.
        load: Routed tokens of the busiest rank, summed over layers; copies share equally.
        imbalance: ``load`` over the mean load of a rank, >= 1.
        together: Share of (token, pair of experts) on one rank; None with replicas or without pairs.
        together_gap: Relative shortfall of ``together`` from the largest possible; None as above.
        load_gap: Relative excess of ``load`` over that of ``optimal``.
    """

    rule: ExpertRule
    load: float
    imbalance: float
    together: float | None
    together_gap: float | None
    load_gap: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OptimalityGaps(Result):
    """Every rule beside the exact optimum.

    Attributes:
        rows: One per rule; ``optimal`` is the last.
    """

    rows: Sequence[RuleGap]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``placement judge --json``."""
        return {"rows": self.records()}

    def records(self) -> list[dict[str, Any]]:
        """One row per rule."""
        return [asdict(row) for row in self.rows]

    def tables(self) -> list[Table]:
        """Imbalance, gap in load, pairs together and their gap, per rule."""

        def percent(value: float | None) -> str:
            return "-" if value is None else f"{100 * value:.2f}"

        cells = [
            [row.rule, f"{row.imbalance:.4f}", percent(row.load_gap), percent(row.together), percent(row.together_gap)]
            for row in self.rows
        ]
        return [Table(header=["rule", "max/mean", "gap (%)", "pairs together (%)", "gap (%)"], rows=cells)]


def optimality_gaps(trace: RoutingTrace, *, num_ranks: int, spare: int = 0) -> OptimalityGaps:
    """Every rule on the experts of ``trace`` beside the exact optimum; with spare slots only rules that fill them.

    Raises:
        PlacementError: If the case is too large to be solved exactly.
    """
    counts = expert_counts(trace)
    matrices = [coactivation(trace, layer) for layer in range(trace.num_layers)]
    pairs = sum(matrix.sum() / 2 for matrix in matrices)
    best = 0.0
    if not spare and pairs:
        best = sum(kept_together(m, most_together(m, num_ranks=num_ranks), num_ranks=num_ranks) for m in matrices)
    rows: list[RuleGap] = []
    for rule, entry in EXPERT_RULES.items():
        if spare and not entry.fills_spare:
            continue
        placed = place_experts(rule, trace, num_ranks=num_ranks, rng=np.random.default_rng(0), spare=spare)
        loads = placed.rank_loads(counts)
        kept = None if spare or not pairs else _kept(matrices, placed) / pairs
        rows.append(
            RuleGap(
                rule=rule,
                load=float(loads.max(axis=1).sum()),
                imbalance=float(loads.max(axis=1).sum() / loads.mean(axis=1).sum()),
                together=kept,
                together_gap=None if kept is None or not best else 1 - kept * pairs / best,
            )
        )
    (least,) = [row.load for row in rows if row.rule == "optimal"]
    return OptimalityGaps(rows=[replace(row, load_gap=row.load / least - 1) for row in rows])


def _kept(matrices: Sequence[NDArray[np.float64]], placed: ExpertPlacement) -> float:
    return sum(
        kept_together(matrix, slots, num_ranks=placed.ep_size)
        for matrix, slots in zip(matrices, placed.physical_to_logical_map, strict=True)
    )
