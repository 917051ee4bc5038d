"""Laws that relate predictions of two deployments, or two numbers of one, whatever the numbers are."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from small_plan import plan_file
from small_scenario import TEXT

from smoes_sim.network import Network, exchange_time, phases_of
from smoes_sim.network.fifo.exchange import fifo_exchange_time
from smoes_sim.planning import load_plan, make_plan
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.router import synthesize_trace
from smoes_sim.prediction.simulate import predict
from smoes_sim.routing import save_trace
from smoes_sim.scenario import Scenario, with_named_sections
from smoes_sim.serving import Limits, Request, run_service
from smoes_sim.serving.step_cost import StepCosts
from smoes_sim.topology import find_topology
from smoes_sim.traffic.skewed import zipf_matrix
from smoes_sim.yaml_files import Document

MOE_LAYERS, LAYERS, RANKS = 3, 4, 4
EXCHANGES = 2 * MOE_LAYERS
"""Dispatches and combines of a pass."""
ONE_SET = ("compute.flops_efficiency=0.5", "compute.memory_efficiency=0.8", "engine=exact")
"""One set of constants, so that a prediction takes one pass for each step."""
NO_LATENCY = "topology.link.latency=0 s"
IMAGES = "workload={batch: 16, text_tokens: 28, output_tokens: 3, images: 9, image_width: 8, image_height: 8}"
FORMS = (
    (),
    ("communication.deduplicate=none",),
    ("placement.tokens=sharded", IMAGES),
    ("communication.dispatch=fp8", "routing.balance=even"),
    ("communication.library=pairwise",),
)
"""Deployments on which a law is tried."""
each_form = pytest.mark.parametrize("form", FORMS)


def scenario(*overrides: str) -> Scenario:
    document = with_named_sections(Document(TEXT, name="small"))
    for override in (*ONE_SET, *overrides):
        document.override(override)
    return document.validate(Scenario)


@cache
def predicted(*overrides: str):
    return predict(deploy(scenario(*overrides)))


def near(value, rel=1e-9):
    return pytest.approx(value, rel=rel, abs=1e-15)


# names and order


def test_ranks_may_have_any_numbers(tmp_path):
    # sequence s is at home on rank s % 4. Rank r becomes turn[r], with its sequences and its two experts.
    whole, turn = synthesize_trace(scenario()), np.array([2, 0, 3, 1])
    old = np.arange(16)
    new = old // RANKS * RANKS + turn[old % RANKS]
    number = new[whole.sequence_id]
    order = np.lexsort((np.arange(len(number)), number, whole.phase))
    moved = replace(whole.select(order), sequence_id=number[order].astype(np.int32))
    files = {}
    for name, trace, ranks in (("old", whole, np.arange(RANKS)), ("new", moved, np.argsort(turn))):
        save_trace(trace, tmp_path / f"{name}.npz")
        experts = (ranks[:, None] * 2 + np.arange(2)).ravel().tolist()
        (tmp_path / f"{name}.json").write_text(json.dumps({"physical_to_logical_map": [experts] * LAYERS}))
        files[name] = (
            f"routing.trace={tmp_path / name}.npz",
            f"placement.experts={{file: {tmp_path / name}.json}}",
            "workload={preset: trace}",
        )
    first, second = predicted(*files["old"]), predicted(*files["new"])
    for key in ("bytes_remote", "decode_bytes_remote", "ttft_s", "tpot_s", "ep_comm_s", "decode_ep_comm_s", "imbalance"):
        assert getattr(second, key) == near(getattr(first, key)), key


# routing


def test_without_specialisation_smoes_is_the_standard_router():
    # 16 prompts of 64 tokens: their copies scatter by about 1% between the random numbers of two routers
    none = predicted("routing.msi=0", IMAGES)
    mine = predicted("routing.policy=smoes", "routing.msi=0", "placement.experts=contiguous", IMAGES)
    assert mine.bytes_remote == near(none.bytes_remote, rel=0.03)
    assert mine.ep_comm_s == near(none.ep_comm_s, rel=0.05)
    assert mine.msi == pytest.approx(none.msi, abs=0.02)  # noise of few tokens, not 0


@pytest.mark.parametrize("deduplicate", ["none", "rank"])
@pytest.mark.parametrize("balance", ["drawn", "even"])
def test_more_experts_per_token_send_more_bytes(deduplicate, balance):
    settings = (f"communication.deduplicate={deduplicate}", f"routing.balance={balance}")
    sent = [predicted(f"model.top_k={top_k}", *settings).bytes_remote for top_k in (1, 2, 4, 8)]
    assert all(fewer < more for fewer, more in pairwise(sent))


def test_without_deduplication_bytes_are_proportional_to_the_experts_of_a_token():
    # balanced: of every token K of 8 experts, 3/4 of them on another rank on average, in whole pages exactly K * T * 3/4
    one, two = (predicted(f"model.top_k={k}", "communication.deduplicate=none", "routing.balance=even") for k in (1, 2))
    assert two.bytes_total == near(2 * one.bytes_total)


def test_copies_for_each_expert_are_no_fewer_than_copies_for_each_rank():
    none, rank = predicted("communication.deduplicate=none"), predicted()
    assert none.bytes_remote >= rank.bytes_remote
    assert none.decode_bytes_remote >= rank.decode_bytes_remote
    assert none.ep_comm_s >= rank.ep_comm_s * (1 - 1e-9)


# bytes


def test_fp8_copies_have_the_bytes_of_their_elements_and_scales():
    # hidden 512: 1024 bytes in bf16, 512 + 4 scales of 4 bytes in fp8
    plain, one, both = (
        predicted(f"communication.dispatch={out}", f"communication.combine={back}")
        for out, back in (("bf16", "bf16"), ("fp8", "bf16"), ("fp8", "fp8"))
    )
    assert one.bytes_remote / plain.bytes_remote == near((1 + 528 / 1024) / 2)
    assert both.bytes_remote / plain.bytes_remote == near(528 / 1024)
    assert both.decode_bytes_remote / plain.decode_bytes_remote == near(528 / 1024)


@each_form
def test_the_speed_of_links_moves_no_byte(form):
    slow, fast = predicted(*form), predicted("topology.link.bandwidth=40 GB/s", *form)
    for key in ("bytes_total", "bytes_remote", "decode_bytes_remote", "imbalance", "msi", "transmission_rate"):
        assert getattr(fast, key) == getattr(slow, key), key


def test_twice_the_batch_takes_up_to_twice_as_long_and_sends_twice_the_bytes():
    # of every sequence the tokens are routed alike: the same 16, and 16 more that scatter by about 1%
    one, two = predicted("routing.balance=even"), predicted("routing.balance=even", "workload.batch=32")
    assert two.bytes_total == near(2 * one.bytes_total, rel=0.01)
    assert one.ttft_s < two.ttft_s <= 2 * one.ttft_s * (1 + 1e-9)
    assert one.tpot_s <= two.tpot_s <= 2 * one.tpot_s * (1 + 1e-9)


# links


@each_form
def test_exchanges_on_links_twice_as_fast_take_half_as_long(form):
    slow, fast = predicted(NO_LATENCY, *form), predicted(NO_LATENCY, "topology.link.bandwidth=20 GB/s", *form)
    assert fast.ep_comm_s == near(slow.ep_comm_s / 2)
    assert fast.decode_ep_comm_s == near(slow.decode_ep_comm_s / 2)
    assert fast.step_s < slow.step_s


@pytest.mark.parametrize("form", [form for form in FORMS if "communication.library=pairwise" not in form])
def test_the_latency_of_links_adds_to_every_exchange(form):
    # 10 us more on each link, two links on the way
    near_by, far = predicted(*form), predicted("topology.link.latency=15 us", *form)
    assert far.ep_comm_s - near_by.ep_comm_s == near(EXCHANGES * 20e-6)
    assert far.decode_ep_comm_s - near_by.decode_ep_comm_s == near(EXCHANGES * 20e-6)
    assert 0 < far.step_s - near_by.step_s <= EXCHANGES * 20e-6 * (1 + 1e-9)


@each_form
def test_no_exchange_is_faster_than_its_bound(form):
    found = predicted(*form)
    assert found.bound_s <= found.ep_comm_s * (1 + 1e-9)
    assert found.decode_bound_s <= found.decode_ep_comm_s * (1 + 1e-9)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_messages_in_queues_take_no_less_than_shared_links(ranks, exponent):
    topology = find_topology("two-orin-10gbe") if ranks == 2 else deploy(scenario(f"topology.ranks={ranks}")).topology
    network = Network.on(topology)
    matrix = zipf_matrix(ranks, 1e7, exponent=exponent, seed=1, per_source=False)
    np.fill_diagonal(matrix, 0.0)
    phases = phases_of(network, [matrix])
    assert exchange_time(network, phases).duration <= fifo_exchange_time(network, phases).duration * (1 + 1e-9)


# software


def test_the_software_of_an_exchange_adds_to_every_exchange():
    none, some = predicted(), predicted("communication.per_exchange=20 us")
    assert some.ep_comm_s - none.ep_comm_s == near(EXCHANGES * 20e-6)
    assert some.decode_ep_comm_s - none.decode_ep_comm_s == near(EXCHANGES * 20e-6)
    assert 0 < some.step_s - none.step_s <= EXCHANGES * 20e-6 * (1 + 1e-9)


def test_the_software_of_a_message_delays_the_last_of_three_by_one_to_three_of_it():
    none, some = predicted(), predicted("communication.per_message=20 us")
    for key in ("ep_comm_s", "decode_ep_comm_s"):
        added = getattr(some, key) - getattr(none, key)
        assert EXCHANGES * 20e-6 * (1 - 1e-9) <= added <= EXCHANGES * 60e-6 * (1 + 1e-9)


def test_launches_and_the_host_add_what_they_take():
    none, some, more = (predicted(f"compute.launch={us} us") for us in (0, 10, 20))
    assert more.step_s - some.step_s == near(some.step_s - none.step_s, rel=1e-6)
    assert more.step_s > some.step_s
    host = predicted("compute.per_layer=10 us")
    assert host.step_s - predicted().step_s == near(LAYERS * 10e-6, rel=1e-6)
    assert host.decode_step_s - predicted().decode_step_s == near(LAYERS * 10e-6, rel=1e-6)


def test_what_is_outside_the_layers_adds_to_the_first_token_alone():
    none, some = predicted(), predicted("compute.per_prefill=8 ms")
    assert some.ttft_s - none.ttft_s == near(8e-3)
    assert (some.step_s, some.tpot_s) == (none.step_s, none.tpot_s)


# parts and wholes


def test_one_rank_exchanges_nothing():
    alone = predicted("ranks=1")
    assert (alone.bytes_remote, alone.decode_bytes_remote) == (0, 0)
    assert (alone.ep_comm_s, alone.decode_ep_comm_s, alone.ep_exposed_s, alone.ep_overhead) == (0, 0, 0, 0)


@pytest.mark.parametrize("overlap", ["none", "shared_expert", "two_batch"])
@each_form
def test_what_is_exposed_is_part_of_the_step(form, overlap):
    found = predicted(f"overlap={overlap}", *form)
    assert 0 <= found.ep_exposed_s <= found.step_s
    assert found.ep_exposed_s / found.step_s == near(found.ep_overhead)
    assert 0 <= found.decode_ep_exposed_s <= found.decode_step_s


@each_form
def test_a_longer_context_makes_no_token_faster(form):
    if IMAGES in form:
        pytest.skip("its prompts are fixed")
    steps = [predicted("workload.output_tokens=2", f"workload.text_tokens={n}", *form) for n in (64, 256, 1024)]
    for key in ("tpot_s", "ttft_s"):
        values = [getattr(step, key) for step in steps]
        assert values == sorted(values)


@pytest.mark.parametrize("batch", [16, 64])
def test_two_batches_that_hide_each_other_shorten_a_prefill_that_waits_for_links(batch):
    settings = (f"workload.batch={batch}", "topology.link.bandwidth=1 GB/s", "compute.launch=0 s", NO_LATENCY)
    assert predicted("overlap=two_batch", *settings).ttft_s <= predicted(*settings).ttft_s


@pytest.mark.parametrize("settings", [(), ("workload.decode_batch=5",), ("workload.output_tokens=1",)])
def test_tokens_per_second_follow_from_the_times(settings):
    found, spec = predicted(*settings), scenario(*settings).workload
    outputs, groups = spec.output_tokens, -(-16 // (spec.decode_batch or 16))
    seconds = found.ttft_s + groups * (outputs - 1) * (found.tpot_s or 0.0)
    assert found.tokens_per_s == near(16 * outputs / seconds)
    assert found.tokens_per_s_prefill == near(16 * 64 / found.ttft_s)
    assert found.tokens_per_s_prefill_per_rank == near(found.tokens_per_s_prefill / RANKS)


@pytest.mark.parametrize(
    "layout",
    [("parallelism.tensor=2",), ("parallelism.expert=2",), ("parallelism.expert_tensor=2",), ("parallelism.expert=1",)],
)
def test_layouts_of_the_same_work_compute_for_the_same_time(layout):
    # arithmetic alone: no launches, links that cost nothing, weights read from infinitely fast memory by prompts of 1024
    settings = (
        "workload={batch: 16, text_tokens: 1024, output_tokens: 1}",
        *("compute.launch=0 s", "topology.link.bandwidth=1e9 GB/s", NO_LATENCY, "routing.balance=even"),
    )
    assert predicted(*layout, *settings).step_s == near(predicted(*settings).step_s, rel=0.02)


def test_a_plan_chooses_the_cheapest_of_its_rows_that_meet(tmp_path):
    document = make_plan(load_plan(plan_file(tmp_path))).to_dict()
    rows = document["options"]
    meeting = [(row["cost_per_hour"], -row["margin"], number) for number, row in enumerate(rows) if row["meets_slo"]]
    assert meeting
    assert document["cheapest"] == min(meeting)[2]


# serving


def served(number, *, gap, settings=()):
    deployment = deploy(scenario(*settings))
    requests = [Request(arrival=gap * i, prompt_tokens=64, output_tokens=9, images=0) for i in range(number)]
    limits = Limits(groups=RANKS, cache_blocks=100_000, max_batch_tokens=8192, max_sequences=256, prefill_chunk=8192)
    return run_service(requests, limits, StepCosts(deployment.under({})).seconds)


def test_requests_that_never_meet_wait_as_a_batch_of_one():
    alone, service = predicted("workload.batch=1"), served(3, gap=1.0, settings=("workload.batch=1",))
    assert service.first_token - service.arrival == pytest.approx(np.full(3, alone.ttft_s), rel=0.02)
    assert (service.finish - service.first_token) / 8 == pytest.approx(np.full(3, alone.tpot_s), rel=0.02)


def test_requests_that_come_together_are_answered_as_a_batch():
    batch, service = predicted(), served(16, gap=0.0)
    assert 16 * 9 / service.makespan == near(batch.tokens_per_s, rel=0.02)
