from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smoes_sim.calibration.cases import CaseReader, ExchangeCase
from smoes_sim.compute import compute_times
from smoes_sim.errors import ConfigError, MeasurementError
from smoes_sim.measurements import Measurement
from smoes_sim.network import exchange_time
from smoes_sim.prediction.deploy import deploy
from smoes_sim.results.write import resolved_yaml
from smoes_sim.scenario import load_scenario

STAR = "kind: star\nranks: 4\nlink: {kind: ethernet, bandwidth: 1 GB/s, latency: 0 us}\n"


@pytest.fixture
def row(tmp_path: Path) -> Measurement:
    (tmp_path / "star.yaml").write_text(STAR)
    return Measurement(
        id="a", nodes=4, ranks_per_node=1, mode="alltoall", op="alltoall", size=4e6, topology="star.yaml", folder=tmp_path
    )


def test_an_even_exchange_under_constants(row: Measurement) -> None:
    case = CaseReader().read(row)
    # 3 MB at 1 GB/s; at half of that rate, entered after 1 ms: 7 ms
    assert case.duration({}) == pytest.approx(3e-3)
    assert case.duration({"efficiency.ethernet": 0.5, "per_exchange": 1e-3}) == pytest.approx(7e-3)
    assert case.constants == ("per_exchange", "per_message", "efficiency.ethernet")
    assert case.family == "alltoall, direct"


def test_a_matrix_defines_the_traffic(row: Measurement) -> None:
    np.savetxt(row.folder / "m.txt", np.diag([1e6, 1e6, 1e6], k=1), fmt="%d")
    case = CaseReader().read(replace(row, matrix="m.txt", op="alltoallv", schedule="pairwise"))
    assert case.duration({}) == pytest.approx(1e-3)
    assert case.family == "alltoallv, pairwise"


def test_sendrecv_without_a_matrix_is_the_ring_of_nccl_tests(row: Measurement) -> None:
    case = CaseReader().read(replace(row, mode="sendrecv", op="sendrecv"))
    assert case.duration({}) == pytest.approx(4e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topology": ""}, r"^a: topology is empty"),
        ({"nodes": 2}, r"^a: nodes = 2, ranks_per_node = 1: star\.yaml has 4 ranks"),
        ({"schedule": "pairwis"}, r'^a: schedule = "pairwis" is unknown\. Did you mean "pairwise"\?'),
        ({"order": "shift"}, r'^a: order = "shift" is unknown'),
        ({"size": None}, r"^a: bytes_per_rank and matrix are both empty"),
        ({"mode": "ep_normal"}, r'^a: mode = "ep_normal" without a matrix is unknown'),
        ({"scenario": "s.yaml", "phase": "dispach"}, r'^a: phase = "dispach" is unknown\. Did you mean "dispatch"\?'),
    ],
)
def test_rows_that_cannot_be_predicted_name_the_reason(row: Measurement, changes: dict[str, object], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        CaseReader().read(replace(row, **changes))  # type: ignore[arg-type]


def test_files_that_are_missing_are_named(row: Measurement) -> None:
    with pytest.raises(ConfigError, match=r"m\.txt: cannot be read"):
        CaseReader().read(replace(row, matrix="m.txt"))


def test_phases_of_a_scenario_equal_those_of_simulate(tmp_path: Path) -> None:
    scenario = load_scenario("olmoe-two-orin", ["calibration=null", "workload.batch=2", "workload.output_tokens=2"])
    (tmp_path / "s.yaml").write_bytes(resolved_yaml([("s", scenario)]))
    deployment = deploy(scenario)
    base = Measurement(
        id="a", nodes=2, ranks_per_node=1, mode="run", op="prefill", scenario="s.yaml", layer=3, folder=tmp_path
    )
    constants = {"efficiency.ethernet": 0.5, "flops_efficiency": 0.1, "launch": 1e-3}

    def seconds(phase: str) -> float:
        return CaseReader().read(replace(base, phase=phase)).duration(constants)

    slow = replace(deployment.network, efficiency={"ethernet": 0.5})
    layer = deployment.prefill.batches[0].exchanges[3]
    assert seconds("dispatch") == pytest.approx(exchange_time(slow, layer.dispatch).duration)
    assert seconds("combine") == pytest.approx(exchange_time(slow, layer.combine).duration)
    times = compute_times(deployment.model, deployment.prefill.batches[0].load, deployment.under(constants).rates)
    assert seconds("experts") == pytest.approx(times.experts[3].max())
    # no barriers: at most the three phases one after the other, at least the longest
    parts = [seconds(phase) for phase in ("dispatch", "experts", "combine")]
    assert max(parts) < seconds("layer") <= sum(parts) * (1 + 1e-9)
    assert seconds("step") > 16 * min(parts)
    assert CaseReader().read(replace(base, phase="experts")).constants == ("flops_efficiency", "memory_efficiency", "launch")
    with pytest.raises(MeasurementError, match=r"layer = 16: the scenario has the MoE layers 0 to 15"):
        CaseReader().read(replace(base, phase="layer", layer=16))


def test_a_message_and_its_reply_take_the_mean_of_both_directions(row: Measurement) -> None:
    # 1 MB there at 1 GB/s, back at 0.25 GB/s: (1 + 4) / 2 ms
    links = "".join(
        f"  - {{from: {a}, to: {b}, bandwidth: {rate} GB/s, latency: 0 us, duplex: false}}\n"
        for a, b, rate in (("a", "b", 1), ("b", "a", 0.25))
    )
    (row.folder / "ab.yaml").write_text(f"kind: graph\ndevices: [a, b]\nnodes: [[a], [b]]\nlinks:\n{links}")
    np.savetxt(row.folder / "m.txt", [[0, 1e6], [0, 0]], fmt="%d")
    case = CaseReader().read(replace(row, nodes=2, topology="ab.yaml", mode="sendrecv", op="sendrecv", matrix="m.txt"))
    assert case.duration({}) == pytest.approx(2.5e-3)


def test_an_edited_topology_is_read_again_in_the_same_process(tmp_path: Path) -> None:
    row = Measurement(
        id="a", nodes=2, ranks_per_node=1, mode="alltoall", op="alltoall", size=2e6, topology="pair.yaml", folder=tmp_path
    )
    # 1 MB to the other rank: at 100 Mb/s = 12.5 MB/s 80 ms, at 1 Gb/s 8 ms
    for rate, duration in (("100 Mb/s", 0.08), ("1 Gb/s", 0.008)):
        (tmp_path / "pair.yaml").write_text(f"kind: star\nranks: 2\nlink: {{bandwidth: {rate}, latency: 0 us}}\n")
        assert CaseReader().read(row).duration({}) == pytest.approx(duration)


def test_rows_of_one_topology_share_one_network(row: Measurement) -> None:
    reader = CaseReader()
    first, second = reader.read(row), reader.read(replace(row, size=8e6))
    assert isinstance(first, ExchangeCase)
    assert isinstance(second, ExchangeCase)
    assert first.network is second.network
