"""How a library turns a traffic matrix into messages: phases, and the order of messages within one.

A rank enters a phase when everything it sends and receives in the phase before is done; ranks do not wait for others
(no barrier between phases).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network.flows import Flows, Network

Schedule = Literal["direct", "pairwise"]
Order = Literal["naive", "shifted", "rail", "random"]


def phases_of(
    network: Network,
    stages: Sequence[NDArray[np.floating]],
    *,
    schedule: Schedule = "direct",
    order: Order = "shifted",
    seed: int = 0,
) -> list[Flows]:
    """The phases of an exchange.

    Args:
        network: Gives routes to the messages.
        stages: Traffic matrices in bytes, shape (R, R) each, one after the other (two when a copy per node is
            forwarded inside the node).
        schedule: ``direct`` posts all messages of a stage at once; ``pairwise`` goes in R - 1 rounds, in round k rank i
            sends to i + k and receives from i - k.
        order: In which order a rank posts the messages of a phase: ``naive`` 0, 1, 2, ...; ``shifted`` from the next
            rank on; ``rail`` own node first, then the next one, each from the own index on; ``random`` by seed.
        seed: Seed of the random order.

    Returns:
        Flows of each phase, those of one sender in the order in which it posts them.
    """
    phases: list[Flows] = []
    for stage in stages:
        num_ranks = len(stage)
        for matrix in _rounds(stage) if schedule == "pairwise" else [stage]:
            source, destination = np.nonzero(matrix)
            away = source != destination
            source, destination = source[away], destination[away]
            key = _order_key(network, source, destination, order=order, num_ranks=num_ranks, seed=seed)
            by_sender = np.lexsort((key, source))
            source, destination = source[by_sender], destination[by_sender]
            phases.append(network.messages(source, destination, matrix[source, destination].astype(np.float64)))
    return phases


def _rounds(matrix: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    rank = np.arange(len(matrix))
    rounds = []
    for step in range(1, len(matrix)):
        single = np.zeros_like(matrix)
        peer = (rank + step) % len(matrix)
        single[rank, peer] = matrix[rank, peer]
        rounds.append(single)
    return rounds


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
