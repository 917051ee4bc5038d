"""The synthetic router shows the published transmission rates through the whole pipeline, under the stated placement."""

from __future__ import annotations

import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.router import synthesize_trace
from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import load_scenario
from smoes_sim.traffic.copies import transmission_rate

PUBLISHED = {  # public notes on arXiv 2604.23996: OLMoE, two devices, MMMU
    ("standard", "data_parallel"): (0.977, 0.980, 0.865),
    ("smoes", "modality"): (0.150, 0.311, 0.433),
}


@pytest.mark.parametrize(("policy", "tokens"), PUBLISHED)
def test_published_rates_are_met_as_closely_as_the_number_of_tokens_allows(policy: str, tokens: str) -> None:
    # rates are fitted in expectation. Decode has 5,120 pairs of a token and a layer, and neighbouring layers are alike:
    # a standard error of 0.5 * 1.7 / sqrt(5120) = 1.2 points. Prefill has 200,000: 0.2 points
    overrides = [f"routing.policy={policy}", f"placement.tokens={tokens}", "calibration=null"]
    deployment = deploy(load_scenario("olmoe-two-orin", overrides))
    assert deployment.trace is not None
    assert deployment.placement is not None
    rates = transmission_rate(deployment.trace, deployment.placement, deployment.home)
    found = (rates.prefill_vision, rates.prefill, rates.decode)
    assert found == (
        pytest.approx(PUBLISHED[policy, tokens][0], abs=0.006),
        pytest.approx(PUBLISHED[policy, tokens][1], abs=0.006),
        pytest.approx(PUBLISHED[policy, tokens][2], abs=0.036),
    )


def test_the_saving_depends_on_where_tokens_live() -> None:
    # half of the vision tokens live on the wrong device of two when sequences are dealt out: far more than 31.1% leave
    overrides = ["routing.policy=smoes", "placement.tokens=data_parallel", "calibration=null", "workload.output_tokens=1"]
    assert simulate(load_scenario("olmoe-two-orin", overrides)).transmission_rate.prefill > 0.5


def test_a_dense_model_of_equal_active_size_communicates_nothing() -> None:
    overrides = ["model=olmoe-1b-7b-dense-active", "calibration=null", "workload.output_tokens=2"]
    values = simulate(load_scenario("olmoe-two-orin", overrides)).to_dict()
    assert values["policy"] == "dense"
    assert (values["bytes_total"], values["ep_comm_s"]) == (0, 0)
    assert values["ep_exposed_s"] == pytest.approx(0, abs=1e-12)
    assert values["ttft_s"] > 0


def test_policy_dense_is_the_dense_model_of_equal_total_size() -> None:
    overrides = ["calibration=null", "workload.output_tokens=2"]
    by_policy, by_name = (
        simulate(load_scenario("olmoe-two-orin", [*overrides, asked])).to_dict()
        for asked in ("routing.policy=dense", "model=olmoe-1b-7b-dense-total")
    )
    assert by_policy == by_name
    assert by_policy["bytes_total"] == 0


def test_nothing_can_be_synthesized_of_a_dense_model() -> None:
    with pytest.raises(ConfigError, match="a dense model routes nothing"):
        synthesize_trace(load_scenario("olmoe-two-orin", ["routing.policy=dense"]))


@pytest.mark.parametrize("deduplicate", ["none", "rank", "node"])
@pytest.mark.parametrize("library", ["direct", "pairwise", "two_hop"])
def test_every_library_and_deduplication_runs_on_two_nodes(library: str, deduplicate: str) -> None:
    overrides = [
        "topology=2x8-h100-ndr400",
        "model.layers=2",
        "compute.device=h100-sxm",
        "compute.flops_efficiency=0.5",  # values instead of ranges: one pass instead of three
        "compute.memory_efficiency=0.8",
        "calibration=null",
        "workload.batch=16",
        "workload.decode_batch=16",
        "workload.images=0",
        "workload.text_tokens=4",
        "workload.output_tokens=2",
        f"communication.library={library}",
        f"communication.deduplicate={deduplicate}",
    ]
    values = simulate(load_scenario("olmoe-two-orin", overrides)).to_dict()
    assert 0 < values["bound_s"] <= values["ep_comm_s"] * (1 + 1e-9)
    assert 0 < values["bytes_remote"] <= values["bytes_total"]
