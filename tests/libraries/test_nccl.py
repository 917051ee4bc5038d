import pytest

from smoes_sim.libraries import nccl
from smoes_sim.libraries.stage import ScheduleStage
from smoes_sim.libraries.system import Skip
from tests.libraries.rows import case

PERFECT = {
    "launch.nvlink4": 10e-6,
    "per_peer": 1e-6,
    "simple": 5e-6,
    "overlap": 1.0,
    "efficiency.nvlink4": 1.0,
    "pipeline.nvlink4": 1e-3,
    "copy.nvlink4": 1e30,
}


def step(**columns: object) -> ScheduleStage:
    stages = nccl.ALLTOALL.stages(case(**columns))
    assert not isinstance(stages, Skip)
    return stages[0]


def duration(constants: dict[str, float], **columns: object) -> float:
    return nccl.ALLTOALL.duration(case(**columns), [step(**columns)], constants)


def test_the_own_block_is_copied_locally() -> None:
    # of 64 MiB, 7/8 leave by the link of 450 GB/s and 1/8 is copied
    found = step()
    assert found.busy["nvlink4"] == pytest.approx(7 / 8 * 2**26 / 450e9)
    assert found.local == pytest.approx(2**26 / 8)
    assert found.messages["nvlink4"] == 7


def test_time_adds_up_by_hand() -> None:
    # launch 10 us, 7 peers of 1 us, Simple 5 us, then 7/8 of 64 MiB at 450 GB/s: 130.489 us
    assert duration(PERFECT) == pytest.approx(22e-6 + 130.489e-6, rel=1e-4)


def test_small_blocks_do_not_pay_for_simple() -> None:
    # blocks of 16 B: 10 + 7 us, and 0.25 ns on the wire
    assert duration(PERFECT, size=128.0) == pytest.approx(17e-6, rel=1e-4)


def test_full_buffers_double_short_transfers_only() -> None:
    window = PERFECT | {"launch.nvlink4": 1e-12, "per_peer": 1e-15, "simple": 1e-15, "pipeline.nvlink4": 16e6}
    wire = 7 / 8 * 2**20 / 450e9
    filled = 16e6 / 450e9
    assert duration(window, size=2.0**20) == pytest.approx(wire + wire * filled / (wire + filled), rel=1e-4)
    assert duration(window, size=2.0**36) == pytest.approx(7 / 8 * 2**36 / 450e9 + filled, rel=1e-3)


def test_a_process_with_eight_devices_launches_on_them_one_after_the_other() -> None:
    eight = PERFECT | {"enqueue": 9e-6}
    alone = duration(eight)
    assert alone == duration(PERFECT)  # one device per process: nothing to enqueue
    assert duration(eight, library="NCCL, 1 process 8 GPUs (-g 8)") - alone == pytest.approx(7 * 9e-6)


def test_between_nodes_the_nic_is_the_bottleneck() -> None:
    # 2 x 8: of 64 MiB half crosses a NIC of 50 GB/s (671 us), 7/16 the scale-up link (65 us)
    found = step(nodes=2, inter_link="InfiniBand", nic_bandwidth=50e9)
    assert found.busy["infiniband"] == pytest.approx(2**25 / 50e9)
    assert found.busy["nvlink4"] == pytest.approx(7 / 16 * 2**26 / 450e9)


def test_sockets_of_a_pcie_box_carry_a_quarter_of_all_bytes() -> None:
    # 4 ranks send half of their 64 MiB to the other socket, over one host link of 22 GB/s
    found = step(intra_link="PCIe4 (no NVLink)", intra_bandwidth=31e9)
    assert found.busy["host"] == pytest.approx(4 * 2**25 / 22e9)


def test_point_to_point_sends_all_bytes_in_one_direction() -> None:
    stages = nccl.SENDRECV.stages(case(mode="sendrecv", op="sendrecv", ranks_per_node=2))
    assert not isinstance(stages, Skip)
    assert stages[0].busy["nvlink4"] == pytest.approx(2**26 / 450e9)
    assert stages[0].local == 0


@pytest.mark.parametrize("size", [None, 0.0])
def test_a_row_without_a_size_is_skipped(size: float | None) -> None:
    assert nccl.ALLTOALL.stages(case(size=size)) == Skip("bytes_per_rank is empty or 0")
