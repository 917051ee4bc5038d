"""The result of a placement rule: which expert sits in which slot, and which slot on which rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ExpertPlacement:
    """Expert in each slot of each layer, the same in every EP group; group ``g`` is the ranks from ``g * ep_size`` on.

    Attributes:
        physical_to_logical_map: Expert in each slot, shape (L, S), the form that EPLB and SGLang read.
        slot_rank: Rank of each slot within its group, shape (S,); the first of them where several share each expert.
        num_groups: EP groups, each of which holds all experts; a token uses those of the group of its home rank.
        expert_tensor: Neighbouring ranks that share each expert: each computes a part of its inner width, for every token.

    Example:
        >>> ExpertPlacement(physical_to_logical_map=np.array([[0, 1, 2, 3]]), slot_rank=np.array([0, 0, 1, 1]))
        <placement of 4 experts in 4 slots on 2 ranks, 1 layers>

    """

    physical_to_logical_map: NDArray[np.int64]
    slot_rank: NDArray[np.int64]
    num_groups: int = 1
    expert_tensor: int = 1

    def __repr__(self) -> str:
        layers, slots = self.physical_to_logical_map.shape
        experts = int(self.physical_to_logical_map.max()) + 1
        return f"<placement of {experts} experts in {slots} slots on {self.ep_size} ranks, {layers} layers>"

    @property
    def ep_size(self) -> int:
        """Number of ranks that together hold all experts."""
        return int(self.slot_rank.max()) + self.expert_tensor

    @property
    def num_ranks(self) -> int:
        """Number of ranks in all groups, R."""
        return self.ep_size * self.num_groups

    @property
    def has_replicas(self) -> bool:
        """Whether some layer has more slots than experts."""
        return self.physical_to_logical_map.shape[1] > int(self.physical_to_logical_map.max()) + 1

    @property
    def slots_per_rank(self) -> NDArray[np.int64]:
        """Number of slots of each rank of a group, shape (ep_size,); a slot counts on every rank that shares it."""
        return np.repeat(np.bincount(self.slot_rank)[:: self.expert_tensor], self.expert_tensor)

    @property
    def layout(self) -> str:
        """Groups, ranks that share experts, and slots, in words.

        Example:
            >>> ranks = np.array([0, 0, 1])
            >>> ExpertPlacement(physical_to_logical_map=np.array([[0, 1, 2]]), slot_rank=ranks, num_groups=4).layout
            '4 EP groups of 2 ranks, 1 or 2 slots per rank'
        """
        sizes, (_, slots) = self.slots_per_rank, self.physical_to_logical_map.shape
        groups = "1 EP group" if self.num_groups == 1 else f"{self.num_groups} EP groups"
        parts = [f"{groups} of {self.ep_size} rank{'s' if self.ep_size > 1 else ''}"]
        if self.expert_tensor > 1:
            parts.append(f"every expert on {self.expert_tensor} ranks together")
        least, most = int(sizes.min()), int(sizes.max())
        parts.append(f"{most if least == most else f'{least} or {most}'} slot{'s' if most > 1 else ''} per rank")
        if self.has_replicas:
            parts.append(f"{slots} slots for {int(self.physical_to_logical_map.max()) + 1} experts")
        return ", ".join(parts)

    def destination(self, layer: int, experts: NDArray[np.integer], home: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rank that serves each routed token, shape (T, K), -1 where there is no expert; the first where several share it.

        A copy on the home rank is used first. Tokens without one use the copies of their expert in turn (round-robin), in
        the order of tokens; the distance to a copy is not considered.

        Args:
            layer: Index of the MoE layer.
            experts: Expert of each slot of a token, -1 for none, shape (T, K).
            home: Home rank of each token, shape (T,); the rank served from is in its EP group.

        Example:
            Expert 0 has copies on ranks 0 and 1; the tokens have the home ranks 0, 2 and 2.

            >>> placement = ExpertPlacement(
            ...     physical_to_logical_map=np.array([[0, 1, 0, 2, 2, 3]]), slot_rank=np.array([0, 0, 1, 1, 2, 2])
            ... )
            >>> placement.destination(0, np.array([[0], [0], [0]]), np.array([0, 2, 2])).ravel().tolist()
            [0, 0, 1]
        """
        first, local = home // self.ep_size * self.ep_size, home % self.ep_size
        local -= local % self.expert_tensor
        if not self.has_replicas:
            return np.where(experts >= 0, first[:, None] + self.expert_rank[layer][experts], -1)
        copies, number = self.copy_ranks(layer)
        chosen = np.full(experts.shape, -1, dtype=np.int64)
        for column in copies.T:
            chosen[(experts >= 0) & (column[experts] == local[:, None])] = 0
        away = (experts >= 0) & (chosen < 0)
        wanted = experts[away].astype(np.int64)
        turn = occurrence_index(wanted) % number[wanted]
        result = np.where(experts >= 0, (first + local)[:, None], -1)
        result[away] = np.broadcast_to(first[:, None], experts.shape)[away] + copies[wanted, turn]
        return result

    def sharing(self, destination: NDArray[np.int64]) -> NDArray[np.int64]:
        """Every rank that computes a part of each routed token, shape (T, K * expert_tensor), from the first, (T, K).

        Example:
            Two ranks share each expert: a token for ranks 0 and 4 goes to 0, 1, 4 and 5.

            >>> placement = ExpertPlacement(
            ...     physical_to_logical_map=np.array([[0, 1, 2]]), slot_rank=np.array([0, 2, 4]), expert_tensor=2
            ... )
            >>> placement.sharing(np.array([[0, 4]])).tolist()
            [[0, 1, 4, 5]]
        """
        if self.expert_tensor == 1:
            return destination
        parts = np.where(destination[:, :, None] >= 0, destination[:, :, None] + np.arange(self.expert_tensor), -1)
        return parts.reshape(len(destination), -1)

    def copy_ranks(self, layer: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ranks of the copies of each expert in slot order, padded with -1, shape (E, C), and their number, shape (E,)."""
        slots = self.physical_to_logical_map[layer]
        number = np.bincount(slots)
        ranks = np.full((len(number), int(number.max())), -1, dtype=np.int64)
        ranks[slots, occurrence_index(slots)] = self.slot_rank
        return ranks, number

    def rank_loads(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Routed tokens of each rank of a group, shape (L, ep_size), from those of each expert, ``counts`` (L, E).

        The copies of an expert share its tokens equally; each of the ranks that share a copy has all its tokens.
        """
        layer = np.arange(len(counts))[:, None]
        number = np.stack([np.bincount(slots, minlength=counts.shape[1]) for slots in self.physical_to_logical_map])
        share = (counts / number)[layer, self.physical_to_logical_map]
        loads = np.zeros((len(counts), self.ep_size))
        np.add.at(loads, (layer, self.slot_rank[None, :]), share)
        return np.repeat(loads[:, :: self.expert_tensor], self.expert_tensor, axis=1)

    @property
    def expert_rank(self) -> NDArray[np.int64]:
        """Rank of each expert within an EP group, the first where several share it, shape (L, E).

        Raises:
            PlacementError: If an expert has replicas, and so no single rank.
        """
        if self.has_replicas:
            raise PlacementError("expert_rank: an expert with replicas has no single rank. Use copy_ranks.")
        ranks = np.empty_like(self.physical_to_logical_map)
        layer = np.arange(len(ranks))[:, None]
        ranks[layer, self.physical_to_logical_map] = self.slot_rank[None, :]
        return ranks


def occurrence_index(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of equal keys before each key, shape (N,).

    Example:
        >>> occurrence_index(np.array([5, 7, 5, 5, 7])).tolist()
        [0, 0, 1, 2, 1]
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    index = np.empty(len(keys), dtype=np.int64)
    index[order] = np.arange(len(keys)) - np.searchsorted(ordered, ordered, side="left")
    return index
