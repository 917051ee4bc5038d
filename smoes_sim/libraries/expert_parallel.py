"""Expert-parallel kernels: dispatch and combine of MoE tokens, high throughput (normal) and low latency.

Normal kernels send a token once to each node over the NIC, to the rank with the sender's index, which forwards it inside
the node. Low-latency kernels send every routed token separately, inside the node over the scale-up links. Both are
pipelines, so the time of an operation is a soft maximum of the times of its parts::

    inside  = softmax(bytes / link, bytes / device, bytes / SMs)    # topology and row decide which parts there are
    between = bytes / (network * NIC rate)
    time    = launch + handshake + peer * peers + softmax(inside, between) + reduce

The link has its stated rate, and the device can saturate the full link of its generation, so that a reduced link (H800) is
the bottleneck before the device. Routing is uniform: the model uses expected copies, so all ranks have the same load. Skewed
routing, several exchanges in flight and congestion above the NICs are not modelled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from smoes_sim.libraries.expert_parallel_constants import LOW_LATENCY_CONSTANTS, NORMAL_CONSTANTS
from smoes_sim.libraries.family import Family
from smoes_sim.libraries.stage import Matrix, ScheduleStage, soft_maximum, stage_of
from smoes_sim.libraries.system import NOMINAL, Skip, SystemCase, system_case
from smoes_sim.libraries.uniform_routing import Visits, expected_visits
from smoes_sim.traffic.copies import copy_bytes

_NEEDED = ("tokens_per_rank", "hidden", "bytes_per_element", "top_k", "experts")
_OPERATIONS = {"dispatch": ("dispatch",), "combine": ("combine",), "dispatch+combine": ("dispatch", "combine")}
_LOW_LATENCY_HEADER = 16
"""Bytes in front of a low-latency copy (hidden 7168 in fp8: 7408; DeepEP csrc/kernels/internode_ll.cu@ebfe47e)."""
_SERIAL_INSIDE = 0.25
"""Serial part of link, cores and SMs inside a node, which share every copy: two equal times take 1.19 times one."""
_SERIAL_COPIES = 0.5
"""Serial part of the time of a single copy and the time of all copies, many of which are in flight together."""
_BF16 = 2
"""Bytes per element in combine, for rows that time dispatch and combine together."""


def _operations(case: SystemCase) -> tuple[str, ...]:
    return _OPERATIONS[case.row.op]


def _wired(case: SystemCase) -> SystemCase:
    """The case as its library sees it: nodes of one rank if the library uses the NIC inside a node too."""
    if not re.search(r"pure rdma|rdma only|no nvlink", case.row.library.lower()):
        return case
    alone = system_case(replace(case.row, nodes=case.num_ranks, ranks_per_node=1))
    return case if isinstance(alone, Skip) else alone


def _deduplicated(case: SystemCase) -> str:
    """Deduplication of the library: a token is sent to each expert (``none``), once to each ``rank``, or to each ``node``.

    Sources: DeepEP README.md@ebfe47e (normal: node; low latency: none), its V2 (rank or node in all modes); ROCm/mori
    README.md@624002c (EP16-V0 sends to each rank, V1 once to each node); TensorRT-LLM NVLink kernels send once to each rank.
    """
    library = case.row.library.lower()
    if case.software == "trtllm":
        return "rank"
    if case.software == "mori_ep":
        return "rank" if re.search(r"\bv0\b", library) else "node"
    if case.family == "ep_normal" or (case.software in {"deepep", "uccl_ep"} and re.search(r"\bv2\b", library)):
        return "node"
    return "none"


def _visits(case: SystemCase) -> Visits:
    row = case.row
    return expected_visits(
        nodes=row.nodes,
        ranks_per_node=row.ranks_per_node,
        experts=row.experts or 0,
        top_k=row.top_k or 0,
        node_limit=row.node_limit,
    )


def _copy_size(case: SystemCase, operation: str) -> float:
    """Bytes of one copy of a token: fp8 with its scales, other elements without."""
    row = case.row
    is_returned = operation == "combine" and len(_operations(case)) > 1
    element = _BF16 if is_returned else row.bytes_per_element or 0.0
    hidden = row.hidden or 0
    if element != 1:
        return hidden * element
    return copy_bytes(hidden, "fp8") + (_LOW_LATENCY_HEADER if case.family == "ep_low_latency" else 0)


def _stages(case: SystemCase) -> list[ScheduleStage] | Skip:
    """Routed copies of every operation: one stage, or two (between nodes, inside nodes) with deduplication by node."""
    row = case.row
    for column in _NEEDED:
        if not getattr(row, column):
            return Skip(f"{column} is empty")
    if row.op not in _OPERATIONS:
        return Skip(f'op "{row.op}" is not {", ".join(_OPERATIONS)}')
    if not (row.top_k or 0) <= (row.experts or 0) >= case.num_ranks:
        return Skip(f"experts = {row.experts} are fewer than the {case.num_ranks} ranks or the top_k = {row.top_k}")
    wired = _wired(case)
    return [
        stage_of(wired.network, copies * size, copy_size=size)
        for operation in _operations(wired)
        for size in [_copy_size(wired, operation)]
        for copies in _copies(wired)
    ]


def _copies(case: SystemCase) -> list[Matrix]:
    """Expected number of copies from rank to rank, one (R, R) matrix per stage.

    By hand, 2 nodes of 8 ranks, 256 experts, top-8, one token per rank: 8 / 16 copies to each rank without deduplication;
    with deduplication by node 1.993 / 2 to the rank with the same index, which forwards 2 * 6.523 / 16 to each rank of its
    node.
    """
    row, visits, R = case.row, _visits(case), case.num_ranks
    tokens = row.tokens_per_rank or 0.0
    once = _deduplicated(case)
    if once != "node":
        places = visits.ranks if once == "rank" else float(row.top_k or 0)
        return [np.full((R, R), tokens * places / R)]
    node, index = np.divmod(np.arange(R), row.ranks_per_node)
    inside = node[:, None] == node
    between = np.where((index[:, None] == index) & ~inside, tokens * visits.nodes / row.nodes, 0.0)
    forwarded = np.where(inside, row.nodes * tokens * visits.ranks / R, 0.0)
    return [between, forwarded] if row.nodes > 1 else [forwarded]


def _initiator(case: SystemCase) -> str:
    """Poster of the messages and class of the NIC, such as ``host_efa``: the device, or a proxy process on the host.

    UCCL-EP and pplx have a proxy on the host (their READMEs); EFA has no posting by the device.
    """
    is_proxied = case.software == "uccl_ep" or case.inter == "efa" or "pplx" in case.row.library.lower()
    return f"{'host' if is_proxied else 'device'}_{case.inter}"


def _num_sms(case: SystemCase) -> int | None:
    """Number of SMs (or CUs) of the kernel; None where the row does not state it."""
    found = re.search(r"(\d+) ?(?:SM|CU)s?\b", f"{case.row.library}; {case.row.variant}")
    return int(found[1]) if found else None


def _names(case: SystemCase) -> list[str]:
    wired = _wired(case)
    operations = _operations(case)
    names = [f"{what}.{operation}" for what in ("launch", "overlap") for operation in operations]
    if wired.row.ranks_per_node > 1:
        names += [f"link.{wired.intra}", f"device.{wired.intra}", "header"]
        names += ["sm"] if _num_sms(wired) else []
    if wired.inter is not None:
        names += [f"network.{wired.inter}", f"peer.{_initiator(wired)}"]
        names += [f"handshake.{operation}" for operation in operations]
    if "combine" in operations:
        names += ["reduce"]
        names += ["combine"] if wired.row.ranks_per_node > 1 else []
    return names + (["first"] if case.family == "ep_low_latency" else [])


def _duration(case: SystemCase, stages: Sequence[ScheduleStage], constants: Mapping[str, float]) -> float:
    """Seconds of all operations of a row, one after the other."""
    wired, operations = _wired(case), _operations(case)
    steps = len(stages) // len(operations)
    return sum(
        _operation_time(wired, operation, stages[at * steps : (at + 1) * steps], constants)
        for at, operation in enumerate(operations)
    )


def _operation_time(
    case: SystemCase, operation: str, stages: Sequence[ScheduleStage], constants: Mapping[str, float]
) -> float:
    row, serial = case.row, 1.0 - constants[f"overlap.{operation}"]
    inside = _scale_up_time(case, operation, stages, constants)
    between = _network_time(case, stages, constants)
    body = soft_maximum((inside, between), 1 / serial)
    if "first" in constants:
        body = soft_maximum((constants["first"], body), 1 / _SERIAL_COPIES)
    duration = constants[f"launch.{operation}"] + body
    if case.inter is not None:
        peers = case.num_ranks - row.ranks_per_node
        duration += constants[f"handshake.{operation}"] + constants[f"peer.{_initiator(case)}"] * peers
    if operation == "combine":
        read = (row.tokens_per_rank or 0.0) * (row.top_k or 0) * _copy_size(case, operation)
        duration += read / constants["reduce"]
    return duration


def _scale_up_time(
    case: SystemCase, operation: str, stages: Sequence[ScheduleStage], constants: Mapping[str, float]
) -> float:
    """Seconds of the scale-up link, the copying cores and the SMs together; the slowest one dominates."""
    size = case.layout.rate * sum(stage.busy.get(case.intra, 0.0) for stage in stages)
    if size <= 0:
        return 0.0
    size *= 1.0 + constants["header"] / _copy_size(case, operation)
    size *= constants["combine"] if operation == "combine" else 1.0
    rate = _nominal_rate(case)
    parts = [size / (rate * constants[f"link.{case.intra}"])]
    bridges = [seconds for stage in stages for kind, seconds in stage.busy.items() if kind not in {case.intra, case.inter}]
    parts += [seconds / constants[f"link.{case.intra}"] for seconds in bridges]
    parts.append(size / (max(rate, NOMINAL.get(case.intra, 0.0)) * constants[f"device.{case.intra}"]))
    sms = _num_sms(case)
    if sms:
        parts.append(size / (sms * constants["sm"]))
    return soft_maximum(parts, 1 / _SERIAL_INSIDE)


def _nominal_rate(case: SystemCase) -> float:
    """Nominal rate of a rank's scale-up links, B/s: the one in their name if the stated rate is an achieved one."""
    stated = re.search(r"([\d.]+)(?: ?GB/s)? nominal", case.row.intra_link)
    return float(stated[1]) * 1e9 if stated else case.layout.rate


