"""Which expert sits in which slot, and which slot on which rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError
from smoes_sim.placement.coactivation import coactivation, keep_together
from smoes_sim.placement.eplb import add_replicas, balance
from smoes_sim.placement.optimal import least_load
from smoes_sim.routing.information import expert_counts
from smoes_sim.routing.trace import TEXT, RoutingTrace

ExpertRule = Literal["contiguous", "random", "bins", "eplb", "coactivation", "optimal"]
REPLICATING: tuple[ExpertRule, ...] = ("bins", "eplb", "optimal")
"""Rules that fill spare slots with replicas."""


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

    @property
    def has_replicas(self) -> bool:
        """Whether some layer has more slots than experts."""
        return self.physical_to_logical_map.shape[1] > int(self.physical_to_logical_map.max()) + 1

    def destination(self, layer: int, experts: NDArray[np.integer], home: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rank that serves each routed token, in the group of the token's home; shapes (T, K), (T,).

        A copy on the home rank is used first. Tokens without one use the copies of their expert in turn, in the order of
        tokens; how near a copy is does not matter.

        Returns:
            Ranks, shape (T, K), -1 where there is no expert.

        Example:
            Expert 0 on ranks 0 and 1 of three, tokens at home on 0, 2, 2: they go to 0, 0, 1.
        """
        first, local = home // self.ep_size * self.ep_size, home % self.ep_size
        if not self.has_replicas:
            return np.where(experts >= 0, first[:, None] + self.expert_rank[layer][experts], -1)
        copies, number = self.copy_ranks(layer)
        chosen = np.full(experts.shape, -1, dtype=np.int64)
        for column in copies.T:
            chosen[(experts >= 0) & (column[experts] == local[:, None])] = 0
        away = (experts >= 0) & (chosen < 0)
        wanted = experts[away].astype(np.int64)
        result = np.where(experts >= 0, home[:, None], -1)
        result[away] = np.broadcast_to(first[:, None], experts.shape)[away] + copies[wanted, _turn(wanted) % number[wanted]]
        return result

    def copy_ranks(self, layer: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ranks of the copies of each expert in slot order, -1 behind the last, (E, C), and how many there are, (E,)."""
        slots = self.physical_to_logical_map[layer]
        number = np.bincount(slots)
        ranks = np.full((len(number), int(number.max())), -1, dtype=np.int64)
        ranks[slots, _turn(slots)] = self.slot_rank
        return ranks, number

    def rank_loads(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Routed tokens of each rank of a group, (L, ep_size), from those of each expert, (L, E): copies share alike."""
        layer = np.arange(len(counts))[:, None]
        number = np.stack([np.bincount(slots, minlength=counts.shape[1]) for slots in self.physical_to_logical_map])
        share = (counts / number)[layer, self.physical_to_logical_map]
        loads = np.zeros((len(counts), self.ep_size))
        np.add.at(loads, (layer, self.slot_rank[None, :]), share)
        return loads

    @property
    def expert_rank(self) -> NDArray[np.int64]:
        """Rank of each expert within an EP group, shape (L, E), where each has one slot."""
        assert not self.has_replicas, "an expert with replicas has no single rank"
        ranks = np.empty_like(self.physical_to_logical_map)
        layer = np.arange(len(ranks))[:, None]
        ranks[layer, self.physical_to_logical_map] = self.slot_rank[None, :]
        return ranks


def _turn(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many equal keys stand before each. Example: 5, 7, 5, 5, 7: 0, 0, 1, 2, 1."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    turn = np.empty(len(keys), dtype=np.int64)
    turn[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered, side="left")
    return turn


def place_experts(
    rule: ExpertRule,
    trace: RoutingTrace,
    *,
    num_ranks: int,
    rng: np.random.Generator,
    spare: int = 0,
    num_nodes: int = 1,
    expert_groups: int = 1,
) -> ExpertPlacement:
    """Place the experts of every layer, equally many slots on each rank.

    Args:
        rule: ``contiguous`` keeps the model's order; ``random`` shuffles each layer; ``bins`` sorts each layer by the
            text share of the raw counts, ``C_text / (C_text + C_vision)``, and cuts (SMoES: one bin, one rank), so
            rank 0 holds the most visual experts (experts that nobody uses count as half); ``eplb`` evens out the ranks'
            load (:mod:`~smoes_sim.placement.eplb`); ``coactivation`` keeps experts together that tokens use together
            (:mod:`~smoes_sim.placement.coactivation`); ``optimal`` is the least load of the busiest rank, exact, for
            small cases (:mod:`~smoes_sim.placement.optimal`).
        trace: Decides all but ``contiguous`` and ``random``.
        num_ranks: Ranks, R: one EP group, or where R is a multiple of the experts R / E groups with one expert a rank.
        rng: Shuffles ``random``.
        spare: Further slots of each rank for replicas; ``bins``, ``eplb`` and ``optimal`` use them.
        num_nodes: Nodes in an EP group, for ``eplb``.
        expert_groups: Groups in which the router chooses experts; ``eplb`` keeps each on one node where nodes divide them.

    Raises:
        PlacementError: If the experts do not divide over the ranks, or the rule has no use for spare slots.
    """
    L, E = trace.num_layers, trace.num_experts
    num_groups = num_ranks // E if num_ranks % E == 0 else 1
    ep_size = num_ranks // num_groups
    _check(rule, E, num_ranks=num_ranks, ep_size=ep_size, spare=spare)
    slots = E // ep_size + spare
    if rule == "contiguous":
        order = np.tile(np.arange(E), (L, 1))
    elif rule == "random":
        order = np.argsort(rng.random((L, E)), axis=1)
    elif rule == "coactivation":
        order = np.stack([keep_together(coactivation(trace, layer), num_ranks=ep_size) for layer in range(L)])
    else:
        counts = expert_counts(trace)
        if rule == "bins":
            base = _by_modality(trace).reshape(L, ep_size, -1)
            rows = [add_replicas(base[layer], counts[layer], spare=spare).ravel() for layer in range(L)]
        elif rule == "eplb":
            nodes, groups = (num_nodes, expert_groups) if num_groups == 1 else (1, 1)
            rows = [
                balance(loads, num_slots=ep_size * slots, num_ranks=ep_size, num_nodes=nodes, num_groups=groups)
                for loads in counts
            ]
        else:
            rows = [least_load(loads, num_ranks=ep_size, spare=spare) for loads in counts]
        order = np.stack(rows)
    slot_rank = np.arange(ep_size * slots) // slots
    return ExpertPlacement(physical_to_logical_map=order.astype(np.int64), slot_rank=slot_rank, num_groups=num_groups)


def _check(rule: ExpertRule, experts: int, *, num_ranks: int, ep_size: int, spare: int) -> None:
    if experts % ep_size:
        divisors = [ranks for ranks in range(1, experts + 1) if experts % ranks == 0]
        raise PlacementError(
            f"{experts} experts do not divide over {num_ranks} ranks. Use one of {', '.join(map(str, divisors))} ranks, or "
            f"a multiple of {experts}."
        )
    if spare and rule not in REPLICATING:
        raise PlacementError(f"{rule} has no use for {spare} spare slots a rank. Use {', '.join(REPLICATING)}, or spare 0.")
    if experts // ep_size + spare > experts:
        raise PlacementError(
            f"{experts // ep_size} + {spare} slots a rank are more than the {experts} experts. "
            f"Use at most {experts - experts // ep_size} spare slots."
        )


def _by_modality(trace: RoutingTrace) -> NDArray[np.int64]:
    """Experts of each layer, the most visual first, (L, E)."""
    text = expert_counts(trace, trace.modality == TEXT)
    total = text + expert_counts(trace, trace.is_vision)
    share = np.divide(text, total, out=np.full(total.shape, 0.5), where=total > 0)
    return np.argsort(share, axis=1, kind="stable")
