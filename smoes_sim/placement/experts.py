"""Which expert sits in which slot, and which slot on which rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError
from smoes_sim.routing.information import expert_counts
from smoes_sim.routing.trace import TEXT, RoutingTrace

ExpertRule = Literal["contiguous", "random", "bins"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertPlacement:
    """Slots of each layer.

    Attributes:
        physical_to_logical_map: Expert in each slot, shape (L, S), the form that EPLB and SGLang read.
        slot_rank: Rank of each slot, shape (S,).
    """

    physical_to_logical_map: NDArray[np.int64]
    slot_rank: NDArray[np.int64]

    @property
    def num_ranks(self) -> int:
        """R."""
        return int(self.slot_rank.max()) + 1

    @property
    def expert_rank(self) -> NDArray[np.int64]:
        """Rank of each expert, shape (L, E)."""
        ranks = np.empty_like(self.physical_to_logical_map)
        layer = np.arange(len(ranks))[:, None]
        ranks[layer, self.physical_to_logical_map] = self.slot_rank[None, :]
        return ranks


def place_experts(rule: ExpertRule, trace: RoutingTrace, *, num_ranks: int, rng: np.random.Generator) -> ExpertPlacement:
    """Place the experts of every layer, equally many on each rank.

    Args:
        rule: ``contiguous`` keeps the model's order; ``random`` shuffles each layer; ``bins`` sorts each layer by the
            text share of the raw counts, ``C_text / (C_text + C_vision)``, and cuts (SMoES: one bin, one rank), so
            rank 0 holds the most visual experts. Experts that nobody uses count as half.
        trace: Decides the order of ``bins``.
        num_ranks: Size of the EP group, R.
        rng: Shuffles ``random``.

    Raises:
        PlacementError: If the experts do not divide over the ranks.
    """
    L, E = trace.num_layers, trace.num_experts
    if E % num_ranks:
        divisors = [ranks for ranks in range(1, E + 1) if E % ranks == 0]
        raise PlacementError(
            f"{E} experts do not divide over {num_ranks} ranks. Use one of {', '.join(map(str, divisors))} ranks."
        )
    if rule == "contiguous":
        order = np.tile(np.arange(E), (L, 1))
    elif rule == "random":
        order = np.argsort(rng.random((L, E)), axis=1)
    else:
        text = expert_counts(trace, trace.modality == TEXT)
        total = text + expert_counts(trace, trace.is_vision)
        share = np.divide(text, total, out=np.full((L, E), 0.5), where=total > 0)
        order = np.argsort(share, axis=1, kind="stable")
    slot_rank = np.arange(E) // (E // num_ranks)
    return ExpertPlacement(physical_to_logical_map=order.astype(np.int64), slot_rank=slot_rank)
