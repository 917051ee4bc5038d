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
from smoes_sim.placement.optimal import least_load
from smoes_sim.routing.information import expert_counts
from smoes_sim.routing.trace import TEXT, RoutingTrace

ExpertRule = Literal["contiguous", "random", "bins", "coactivation", "eplb", "optimal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementTask:
    """What a rule places: the experts of a trace on the ranks of one EP group.

    Attributes:
        trace: Routing from which counts are taken.
        ep_size: Ranks of the EP group.
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
    def slots_per_rank(self) -> int:
        """Slots of each rank."""
        return self.trace.num_experts // self.ep_size + self.spare


def _contiguous(task: PlacementTask) -> NDArray[np.int64]:
    layers, experts = task.shape
    return np.tile(np.arange(experts), (layers, 1))


def _random(task: PlacementTask) -> NDArray[np.int64]:
    return np.argsort(task.rng.random(task.shape), axis=1)


def _bins(task: PlacementTask) -> NDArray[np.int64]:
    layers, _ = task.shape
    by_rank = _by_modality(task.trace).reshape(layers, task.ep_size, -1)
    counts = expert_counts(task.trace)
    return np.stack(
        [add_replicas(rows, loads, spare=task.spare).ravel() for rows, loads in zip(by_rank, counts, strict=True)]
    )


def _coactivation(task: PlacementTask) -> NDArray[np.int64]:
    layers, _ = task.shape
    return np.stack([keep_together(coactivation(task.trace, layer), num_ranks=task.ep_size) for layer in range(layers)])


def _eplb(task: PlacementTask) -> NDArray[np.int64]:
    num_slots = task.ep_size * task.slots_per_rank
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
        uneven: Whether the experts need not divide over the ranks, if spare slots hold the rest.
        follows_traffic: Whether it depends on the counts of the trace, so that it changes with the traffic.
        ranks_are_equal: Whether ranks may be renumbered afterwards without a change of cost.
    """

    place: Callable[[PlacementTask], NDArray[np.int64]]
    fills_spare: bool = False
    uneven: bool = False
    follows_traffic: bool = True
    ranks_are_equal: bool = False


EXPERT_RULES: dict[ExpertRule, RuleEntry] = {
    "contiguous": RuleEntry(place=_contiguous, follows_traffic=False),
    "random": RuleEntry(place=_random, follows_traffic=False),
    "bins": RuleEntry(place=_bins, fills_spare=True),
    "coactivation": RuleEntry(place=_coactivation, ranks_are_equal=True),
    "eplb": RuleEntry(place=_eplb, fills_spare=True, uneven=True, ranks_are_equal=True),
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
    num_nodes: int = 1,
    expert_groups: int = 1,
) -> ExpertPlacement:
    """Slots of every layer under a rule, the same number of slots on each rank.

    Args:
        rule: ``contiguous`` keeps the model's order; ``random`` shuffles each layer; ``bins`` sorts each layer by the
            text share of the raw counts, ``C_text / (C_text + C_vision)``, and cuts it into one bin per rank (SMoES), so
            rank 0 holds the most visual experts (unused experts count as half); ``eplb`` balances the load of the ranks
            (:mod:`~smoes_sim.placement.eplb`); ``coactivation`` keeps experts that the same tokens use on one rank
            (:mod:`~smoes_sim.placement.coactivation`); ``optimal`` minimises the load of the busiest rank exactly, for
            small cases (:mod:`~smoes_sim.placement.optimal`).
        trace: Decides all rules except ``contiguous`` and ``random``.
        num_ranks: Ranks, R: one EP group, or where R is a multiple of the experts R / E groups with one expert per rank.
        rng: Random numbers for ``random``.
        spare: Slots of each rank for replicas, beside its share of the experts; for ``bins``, ``eplb`` and ``optimal``.
        num_nodes: Nodes in an EP group, for ``eplb``.
        expert_groups: Groups in which the router chooses experts; ``eplb`` keeps each on one node where nodes divide them.

    Raises:
        PlacementError: If the experts do not divide over the ranks, or the rule cannot fill spare slots.
    """
    num_groups, ep_size = check_slots(rule, trace.num_experts, num_ranks=num_ranks, spare=spare)
    task = PlacementTask(
        trace=trace,
        ep_size=ep_size,
        spare=spare,
        num_nodes=num_nodes if num_groups == 1 else 1,
        expert_groups=expert_groups if num_groups == 1 else 1,
        rng=rng,
    )
    order = EXPERT_RULES[rule].place(task).astype(np.int64)
    slot_rank = np.arange(ep_size * task.slots_per_rank) // task.slots_per_rank
    return ExpertPlacement(physical_to_logical_map=order, slot_rank=slot_rank, num_groups=num_groups)


def check_slots(rule: ExpertRule, experts: int, *, num_ranks: int, spare: int) -> tuple[int, int]:
    """Number of EP groups and ranks of each, once the slots are known to hold all experts.

    Needs no routing, so that a wrong number of ranks is refused before any long work.

    Raises:
        PlacementError: If the experts do not divide over the ranks, or the rule cannot fill spare slots.
    """
    num_groups = num_ranks // experts if num_ranks % experts == 0 else 1
    ep_size = num_ranks // num_groups
    entry = EXPERT_RULES[rule]
    if spare and not entry.fills_spare:
        filling = ", ".join(name for name, other in EXPERT_RULES.items() if other.fills_spare)
        raise PlacementError(f"{rule} cannot fill {spare} spare slots per rank. Use {filling}, or spare 0.")
    slots = experts // ep_size + spare
    if experts % ep_size and not (entry.uneven and slots * ep_size >= experts):
        raise PlacementError(_uneven(experts, num_ranks))
    if slots > experts:
        raise PlacementError(
            f"{experts // ep_size} + {spare} slots per rank are more than the {experts} experts. "
            f"Use at most {experts - experts // ep_size} spare slots."
        )
    return num_groups, ep_size


def _uneven(experts: int, num_ranks: int) -> str:
    divisors = [ranks for ranks in range(1, experts + 1) if experts % ranks == 0]
    slots = experts // num_ranks + 1
    return (
        f"{experts} experts do not divide over {num_ranks} ranks. Use one of {', '.join(map(str, divisors))} ranks, a "
        f"multiple of {experts}, or replicas: placement.experts=eplb placement.spare=1 ({slots} slots per rank, "
        f"{slots * num_ranks} in all)."
    )


def _by_modality(trace: RoutingTrace) -> NDArray[np.int64]:
    """Experts of each layer, the most visual first, shape (L, E)."""
    text = expert_counts(trace, trace.modality == TEXT)
    total = text + expert_counts(trace, trace.is_vision)
    share = np.divide(text, total, out=np.full(total.shape, 0.5), where=total > 0)
    return np.argsort(share, axis=1, kind="stable")
