"""NCCL, RCCL and similar libraries: all-to-all and point to point, one kernel that posts a send to every peer.

Time of an exchange with blocks of m bytes::

    floor    = launch + per_peer * peers + hop + enqueue * (devices of a process - 1) + simple * m^2 / (m^2 + (16 KiB)^2)
    link     = busiest scale-up link / efficiency + own block / copy
    transfer = max(link, busiest link of each other class / efficiency)
    fill     = transfer * window / (transfer + window),  window = pipeline / (rate * efficiency)
    time     = (floor^p + (transfer + fill)^p)^(1/p)

Blocks of at most 16 KiB use the LL protocol, larger ones Simple, whose stages cost more to start. Simple passes bytes
through buffers: until the first chunks of all channels (``pipeline`` bytes) have filled them, nothing is delivered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from smoes_sim.libraries.family import Constant, Family
from smoes_sim.libraries.stage import ScheduleStage, soft_maximum, stage_of
from smoes_sim.libraries.system import Skip, SystemCase, SystemLayout, network_of
from smoes_sim.measurements import measured_time
from smoes_sim.traffic.skewed import uniform_matrix

_LL_MOST = 16384.0
"""Largest block in bytes for which NCCL uses LL (NCCL_P2P_LL_THRESHOLD, NVIDIA/nccl src/enqueue.cc)."""
_OF_LINKS = {"nccl_alltoall": ("efficiency", "pipeline"), "sendrecv": ("one_way", "buffer")}
"""Constants of each link: a single message in one direction shares the link with no other message."""

CONSTANTS = (
    Constant(
        what="launch",
        prior=6.6e-6,
        spread=0.5,
        between=0.3,
        meaning="seconds to start the kernel and its first LL step (prior: base latency of NCCL's tuning model)",
    ),
    Constant(
        what="per_peer",
        prior=0.5e-6,
        spread=0.7,
        between=0.2,
        meaning="seconds per peer to which a rank sends (prior: half a microsecond, a PCIe round trip)",
    ),
    Constant(
        what="hop",
        prior=14e-6,
        spread=0.5,
        between=0.3,
        priors={"efa": 24e-6},
        meaning="more seconds where messages leave the node: proxy thread and NIC (prior: network hop in NCCL's tuning "
        "model; EFA: a ping of 1 KB as in topologies/16x8-p5-efa.yaml)",
    ),
    Constant(
        what="simple",
        prior=5e-6,
        spread=0.5,
        between=0.2,
        meaning="more seconds to start the Simple protocol (prior: base and hop latency of NCCL's tuning model, less LL's)",
    ),
    Constant(
        what="enqueue",
        prior=4e-6,
        spread=0.5,
        between=0.3,
        meaning="seconds until one process has launched on its next device (prior: a kernel launch)",
    ),
    Constant(
        what="efficiency",
        prior=0.7,
        spread=0.5,
        between=0.3,
        is_share=True,
        priors={
            "nvlink": 0.8,
            "xgmi": 0.75,
            "pcie": 0.8,
            "infiniband": 0.93,
            "roce": 0.93,
            "efa": 0.85,
            "host": 0.3,
            "root": 0.3,
            "shm": 0.6,
        },
        meaning="share of the nominal rate that large transfers reach",
    ),
    Constant(
        what="one_way",
        prior=0.8,
        spread=0.5,
        between=0.3,
        is_share=True,
        priors={"infiniband": 0.95, "roce": 0.95, "host": 0.3, "root": 0.3},
        meaning="share of the nominal rate that one large message reaches",
    ),
    Constant(
        what="copy",
        prior=700e9,
        spread=0.5,
        between=0.3,
        meaning="B/s at which a rank copies its own block",
    ),
    Constant(
        what="pipeline",
        prior=32 * 2.0**17,
        spread=0.7,
        between=0.3,
        priors={"nvlink": 32 * 2.0**19},
        meaning="bytes in buffers before anything is delivered (prior: 32 channels of 128 KiB, over NVLink 512 KiB)",
    ),
    Constant(
        what="buffer",
        prior=32 * 2.0**17,
        spread=0.7,
        between=0.3,
        meaning="bytes in buffers before anything of a single message is delivered (prior: as for pipeline)",
    ),
    Constant(
        what="overlap", prior=1.5, spread=0.2, between=0.2, meaning="p: 1 if start and transfer add, more if they overlap"
    ),
)


def _links(case: SystemCase) -> list[str]:
    kinds = case.topology.count_kinds()
    return [kind for kind in kinds if kind != "host-bus" and not (kind == case.intra and case.layout.per_node == 1)]


def _names(case: SystemCase) -> list[str]:
    names = [f"launch.{case.intra}", "per_peer", "simple", "overlap"]
    names += [f"{what}.{kind}" for kind in _links(case) for what in _OF_LINKS[case.family]]
    if case.family == "nccl_alltoall":
        names.append(f"copy.{case.intra}")
    if case.inter is not None:
        names.append(f"hop.{case.inter}")
    if devices_per_process(case) > 1:
        names.append("enqueue")
    return names


def devices_per_process(case: SystemCase) -> int:
    """Number of devices per process: ``-g`` of nccl-tests, from the library's name or the notes; 1 where not stated."""
    found = re.search(r"-g (\d+)", f"{case.row.library} {case.row.variant} {case.row.notes}")
    return int(found[1]) if found else 1


