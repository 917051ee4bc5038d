"""Whether a deployment fits into its devices, how many tokens its cache holds, and how many ranks it would need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import MemoryNeed, StepSize, find_device, memory_of_rank
from smoes_sim.prediction.attention import cached_on_ranks
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.routing.trace import PREFILL
from smoes_sim.traffic.copies import copy_bytes
from smoes_sim.workload import Workload

_MOST_RANKS = 4096
"""Largest number of ranks that is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """What the busiest rank needs, and what it has.

    Attributes:
        need: Bytes by part.
        usable: Bytes of the device's memory that ``compute.memory_share`` allows.
        cache_capacity: Number of tokens whose keys and values fit on an attention group; 0 if the rest does not fit.
        fits: Whether the whole batch fits, prompts and answers.
        ranks_needed: Smallest number of ranks of this device and layout on which it fits; None if no number up to 4,096
            is enough.
    """

    need: MemoryNeed
    usable: float
    cache_capacity: int
    fits: bool
    ranks_needed: int | None

    def to_dict(self) -> dict[str, Any]:
        """The ``memory`` of a prediction's JSON document; sizes in bytes."""
        return {
            "fits": self.fits,
            "ranks_needed": self.ranks_needed,
            "bytes_needed": self.need.total,
            "bytes_usable": self.usable,
            "weights": self.need.weights,
            "buffers": self.need.buffers,
            "cache_bytes_per_token": self.need.cache_per_token,
            "cache_tokens": self.need.cached,
            "cache_bytes_per_sequence": self.need.cache_per_sequence,
            "cache_bytes_kept": self.need.kept,
            "cache_capacity_tokens": self.cache_capacity,
        }

    @classmethod
    def of_dict(cls, document: Mapping[str, Any]) -> MemoryFit:
        """The inverse of :meth:`to_dict`."""
        need = MemoryNeed(
            weights=document["weights"],
            buffers=document["buffers"],
            cache_per_token=document["cache_bytes_per_token"],
            cached=document["cache_tokens"],
            cache_per_sequence=document.get("cache_bytes_per_sequence", 0.0),
            kept=document.get("cache_bytes_kept", 0.0),
        )
        return cls(
            need=need,
            usable=document["bytes_usable"],
            cache_capacity=document["cache_capacity_tokens"],
            fits=document["fits"],
            ranks_needed=document["ranks_needed"],
        )

    def __str__(self) -> str:
        needed = f"{self.need.total / 1e9:.4g} of {self.usable / 1e9:.4g} GB on the busiest rank"
        if self.fits:
            beside = f" beside {self.need.kept / 1e9:.3g} GB of windows and states" if self.need.kept else ""
            return f"{needed}; cache for {self.cache_capacity} tokens{beside}, {self.need.cached} used"
        ranks = f"needs {self.ranks_needed} ranks" if self.ranks_needed else "no number of ranks is enough"
        return f"does not fit: {needed}; {ranks}"


def memory(deployment: Deployment) -> MemoryFit:
    """The memory that a deployment needs on its busiest rank, against what its device has.

    need = weights + buffers of the largest step + cache of every token of the batch, prompts included whatever the phase;
    available = memory * memory_share. For other numbers of ranks, sequences and experts are assumed to be distributed
    evenly; where the workload gives ``sequences_per_rank``, every rank has as many sequences on any number of ranks.

    Example:
        DeepSeek-V3 in bf16 has 1.31 TB of experts: 41 GB each on 32 ranks, beside 34 GB that every rank holds: not on 80 GB.
    """
    scenario = deployment.scenario
    usable = find_device(scenario.compute.device).memory * scenario.compute.memory_share
    here = deployment.topology.num_ranks
    need = _need(deployment, here)
    enough = [ranks for ranks in _layouts(deployment) if _need(deployment, ranks).total <= usable]
    fits = need.total <= usable
    return MemoryFit(
        need=need,
        usable=usable,
        cache_capacity=need.capacity(usable),
        fits=fits,
        ranks_needed=min([*enough, *([here] if fits else [])], default=None),
    )


