from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import orjson
import pytest
from reference_traffic import remote_share

from smoes_sim import deployment as deployment_module
from smoes_sim.config import load_scenario
from smoes_sim.deployment import deploy, synthesize_trace
from smoes_sim.errors import ConfigError, PlacementError, TraceError
from smoes_sim.network import Flows
from smoes_sim.routing import save_trace
from smoes_sim.simulate import INTERVAL, predict, simulate

KEYS = {  # design, section 4
    "ttft_s",
    "tpot_s",
    "tokens_per_s",
    "step_s",
    "ep_overhead",
    "ep_comm_s",
    "ep_exposed_s",
    "bytes_total",
    "bytes_remote",
    "transmission_rate",
    "imbalance",
    "bound_s",
    "intervals",
    "policy",
    "token_placement",
    "expert_placement",
}
STANDARD = ("routing.policy=standard", "placement.tokens=data_parallel")
SMOES = ("routing.policy=smoes", "placement.tokens=modality")
SMALL = ("workload={preset: mme, batch: 2}", "routing.rates=null")
TWO_BY_TWO = (
    "topology={kind: two_level, nodes: 2, ranks_per_node: 2, scale_up: {kind: up, bandwidth: 100 GB/s, latency: 1 us}, "
    "nic: {kind: out, bandwidth: 10 GB/s, latency: 5 us}}"
)


def scenario(*overrides, calibration="null"):
    return load_scenario("olmoe-two-orin", [f"calibration={calibration}", *overrides])


def values(*overrides):
    return simulate(scenario(*overrides)).values


def forget():
    """Drop what earlier predictions left in memory."""
    deployment_module.make_router.cache_clear()
    deployment_module._route.cache_clear()


# arXiv 2604.23996, through the notes, section 2: OLMoE on two Orin, MMMU
PUBLISHED = [(STANDARD, (0.977, 0.980, 0.865)), (SMOES, (0.150, 0.311, 0.433))]


@pytest.mark.parametrize(("overrides", "published"), PUBLISHED)
def test_the_published_transmission_rates_come_out_of_the_whole_pipeline(overrides, published):
    deployed = deploy(scenario(*overrides))
    printed = predict(deployed).values["transmission_rate"]
    found = [printed["prefill_vision"], printed["prefill"], printed["decode"]]
    assert found == pytest.approx(published, abs=0.005)
    # and counted once more, token by token
    trace, work = deployed.trace, deployed.workload
    ids, ranks, home = trace.expert_ids.tolist(), deployed.placement.expert_rank.tolist(), deployed.home.tolist()
    prefill = range(work.num_prefill_tokens)
    vision = [token for token in prefill if work.modality[token] == 1]
    decode = range(work.num_prefill_tokens, work.num_tokens)
    assert found == [pytest.approx(remote_share(ids, ranks, home, chosen)) for chosen in (vision, prefill, decode)]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("overrides", "published"), PUBLISHED)
def test_the_published_rates_do_not_hang_on_the_seed(overrides, published, seed):
    rates = values(*overrides, f"seed={seed}")["transmission_rate"]
    assert [rates["prefill_vision"], rates["prefill"], rates["decode"]] == pytest.approx(published, abs=0.005)


def test_the_saving_of_smoes_depends_on_where_tokens_live():
    # with sequences dealt out, half of the tokens live on the wrong side: of vision, nearly all of that half leaves
    dealt = values("routing.policy=smoes", "placement.tokens=data_parallel")["transmission_rate"]
    assert dealt["prefill_vision"] > 0.5


def test_hard_routing_with_tokens_at_home_with_their_modality_sends_nothing():
    row = values("routing.policy=hard", "placement.tokens=modality")
    assert row["transmission_rate"] == {"prefill_vision": 0, "prefill_text": 0, "prefill": 0, "decode": 0}
    assert (row["bytes_remote"], row["ep_comm_s"], row["ep_exposed_s"], row["msi"]) == (0, 0, 0, 1)
    # vision 576 of about 726 tokens on one of two ranks: 2 * 576 / 726 = 1.59
    assert row["imbalance"] == pytest.approx(1.59, abs=0.08)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ("{prefill_vision: 0.9, prefill: 0.1, decode: 0.5}", r"rates\.prefill = 0\.1 .* a text rate of -\d\.\d+ with 4608"),
        ("{prefill_vision: 0.1, prefill: 0.2, decode: 0.5}", r"a rate of 0\.1 for prefill_vision is out of reach of a"),
    ],
)
def test_rates_that_no_router_shows_are_refused_in_one_line(rates, message):
    with pytest.raises(TraceError, match=message) as caught:
        values(f"routing.rates={rates}")
    assert "\n" not in str(caught.value)


