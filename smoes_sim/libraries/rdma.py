"""Raw RDMA writes without a collective library: every rank writes messages to ranks of other nodes over its own NIC.

Mean time of a message in the steady state, as bandwidth tests report it::

    time = (1 + incast * (order - 1)) * (per_write^p + (message / (rate * efficiency))^p)^(1/p)

``order`` is not a constant. It is the simulated time over its lower bound in the FIFO network, where all ranks write to
peers 0, 1, 2, ... in turn over the topology of the case. If the peers of a rank are those of its own index (rail-aligned),
no messages collide and ``order`` is 1. If they are all ranks of the other nodes (cross-rail), all senders meet at one
receiver: 1.87 on 2 x 8. ``incast`` is 1 if real NICs behave as in this simulation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from smoes_sim.libraries.family import Constant, Family
from smoes_sim.libraries.stage import ScheduleStage, soft_maximum, stage_of
from smoes_sim.libraries.system import Skip, SystemCase, SystemLayout, network_of
from smoes_sim.network import lower_bound, phases_of
from smoes_sim.network.fifo.exchange import fifo_exchange_time

_SIMULATED = 2.0**23
"""Bytes of a message in the simulation of the order: large compared with windows, as in a long bandwidth test."""

CONSTANTS = (
    Constant(
        what="per_write",
        prior=0.5e-6,
        spread=0.7,
        between=0.4,
        meaning="seconds between two writes of a rank, however small (prior: 2 million a second)",
    ),
    Constant(
        what="efficiency",
        prior=0.85,
        spread=0.7,
        between=0.5,
        is_share=True,
        priors={"infiniband": 0.95, "roce": 0.93},
        meaning="share of the NIC's nominal rate that long messages reach (prior: headers and acknowledgements)",
    ),
    Constant(
        what="incast",
        prior=1.0,
        spread=0.3,
        between=0.2,
        meaning="what colliding senders cost, over what the simulated FIFO network says (prior: the same)",
    ),
    Constant(what="overlap", prior=2.0, spread=0.3, between=0.0, meaning="p: 1 if both parts add, more if they overlap"),
)


def is_rail_aligned(case: SystemCase) -> bool:
    """Whether ranks write only to ranks of their own index."""
    return re.search(r"rail.aligned|same.(?:local.)?(?:index|rail)", f"{case.row.op} {case.row.variant}".lower()) is not None


def message_size(case: SystemCase) -> float | None:
    """Bytes of a message: as in variant or notes (``message size 8 KB``: 8192 B), else bytes_per_rank / peers."""
    found = re.search(r"message size ([\d.]+) ?([kmg]?)i?b", f"{case.row.variant} {case.row.notes}".lower())
    if found:
        return float(found[1]) * 1024.0 ** " kmg".index(found[2] or " ")
    if case.row.size is None:
        return None
    return case.row.size / _num_peers(case)


def _num_peers(case: SystemCase) -> int:
    others = case.row.nodes - 1
    return others if is_rail_aligned(case) else others * case.row.ranks_per_node


def _stages(case: SystemCase) -> list[ScheduleStage] | Skip:
    if case.inter is None:
        return Skip("raw RDMA between ranks of one node has no model")
    size = message_size(case)
    if not size:
        return Skip("the size of a message is neither in bytes_per_rank nor in the notes (message size 8 KB)")
    return [_one_write(case.layout, is_rail_aligned(case)).scaled(size)]


@lru_cache(maxsize=64)
def _one_write(layout: SystemLayout, rail: bool) -> ScheduleStage:
    """Stage of a write of one byte: mean seconds at nominal rates, and the order factor; cached by value."""
    network = network_of(layout)
    node, index = network.topology.node_of_rank, network.topology.index_in_node
    sent = (node[:, None] != node[None, :]) & (~rail | (index[:, None] == index[None, :]))
    matrix = sent * _SIMULATED
    phases = phases_of(network, [matrix], order="naive")
    order = fifo_exchange_time(network, phases).duration / lower_bound(network, phases)
    stage, writes = stage_of(network, matrix), sent[0].sum()
    return ScheduleStage(
        busy={kind: seconds / writes / _SIMULATED for kind, seconds in stage.busy.items()},
        messages={str(layout.inter): order},
        message_size={str(layout.inter): 1.0},
    )


def _names(case: SystemCase) -> list[str]:
    return [f"per_write.{case.inter}", f"efficiency.{case.inter}", "incast", "overlap"]


def _duration(case: SystemCase, stages: Sequence[ScheduleStage], constants: Mapping[str, float]) -> float:
    [stage] = stages
    kind = str(case.inter)
    alone = soft_maximum(
        (constants[f"per_write.{kind}"], stage.busy[kind] / constants[f"efficiency.{kind}"]), constants["overlap"]
    )
    return alone * (1 + constants["incast"] * (stage.messages[kind] - 1))


def _measured(case: SystemCase) -> float | None:
    """Measured seconds per message, from the bandwidth of a rank on the wire or the time of all its messages."""
    size = message_size(case)
    if case.row.bandwidth is not None and size is not None:
        return size / case.row.bandwidth
    return case.row.duration / _num_peers(case) if case.row.duration is not None else None


ALLTOALL = Family(
    name="rdma_alltoall",
    pool="rdma",
    constants=CONSTANTS,
    names=_names,
    stages=_stages,
    duration=_duration,
    measured=_measured,
)
