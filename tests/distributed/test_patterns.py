from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from started import run_script

from smoes_sim.distributed.patterns import PARTS, exchange
from smoes_sim.distributed.two_hop import gateways, part_of, plan_hops
from smoes_sim.errors import ConfigError
from smoes_sim.network import Network, phases_of
from smoes_sim.topology import find_topology


def test_patterns_move_what_the_obvious_one_moves_and_clocks_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # every type and split is tried in one group of ranks: see healthy_ranks.py
    assert run_script("healthy_ranks.py", 4, str(tmp_path)) == [0, 0, 0, 0]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["2x8-h100-ndr400", "lab-two-level-4x2", "8x-h100"])
def test_two_hops_send_the_bytes_that_the_simulator_sends(name: str) -> None:
    topology = find_topology(name)
    num_ranks = topology.num_ranks
    matrix = np.random.default_rng(3).integers(0, 100, (num_ranks, num_ranks)).astype(np.float64)
    predicted = np.zeros((num_ranks, num_ranks))
    for flows in phases_of(Network.on(topology), [matrix], schedule="two_hop"):
        np.add.at(predicted, (flows.source, flows.destination), flows.size)
    planned = np.zeros((num_ranks, num_ranks))
    for rank in range(num_ranks):
        hops = plan_hops(topology.node_of_rank.tolist(), rank)
        for peer, pairs in hops.first_sends + hops.second_sends:
            planned[rank, peer] += sum(matrix[pair] for pair in pairs)
    np.testing.assert_allclose(planned, predicted)


def test_what_one_rank_sends_the_other_expects_in_the_same_order() -> None:
    nodes = [0, 1, 0, 1, 1]
    hops = [plan_hops(nodes, rank) for rank in range(5)]
    for sender in range(5):
        for receiver in range(5):
            if sender != receiver:
                for out, into in (("first_sends", "first_receives"), ("second_sends", "second_receives")):
                    assert dict(getattr(hops[sender], out))[receiver] == dict(getattr(hops[receiver], into))[sender]


def test_an_index_beyond_a_node_wraps() -> None:
    # rank 2 has index 2 in node 0; node 1 holds ranks 3 and 4, so index 2 wraps to rank 3
    assert gateways([0, 0, 0, 1, 1])[2].tolist() == [0, 1, 2, 3, 3]


def test_parts_are_all_rows_in_order() -> None:
    assert [part_of(10, part, 4) for part in range(4)] == [slice(0, 2), slice(2, 5), slice(5, 7), slice(7, 10)]
    assert [part_of(3, part, PARTS) for part in range(PARTS)][-1].stop == 3


def test_an_unknown_schedule_and_unknown_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r'schedule = "pairwize" cannot be run. Did you mean "pairwise"\?'):
        exchange("pairwize")
    with pytest.raises(ConfigError, match="two_hop needs to know which ranks share a node"):
        exchange("two_hop")