def test_wanted_rates_of_ones_own_come_out():
    row = values("routing.rates={prefill_vision: 0.8, prefill: 0.82, decode: 0.7}", "routing.msi=0.3")
    rates = row["transmission_rate"]
    assert [rates["prefill_vision"], rates["prefill"], rates["decode"]] == pytest.approx([0.8, 0.82, 0.7], abs=0.005)
    assert row["msi"] == pytest.approx(0.3, abs=0.015)


@pytest.mark.parametrize(("policy", "published"), [("standard", 0.205), ("smoes", 0.62), ("hard", 1.0)])
def test_with_neither_rates_nor_index_the_published_index_comes_out(policy, published):
    row = values(f"routing.policy={policy}", "routing.rates=null")
    assert row["msi"] == pytest.approx(published, abs=0.015)


@pytest.mark.parametrize("model", ["olmoe-1b-7b", "olmoe-1b-7b-dense-active"])
@pytest.mark.parametrize("output_tokens", [1, 3])
def test_the_keys_that_scripts_rely_on_are_always_there(model, output_tokens):
    row = values(*SMALL, f"model={model}", f"workload.output_tokens={output_tokens}")
    assert set(row) >= KEYS
    assert (row["tpot_s"] is None) == (output_tokens == 1)
    assert row["intervals"] == {}
    if model == "olmoe-1b-7b":
        assert set(row["transmission_rate"]) == {"prefill_vision", "prefill_text", "prefill", "decode"}
    orjson.loads(orjson.dumps(row))


def test_the_settings_that_the_saving_depends_on_are_printed_with_it():
    row = values(*SMALL, *SMOES)
    assert (row["policy"], row["token_placement"], row["expert_placement"]) == ("smoes", "modality", "bins")


@pytest.mark.parametrize("overrides", [STANDARD, SMOES, (*SMALL, TWO_BY_TWO, "communication.order=random")])
def test_the_same_scenario_and_seed_give_identical_bytes(overrides):
    forget()
    first = orjson.dumps(values(*overrides))
    forget()
    assert orjson.dumps(values(*overrides)) == first


def test_another_seed_gives_another_routing():
    assert values(*SMALL)["bytes_remote"] != values(*SMALL, "seed=1")["bytes_remote"]


def test_times_follow_from_each_other():
    row = values()
    assert row["ttft_s"] == row["step_s"]
    assert row["ep_overhead"] == pytest.approx(row["ep_exposed_s"] / row["step_s"])
    assert row["decode_ep_overhead"] == pytest.approx(row["decode_ep_exposed_s"] / row["tpot_s"])
    # 8 sequences of 16 output tokens: one comes from prefill, 15 steps each, decoded one by one
    assert row["tokens_per_s"] == pytest.approx(8 * 16 / (row["ttft_s"] + 8 * 15 * row["tpot_s"]))
    late = values("compute.per_prefill=2 s")
    assert late["ttft_s"] == pytest.approx(row["ttft_s"] + 2)
    assert (late["step_s"], late["tpot_s"]) == (row["step_s"], row["tpot_s"])


@pytest.mark.parametrize(
    "overrides",
    [
        STANDARD,
        SMOES,
        (*SMALL, TWO_BY_TWO),
        (*SMALL, TWO_BY_TWO, "communication.deduplicate=node"),
        (*SMALL, TWO_BY_TWO, "communication.library=pairwise", "communication.per_message=20 us"),
        (*SMALL, TWO_BY_TWO, "communication.per_exchange=50 us", "placement.tokens=sharded"),
        (*SMALL, "model=deepseekmoe-16b", "overlap=shared_expert"),
    ],
)
def test_communication_is_never_faster_than_its_bound_nor_exposed_for_longer_than_it_takes(overrides):
    row = values(*overrides)
    for phase in ("", "decode_"):
        assert 0 < row[f"{phase}bound_s"] <= row[f"{phase}ep_comm_s"] * (1 + 1e-9)
        assert 0 < row[f"{phase}ep_exposed_s"] <= row[f"{phase}ep_comm_s"] * (1 + 1e-9)
        assert row[f"{phase}ep_exposed_s"] < row[f"{phase}step_s"]


def test_latency_alone_is_exposed():
    # two ranks, no bytes-time: each of 16 layers waits 2 ms of latency for dispatch and for combine: 64 ms
    row = values("topology={kind: star, ranks: 2, link: {bandwidth: 1000 TB/s, latency: 1 ms}}")
    assert row["ep_comm_s"] == pytest.approx(0.064, rel=1e-3)
    assert row["ep_exposed_s"] == pytest.approx(0.064, rel=0.02)


