"""Schedules of communication libraries: traffic matrices become phases of messages, in the order of posting.

A rank posts a phase when its part of the phase before has finished (:attr:`Flows.after`). There is no barrier between
phases, but a message may wait until its receiver has posted the receive (:attr:`Flows.rendezvous`).
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
"""Most libraries post all receives on entry to an exchange, and payload waits for them (gloo: for a notice; NCCL: beyond
some MB, for the receiver's kernel). ``pairwise`` posts those of one round; low-latency kernels write into reserved
buffers."""
_CHUNKS = 8
"""Number of parts of a forwarded copy; forwarding starts when the first part has arrived."""


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
    """The phases of an exchange under the schedule of a library.

    Args:
        network: Network whose routes the messages take.
        stages: Traffic matrices in bytes, shape (R, R) each; a rank posts the second one (copies forwarded inside a node)
            when it has received the first.
        schedule: ``direct`` posts all messages of a stage at once. ``pairwise`` takes R - 1 rounds: in round k rank i sends
            to i + k and receives from i - k. ``two_hop`` sends to another node through the rank with the sender's index
            there. ``hierarchical`` gathers the messages to one other node at one rank, exchanges them, and scatters them
            there. Both forward in 8 parts, pipelined. ``low_latency`` posts one message per copy. ``all_to_all_single`` is
            the algorithm of gloo: every pair of ranks sends in one direction at a time.
        order: Order in which a rank posts the messages of a phase. ``naive``: to 0, 1, 2, ...; ``shifted``: from the next
            rank on; ``rail``: own node first, then the next node, each from the own index on; ``random``: by seed.
        seed: Random seed of the random order.
        message_size: Bytes of a copy, for ``low_latency``. Default: one message per pair of ranks.
        rendezvous: Whether messages wait until their receiver has posted its receives, as with gloo and NCCL; otherwise it
            has buffers for them.

    Returns:
        Flows of each phase; those of one sender are in the order of posting.

    Example:
        >>> import numpy as np
        >>> from smoes_sim.network import Network
        >>> from smoes_sim.topology import find_topology
        >>> (flows,) = phases_of(Network.on(find_topology("lab-star-4")), [np.ones((4, 4))])
        >>> flows.destination[flows.source == 2].tolist()  # shifted: from rank 3 on
        [3, 0, 1]
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
    """Stages cut into chunks, as a pipeline: chunk c of stage s is posted when chunk c of stage s - 1 was received.

    Returns:
        For each chunk its matrix, what it waits for, and the chunk that precedes it on the same connections (-1 for none).
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
    if order == "shifted" and 2 * np.count_nonzero(matrix) > matrix.size > 1:
        source, destination = _shifted(len(matrix))
        size = matrix[source, destination].astype(np.float64)
        sent = size != 0
        if not sent.all():
            source, destination, size = source[sent], destination[sent], size[sent]
        return network.messages(source, destination, size)
    source, destination = np.nonzero(matrix)
    away = source != destination
    source, destination = source[away], destination[away]
    key = _order_key(network, source, destination, order=order, num_ranks=len(matrix), seed=seed)
    by_sender = np.lexsort((key, source))
    source, destination = source[by_sender], destination[by_sender]
    return network.messages(source, destination, matrix[source, destination].astype(np.float64))


def _shifted(num_ranks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sources and destinations of all pairs in shifted order, without the sort that a sparse matrix needs, (F,) each.

    Example:
        >>> _shifted(3)[1].tolist()
        [1, 2, 2, 0, 0, 1]
    """
    rank, shift = np.arange(num_ranks), np.arange(1, num_ranks)
    return np.repeat(rank, num_ranks - 1), ((rank[:, None] + shift) % num_ranks).ravel()


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
    """Matrices of the shifts by 1, 2, ... ranks, and for each the shift that must have been received before (-1 for none).

    In gloo a payload waits for the receiver's notice, which shares a byte stream with the payload of the other direction and
    is posted after it if that payload takes the shorter way round. So the message by k > R / 2 ranks waits for the one that
    comes back by R - k; at k = R / 2 the lower rank goes first (from gloo's alltoall and pair code;
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
    """Two stages: to the rank with the sender's index in the destination's node, then inside that node.

    Messages inside a node are in the first stage. Two nodes of two ranks, 1 byte per pair: rank 0 sends 1 to rank 1 and 2 to
    rank 2, which forwards 1 to rank 3.
    """
    source, destination = np.nonzero(matrix)
    size = matrix[source, destination]
    node = topology.node_of_rank
    gateway = topology.rank_at(node[destination], topology.index_in_node[source])
    gateway = np.where(node[source] == node[destination], destination, gateway)
    return [_gather(source, gateway, size, len(matrix)), _gather(gateway, destination, size, len(matrix))]


def _hierarchical(matrix: Matrix, topology: Topology) -> list[Matrix]:
    """Three stages: gather the messages to node n at the rank of index n, exchange between nodes, scatter.

    The receiver in node n is the rank whose index is the sender's node. Messages inside a node are in the last stage.
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
    """Bytes from rank to rank, shape (R, R), with a zero diagonal."""
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
    """Sort key of each message within its sender's queue, shape (F,)."""
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
