"""What one step of a library's schedule asks of each kind of link, found by routing its bytes over the topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.network import Flows, Network, link_load

Matrix = NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleStage:
    """One step of a schedule.

    Attributes:
        busy: Seconds that the busiest link of each transport class needs at its nominal rate.
        messages: Messages that the busiest rank posts, by the transport class that bounds their route; a family may put
            here what else it counts.
        message_size: Mean bytes of such a message.
        local: Bytes that a rank copies to itself, the largest of all ranks.
    """

    busy: Mapping[str, float]
    messages: Mapping[str, float]
    message_size: Mapping[str, float]
    local: float = 0.0

    def scaled(self, factor: float) -> ScheduleStage:
        """The same messages with ``factor`` times the bytes."""
        return ScheduleStage(
            busy={kind: factor * value for kind, value in self.busy.items()},
            messages=self.messages,
            message_size={kind: factor * value for kind, value in self.message_size.items()},
            local=factor * self.local,
        )


def stage_of(network: Network, matrix: Matrix, *, copy_size: float | None = None) -> ScheduleStage:
    """Route a byte matrix and read off what each kind of link carries.

    Args:
        network: Topology at nominal rates.
        matrix: Bytes from rank to rank, shape (R, R); the diagonal is copied locally.
        copy_size: Bytes of a message; one message a pair when left out.

    Example:
        8 ranks on a switch of 450 GB/s, 1 MiB a pair: busy 7 * 1048576 / 450e9 = 16.3 us, 7 messages.
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


def soft_max(first: float, second: float, power: float) -> float:
    """``(first^p + second^p)^(1/p)``: their sum at p = 1, the larger at infinity; seconds of two parts that overlap partly.

    Example:
        3 and 4 at p = 2: 5.
    """
    small, large = sorted((first, second))
    return large * float((1 + (small / large) ** power) ** (1 / power))


def _bounding_kind(flows: Flows, bandwidth: NDArray[np.float64], kind: NDArray[np.int32]) -> NDArray[np.int32]:
    """Kind of the narrowest shared link on each flow's route, shape (F,)."""
    links, flow = flows.routes.links, np.repeat(np.arange(len(flows)), np.diff(flows.routes.offsets))
    order = np.lexsort((bandwidth[links], flow))
    _, first = np.unique(flow[order], return_index=True)
    found: NDArray[np.int32] = kind[links[order][first]]
    return found