def _network_time(case: SystemCase, stages: Sequence[ScheduleStage], constants: Mapping[str, float]) -> float:
    """Seconds of the NIC."""
    if case.inter is None:
        return 0.0
    busy = sum(stage.busy.get(case.inter, 0.0) for stage in stages)
    return busy / constants[f"network.{case.inter}"]


def _measured(case: SystemCase) -> float | None:
    """Measured seconds. Logical bandwidth counts one copy per node (rank) that a token visits, its own included."""
    row = case.row
    if row.duration is not None or row.bandwidth is None:
        return row.duration
    if not all(getattr(row, column) for column in _NEEDED) or len(_OPERATIONS.get(row.op, ())) != 1:
        return None
    visits = _visits(case)
    places = {"logical_inter": visits.nodes, "logical_intra": visits.ranks}.get(row.bandwidth_kind)
    return places and (row.tokens_per_rank or 0.0) * places * _copy_size(case, row.op) / row.bandwidth


NORMAL = Family(
    name="ep_normal",
    pool="ep_normal",
    constants=NORMAL_CONSTANTS,
    names=_names,
    stages=_stages,
    duration=_duration,
    measured=_measured,
)
LOW_LATENCY = Family(
    name="ep_low_latency",
    pool="ep_low_latency",
    constants=LOW_LATENCY_CONSTANTS,
    names=_names,
    stages=_stages,
    duration=_duration,
    measured=_measured,
)
