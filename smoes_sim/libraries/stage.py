"""The load that one stage of a library's schedule puts on each kind of link, found by routing its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import Flows, Network, link_load

Matrix = NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStage:
    """One stage of a schedule.

    Attributes:
        busy: Seconds that the busiest link of each transport class needs at its nominal rate.
        messages: Number of messages that the busiest rank posts, by the transport class that limits their route; a family
            may use it for other counts.
        message_size: Mean bytes of these messages.
        local: Largest number of bytes that a rank copies to itself.
    """

    busy: Mapping[str, float]
    messages: Mapping[str, float]
    message_size: Mapping[str, float]
    local: float = 0.0

    def scaled(self, factor: float) -> ScheduleStage:
        """The stage with the same messages and ``factor`` times the bytes."""
        return ScheduleStage(
            busy={kind: factor * value for kind, value in self.busy.items()},
            messages=self.messages,
            message_size={kind: factor * value for kind, value in self.message_size.items()},
            local=factor * self.local,
        )


def stage_of(network: Network, matrix: Matrix, *, copy_size: float | None = None) -> ScheduleStage:
    """The stage of a traffic matrix: its bytes are routed over the topology.

    Args:
        network: Topology at nominal rates.
        matrix: Bytes from rank to rank, shape (R, R); the diagonal is copied locally.
        copy_size: Bytes of a message; one message per pair of ranks if None.

    Example:
        8 ranks on a switch, 450 GB/s, 1 MiB per pair: the link is busy for 7 * 1048576 / 450e9 = 16.3 us.

        >>> from smoes_sim.topology import find_topology
        >>> stage = stage_of(Network.on(find_topology("8x-h100")), np.full((8, 8), 2.0**20))
        >>> round(1e6 * stage.busy["nvlink4"], 1), stage.messages["nvlink4"]
        (16.3, 7.0)
    """
    topology = network.topology
    source, destination = np.nonzero(matrix)
    away = source != destination
    source, destination = source[away], destination[away]
    flows = network.messages(source, destination, np.asarray(matrix, dtype=np.float64)[source, destination])
    seconds = link_load(flows, topology.num_links) / topology.link_bandwidth
    kinds = topology.link_kinds
    busy = {kind: float(seconds[topology.link_kind == index].max(initial=0.0)) for index, kind in enumerate(kinds)}
    bounding = _bounding_kind(flows, topology.link_bandwidth, topology.link_kind)
    count = flows.size / copy_size if copy_size else np.ones(len(flows))
    messages, sizes = {}, {}
    for index, kind in enumerate(kinds):
        chosen = bounding == index
        if chosen.any():
            messages[kind] = float(np.bincount(source[chosen], weights=count[chosen]).max())
            sizes[kind] = float(flows.size[chosen].sum() / count[chosen].sum())
    return ScheduleStage(
        busy={kind: value for kind, value in busy.items() if value > 0},
        messages=messages,
        message_size=sizes,
        local=float(np.diag(matrix).max()),
    )


def soft_maximum(parts: Sequence[float], power: float) -> float:
    """Seconds of parts that overlap partly: ``(sum of part^p)^(1/p)``, their sum at p = 1, the largest at p = infinity.

    Example:
        >>> soft_maximum((3, 4), 2)
        5.0
    """
    largest = max(parts)
    if largest <= 0:
        return 0.0
    return largest * float(sum((part / largest) ** power for part in parts) ** (1 / power))


def _bounding_kind(flows: Flows, bandwidth: NDArray[np.float64], kind: NDArray[np.int32]) -> NDArray[np.int32]:
    """Index of the kind of the slowest link on each flow's route, shape (F,)."""
    links, flow = flows.routes.links, np.repeat(np.arange(len(flows)), np.diff(flows.routes.offsets))
    order = np.lexsort((bandwidth[links], flow))
    _, first = np.unique(flow[order], return_index=True)
    found: NDArray[np.int32] = kind[links[order][first]]
    return found
