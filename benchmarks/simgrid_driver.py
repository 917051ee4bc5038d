"""Time flows with SimGrid's fluid model; runs under the Python that has ``simgrid`` (Debian: ``/usr/bin/python3``).

Standard input: JSON ``{"ranks": R, "capacity": [B/s, ...], "flows": [[source, destination, bytes, [link, ...]], ...]}``.
Standard output: JSON ``{"finish": [seconds of each flow], "cpu_seconds": of the simulation alone}``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import simgrid  # type: ignore[import-not-found]

# Without these SimGrid is not purely max-min fair: its default model lowers bandwidths and raises latencies to mimic TCP,
# and its default precision of 1 ns is coarse for exchanges of a millisecond (names as of SimGrid 3.32).
SETTINGS = (
    "network/model:CM02",
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "network/weight-S:0",
    "network/latency-factor:1",
    "network/bandwidth-factor:1",
    "surf/precision:1e-12",
    "maxmin/precision:1e-6",
)


def platform(problem: dict[str, Any]) -> list[Any]:
    """A zone in which every pair that talks has the route it is given."""
    zone = simgrid.NetZone.create_full_zone("zone")
    hosts = [zone.create_host(f"rank{rank}", 1e9) for rank in range(problem["ranks"])]
    links = [zone.create_link(f"link{number}", rate).seal() for number, rate in enumerate(problem["capacity"])]
    for source, destination, _, route in problem["flows"]:
        ends = hosts[source].netpoint, hosts[destination].netpoint
        zone.add_route(*ends, None, None, [simgrid.LinkInRoute(links[link]) for link in route], False)
    zone.seal()
    return hosts


def post(hosts: list[Any], flows: list[Any], finish: list[float]) -> None:
    """Start all flows at once and note when each is done."""
    started = [simgrid.Comm.sendto_async(hosts[source], hosts[destination], size) for source, destination, size, _ in flows]
    simgrid.Comm.wait_all(started)
    finish.extend(comm.finish_time for comm in started)


def main() -> None:
    """Read, build, run, print."""
    problem = json.load(sys.stdin)
    engine = simgrid.Engine(["simgrid_driver", *(f"--cfg={setting}" for setting in SETTINGS), "--log=root.thres:error"])
    hosts = platform(problem)
    finish: list[float] = []
    simgrid.Actor.create("poster", hosts[0], post, hosts, problem["flows"], finish)
    began = time.process_time()
    engine.run()
    print(json.dumps({"finish": finish, "cpu_seconds": time.process_time() - began}))


if __name__ == "__main__":
    main()
