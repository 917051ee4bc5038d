"""What ``smoes-sim run`` prints: the network that was used, and errors only against that one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from layer_cases import Case, scenario_of

from smoes_sim.distributed.hosts import RankFacts, SystemFacts, network_words
from smoes_sim.distributed.prediction import LAYER_PHASES
from smoes_sim.distributed.rows import Measured, RunFacts, RunRow
from smoes_sim.distributed.run_result import RunResult, summarise
from smoes_sim.prediction.deploy import deploy
from smoes_sim.workload import WorkloadSpec

SYSTEM = SystemFacts(
    smoes_sim="1", python="3", torch="2", kernel="6", backend="gloo", nccl=None, ranks=4, nodes=1, timeout_s=60.0,
    send_buffer_bytes=None, lab=None,
)  # fmt: skip


def ranks(*hosts: str, interface: str = "lo") -> tuple[RankFacts, ...]:
    return tuple(
        RankFacts(
            rank=rank, host=host, device="cpu", cpus=2, interface=interface, mtu=1500, tcp_congestion_control="cubic",
            tcp_rmem=None, tcp_wmem=None, tcp_slow_start_after_idle="1",
        )
        for rank, host in enumerate(hosts)
    )  # fmt: skip


def result(system: SystemFacts, per_rank: tuple[RankFacts, ...], **workload: object) -> RunResult:
    """Every phase took 2 s on rank 0 and 1 s elsewhere, in every layer and step."""
    scenario = scenario_of(Case())
    if workload:
        scenario = scenario.model_copy(update={"workload": WorkloadSpec.model_validate(workload)})
    deployment = deploy(scenario)
    rows = [
        RunRow(
            step=step, layer=0, phase=phase, rank=rank, repeat=0, time_s=1.0 + (rank == 0), cpu_s=0.5, bytes_sent=10**6,
            bytes_received=0, tokens=1, routed_tokens=1, active_experts=1,
        )
        for step in range(len(deployment.steps)) for phase in LAYER_PHASES for rank in range(4)
    ]  # fmt: skip
    facts = RunFacts(
        system=system, library="gloo", clock="shared memory", activation="float32", warmup=2, repeats=1, per_rank=per_rank
    )
    return summarise(Measured(deployment=deployment, rows=rows, facts=facts))


@pytest.mark.parametrize(
    ("system", "per_rank", "words"),
    [
        (SYSTEM, ranks(*"aaaa"), "4 ranks on this machine, loopback"),
        (replace(SYSTEM, lab="lab-star-4"), ranks(*"aaaa", interface="w0"), "4 ranks in lab lab-star-4"),
        (replace(SYSTEM, backend="nccl"), ranks(*"aaaa"), "4 ranks on this machine"),
        (SYSTEM, ranks(*"aabb", interface="ib0"), "4 ranks on 2 hosts, interface ib0"),
    ],
)
def test_the_network_is_named_that_was_used(system: SystemFacts, per_rank: tuple[RankFacts, ...], words: str) -> None:
    assert network_words(system, per_rank) == words


def test_no_error_is_printed_against_a_network_that_was_not_used() -> None:
    found = result(SYSTEM, ranks(*"aaaa"))
    name = found.measured.deployment.topology.name
    lines = repr(found).splitlines()
    assert lines[0].split(None, 1) == ["measured", "4 ranks on this machine, loopback; gloo; 2 processors a host"]
    assert lines[1].split(None, 1) == ["predicted", f"on topology {name}, which this run did not use: no errors are printed"]
    assert "error" not in "\n".join(lines[2:])
    assert max(map(len, lines)) <= 100
    assert found.to_dict()["ran_on"] == "4 ranks on this machine, loopback"


def test_in_a_lab_errors_stand_beside_measurement_and_prediction() -> None:
    found = result(replace(SYSTEM, lab="x"), ranks(*"aaaa", interface="w0"))
    header = next(line for line in repr(found).splitlines() if line.startswith("step"))
    assert "error (%)" in header
    (row,) = [row for row in found.medians if (row.step, row.phase) == (0, "dispatch")]
    assert (row.measured_s, row.bytes_remote) == (2.0, 4 * 10**6)  # the slowest rank; four ranks
    assert row.relative_error == (row.predicted_s - 2.0) / 2.0


def test_a_run_of_decode_alone_has_decode_steps_only() -> None:
    found = result(SYSTEM, ranks(*"aaaa"), phase="decode", sequences_per_rank=2, context=50, output_tokens=4)
    assert [(step.step, step.phase, step.tokens) for step in found.steps] == [(number, "decode", 8) for number in range(3)]
    assert {row.step for row in found.medians} == {0, 1, 2}


def test_records_are_the_medians_and_the_document_adds_the_rows() -> None:
    found = result(SYSTEM, ranks(*"aaaa"))
    assert found.to_polars().columns[:4] == ["step", "layer", "phase", "measured_s"]
    assert found.to_dict() == found.summary() | {"rows": found.to_dict()["rows"]}
    assert len(found.to_dict()["rows"]) == len(found.measured.rows)
