"""How far the rules are from the optimum, on cases small enough to solve exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from smoes_sim.placement.coactivation import coactivation, kept_together
from smoes_sim.placement.experts import REPLICATING, ExpertPlacement, ExpertRule, place_experts
from smoes_sim.placement.optimal import most_together
from smoes_sim.routing.information import expert_counts
from smoes_sim.routing.trace import RoutingTrace

_RULES: tuple[ExpertRule, ...] = ("contiguous", "random", "bins", "coactivation", "eplb", "optimal")


def optimality_gaps(trace: RoutingTrace, *, num_ranks: int, spare: int = 0) -> list[dict[str, Any]]:
    """A row a rule, over all layers.

    ``load``: sum over layers of the busiest rank's routed tokens, copies sharing alike; ``load_gap``: relative excess over
    ``optimal``. ``together``: share of (token, pair of experts) on one rank; ``together_gap``: what is lacking to the exact
    most, relatively (both without replicas only). With spare slots only rules that fill them are judged.

    Raises:
        PlacementError: If the case is too large to be solved.
    """
    counts = expert_counts(trace)
    matrices = [coactivation(trace, layer) for layer in range(trace.num_layers)]
    pairs = sum(matrix.sum() / 2 for matrix in matrices)
    best = 0.0
    if not spare and pairs:
        best = sum(kept_together(m, most_together(m, num_ranks=num_ranks), num_ranks=num_ranks) for m in matrices)
    rules = [rule for rule in _RULES if not spare or rule in REPLICATING]
    rows: list[dict[str, Any]] = []
    for rule in rules:
        placed = place_experts(rule, trace, num_ranks=num_ranks, rng=np.random.default_rng(0), spare=spare)
        loads = placed.rank_loads(counts)
        kept = None if spare or not pairs else _kept(matrices, placed) / pairs
        rows.append(
            {
                "rule": rule,
                "load": float(loads.max(axis=1).sum()),
                "imbalance": float(loads.max(axis=1).sum() / loads.mean(axis=1).sum()),
                "together": kept,
                "together_gap": None if kept is None or not best else 1 - kept * pairs / best,
            }
        )
    least = rows[-1]["load"]
    return [row | {"load_gap": row["load"] / least - 1} for row in rows]


def _kept(matrices: list[Any], placed: ExpertPlacement) -> float:
    return sum(
        kept_together(matrix, slots, num_ranks=placed.ep_size)
        for matrix, slots in zip(matrices, placed.physical_to_logical_map, strict=True)
    )
