"""Our fluid model against SimGrid's, which others wrote: the same flows on the same links."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from build_from import NODES, star, topology
from reference import flows_as_lists

from smoes_sim.network import Network, phases_of
from smoes_sim.network.fluid.solve import fluid_times
from smoes_sim.traffic.skewed import zipf_matrix

PYTHON = "/usr/bin/python3"
DRIVER = Path(__file__).with_name("simgrid_driver.py")
MIB = 2**20


@pytest.fixture(scope="module")
def simgrid():
    """A function from flows to SimGrid's finish times."""
    try:
        found = subprocess.run([PYTHON, "-c", "import simgrid"], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        pytest.skip(f"there is no {PYTHON}, so no SimGrid of Debian's python3-simgrid")
    if found.returncode:
        pytest.skip(f"SimGrid is not installed for {PYTHON} (apt-get install python3-simgrid): {found.stderr[-200:]}")

    def finish(num_ranks, ends, size, routes, capacity):
        flows = [[*pair, int(bytes_), route] for pair, bytes_, route in zip(ends, size, routes, strict=True)]
        problem = json.dumps({"ranks": num_ranks, "capacity": list(capacity), "flows": flows})
        done = subprocess.run([PYTHON, DRIVER], input=problem, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return np.array(json.loads(done.stdout)["finish"])

    return finish


def test_simgrid_is_set_to_pure_max_min(simgrid):
    # a -> b alone has 10 - 2 = 8 B/s of the first link: 30 B in 3.75 s; the two on the second have 2 B/s each: 10 B in
    # 5 s, then the other has 4 B/s for its last 90 B: 27.5 s
    times = simgrid(4, [(0, 1), (0, 2), (3, 2)], [30, 10, 100], [[0], [0, 1], [1]], [10.0, 4.0])
    assert times.tolist() == pytest.approx([3.75, 5.0, 27.5], rel=1e-12)


CASES = {
    **{f"star of {ranks}": star(ranks) for ranks in (4, 8, 16)},
    **{f"{nodes} nodes of 4": NODES.replace("nodes: 2", f"nodes: {nodes}") for nodes in (1, 2, 4)},
    "2 nodes of 4, 4:1": NODES + "fabric: {oversubscription: 4, latency: 3 us}",
    "4 nodes of 4, 4:1": NODES.replace("nodes: 2", "nodes: 4") + "fabric: {oversubscription: 4, latency: 3 us}",
    "2 nodes of 8, one NIC each": NODES.replace("ranks_per_node: 4", "ranks_per_node: 8").replace(
        "infiniband,", "infiniband, per: node,"
    ),
}


@pytest.mark.parametrize("exponent", [0.3, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_every_message_of_a_skewed_exchange_drains_when_simgrid_says(simgrid, name, exponent):
    network = Network.on(topology(CASES[name]))
    ranks = network.topology.num_ranks
    # whole bytes, as SimGrid counts them, and no two messages of a size
    matrix = np.floor(zipf_matrix(ranks, 64 * MIB, exponent=exponent, seed=ranks, per_source=True))
    matrix += np.random.default_rng(ranks).integers(0, 1000, matrix.shape)
    (flows,) = phases_of(network, [matrix])
    ours = fluid_times(flows.routes.offsets, flows.routes.links, flows.size, network.capacity, ceiling=flows.ceiling)
    ends = zip(flows.source.tolist(), flows.destination.tolist(), strict=True)
    theirs = simgrid(ranks, ends, flows.size, flows_as_lists(flows), network.capacity.tolist())
    assert np.isinf(flows.ceiling).all()  # no fatpipe, which the driver does not know
    worst = float(np.max(abs(ours.drained / theirs - 1)))
    print(f"{name}, Zipf({exponent}): {len(flows)} flows, largest relative difference {worst:.1e}")  # noqa: T201 - shown by -s
    assert worst < 1e-6
