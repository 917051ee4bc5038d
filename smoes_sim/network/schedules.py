"""How a library turns traffic matrices into messages: phases, and the order of messages within one.

A rank posts a phase when its part of the phase that it waits for is done (:attr:`Flows.after`); there is no barrier between
phases, but a message may wait until its receiver is ready for it (:attr:`Flows.rendezvous`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.flows import Flows, Network, Rendezvous
from smoes_sim.topology import Topology

Schedule = Literal["direct", "pairwise", "two_hop", "hierarchical", "low_latency", "all_to_all_single"]
Order = Literal["naive", "shifted", "rail", "random"]
Matrix = NDArray[np.floating]
_RENDEZVOUS: dict[Schedule, Rendezvous] = {"pairwise": "phase", "low_latency": "none"}
"""Libraries post their receives when they enter an exchange, and payload waits for them (gloo: for a notice; NCCL: beyond
some MB, for the receiver's kernel); pairwise posts those of one round; low-latency kernels write into buffers kept free."""
_CHUNKS = 8
"""Parts in which a forwarded copy is sent, so that forwarding starts while the rest still arrives."""


def phases_of(
    network: Network,
    stages: Sequence[Matrix],
    *,
    schedule: Schedule = "direct",
    order: Order = "shifted",
    seed: int = 0,
    message_size: float | None = None,
    rendezvous: bool = False,
) -> list[Flows]:
    """The phases of an exchange.

    Args:
        network: Gives routes to the messages.
        stages: Traffic matrices in bytes, shape (R, R) each; the second one (copies forwarded inside a node) is posted
            by a rank when it has received the first.
        schedule: ``direct`` posts all messages of a stage at once. ``pairwise`` goes in R - 1 rounds: in round k rank i
            sends to i + k and receives from i - k. ``two_hop`` sends to other nodes through the rank of the own index
            there. ``hierarchical`` gathers in the own node what goes to one other node, exchanges, and spreads it there.
            Both forward in 8 parts, pipelined. ``low_latency`` posts one message per copy. ``all_to_all_single`` is what
            gloo's does: every pair of ranks works in one direction at a time.
        order: In which order a rank posts the messages of a phase: ``naive`` 0, 1, 2, ...; ``shifted`` from the next
            rank on; ``rail`` own node first, then the next one, each from the own index on; ``random`` by seed.
        seed: Seed of the random order.
        message_size: Bytes of a copy, for ``low_latency``; one message per pair when left out.
        rendezvous: Messages wait until their receiver has posted its receives, as with gloo and NCCL; without, it has a
            buffer for them.

    Returns:
        Flows of each phase, those of one sender in the order in which it posts them.
    """
    if schedule in _HOPS and len(stages) == 1:
        stages = _HOPS[schedule](stages[0], network.topology)
    behind: list[int] = []
    if schedule == "pairwise":
        rounds = [matrix for stage in stages for matrix in _rounds(stage)]
        waits = [(index - 1, True) for index in range(len(rounds))]
    elif schedule == "all_to_all_single":
        rounds, waits = [], []
        for stage in stages:
            start = len(rounds)
            for matrix, after in _half_duplex(stage):
                rounds.append(matrix)
                waits.append((after + start, after < 0 < start))
    else:
        rounds, waits, behind = _pipelined(stages, _CHUNKS if schedule in _HOPS else 1)
    phases = []
    for matrix, (after, both), before in zip(rounds, waits, behind or [-1] * len(rounds), strict=True):
        flows = _post(network, matrix, order=order, seed=seed)
        if schedule == "low_latency" and message_size is not None:
            flows = replace(flows, copies=np.ceil(flows.size / message_size))
        phases.append(
            replace(
                flows,
                after=after,
                after_sent=both,
                rendezvous=_RENDEZVOUS.get(schedule, "entry") if rendezvous else "none",
                behind=before,
            )
        )
    return phases


def _pipelined(stages: Sequence[Matrix], chunks: int) -> tuple[list[Matrix], list[tuple[int, bool]], list[int]]:
    """Stages cut into chunks, as a wave: chunk c of stage s comes when chunk c of stage s - 1 was received.

    Also for each the one that goes before it on the same connections: the chunk before of its stage.
    """
    if len(stages) == 1:
        return [stages[0]], [(-1, False)], [-1]
    wave = sorted(
        ((stage, chunk) for stage in range(len(stages)) for chunk in range(chunks)), key=lambda at: (sum(at), at[0])
    )
    position = {at: index for index, at in enumerate(wave)}
    waits = [(position[stage - 1, chunk] if stage else -1, False) for stage, chunk in wave]
    behind = [position[stage, chunk - 1] if chunk else -1 for stage, chunk in wave]
    return [stages[stage] / chunks for stage, _ in wave], waits, behind


def _post(network: Network, matrix: Matrix, *, order: Order, seed: int) -> Flows:
    source, destination = np.nonzero(matrix)
    away = source != destination
    source, destination = source[away], destination[away]
    key = _order_key(network, source, destination, order=order, num_ranks=len(matrix), seed=seed)
    by_sender = np.lexsort((key, source))
    source, destination = source[by_sender], destination[by_sender]
    return network.messages(source, destination, matrix[source, destination].astype(np.float64))


def _rounds(matrix: Matrix) -> list[Matrix]:
    rank = np.arange(len(matrix))
    rounds = []
    for step in range(1, len(matrix)):
        single = np.zeros_like(matrix)
        peer = (rank + step) % len(matrix)
        single[rank, peer] = matrix[rank, peer]
        rounds.append(single)
    return rounds


def _half_duplex(matrix: Matrix) -> list[tuple[Matrix, int]]:
    """Shifts by 1, 2, ... ranks, and for each the one that must have been received before (-1 for none).

    In gloo a payload waits for the receiver's notice, which shares a byte stream with the payload of the other direction
    and is posted after it where that goes the shorter way round. So the message by k > R / 2 waits for the one that comes
    back by R - k; half way round the lower rank is first (from gloo's alltoall and pair code; see
    docs/explanation/calibration.md).
    """
    num_ranks = len(matrix)
    rank = np.arange(num_ranks)
    rounds = _rounds(matrix)
    parts = []
    for step, shift in enumerate(rounds, start=1):
        if 2 * step < num_ranks:
            parts.append((shift, -1))
        elif 2 * step > num_ranks:
            parts.append((shift, num_ranks - step - 1))
        else:
            is_lower = (rank < num_ranks // 2)[:, None]
            parts += [(np.where(is_lower, shift, 0.0), -1), (np.where(is_lower, 0.0, shift), step - 1)]
    return parts


def _two_hop(matrix: Matrix, topology: Topology) -> list[Matrix]:
    """To the rank of the own index in the destination's node, then on inside it; in the own node at once.

    Two nodes of two ranks, 1 byte a pair: rank 0 sends 1 to rank 1 and 2 to rank 2, which passes 1 on to rank 3.
    """
    source, destination = np.nonzero(matrix)
    size = matrix[source, destination]
    node = topology.node_of_rank
    gateway = topology.rank_at(node[destination], topology.index_in_node[source])
    gateway = np.where(node[source] == node[destination], destination, gateway)
    return [_gather(source, gateway, size, len(matrix)), _gather(gateway, destination, size, len(matrix))]


def _hierarchical(matrix: Matrix, topology: Topology) -> list[Matrix]:
    """Gather at the rank of index n what goes to node n, exchange with the rank there that stands for the own node, spread.

    Inside the own node everything goes at once, with the last stage.
    """
    source, destination = np.nonzero(matrix)
    size = matrix[source, destination]
    node = topology.node_of_rank
    near = topology.rank_at(node[source], node[destination])
    far = topology.rank_at(node[destination], node[source])
    inside = node[source] == node[destination]
    near, far = np.where(inside, source, near), np.where(inside, source, far)
    hops = [(source, near), (near, far), (far, destination)]
    return [_gather(a, b, size, len(matrix)) for a, b in hops]


def _gather(
    source: NDArray[np.integer], destination: NDArray[np.integer], size: Matrix, num_ranks: int
) -> NDArray[np.float64]:
    """Bytes from rank to rank; what a rank would send to itself is already there."""
    key = source.astype(np.int64) * num_ranks + destination
    matrix = np.bincount(key, weights=size, minlength=num_ranks**2).reshape(num_ranks, num_ranks)
    np.fill_diagonal(matrix, 0.0)
    return matrix.astype(np.float64)


_HOPS: dict[str, Callable[[Matrix, Topology], list[Matrix]]] = {"two_hop": _two_hop, "hierarchical": _hierarchical}


def _order_key(
    network: Network,
    source: NDArray[np.int64],
    destination: NDArray[np.int64],
    *,
    order: Order,
    num_ranks: int,
    seed: int,
) -> NDArray[np.integer]:
    """Where in its sender's queue each message stands."""
    if order == "naive":
        return destination
    if order == "shifted":
        return (destination - source) % num_ranks
    if order == "random":
        return np.random.default_rng(seed).permutation(len(source))
    node, index = network.topology.node_of_rank, network.topology.index_in_node
    size = int(index.max()) + 1
    away = (node[destination] - node[source]) % network.topology.num_nodes
    turned: NDArray[np.integer] = away * size + (index[destination] - index[source]) % size
    return turned