def _alltoall_stages(case: SystemCase) -> list[ScheduleStage] | Skip:
    if not case.row.size:
        return Skip("bytes_per_rank is empty or 0")
    return [_uniform(case.layout).scaled(case.row.size)]


@lru_cache(maxsize=256)
def _uniform(layout: SystemLayout) -> ScheduleStage:
    """The stage of an all-to-all in which every rank sends one byte; cached by the value of the layout."""
    network = network_of(layout)
    return stage_of(network, uniform_matrix(network.topology.num_ranks, 1.0))


def _sendrecv_stages(case: SystemCase) -> list[ScheduleStage] | Skip:
    if not case.row.size:
        return Skip("bytes_per_rank is empty or 0")
    return [_ring(case.layout).scaled(case.row.size)]


@lru_cache(maxsize=256)
def _ring(layout: SystemLayout) -> ScheduleStage:
    """The stage in which every rank sends one byte to the next; cached by the value of the layout."""
    network = network_of(layout)
    return stage_of(network, np.roll(np.eye(network.topology.num_ranks), 1, axis=1))


def _duration(case: SystemCase, stages: Sequence[ScheduleStage], constants: Mapping[str, float]) -> float:
    [stage] = stages
    share, pipe = _OF_LINKS[case.family]
    block = max(stage.message_size.values())
    floor = constants[f"launch.{case.intra}"]
    floor += constants["per_peer"] * sum(stage.messages.values())
    floor += constants["simple"] * block**2 / (block**2 + _LL_MOST**2)
    floor += constants.get(f"hop.{case.inter}", 0.0)
    floor += constants.get("enqueue", 0.0) * (devices_per_process(case) - 1)
    rates = {case.intra: case.layout.rate, case.inter: case.layout.nic_rate}
    slowest, window = 0.0, 0.0
    for kind, busy in stage.busy.items():
        seconds = busy / constants[f"{share}.{kind}"]
        if kind == case.intra and stage.local:
            seconds += stage.local / constants[f"copy.{kind}"]
        if seconds > slowest:
            slowest = seconds
            window = constants[f"{pipe}.{kind}"] / (rates.get(kind, case.layout.rate) * constants[f"{share}.{kind}"])
    transfer = slowest + slowest * window / (slowest + window)
    return soft_maximum((floor, transfer), constants["overlap"])


def _measured(case: SystemCase) -> float | None:
    return measured_time(case.row)


ALLTOALL = Family(
    name="nccl_alltoall",
    pool="nccl",
    constants=CONSTANTS,
    names=_names,
    stages=_alltoall_stages,
    duration=_duration,
    measured=_measured,
)
SENDRECV = Family(
    name="sendrecv",
    pool="nccl",
    constants=CONSTANTS,
    names=_names,
    stages=_sendrecv_stages,
    duration=_duration,
    measured=_measured,
)
