"""Finish times of flows by SimGrid's fluid model; run by the Python that has SimGrid, as Debian's has.

    echo '{"ranks": 2, "capacity": [10], "flows": [[0, 1, 30, [0]]]}' | /usr/bin/python3 simgrid_driver.py

Reads one JSON object from standard input: ``ranks``, how many; ``capacity``, B/s of each link; ``flows``, a list of
``[source, destination, whole bytes, [links]]`` that all start at 0, of which all of one pair take the same links; other
keys are ignored. Prints one: ``finish``, seconds of each flow, here ``[3.0]``, ``cpu_seconds`` of the simulation
alone, without start and platform, and ``version``. Arguments are passed on to SimGrid
(``--cfg=network/optim:Full``). Written for SimGrid 3.32, whose option names differ from those of 4.
"""

import json
import sys
import time

import simgrid

PURE_MAX_MIN = {
    "network/model": "CM02",  # no factors fitted to TCP
    "network/crosstraffic": "0",  # or every flow takes 5 % of the way back
    "network/TCP-gamma": "0",  # no window that limits a rate
    "network/weight-S": "0",
    "network/latency-factor": "1",
    "network/bandwidth-factor": "1",
    "surf/precision": "1e-12",  # seconds; 1e-9 by default, too coarse for exchanges of microseconds
    "maxmin/precision": "1e-6",
}


def build(problem):
    """The hosts of the ranks, with a route for each pair that has a flow."""
    zone = simgrid.NetZone.create_full_zone("network")
    hosts = [zone.create_host(f"rank{rank}", 1e9) for rank in range(problem["ranks"])]
    links = []
    for number, capacity in enumerate(problem["capacity"]):
        link = zone.create_link(f"link{number}", float(capacity))
        link.set_latency(0.0)
        link.seal()
        links.append(simgrid.LinkInRoute(link))
    routes = {}
    for source, destination, _, route in problem["flows"]:
        if (source, destination) not in routes:
            ends = hosts[source].netpoint, hosts[destination].netpoint
            zone.add_route(*ends, None, None, [links[link] for link in route], False)
        if routes.setdefault((source, destination), route) != route:
            raise SystemExit(f"flows from {source} to {destination} take two routes; SimGrid knows one for each pair.")
    zone.seal()
    return hosts


def main():
    problem = json.load(sys.stdin)
    options = [f"--cfg={option}:{value}" for option, value in PURE_MAX_MIN.items()]
    engine = simgrid.Engine(["simgrid", "--log=root.thres:warning", *options, *sys.argv[1:]])
    hosts = build(problem)
    finish = []

    def exchange():
        flows = []
        for source, destination, size, _ in problem["flows"]:
            flow = simgrid.Comm.sendto_init(hosts[source], hosts[destination])
            flow.set_payload_size(size)
            flow.start()
            flows.append(flow)
        simgrid.Comm.wait_all(flows)
        finish.extend(flow.finish_time for flow in flows)

    simgrid.Actor.create("exchange", hosts[0], exchange)
    start = time.process_time()
    engine.run()
    spent = time.process_time() - start
    json.dump({"finish": finish, "cpu_seconds": spent, "version": simgrid.simgrid_version}, sys.stdout)


main()
