"""How ranks form EP groups, and how many slots each rank of a group has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLayout:
    """EP groups of neighbouring ranks, each of which holds all experts.

    Attributes:
        num_groups: Number of groups; a token uses the experts of the group of its home rank.
        ep_size: Ranks of a group.
        expert_tensor: Neighbouring ranks that share each expert: each holds that part of its inner width.
    """

    num_groups: int
    ep_size: int
    expert_tensor: int = 1

    @property
    def holders(self) -> int:
        """Number of places for experts in a group: ranks, or runs of ``expert_tensor`` ranks."""
        return self.ep_size // self.expert_tensor

    def slot_ranks(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """First rank of each slot in its group, shape (S,), from the slots of each holder."""
        return np.repeat(np.arange(self.holders) * self.expert_tensor, sizes)


def expert_layout(experts: int, *, num_ranks: int, ep_size: int | None = None, expert_tensor: int = 1) -> ExpertLayout:
    """The EP groups of a system.

    Without ``ep_size`` all ranks are one group; where there are more places than experts, and a multiple of them, each group
    has one expert per place.

    Args:
        experts: Experts of the model, E.
        num_ranks: Ranks, R.
        ep_size: Ranks of a group, N: R / N groups. None: as above.
        expert_tensor: Ranks that share each expert, t.

    Raises:
        PlacementError: If a number does not divide the one that it must divide.

    Example:
        >>> expert_layout(64, num_ranks=16, ep_size=8)
        ExpertLayout(num_groups=2, ep_size=8, expert_tensor=1)
        >>> expert_layout(64, num_ranks=128).num_groups
        2
    """
    if ep_size is not None and num_ranks % ep_size:
        raise PlacementError(f"parallelism.expert = {ep_size} does not divide the {num_ranks} ranks. Use a divisor.")
    whole = num_ranks if ep_size is None else ep_size
    if whole % expert_tensor:
        raise PlacementError(
            f"parallelism.expert_tensor = {expert_tensor} does not divide the {whole} ranks of an EP group. Use a divisor."
        )
    if ep_size is None:
        places = num_ranks // expert_tensor
        whole = expert_tensor * (experts if places % experts == 0 else places)
    return ExpertLayout(num_groups=num_ranks // whole, ep_size=whole, expert_tensor=expert_tensor)


def slots_of(experts: int, holders: int, *, spare: int = 0) -> NDArray[np.int64]:
    """Number of slots of each holder, shape (holders,).

    With spare slots all have ``E // holders + spare``. Without, each expert has one slot, and where they do not divide, the
    first ``E % holders`` have one more (as vLLM's ``determine_expert_map`` deals them out).

    Example:
        128 experts on 72 ranks: 56 ranks with two and 16 with one, or with one spare slot 144 slots.

        >>> np.bincount(slots_of(128, 72)).tolist(), slots_of(128, 72, spare=1).sum()
        ([0, 16, 56], np.int64(144))
    """
    if spare:
        return np.full(holders, experts // holders + spare, dtype=np.int64)
    return experts // holders + (np.arange(holders) < experts % holders).astype(np.int64)
