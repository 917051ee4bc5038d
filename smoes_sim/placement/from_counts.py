"""Expert placement from load counts alone, without a trace: the file that EPLB and SGLang start from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError
from smoes_sim.placement.eplb import balance
from smoes_sim.placement.experts import ExpertPlacement


def place_by_load(
    counts: NDArray[np.integer], *, num_ranks: int, spare: int = 0, num_nodes: int = 1, expert_groups: int = 1
) -> ExpertPlacement:
    """Placement that evens out the load of the ranks by EPLB's rule, each layer by itself.

    Args:
        counts: Routed tokens of each expert, shape (L, E).
        num_ranks: Ranks of the EP group, R; divides E.
        spare: Further slots of each rank for replicas.
        num_nodes: Nodes of the EP group; divides R.
        expert_groups: Groups of neighbouring experts that stay on one node where the nodes divide them; divides E.

    Raises:
        PlacementError: If the experts do not divide over the ranks.

    Example:
        >>> place_by_load(np.array([[4, 1, 2, 1]]), num_ranks=2).physical_to_logical_map
        array([[0, 3, 2, 1]])
    """
    E = counts.shape[1]
    if E % num_ranks:
        divisors = ", ".join(str(ranks) for ranks in range(1, E + 1) if E % ranks == 0)
        raise PlacementError(f"{E} experts do not divide over {num_ranks} ranks. Use one of {divisors} ranks.")
    slots = E // num_ranks + spare
    order = [
        balance(loads, num_slots=num_ranks * slots, num_ranks=num_ranks, num_nodes=num_nodes, num_groups=expert_groups)
        for loads in counts
    ]
    return ExpertPlacement(physical_to_logical_map=np.stack(order), slot_rank=np.arange(num_ranks * slots) // slots)
