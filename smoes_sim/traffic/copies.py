"""Count copies of tokens between ranks: ``trace + placement -> copies[src, dst]`` per layer.

A *copy* is one token sent once to one rank. Without deduplication a token is sent to each of its K experts; with ``rank``
once to each rank that holds some of them; with ``node`` once to each other node, over the NIC to the rank of the same
index there, which forwards it inside the node. Combine takes the same route backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.jit import pays
from smoes_sim.placement import ExpertPlacement
from smoes_sim.routing.trace import DECODE, PREFILL, RoutingTrace
from smoes_sim.topology import Topology
from smoes_sim.traffic.compiled import count_layer

Deduplicate = Literal["none", "rank", "node"]
ElementType = Literal["bf16", "fp8", "fp16", "fp32"]
_ELEMENT_BYTES: dict[ElementType, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
_COMPILED_SLOTS = 6_000_000
"""Slots from which loading numba takes less time than it saves."""
_BLOCK = 4096
"""Tokens whose experts in all layers fit into the processor's cache."""
FP8_BLOCK = 128
"""Elements that share one float32 scale in fp8 dispatch (DeepEP: hidden 7168 gives 7392 bytes a token)."""


def copy_bytes(hidden: int, element: ElementType) -> int:
    """Bytes of one token on the wire: its elements, and in fp8 a float32 scale per 128 of them.

    Example:
        >>> copy_bytes(2048, "bf16"), copy_bytes(2048, "fp8"), copy_bytes(7168, "fp8")
        (4096, 2112, 7392)
    """
    return hidden + 4 * -(-hidden // FP8_BLOCK) if element == "fp8" else _ELEMENT_BYTES[element] * hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Copies of tokens between ranks, per layer.

    Attributes:
        stages: Copies from rank to rank in dispatch, int64 (L, R, R) each; the diagonal counts copies that stay. Two
            stages with ``node`` deduplication (between nodes, then forwarded inside), otherwise one.
        slots: Routed tokens that each rank's experts process, int64 (L, R); all that share an expert count its tokens.
        expert_slots: Routed tokens of each expert in each EP group, int64 (L, G, E).
        active_experts: Experts of each rank with at least one token, int64 (L, R).
    """

    stages: tuple[NDArray[np.int64], ...]
    slots: NDArray[np.int64]
    expert_slots: NDArray[np.int64]
    active_experts: NDArray[np.int64]

    @property
    def routed(self) -> int:
        """Number of routed tokens: (token, expert) pairs over all layers."""
        return int(self.expert_slots.sum())

    @property
    def local_copies(self) -> int:
        """Number of copies that stay on their rank, over all layers."""
        return int(sum(np.trace(stage, axis1=1, axis2=2).sum() for stage in self.stages))

    @property
    def remote_copies(self) -> int:
        """Number of copies sent from rank to rank, over all layers and stages."""
        return int(sum(stage.sum() for stage in self.stages)) - self.local_copies

    def imbalance(self) -> float:
        """Routed tokens of the busiest rank over the mean of all ranks, averaged over the layers; 1 is even."""
        mean = self.slots.mean(axis=1)
        used = mean > 0
        return float((self.slots.max(axis=1)[used] / mean[used]).mean()) if used.any() else 1.0


def count_traffic(
    trace: RoutingTrace,
    placement: ExpertPlacement,
    home: NDArray[np.int64],
    *,
    deduplicate: Deduplicate,
    topology: Topology | None = None,
) -> Traffic:
    """Count the copies that dispatch sends.

    Args:
        trace: Experts of the tokens of one step.
        placement: Ranks of the experts.
        home: Home rank of each token, shape (T,).
        deduplicate: Whether a token is sent once per expert, once per rank or once per node.
        topology: Nodes of the ranks; needed for ``node``.

    Raises:
        ConfigError: If ``node`` is given without a topology.

    Example:
        One token at home on rank 0 with experts on ranks 0, 1, 1: ``none`` sends 1 copy to rank 0 and 2 to rank 1; ``rank``
        sends 1 to each.
    """
    if deduplicate == "node" and topology is None:
        raise ConfigError('deduplicate = "node" needs the topology, which says where nodes end. Give topology=...')
    if pays(trace.expert_ids.size, least=_COMPILED_SLOTS):
        return _count_compiled(trace, placement, home, deduplicate=deduplicate, topology=topology)
    R, G, E = placement.num_ranks, placement.num_groups, trace.num_experts
    group = (home // placement.ep_size)[:, None]
    slots, expert_slots, active, stages = [], [], [], []
    for layer in range(trace.num_layers):
        ids = trace.expert_ids[:, layer].astype(np.int64)
        expert_slots.append(np.bincount((group * E + ids)[ids >= 0], minlength=G * E).reshape(G, E))
        destination = placement.sharing(placement.destination(layer, ids, home))
        ids = np.repeat(ids, placement.expert_tensor, axis=1)
        slots.append(np.bincount(destination[destination >= 0], minlength=R))
        used = np.unique((destination * E + ids)[ids >= 0])
        active.append(np.bincount(used // E, minlength=R))
        if deduplicate == "none":
            stages.append([_pairs(np.repeat(home, destination.shape[1]), destination.ravel(), R)])
            continue
        token, rank = _distinct(destination)
        if deduplicate == "rank":
            stages.append([_pairs(home[token], rank, R)])
        else:
            assert topology is not None
            stages.append(_per_node(token, rank, home, topology))
    return Traffic(
        stages=tuple(np.stack(stage) for stage in zip(*stages, strict=True)),
        slots=np.stack(slots),
        expert_slots=np.stack(expert_slots),
        active_experts=np.stack(active),
    )


def _count_compiled(
    trace: RoutingTrace,
    placement: ExpertPlacement,
    home: NDArray[np.int64],
    *,
    deduplicate: Deduplicate,
    topology: Topology | None,
) -> Traffic:
    """As :func:`count_traffic`, by a compiled loop over blocks of tokens."""
    R, E, L = placement.num_ranks, trace.num_experts, trace.num_layers
    stages = [np.zeros((L, R * R), dtype=np.int64) for _ in range(2 if deduplicate == "node" else 1)]
    none = np.empty(0, dtype=np.int64)
    forwarder = none
    if deduplicate == "node":
        assert topology is not None
        ranks = np.arange(R)
        forwarder = _gateway(np.repeat(ranks, R), np.tile(ranks, R), topology)
    slots, turn = np.zeros((L, R), dtype=np.int64), np.zeros((L, E), dtype=np.int64)
    expert_slots = np.zeros((L, placement.num_groups, E), dtype=np.int64)
    is_active = np.zeros((L, R, E), dtype=bool)
    copies = [placement.copy_ranks(layer) for layer in range(L)]
    home = np.require(home, dtype=np.int64, requirements=["C", "W"])
    for begin in range(0, trace.num_tokens, _BLOCK):
        part = slice(begin, begin + _BLOCK)
        experts = np.require(trace.expert_ids[part], requirements=["W"])
        for layer in range(L):
            second = stages[1][layer] if len(stages) > 1 else none
            count_layer(
                experts[:, layer], home[part], *copies[layer], forwarder, placement.ep_size, placement.expert_tensor,
                deduplicate != "none", turn[layer], slots[layer], expert_slots[layer], is_active[layer],
                stages[0][layer], second,
            )  # fmt: skip
    return Traffic(
        stages=tuple(stage.reshape(L, R, R) for stage in stages),
        slots=slots,
        expert_slots=expert_slots,
        active_experts=is_active.sum(axis=2),
    )


def _gateway(home: NDArray[np.int64], rank: NDArray[np.int64], topology: Topology) -> NDArray[np.int64]:
    """Rank that takes a token of ``home`` for ``rank``: home itself inside its node, otherwise that of the same index."""
    node = topology.node_of_rank
    forwarder = topology.rank_at(node[rank], topology.index_in_node[home])
    return np.where(node[rank] == node[home], home, forwarder)


def _pairs(source: NDArray[np.int64], destination: NDArray[np.int64], num_ranks: int) -> NDArray[np.int64]:
    kept = destination >= 0
    pair = source[kept] * num_ranks + destination[kept]
    return np.bincount(pair, minlength=num_ranks**2).reshape(num_ranks, num_ranks)


def _distinct(destination: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct (row, value) pairs of a (T, K) array, without negative values."""
    ordered = np.sort(destination, axis=1)
    fresh = ordered >= 0
    fresh[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    token, column = np.nonzero(fresh)
    return token, ordered[token, column]


def _per_node(
    token: NDArray[np.int64], rank: NDArray[np.int64], home: NDArray[np.int64], topology: Topology
) -> list[NDArray[np.int64]]:
    """Copies between nodes (once per token and node, to the rank of the same index) and inside nodes, (R, R) each."""
    R = topology.num_ranks
    gateway = _gateway(home[token], rank, topology)
    once = np.unique(token * R + gateway)
    crossing_token, crossing_gateway = np.divmod(once, R)
    between = crossing_gateway != home[crossing_token]
    first = _pairs(home[crossing_token[between]], crossing_gateway[between], R)
    return [first, _pairs(gateway, rank, R)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmission:
    """Share of (token, layer) pairs that need at least one rank other than the token's home; NaN without tokens."""

    prefill_vision: float
    prefill_text: float
    prefill: float
    decode: float


def transmission_rate(
    trace: RoutingTrace, placement: ExpertPlacement, home: NDArray[np.int64], *, layers: Sequence[int] | None = None
) -> Transmission:
    """Transmission rate by modality and phase.

    Args:
        trace: Experts of the tokens.
        placement: Ranks of the experts.
        home: Home rank of each token, shape (T,).
        layers: Rows of the MoE layers over which it is taken. Default: all.

    Example:
        Uniform top-8 of 64 experts over two ranks: 1 - C(32, 8) / C(64, 8) = 99.76%.
    """
    remote = remote_tokens(trace, placement, home, layers=layers)
    prefill, vision = trace.phase == PREFILL, trace.is_vision

    def rate(tokens: NDArray[np.bool_]) -> float:
        return float(remote[tokens].mean()) if tokens.any() else float("nan")

    return Transmission(
        prefill_vision=rate(prefill & vision),
        prefill_text=rate(prefill & ~vision),
        prefill=rate(prefill),
        decode=rate(trace.phase == DECODE),
    )


def remote_tokens(
    trace: RoutingTrace, placement: ExpertPlacement, home: NDArray[np.int64], *, layers: Sequence[int] | None = None
) -> NDArray[np.bool_]:
    """Whether each token needs another rank in each of ``layers`` (default: all), shape (T, L)."""
    rows = range(trace.num_layers) if layers is None else layers
    remote = np.empty((trace.num_tokens, len(rows)), dtype=bool)
    for column, layer in enumerate(rows):
        destination = placement.sharing(placement.destination(layer, trace.expert_ids[:, layer], home))
        remote[:, column] = ((destination != home[:, None]) & (destination >= 0)).any(axis=1)
    return remote
