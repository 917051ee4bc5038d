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
    """Slots of each layer, the same in every EP group; group ``g`` is the ranks from ``g * ep_size`` on.

    Attributes:
        physical_to_logical_map: Expert in each slot, shape (L, S), the form that EPLB and SGLang read.
        slot_rank: Rank of each slot within its group, shape (S,).
        num_groups: EP groups, each of which holds all experts; a token uses those of its home's group.
    """

    physical_to_logical_map: NDArray[np.int64]
    slot_rank: NDArray[np.int64]
    num_groups: int = 1

    @property
    def ep_size(self) -> int:
        """Ranks that together hold all experts."""
        return int(self.slot_rank.max()) + 1

    @property
    def num_ranks(self) -> int:
        """R."""
        return self.ep_size * self.num_groups

    def destination(self, layer: int, experts: NDArray[np.integer], home: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rank of each expert in the group of the token's home, -1 where there is no expert; shapes (T, K), (T,)."""
        first = home // self.ep_size * self.ep_size
        return np.where(experts >= 0, first[:, None] + self.expert_rank[layer][experts], -1)

    @property
    def expert_rank(self) -> NDArray[np.int64]:
        """Rank of each expert within an EP group, shape (L, E)."""
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
        num_ranks: Ranks, R: one EP group, or where R is a multiple of the experts R / E groups with one expert a rank.
        rng: Shuffles ``random``.

    Raises:
        PlacementError: If the experts do not divide over the ranks.
    """
    L, E = trace.num_layers, trace.num_experts
    num_groups = num_ranks // E if num_ranks % E == 0 else 1
    ep_size = num_ranks // num_groups
    if E % ep_size:
        divisors = [ranks for ranks in range(1, E + 1) if E % ranks == 0]
        raise PlacementError(
            f"{E} experts do not divide over {num_ranks} ranks. Use one of {', '.join(map(str, divisors))} ranks, or a "
            f"multiple of {E}."
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
    slot_rank = np.arange(E) // (E // ep_size)
    return ExpertPlacement(physical_to_logical_map=order.astype(np.int64), slot_rank=slot_rank, num_groups=num_groups)