def test_a_network_that_costs_nothing_exposes_nothing():
    row = values("topology={kind: star, ranks: 2, link: {bandwidth: 1000 TB/s}}")
    assert 0 <= row["ep_exposed_s"] < 1e-5
    assert row["ep_exposed_s"] <= row["ep_comm_s"] * (1 + 1e-9)


def test_shared_experts_hide_communication():
    plain = values(*SMALL, "model=deepseekmoe-16b")
    hidden = values(*SMALL, "model=deepseekmoe-16b", "overlap=shared_expert")
    assert hidden["ep_comm_s"] == plain["ep_comm_s"]
    assert hidden["ep_exposed_s"] < plain["ep_exposed_s"]
    assert hidden["step_s"] < plain["step_s"]


def matrix(flows: Flows, ranks):
    """Bytes from rank to rank."""
    sent = np.zeros((ranks, ranks))
    np.add.at(sent, (flows.source, flows.destination), flows.size)
    return sent


@pytest.mark.parametrize("deduplicate", ["none", "rank", "node"])
def test_combine_goes_back_the_way_dispatch_came_in_its_own_element_size(deduplicate):
    deployed = deploy(scenario(*SMALL, TWO_BY_TWO, f"communication.deduplicate={deduplicate}", "communication.dispatch=fp8"))
    step = deployed.prefill
    assert (step.dispatch_bytes, step.combine_bytes) == (2048 + 16 * 4, 4096)
    for layer, exchange in enumerate(step.exchanges):
        assert len(exchange.dispatch) == len(exchange.combine) == len(step.traffic.stages)
        for out, back, copies in zip(exchange.dispatch, reversed(exchange.combine), step.traffic.stages, strict=True):
            away = copies[layer] * (1 - np.eye(4))
            assert matrix(out, 4).tolist() == (away * 2112).tolist()
            assert matrix(back, 4).tolist() == (away.T * 4096).tolist()
    sent = sum(float(flows.size.sum()) for layer in step.exchanges for flows in (*layer.dispatch, *layer.combine))
    assert step.bytes_remote == sent == step.traffic.remote_copies * (2112 + 4096)
    assert step.bytes_total == sent + step.traffic.local_copies * (2112 + 4096)


def test_the_work_of_a_step_adds_up_over_ranks():
    deployed = deploy(scenario(*SMALL, TWO_BY_TWO, "placement.tokens=sharded"))
    work, load = deployed.workload, deployed.prefill.load
    assert load.tokens.sum() == work.num_prefill_tokens
    assert load.tokens.max() - load.tokens.min() <= 1
    assert load.slots.sum(axis=1).tolist() == [work.num_prefill_tokens * 8] * 16
    # causal: a prompt of n tokens has n (n + 1) / 2 pairs; each sequence makes one token
    assert load.context.sum() == sum(n * (n + 1) // 2 for n in work.sequence_prompt_tokens.tolist())
    assert load.outputs.sum() == 2
    assert (load.active_experts.sum(axis=1) == (deployed.prefill.traffic.expert_slots > 0).sum(axis=1)).all()
    for step in deployed.decode:  # two sequences decoded together, one token each
        assert step.load.tokens.sum() == step.load.outputs.sum() == 2
        assert step.load.slots.sum(axis=1).tolist() == [16] * 16
        assert step.load.cached.tolist() == step.load.context.tolist()


def test_decode_steps_are_spread_evenly_from_the_first_to_the_last():
    # one sequence of 726 prompt tokens and 18 output tokens: 17 steps, of which 8: 0, 2, 4, 6, 9, 11, 13, 16
    deployed = deploy(scenario("workload={preset: mmmu, batch: 1, output_tokens: 18, spread: 0.0}", "routing.rates=null"))
    attended = [int(step.load.context.sum()) - 727 for step in deployed.decode]
    assert attended == [math.floor(i * 16 / 7) for i in range(8)]


def test_a_dense_model_is_replicated_and_never_communicates():
    row = values("model=olmoe-1b-7b-dense-active")
    assert (row["policy"], row["expert_placement"], row["token_placement"]) == ("dense", "replicated", "data_parallel")
    assert (row["transmission_rate"], row["msi"], row["imbalance"]) == (None, None, 1.0)
    for key in ("bytes_total", "bytes_remote", "ep_comm_s", "ep_exposed_s", "bound_s", "ep_overhead"):
        assert row[key] == 0
    assert row["ttft_s"] > row["tpot_s"] > 0


def test_a_trace_file_predicts_what_its_synthetic_router_does(tmp_path):
    synthetic = scenario(*SMALL, *SMOES)
    path = tmp_path / "t.npz"
    save_trace(synthesize_trace(synthetic), path)
    captured = scenario(*SMALL, *SMOES, f"routing.trace={path}")
    assert simulate(captured).values == simulate(synthetic).values


def test_a_trace_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "t.npz"
    rows = []
    for policy in ("standard", "smoes"):
        save_trace(synthesize_trace(scenario(*SMALL, f"routing.policy={policy}")), path)
        rows.append(values(*SMALL, f"routing.trace={path}")["msi"])
    assert rows[1] > rows[0] + 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model=deepseekmoe-16b"], "layers = 16, but the scenario's model and workload have 27"),
        (["model=qwen3-30b-a3b"], "num_experts = 64, but the scenario's model and workload have 128"),
        (["workload.batch=3"], r"tokens = \d+, but the scenario's model and workload have \d+"),
        # one sequence of the same number of tokens: 2 * (576 + 38 + 1)
        (["workload={images: 2, image_width: 1, image_height: 1, text_tokens: 77, output_tokens: 2}"], None),
    ],
)
def test_a_trace_of_another_model_or_workload_is_refused(tmp_path, changes, message):
    path = tmp_path / "t.npz"
    flat = "workload={preset: mme, batch: 2, spread: 0.0}"
    trace = synthesize_trace(scenario("routing.rates=null", flat))
    if message is None:
        assert trace.num_tokens == 2 * (576 + 38 + 1)
        message = "modality differs from the scenario's workload"
    save_trace(trace, path)
    with pytest.raises(TraceError, match=rf"t\.npz: {message}[^\n]*$"):
        values("routing.rates=null", flat, *changes, f"routing.trace={path}")


