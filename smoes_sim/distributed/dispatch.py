"""Which rows a rank sends, receives and computes in one MoE layer, and the exchanges that move them.

The plan of a layer follows from the replayed routing, which every rank knows. So only the rows themselves are sent (as with
the cached handle of a library while routing does not change), and their bytes are those that ``smoes_sim.traffic.copies``
counts. Every stage of dispatch is an exchange; combine runs the same stages in reverse order and sums where dispatch made
copies: with ``node`` deduplication inside the node first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoes_sim.distributed.codec import RowCodec
from smoes_sim.distributed.patterns import RowExchange
from smoes_sim.placement import ExpertPlacement
from smoes_sim.routing import RoutingTrace
from smoes_sim.topology import Topology
from smoes_sim.traffic.copies import Deduplicate

Ints = NDArray[np.int64]


class Counts(NamedTuple):
    """Rows of an exchange as a rank sees it.

    Attributes:
        sent: Rows to each rank, the own one included, R numbers.
        received: Rows from each rank.
        all: Rows from rank to rank, R lists of R numbers.
    """

    sent: list[int]
    received: list[int]
    all: list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One exchange of dispatch as a rank sees it.

    Attributes:
        take: Input row that each copy sent is made of, ordered by destination, int64 (N_send,).
        outward: Copies in dispatch.
        homeward: The same in combine, with source and destination swapped.
        num_inputs: Number of rows before the stage: the rank's tokens, then the rows of the previous stage.
    """

    take: Tensor
    outward: Counts
    homeward: Counts
    num_inputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What a rank does in one MoE layer with the tokens of one step.

    Attributes:
        stages: Exchanges of dispatch, in order.
        num_tokens: Tokens at home on the rank.
        row: Received row that each of the rank's routed tokens reads, ordered by expert, int64 (N,).
        weight: Routing weight of each, float32 (N,).
        expert_counts: Routed tokens of each of the rank's experts.
    """

    stages: tuple[Stage, ...]
    num_tokens: int
    row: Tensor
    weight: Tensor
    expert_counts: list[int]

    @property
    def num_rows(self) -> int:
        """Rows that the experts see: the copies received last."""
        return sum(self.stages[-1].outward.received)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """All copies of a stage, (C,) each: token (and slot, where slots are sent apart), source and destination."""

    token: Ints
    slot: Ints
    source: Ints
    destination: Ints

    def matrix(self, num_ranks: int) -> Ints:
        """Copies from rank to rank, (R, R)."""
        pair = self.source * num_ranks + self.destination
        return np.bincount(pair, minlength=num_ranks**2).reshape(num_ranks, num_ranks)

    def sent_by(self, rank: int) -> Ints:
        """Copies that a rank sends, in order."""
        return self._ordered(self.source == rank, self.destination)

    def received_by(self, rank: int) -> Ints:
        """Copies that a rank receives, in order."""
        return self._ordered(self.destination == rank, self.source)

    def _ordered(self, chosen: NDArray[np.bool_], peer: Ints) -> Ints:
        found = np.flatnonzero(chosen)
        return found[np.lexsort((self.slot[found], self.token[found], peer[found]))]


def local_experts(placement: ExpertPlacement, layer: int, rank: int) -> Ints:
    """Experts of a rank in a layer, ascending; a rank numbers its experts in this order."""
    return np.flatnonzero(placement.expert_rank[layer] == rank % placement.ep_size)


def plan_layer(
    trace: RoutingTrace,
    placement: ExpertPlacement,
    home: Ints,
    *,
    layer: int,
    rank: int,
    deduplicate: Deduplicate,
    topology: Topology,
    device: torch.device | str = "cpu",
) -> LayerPlan:
    """The plan of one rank.

    Args:
        trace: Tokens of one step; without ``expert_weights`` each expert of a token counts equally.
        placement: Where the experts are.
        home: Home rank of each token, shape (T,).
        layer: Index of the MoE layer, 0..L-1.
        rank: The rank.
        deduplicate: What a token is sent once to.
        topology: Gives the node of each rank.
        device: Device of the tensors of the plan.

    Example:
        One token at home on rank 0 with experts on ranks 0, 1, 1: rank 0 sends counts [1, 2] with ``none``, [1, 1] with
        ``rank``, and rank 1 computes two routed tokens either way.
    """
    ids = trace.expert_ids[:, layer].astype(np.int64)
    destination = placement.destination(layer, ids, home)
    copies = _copies(destination, home, deduplicate=deduplicate, topology=topology)
    here = np.flatnonzero(home == rank)
    position = np.full(len(home), -1)
    position[here] = np.arange(len(here))
    stages, num_inputs = [], len(here)
    for index, stage in enumerate(copies):
        sent, received = stage.sent_by(rank), stage.received_by(rank)
        stages.append(
            Stage(
                take=torch.as_tensor(position[stage.token[sent]], device=device),
                outward=counts_of(stage.matrix(topology.num_ranks), rank),
                homeward=counts_of(stage.matrix(topology.num_ranks).T, rank),
                num_inputs=num_inputs,
            )
        )
        if index + 1 < len(copies):  # the next stage also sends on what this one brings
            position[stage.token[received]] = num_inputs + np.arange(len(received))
            num_inputs += len(received)
    row, slot, token = _routed_here(copies[-1], destination, rank, by_slot=deduplicate == "none")
    number = np.full(trace.num_experts, -1)
    experts = local_experts(placement, layer, rank)
    number[experts] = np.arange(len(experts))
    expert = number[ids[token, slot]]
    order = np.argsort(expert, kind="stable")
    weights = _weights(trace, layer)[token, slot]
    return LayerPlan(
        stages=tuple(stages),
        num_tokens=len(here),
        row=torch.as_tensor(row[order], device=device),
        weight=torch.as_tensor(weights[order], device=device),
        expert_counts=np.bincount(expert, minlength=len(experts)).tolist(),
    )


def counts_of(matrix: Ints, rank: int) -> Counts:
    """What a rank sends and receives of the rows from rank to rank, (R, R)."""
    return Counts(sent=matrix[rank].tolist(), received=matrix[:, rank].tolist(), all=matrix.tolist())


def _weights(trace: RoutingTrace, layer: int) -> NDArray[np.float32]:
    """Routing weights, (T, K); the mean over a token's experts where the trace has none."""
    if trace.expert_weights is not None:
        return trace.expert_weights[:, layer].astype(np.float32)
    present = trace.expert_ids[:, layer] >= 0
    return (present / np.maximum(present.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def _copies(destination: Ints, home: Ints, *, deduplicate: Deduplicate, topology: Topology) -> list[Copies]:
    token, slot = np.nonzero(destination >= 0)
    rank = destination[token, slot]
    if deduplicate == "none":
        return [Copies(token=token, slot=slot, source=home[token], destination=rank)]
    R = topology.num_ranks
    token, rank = np.divmod(np.unique(token * R + rank), R)
    if deduplicate == "rank":
        return [Copies(token=token, slot=np.zeros_like(token), source=home[token], destination=rank)]
    node = topology.node_of_rank
    forwarder = topology.rank_at(node[rank], topology.index_in_node[home[token]])
    gateway = np.where(node[rank] == node[home[token]], home[token], forwarder)
    crossing, entry = np.divmod(np.unique((token * R + gateway)[gateway != home[token]]), R)
    return [
        Copies(token=crossing, slot=np.zeros_like(crossing), source=home[crossing], destination=entry),
        Copies(token=token, slot=np.zeros_like(token), source=gateway, destination=rank),
    ]


def _routed_here(last: Copies, destination: Ints, rank: int, *, by_slot: bool) -> tuple[Ints, Ints, Ints]:
    """Routed tokens that a rank computes: received row, slot and token of each."""
    received = last.received_by(rank)
    token = last.token[received]
    if by_slot:
        return np.arange(len(received)), last.slot[received], token
    row, slot = np.nonzero(destination[token] == rank)
    return row, slot, token[row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """The exchange of rows and the element type of each direction.

    Attributes:
        exchange: Sends the bytes.
        outward: Format of the rows of dispatch, and of gradients on their way to the experts.
        homeward: Format of the rows of combine, and of gradients on their way to the tokens.
    """

    exchange: RowExchange
    outward: RowCodec
    homeward: RowCodec

    def send(self, rows: Tensor, stage: Stage, *, is_homeward: bool) -> Tensor:
        """Exchange the rows of a stage, (N_send, D); gives those received, (N_receive, D), in the same type."""
        codec, counts = (self.homeward, stage.homeward) if is_homeward else (self.outward, stage.outward)
        received = self.exchange(codec.encode(rows), counts.sent, counts.received, counts=counts.all)
        return codec.decode(received, rows.dtype)


class _Travel(torch.autograd.Function):
    """Rows to other ranks; their gradients come back as the rows of the other direction would."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, transport: Transport, stage: Stage, is_homeward: bool) -> Tensor:
        ctx.transport, ctx.stage, ctx.is_homeward = transport, stage, is_homeward
        return transport.send(rows, stage, is_homeward=is_homeward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.transport.send(gradients[0], ctx.stage, is_homeward=not ctx.is_homeward), None, None, None


def dispatch(x: Tensor, plan: LayerPlan, transport: Transport) -> Tensor:
    """Send a rank's tokens (T, D), in the order of the trace, to their experts' ranks; gives the rows received, (N, D)."""
    rows: Tensor | None = None
    for stage in plan.stages:
        inputs = x if rows is None else torch.cat([x, rows])  # even if no row came: gradients are exchanges of all ranks
        rows = _Travel.apply(inputs.index_select(0, stage.take), transport, stage, False)
    assert rows is not None, "a plan has at least one stage"
    return rows


def combine(partial: Tensor, plan: LayerPlan, transport: Transport) -> Tensor:
    """Send partial sums (N, D) back the way their rows came; gives the sums of the rank's own tokens, (T, D).

    Sums are made in the type of ``partial``.
    """
    total: Tensor | None = None
    for stage in reversed(plan.stages):
        rows = _Travel.apply(partial, transport, stage, True)
        sums = partial.new_zeros(stage.num_inputs, partial.shape[1]).index_add(0, stage.take, rows)
        own, partial = sums[: plan.num_tokens], sums[plan.num_tokens :]
        total = own if total is None else total + own
    assert total is not None, "a plan has at least one stage"
    return total
