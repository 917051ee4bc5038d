"""A step as a Chrome trace that Perfetto opens: a process per node, two lanes per rank."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from smoes_sim.files import write_bytes
from smoes_sim.timeline import Span
from smoes_sim.topology import Topology

_COMMUNICATION = ("dispatch", "combine")


def chrome_trace(spans: Sequence[Span], topology: Topology) -> dict[str, Any]:
    """Trace events of a step, times in microseconds; lane 2r computes, lane 2r + 1 communicates."""
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
        for span in spans
    ]
    events: list[dict[str, Any]] = [*nodes, *lanes, *slices]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_chrome_trace(spans: Sequence[Span], topology: Topology, path: Path) -> None:
    """Write the trace, gzipped when the name ends in ``.gz``; the same step gives the same bytes."""
    content = orjson.dumps(chrome_trace(spans, topology))
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
