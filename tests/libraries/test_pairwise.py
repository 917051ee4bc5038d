import pytest

from smoes_sim.libraries import pairwise
from smoes_sim.libraries.system import Skip
from tests.libraries.rows import case


def test_rounds_wait_for_each_other() -> None:
    # 4 ranks on a switch of 450 GB/s: 3 rounds of 1 us and 1 MiB each, after 5 us
    found = case(library="OpenMPI 5", ranks_per_node=4, size=2.0**22)
    stages = pairwise.ALLTOALL.stages(found)
    assert not isinstance(stages, Skip)
    constants = {"launch": 5e-6, "per_round.nvlink4": 1e-6, "efficiency.nvlink4": 1.0}
    assert found.family == "pairwise_alltoall"
    assert len(stages) == 3
    assert pairwise.ALLTOALL.duration(found, stages, constants) == pytest.approx(5e-6 + 3 * (1e-6 + 2**20 / 450e9))
