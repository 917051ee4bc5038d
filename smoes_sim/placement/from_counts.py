"""Expert placement from load counts alone, without a trace: the file that EPLB and SGLang start from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.placement.eplb import balance
from smoes_sim.placement.expert_placement import ExpertPlacement
from smoes_sim.placement.experts import check_slots
from smoes_sim.placement.layout import slots_of


def place_by_load(
    counts: NDArray[np.integer], *, num_ranks: int, spare: int = 0, num_nodes: int = 1, expert_groups: int = 1
) -> ExpertPlacement:
    """Placement that balances the load of the ranks by EPLB's rule, each layer separately.

    Args:
        counts: Routed tokens of each expert, shape (L, E).
        num_ranks: Ranks, R.
        spare: Slots of each rank for replicas, beside its share of the experts.
        num_nodes: Nodes of the EP group; divides R.
        expert_groups: Groups of neighbouring experts that stay on one node where the nodes divide them; divides E.

    Raises:
        PlacementError: If some ranks have no expert.

    Example:
        >>> place_by_load(np.array([[4, 1, 2, 1]]), num_ranks=2).physical_to_logical_map
        array([[0, 3, 2, 1]])
    """
    layout = check_slots("eplb", counts.shape[1], num_ranks=num_ranks, spare=spare)
    sizes = slots_of(counts.shape[1], layout.holders, spare=spare)
    order = [
        balance(loads, num_slots=int(sizes.sum()), num_ranks=layout.holders, num_nodes=num_nodes, num_groups=expert_groups)
        for loads in counts
    ]
    return ExpertPlacement(
        physical_to_logical_map=np.stack(order), slot_rank=layout.slot_ranks(sizes), num_groups=layout.num_groups
    )
