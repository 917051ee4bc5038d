"""Write a step as a Chrome trace for Perfetto: one process per node, two lanes per rank, counters for busy links."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from smoes_sim.network.hot import link_groups, use_over_time
from smoes_sim.step.timeline import StepTime
from smoes_sim.topology import Topology
from smoes_sim.yaml_files import write_bytes

_COMMUNICATION = ("dispatch", "combine")
_MOST_LINKS = 16
"""Number of links, or groups of equally used links, that get a counter: the busiest over the step."""
_EQUAL = 1e-9
"""Largest relative difference in busy time of equally busy links: the times are sums over many rate changes."""
_STEP = 1e-5
"""Resolution at which shares of capacity are compared."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd multiplier of the hash of a link's use over time."""


def chrome_trace(step: StepTime, topology: Topology) -> dict[str, Any]:
    """Trace events of a step, times in microseconds; lane 2r is the computation of rank r, lane 2r + 1 its communication."""
    nodes = [
        {"ph": "M", "name": "process_name", "pid": node, "args": {"name": f"node {node}"}}
        for node in range(topology.num_nodes)
    ]
    lanes = [
        {
            "ph": "M",
            "name": "thread_name",
            "pid": int(topology.node_of_rank[rank]),
            "tid": 2 * rank + lane,
            "args": {"name": f"rank {rank} {what}"},
        }
        for rank in range(topology.num_ranks)
        for lane, what in enumerate(("compute", "communication"))
    ]
    slices = [
        {
            "ph": "X",
            "name": span.name,
            "cat": "communication" if span.name in _COMMUNICATION else "compute",
            "pid": int(topology.node_of_rank[span.rank]),
            "tid": 2 * span.rank + (span.name in _COMMUNICATION),
            "ts": span.start * 1e6,
            "dur": (span.end - span.start) * 1e6,
            "args": {"layer": span.layer, "bytes_sent": span.size},
        }
        for span in step.spans
    ]
    events: list[dict[str, Any]] = [*nodes, *lanes, *slices, *_link_counters(step, topology)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _link_counters(step: StepTime, topology: Topology) -> list[dict[str, Any]]:
    """Utilisation of the busiest links in percent, as counters of a separate process; equally used links share one."""
    if not step.link_use:
        return []
    moments = np.array([moment for moment, _ in step.link_use])
    lasting = np.diff(moments, append=max(step.duration, float(moments[-1])))
    busy, label = np.zeros(topology.num_links), np.zeros(topology.num_links, np.uint64)
    for seconds, (_, use) in zip(lasting, step.link_use, strict=True):
        busy += seconds * use
        label = label * _FACTOR + np.rint(use / _STEP).astype(np.uint64)
    process = topology.num_nodes
    name = {"ph": "M", "name": "process_name", "pid": process, "args": {"name": "links, % of capacity"}}
    return [name] + [
        {
            "ph": "C",
            "name": group.label,
            "pid": process,
            "ts": moment * 1e6,
            "args": {"%": round(100 * share, 3)},
        }
        for group in islice(link_groups(topology, busy, tolerance=_EQUAL, label=label), _MOST_LINKS)
        for moment, share in use_over_time(group.links, step.link_use, step.duration)
    ]


def write_chrome_trace(step: StepTime, topology: Topology, path: Path) -> None:
    """Write the trace, gzipped if the name ends in ``.gz``; the same step gives the same bytes."""
    content = orjson.dumps(chrome_trace(step, topology))
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
