from __future__ import annotations

from pathlib import Path

import pytest
from layer_cases import Case, scenario_of

from smoes_sim.distributed import facts
from smoes_sim.distributed.runnable import (
    as_executed,
    check_memory,
    check_runnable,
    num_ranks_of,
    with_trace,
    write_scenario,
)
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import Scenario, load_scenario


def changed(scenario: Scenario, **communication: object) -> Scenario:
    return scenario.model_copy(update={"communication": scenario.communication.model_copy(update=communication)})


def test_the_scenario_as_executed_predicts_what_the_original_does(tmp_path: Path) -> None:
    scenario = scenario_of(Case(tokens="modality", policy="smoes"))
    executed = load_scenario(str(write_scenario(with_trace(scenario, tmp_path), tmp_path)))
    assert executed.routing.trace == str(tmp_path / "trace.npz")
    assert simulate(executed) == simulate(scenario)
    assert with_trace(executed, tmp_path) == executed
    assert num_ranks_of(executed) == 4


def test_what_cannot_be_run_is_refused_with_what_can() -> None:
    scenario = scenario_of(Case())
    check_runnable(scenario)
    with pytest.raises(ConfigError, match=r"library = low_latency: can be predicted, not run. Use direct, pairwise"):
        check_runnable(changed(scenario, library="low_latency", deduplicate="none"))
    with pytest.raises(ConfigError, match=r"order = naive: .* Use shifted"):
        check_runnable(changed(scenario, order="naive"))
    with pytest.raises(ConfigError, match=r"overlap = two_batch: .* overlap: none"):
        check_runnable(scenario.model_copy(update={"overlap": "two_batch"}))
    with pytest.raises(ConfigError, match=r'model = "olmoe-1b-7b-dense-total": a dense model'):
        check_runnable(scenario.model_copy(update={"model": "olmoe-1b-7b-dense-total"}))


def test_two_hops_of_node_deduplication_are_executed_and_predicted_as_two_direct_exchanges() -> None:
    scenario = scenario_of(Case())
    hops = changed(scenario, library="two_hop", deduplicate="node")
    assert as_executed(hops) == changed(scenario, library="direct", deduplicate="node", rendezvous=True)
    for other in (changed(scenario, library="two_hop"), changed(scenario, library="pairwise", deduplicate="node")):
        assert as_executed(other) == changed(other, rendezvous=True)


def test_experts_that_do_not_fit_are_refused_with_their_size() -> None:
    """One layer of two experts and a shared one a rank, 3 * 24 * 20 parameters of 2 bytes: 8640 B, on four ranks 34560 B."""
    deployment = deploy(scenario_of(Case()))
    check_memory(deployment, num_ranks=4, free=34560 / 0.8)
    with pytest.raises(ConfigError, match=r"experts take 0.0 GB on each of 4 ranks .* Write a smaller model"):
        check_memory(deployment, num_ranks=4, free=34559 / 0.8)
    wide = changed(deployment.scenario, combine="fp32")
    with pytest.raises(ConfigError, match=r"on each of 2 ranks"):
        check_memory(deploy(wide), num_ranks=2, free=34559 / 0.8)


def test_what_the_kernel_takes_of_a_message_is_known_where_it_does_not_vary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_TCP", tmp_path)
    assert facts.fixed_send_buffer("gloo") is None
    (tmp_path / "tcp_wmem").write_text("4096\t131072\t131072\n")
    assert facts.fixed_send_buffer("gloo") == 108790  # 0.83 * 131072
    assert facts.fixed_send_buffer("nccl") is None
    (tmp_path / "tcp_wmem").write_text("4096\t16384\t4194304\n")
    assert facts.fixed_send_buffer("gloo") is None


def test_the_send_buffer_is_part_of_the_scenario_as_executed() -> None:
    scenario = as_executed(load_scenario("olmoe-two-orin"), send_buffer=1000)
    assert scenario.communication.send_buffer == 1000
    assert deploy(scenario).network.send_buffer == 1000
