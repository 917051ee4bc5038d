from __future__ import annotations

import numpy as np
import pytest
from build_from import EVERY_KIND, PARALLEL, PODS, TREE, topology

from smoes_sim.network import Network
from smoes_sim.topology import Router, routes

DIVIDED = {"rail": PODS, "tree": TREE, "parallel": PARALLEL}
SPLIT = {f"{name} divided": text + "\nrouting: split" for name, text in DIVIDED.items()}
HALF = {"ethernet": 1e3, "nvlink": 3e3, "generic": 1e4}


def all_pairs(num_ranks):
    return np.nonzero(~np.eye(num_ranks, dtype=bool))


def arrays_of(flows):
    share = flows.routes.share
    return [flows.routes.offsets, flows.routes.links, flows.ceiling, flows.latency, *([] if share is None else [share])]


@pytest.mark.parametrize("text", [*EVERY_KIND.values(), *SPLIT.values()], ids=[*EVERY_KIND, *SPLIT])
def test_flows_selected_from_the_routes_of_all_pairs_have_the_same_bytes_as_compiled_ones(text):
    network = Network.on(topology(text), seed=3, half_size=HALF)
    source, destination = all_pairs(network.topology.num_ranks)
    kept = np.random.default_rng(1).random(len(source)) < 0.6
    source, destination = source[kept], destination[kept]
    size = np.arange(1.0, len(source) + 1)
    compiled = network.messages(source, destination, size)  # fewer than there are pairs: not kept yet
    longer = network.sized(compiled).size
    network.router.all_pairs(10**6)
    selected = network.messages(source, destination, size)
    assert [array.tobytes() for array in arrays_of(selected)] == [array.tobytes() for array in arrays_of(compiled)]
    assert network.sized(selected).size.tobytes() == longer.tobytes()


def test_matrices_with_all_pairs_share_their_routes():
    network = Network.on(topology(EVERY_KIND["two_level"]))
    source, destination = all_pairs(network.topology.num_ranks)
    first, second = (network.messages(source, destination, np.full(len(source), size)) for size in (1.0, 2.0))
    assert first.routes is second.routes
    other = network.with_constants(efficiency={"nvlink": 0.5}).messages(source, destination, first.size)
    assert other.routes.links.tobytes() == first.routes.links.tobytes()


def test_routes_are_kept_once_as_many_were_asked_for_as_there_are_pairs():
    router = Router(topology(EVERY_KIND["star"]))  # 5 ranks: 20 pairs
    assert router.all_pairs(19) is None
    kept = router.all_pairs(1)
    assert len(kept) == 20
    assert router.pair(np.array([0, 1, 4]), np.array([1, 0, 3])).tolist() == [0, 4, 19]
    assert kept.of(19) == router.compile(np.array([4]), np.array([3])).of(0)


def test_too_many_routes_are_not_kept(monkeypatch):
    monkeypatch.setattr(routes, "_KEPT", 39)  # 20 routes of 2 links; rank 0 has 8 of the entries, so 5 ranks have 40
    assert Router(topology(EVERY_KIND["star"])).all_pairs(100) is None