def test_a_dense_model_has_no_trace_to_synthesize():
    with pytest.raises(ConfigError, match='model = "olmoe-1b-7b-dense-total": a dense model routes nothing'):
        synthesize_trace(scenario("model=olmoe-1b-7b-dense-total"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (["model=olmo"], ConfigError, r'model = "olmo" is unknown\. Did you mean "olmoe-1b-7b"\?|Known: '),
        (["topology=two-orin"], ConfigError, r'topology "two-orin" is neither .* Did you mean "two-orin-10gbe"\?'),
        (["calibration=none-such"], ConfigError, 'calibration "none-such" is neither shipped nor a file'),
        (["routing.trace=none.npz"], TraceError, r"none\.npz: cannot be read as a trace \(No such file"),
        (
            ["topology={kind: star, ranks: 3, link: {bandwidth: 1 GB/s}}"],
            PlacementError,
            r"64 experts do not divide over 3 ranks\. Use one of 1, 2, 4, 8, 16, 32, 64 ranks",
        ),
    ],
)
def test_a_mistake_is_one_line(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        values(*changes)
    assert "\n" not in str(caught.value)


def test_a_calibration_gives_a_median_and_an_interval_over_its_draws():
    prediction = simulate(scenario(*SMALL, calibration="two-orin-baseline"))
    for key in ("ttft_s", "tpot_s", "tokens_per_s", "ep_comm_s"):
        draws = sorted(prediction.draws[key])
        low, high = prediction.values["intervals"][key]
        assert draws[0] <= low <= prediction.values[key] <= high <= draws[-1]
        assert low < high
        below = sum(draw < low for draw in draws) / len(draws)
        assert below == pytest.approx(INTERVAL[0] / 100, abs=1 / len(draws))
    # what is counted does not depend on constants
    assert prediction.values["bytes_remote"] == values(*SMALL)["bytes_remote"]


def test_a_draw_changes_only_the_constants_that_it_names():
    deployed = deploy(scenario(*SMALL, "compute.per_layer=1 ms", "communication.per_exchange=1 ms"))
    base = predict(deployed).values
    # per_exchange: dispatch and combine of 16 layers, 1 ms each; per_layer: 16 layers of the busiest rank
    free = deploy(scenario(*SMALL))
    assert base["ep_comm_s"] == pytest.approx(predict(free).values["ep_comm_s"] + 32e-3)
    assert base["step_s"] == pytest.approx(predict(free).values["step_s"] + 16e-3 + 32e-3)
    same = replace(deployed, scenario=deployed.scenario.model_copy(update={"overlap": "shared_expert"}))
    assert predict(same).values["step_s"] == base["step_s"]  # OLMoE has no shared expert to hide anything behind