def _layouts(deployment: Deployment) -> list[int]:
    """Numbers of ranks that form whole attention and EP groups, ascending; without ``expert`` divisors of the slots."""
    layout, placement = deployment.scenario.parallelism, deployment.placement
    if placement is None:
        return list(range(layout.tensor, _MOST_RANKS + 1, layout.tensor))
    if layout.expert is not None:
        return list(range(layout.expert, _MOST_RANKS + 1, layout.expert))
    step, slots = math.lcm(layout.tensor, layout.expert_tensor), placement.physical_to_logical_map.shape[1]
    holders = {ranks: ranks // layout.expert_tensor for ranks in range(step, _MOST_RANKS + 1, step)}
    return [ranks for ranks, holding in holders.items() if slots % holding == 0 or holding % slots == 0]


def _need(deployment: Deployment, num_ranks: int) -> MemoryNeed:
    scenario, placement = deployment.scenario, deployment.placement
    slots, layout, ep_size = 0, scenario.parallelism, num_ranks
    if placement is not None:
        slots, ep_size = int(placement.slots_per_rank.max()), placement.ep_size
        if num_ranks != deployment.topology.num_ranks and layout.expert is None:
            ep_size = num_ranks
            slots = -(-placement.physical_to_logical_map.shape[1] * layout.expert_tensor // num_ranks)
    return memory_of_rank(
        deployment.model,
        _step_size(deployment, num_ranks),
        slots=slots,
        num_ranks=ep_size,
        tensor=layout.tensor,
        expert_tensor=layout.expert_tensor,
        mtp_layers=deployment.model.mtp_layers if deployment.workload.together > 1 else 0,
        weights=scenario.compute.weights,
        cache=scenario.compute.cache,
    )


def _step_size(deployment: Deployment, num_ranks: int) -> StepSize:
    """The largest step on ``num_ranks``: a prefill or its chunk, or a decode step; all of the batch is kept."""
    scenario, workload = deployment.scenario, deployment.workload
    tensor, chunk = scenario.parallelism.tensor, scenario.parallelism.prefill_chunk
    if scenario.workload.sequences_per_rank is not None:
        num_ranks = deployment.topology.num_ranks
    groups = num_ranks // tensor
    is_here = num_ranks == deployment.topology.num_ranks
    group = deployment.home // tensor if is_here else workload.sequence_id.astype(np.int64) % groups
    is_prompt = workload.phase == PREFILL
    prompts = int(np.bincount(group[is_prompt]).max(initial=0))
    sequences = -(-workload.num_sequences // groups)
    verified = sequences * workload.together
    prefill = prompts if chunk is None else min(prompts, chunk + -(-workload.decode_batch // groups))
    kept = _kept(workload, group if is_here else None, groups, deployment.model.window)
    spread = cached_on_ranks(deployment.parts) if is_here else None
    if spread is not None:
        kept["cached"] = max(int(held.max()) for held in spread)
    communication, hidden = scenario.communication, deployment.model.hidden
    return StepSize(
        tokens=-(-max(prefill, verified) // tensor),
        outputs=verified,
        **kept,
        imbalance=deployment.imbalance,
        copy_bytes=copy_bytes(hidden, communication.dispatch) + copy_bytes(hidden, communication.combine),
        has_images=deployment.prefill is not None and bool(workload.sequence_vision_tokens.any()),
    )


def _kept(workload: Workload, group: NDArray[np.int64] | None, groups: int, window: int | None) -> dict[str, int]:
    """What the fullest attention group keeps: tokens, those within a window of their sequence's end, and sequences.

    Prompts that are no tokens of the workload are with the first decode token of their sequence.

    Args:
        workload: The sequences.
        group: Attention group of each token, (T,). None: each sequence is in one group, in turn.
        groups: Number of attention groups.
        window: Tokens that a sequence keeps in sliding layers at most.
    """
    sequence = workload.sequence_id.astype(np.int64)
    if group is None:
        cached, of_part = np.bincount(sequence), np.arange(workload.num_sequences) % groups
        part = sequence
    else:
        _, first, part, cached = np.unique(
            group * workload.num_sequences + sequence, return_index=True, return_inverse=True, return_counts=True
        )
        of_part = group[first]
    if not workload.num_prefill_tokens:
        sequences, at = np.unique(sequence, return_index=True)
        cached[part[at]] += workload.sequence_prompt_tokens[sequences]
    tokens = np.bincount(of_part, weights=cached)
    here = of_part == tokens.argmax()
    near = np.minimum(cached[here], window or 0)
    return {"cached": int(tokens.max()), "near": int(near.sum()), "sequences": int(here.sum())}
