"""The rules that place experts: a registry, and :func:`place_experts`, which applies one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError
from smoes_sim.placement.coactivation import coactivation, keep_together
from smoes_sim.placement.eplb import add_replicas, balance
from smoes_sim.placement.expert_placement import ExpertPlacement
from smoes_sim.placement.layout import ExpertLayout, expert_layout, slots_of
from smoes_sim.placement.optimal import least_load
from smoes_sim.routing.information import expert_counts
from smoes_sim.routing.trace import TEXT, RoutingTrace

ExpertRule = Literal["contiguous", "random", "bins", "coactivation", "eplb", "optimal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementTask:
    """What a rule places: the experts of a trace on the ranks of one EP group.

    Attributes:
        trace: Routing from which counts are taken.
        ep_size: Ranks of the EP group; where several share each expert, they count as one.
        spare: Slots of each rank beside its share of the experts (rounded down).
        num_nodes: Nodes in the EP group, for ``eplb``.
        expert_groups: Groups of experts that ``eplb`` keeps on one node.
        rng: Random numbers for ``random``.
    """

    trace: RoutingTrace
    ep_size: int
    spare: int
    num_nodes: int
    expert_groups: int
    rng: np.random.Generator

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and experts, (L, E)."""
        return self.trace.num_layers, self.trace.num_experts

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Slots of each rank, shape (R,)."""
        return slots_of(self.trace.num_experts, self.ep_size, spare=self.spare)


def _contiguous(task: PlacementTask) -> NDArray[np.int64]:
    layers, experts = task.shape
    return np.tile(np.arange(experts), (layers, 1))


def _random(task: PlacementTask) -> NDArray[np.int64]:
    return np.argsort(task.rng.random(task.shape), axis=1)


def _bins(task: PlacementTask) -> NDArray[np.int64]:
    order = _by_modality(task.trace)
    if not task.spare:
        return order
    slots = int(task.sizes[0])
    counts = expert_counts(task.trace)
    return np.stack(
        [
            add_replicas(np.array_split(row, task.ep_size), loads, slots=slots).ravel()
            for row, loads in zip(order, counts, strict=True)
        ]
    )


def _coactivation(task: PlacementTask) -> NDArray[np.int64]:
    layers, _ = task.shape
    return np.stack([keep_together(coactivation(task.trace, layer), num_ranks=task.ep_size) for layer in range(layers)])


def _eplb(task: PlacementTask) -> NDArray[np.int64]:
    num_slots = int(task.sizes.sum())
    rows = [
        balance(loads, num_slots=num_slots, num_ranks=task.ep_size, num_nodes=task.num_nodes, num_groups=task.expert_groups)
        for loads in expert_counts(task.trace)
    ]
    return np.stack(rows)


def _optimal(task: PlacementTask) -> NDArray[np.int64]:
    return np.stack([least_load(loads, num_ranks=task.ep_size, spare=task.spare) for loads in expert_counts(task.trace)])


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEntry:
    """A rule and what it can do.

    Attributes:
        place: Returns the expert in each slot, shape (L, S), ordered by rank.
        fills_spare: Whether it fills spare slots with replicas.
        follows_traffic: Whether it depends on the counts of the trace, so that it changes with the traffic.
        ranks_are_equal: Whether ranks may be renumbered afterwards without a change of cost.
    """

    place: Callable[[PlacementTask], NDArray[np.int64]]
    fills_spare: bool = False
    follows_traffic: bool = True
    ranks_are_equal: bool = False


EXPERT_RULES: dict[ExpertRule, RuleEntry] = {
    "contiguous": RuleEntry(place=_contiguous, follows_traffic=False),
    "random": RuleEntry(place=_random, follows_traffic=False),
    "bins": RuleEntry(place=_bins, fills_spare=True),
    "coactivation": RuleEntry(place=_coactivation, ranks_are_equal=True),
    "eplb": RuleEntry(place=_eplb, fills_spare=True, ranks_are_equal=True),
    "optimal": RuleEntry(place=_optimal, fills_spare=True, ranks_are_equal=True),
}
"""Every rule for experts; the only place where they are listed beside :data:`ExpertRule`."""


def place_experts(
    rule: ExpertRule,
    trace: RoutingTrace,
    *,
    num_ranks: int,
    rng: np.random.Generator,
    spare: int = 0,
    ep_size: int | None = None,
    expert_tensor: int = 1,
    num_nodes: int = 1,
    expert_groups: int = 1,
) -> ExpertPlacement:
    """Slots of every layer under a rule.

    Without spare slots every expert has one slot; where the experts do not divide over the ranks of a group, the first ranks
    have one more. With spare slots all ranks have equally many, filled with replicas
    (:func:`~smoes_sim.placement.layout.slots_of`).

    Args:
        rule: ``contiguous`` keeps the model's order; ``random`` shuffles each layer; ``bins`` sorts each layer by the
            text share of the raw counts, ``C_text / (C_text + C_vision)``, and cuts it into one bin per rank (SMoES), so
            rank 0 holds the most visual experts (unused experts count as half); ``eplb`` balances the load of the ranks
            (:mod:`~smoes_sim.placement.eplb`); ``coactivation`` keeps experts that the same tokens use on one rank
            (:mod:`~smoes_sim.placement.coactivation`); ``optimal`` minimises the load of the busiest rank exactly, for
            small cases (:mod:`~smoes_sim.placement.optimal`).
        trace: Decides all rules except ``contiguous`` and ``random``.
        num_ranks: Ranks, R.
        rng: Random numbers for ``random``.
        spare: Slots of each rank for replicas, beside its share of the experts; for ``bins``, ``eplb`` and ``optimal``.
        ep_size: Ranks of an EP group. None: all, or where R is a multiple of the experts groups with one expert per rank.
        expert_tensor: Ranks that share each expert.
        num_nodes: Nodes in an EP group, for ``eplb``.
        expert_groups: Groups in which the router chooses experts; ``eplb`` keeps each on one node where nodes divide them.

    Raises:
        PlacementError: If the ranks form no such groups, some have no expert, or the rule cannot fill spare slots.
    """
    layout = check_slots(
        rule, trace.num_experts, num_ranks=num_ranks, spare=spare, ep_size=ep_size, expert_tensor=expert_tensor
    )
    is_one = layout.num_groups == 1
    task = PlacementTask(
        trace=trace,
        ep_size=layout.holders,
        spare=spare,
        num_nodes=num_nodes if is_one else 1,
        expert_groups=expert_groups if is_one else 1,
        rng=rng,
    )
    return ExpertPlacement(
        physical_to_logical_map=EXPERT_RULES[rule].place(task).astype(np.int64),
        slot_rank=layout.slot_ranks(task.sizes),
        num_groups=layout.num_groups,
        expert_tensor=expert_tensor,
    )


def check_slots(
    rule: ExpertRule, experts: int, *, num_ranks: int, spare: int, ep_size: int | None = None, expert_tensor: int = 1
) -> ExpertLayout:
    """The EP groups, once their slots are known to hold all experts.

    Needs no routing, so that a wrong number of ranks is refused before any long work. Its arguments are those of
    :func:`place_experts`.

    Raises:
        PlacementError: If the ranks form no such groups, some have no expert, or the rule cannot fill spare slots.
    """
    layout = expert_layout(experts, num_ranks=num_ranks, ep_size=ep_size, expert_tensor=expert_tensor)
    entry = EXPERT_RULES[rule]
    if spare and not entry.fills_spare:
        filling = ", ".join(name for name, other in EXPERT_RULES.items() if other.fills_spare)
        raise PlacementError(f"{rule} cannot fill {spare} spare slots per rank. Use {filling}, or spare 0.")
    share = experts // layout.holders
    if share + spare < 1:
        sharing = f" that {expert_tensor} ranks share" if expert_tensor > 1 else ""
        raise PlacementError(
            f"{experts} experts{sharing} leave some of the {layout.ep_size} ranks of an EP group without one. Use "
            f"parallelism.expert={_most_held(experts * expert_tensor, num_ranks, expert_tensor)}, or replicas: "
            "placement.experts=eplb placement.spare=1."
        )
    if share + spare > experts:
        raise PlacementError(
            f"{share} + {spare} slots per rank are more than the {experts} experts. "
            f"Use at most {experts - share} spare slots."
        )
    return layout


def _most_held(most: int, num_ranks: int, expert_tensor: int) -> int:
    """Largest number of ranks of an EP group that is at most ``most``."""
    return max(size for size in range(expert_tensor, most + 1, expert_tensor) if num_ranks % size == 0)


def _by_modality(trace: RoutingTrace) -> NDArray[np.int64]:
    """Experts of each layer, the most visual first, shape (L, E)."""
    text = expert_counts(trace, trace.modality == TEXT)
    total = text + expert_counts(trace, trace.is_vision)
    share = np.divide(text, total, out=np.full(total.shape, 0.5), where=total > 0)
    return np.argsort(share, axis=1, kind="stable")
