import pytest

from smoes_sim.libraries import rdma
from smoes_sim.libraries.system import Skip
from tests.libraries.rows import case

EFA = {
    "mode": "alltoall_rdma",
    "nodes": 2,
    "inter_link": "AWS EFAv2",
    "nic_bandwidth": 50e9,
    "size": None,
    "notes": "message size 1024 KB; per-GPU network GB/s",
}
NO_START = {"per_write.efa": 1e-15, "efficiency.efa": 1.0, "incast": 1.0, "overlap": 2.0}


def seconds(variant: str, **columns: object) -> float:
    found = case(**(EFA | {"variant": variant} | columns))
    stages = rdma.ALLTOALL.stages(found)
    assert not isinstance(stages, Skip)
    return rdma.ALLTOALL.duration(found, stages, NO_START)


def test_rail_aligned_writes_reach_the_line_rate() -> None:
    assert seconds("rail-aligned (same local index)") == pytest.approx(2**20 / 50e9, rel=0.01)


def test_cross_rail_writes_meet_at_one_receiver() -> None:
    """No constant makes the difference: measured is 2.2, the simulated FIFO gives 1.87, fair sharing would give 1."""
    ratio = seconds("cross-rail (any remote GPU)") / seconds("rail-aligned (same local index)")
    assert 1.7 < ratio < 2.3


def test_rails_are_independent_on_more_nodes_too() -> None:
    aligned = seconds("rail-aligned", nodes=3)
    assert aligned < 0.9 * seconds("cross-rail", nodes=3)


def test_the_size_of_a_message_is_read_from_the_notes() -> None:
    assert rdma.message_size(case(**EFA)) == 2**20
    # or 16 MiB a rank over the 8 ranks of the other node
    assert rdma.message_size(case(**(EFA | {"notes": "", "size": 2.0**24}))) == 2**21


def test_a_bandwidth_gives_the_time_of_a_message() -> None:
    found = case(**(EFA | {"bandwidth": 20e9, "bandwidth_kind": "logical_inter"}))
    assert rdma.ALLTOALL.measured(found) == pytest.approx(2**20 / 20e9)


def test_without_a_message_size_there_is_no_prediction() -> None:
    assert isinstance(rdma.ALLTOALL.stages(case(**(EFA | {"notes": ""}))), Skip)
