"""The plan: brute force, what is told apart, what binds, what does not fit."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from small_plan import FAST, SLOW, plan_file
from small_scenario import small

from smoes_sim.display.tables import as_text
from smoes_sim.planning import PlanOption, load_plan, make_plan, plan_names
from smoes_sim.planning.binding import resource_label, sensitivity
from smoes_sim.planning.options import Option, margins_of, wins
from smoes_sim.planning.plan_file import Slo
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.simulate import simulate
from smoes_sim.topology import find_topology


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The document of the plan as it is."""
    return make_plan(load_plan(plan_file(tmp_path_factory.mktemp("plain")))).to_dict()


@pytest.mark.parametrize("asked", [90_000, 5_000_000])
def test_the_choice_is_that_of_brute_force(tmp_path, asked):
    loaded = load_plan(plan_file(tmp_path, "40000", str(asked)))
    document = make_plan(loaded).to_dict()
    found = []
    rivals = itertools.product([(SLOW, 2, [1, 2, 3, 4]), (FAST, 5, [1, 2])], ["standard", "smoes"])
    for (topology, price, counts), policy in rivals:
        tokens = "modality" if policy == "smoes" else "data_parallel"
        changes = [f"topology={topology}", f"routing.policy={policy}", f"placement.tokens={tokens}"]
        changes += ["model.layers=2", f"workload={json.dumps(loaded.file.scenario['workload'])}"]
        values = simulate(small(tmp_path, *changes)).to_dict()
        margins = {count: min(5e-4 / values["ttft_s"], count * values["tokens_per_s"] / asked) for count in counts}
        found += [(count * price, -margin, policy) for count, margin in margins.items() if margin >= 1]
    chosen = document["cheapest"]
    if not found:
        assert chosen is None
        assert document["answer"].startswith("Nothing on offer meets")
        return
    cost, margin, policy = min(found)
    option = document["options"][chosen]
    assert (option["cost_per_hour"], policy) == (cost, option["policy"])
    assert option["margin"] == pytest.approx(-margin, rel=1e-9)
    assert sum(row["meets_slo"] for row in document["options"]) == len(found)


def option(cost: float, *margin: float) -> Option:
    row = PlanOption(
        name="1 x star",
        topology="star",
        tried_name="as it is",
        tried=0,
        scenario=0,
        replicas=1,
        cost_per_hour=cost,
        cost_source="made up",
        settings={},
        margin=float(np.median(margin)) if margin else None,
    )
    return Option(row=row, margin=np.array(margin))


def test_an_option_wins_the_draws_in_which_it_is_the_cheapest_that_meets():
    # draw 0: both meet, the first is cheaper; draw 1: the second alone; draw 2: none; draw 3: equal price, larger margin
    options = [option(1, 1.2, 0.9, 0.5, 1.1), option(2, 1.5, 1.0, 0.9, 2.0), option(1, 0.1, 0.1, 0.1, 1.3), option(9)]
    assert wins(options) == [0.25, 0.25, 0.25, 0]


def test_draws_of_different_number_do_not_pair():
    assert wins([option(1, 1.2, 0.9), option(2, 1.5)]) is None


def test_margins_by_hand():
    draws = {"ttft_s": np.array([0.5, 2.0]), "tokens_per_s": np.array([30.0, 50.0])}
    margins = margins_of(Slo(ttft="1 s", tpot="1 s", tokens_per_s=80.0), draws, 2)
    assert margins["ttft_s"].tolist() == [2, 0.5]
    assert margins["tpot_s"].tolist() == [np.inf, np.inf]  # one output token: nothing to wait for
    assert margins["tokens_per_s"].tolist() == [0.75, 1.25]


def test_uncertainty_that_decides_is_told(plain, tmp_path):
    chosen = max((row for row in plain["options"] if row["name"] == "3 x star"), key=lambda row: row["tokens_per_s"])
    low, _ = chosen["intervals"]["tokens_per_s"]
    asked = (low + chosen["tokens_per_s"]) / 2  # met in the middle of the stated ranges, missed at their low end
    document = make_plan(load_plan(plan_file(tmp_path), [f"slo.tokens_per_s={asked}"])).to_dict()
    best = document["options"][document["cheapest"]]
    assert (best["name"], best["meets_share"], best["wins"]) == ("3 x star", pytest.approx(2 / 3), pytest.approx(2 / 3))
    (rival,) = (document["options"][index] for index in document["indistinguishable"])
    assert (rival["name"], rival["wins"]) == ("4 x star", pytest.approx(1 / 3))
    assert document["options"][document["safe"]] == rival
    assert "It meets this in 67 % of the sets of constants only; 4 x star" in document["answer"]
    assert "What is known of the constants does not separate it from: 4 x star" in document["answer"]


def test_sensitivity_to_links_is_what_links_twice_as_fast_bring(tmp_path):
    slow = small(tmp_path, "compute.flops_efficiency=0.5", "compute.memory_efficiency=0.8")
    twice = "topology={kind: star, ranks: 4, link: {kind: wire, bandwidth: 20 GB/s, latency: 2.5 us}}"
    fast = small(tmp_path, "compute.flops_efficiency=0.5", "compute.memory_efficiency=0.8", twice)
    before, after = simulate(slow).ttft_s, simulate(fast).ttft_s
    found = sensitivity(deploy(slow).under({}), quantity="ttft_s")
    assert found["link.wire"] == pytest.approx(1 - after / before, rel=1e-9)
    assert 0.05 < found["link.wire"] <= 0.5
    assert all(-1e-9 <= value <= 0.5 for name, value in found.items() if name != "imbalance")


def test_slow_links_bind_and_software_binds_where_it_is_all(tmp_path):
    slow = deploy(small(tmp_path, "topology.link.bandwidth=10 MB/s"))
    found = sensitivity(slow.under({}), quantity="tokens_per_s")
    assert max(found, key=lambda name: found[name]) == "link.wire"
    assert found["link.wire"] > 0.45
    heavy = deploy(small(tmp_path, "compute.per_layer=1 s"))
    assert sensitivity(heavy.under({}), quantity="tpot_s")["software"] == pytest.approx(0.5, abs=1e-3)


ALL_CONSTANTS = {
    "efficiency.wire": 0.8,
    "half_size.wire": 1e6,
    "curve": 0.5,
    "jitter": 0.003,
    "per_message": 1e-6,
    "per_receive": 2e-6,
    "per_exchange": 1e-5,
    "launch": 5e-6,
    "per_layer": 1e-5,
    "flops_efficiency": 0.5,
    "memory_efficiency": 0.8,
    "per_prefill": 1e-4,
}
SOFTWARE = ("launch", "per_layer", "per_message", "per_receive", "per_exchange")


@pytest.mark.parametrize("others", [{}, ALL_CONSTANTS])
def test_halving_a_cost_of_0_changes_nothing(tmp_path, others):
    deployment = deploy(small(tmp_path, "communication.rendezvous=true"))
    found = sensitivity(deployment.under(others | dict.fromkeys(SOFTWARE, 0.0)), quantity="ttft_s")
    assert found["software"] == 0


@pytest.mark.parametrize("quantity", ["ttft_s", "tpot_s", "tokens_per_s"])
def test_every_sensitivity_lies_between_0_and_a_half_whatever_constants_there_are(tmp_path, quantity):
    deployment = deploy(small(tmp_path, "communication.rendezvous=true"))
    found = sensitivity(deployment.under(ALL_CONSTANTS), quantity=quantity)
    assert all(-1e-9 <= value <= 0.5 for name, value in found.items() if name != "imbalance")
    assert found["software"] > 0


def test_halving_the_cost_of_posting_receives_counts_as_software(tmp_path):
    deployment = deploy(small(tmp_path, "communication.rendezvous=true"))
    costly = dict.fromkeys(SOFTWARE, 0.0) | {"per_receive": 1.0}
    assert sensitivity(deployment.under(costly), quantity="tpot_s")["software"] == pytest.approx(0.5, abs=1e-3)


def test_work_outside_the_layers_is_halved_where_it_is_given(tmp_path):
    deployment = deploy(small(tmp_path, "compute.per_prefill=10 s"))
    assert sensitivity(deployment.under({}), quantity="ttft_s")["outside"] == pytest.approx(0.5, abs=1e-3)


def test_even_work_helps_where_a_policy_is_uneven(tmp_path):
    even = deploy(small(tmp_path))
    uneven = deploy(small(tmp_path, "routing.popularity=2"))
    found = [sensitivity(deployment.under({}), quantity="ttft_s")["imbalance"] for deployment in (even, uneven)]
    assert found[0] < found[1]


@pytest.mark.parametrize(
    ("name", "resource", "label"),
    [
        ("2x8-h100-ndr400", "link.infiniband", "NIC and fabric (infiniband)"),
        ("2x8-h100-ndr400", "link.nvlink4", "scale-up link (nvlink4)"),
        ("8x-h100", "memory", "memory bandwidth"),
    ],
)
def test_resources_have_the_names_of_the_trade(name, resource, label):
    assert resource_label(resource, find_topology(name)) == label


def test_what_does_not_fit_says_what_it_needs(tmp_path):
    document = make_plan(
        load_plan(plan_file(tmp_path, "device: h100-sxm", "device: h100-sxm, memory_share: 0.0001"))
    ).to_dict()
    for row in document["options"]:
        assert row["fits"] is False
        assert row["meets_slo"] is False
        assert row["problem"].startswith("does not fit (0.0")
        assert "needs" in row["problem"] or "no number of ranks helps" in row["problem"]
    assert document["cheapest"] is None
    assert "12 of 12 options do not fit into memory" in document["answer"]


def test_an_offer_that_cannot_be_keeps_its_problem_and_the_others_go_on(tmp_path):
    document = make_plan(load_plan(plan_file(tmp_path, "routing.policy: standard", "parallelism.tensor: 3"))).to_dict()
    broken = [row for row in document["options"] if row["tried"] == 0]
    assert all("parallelism.tensor = 3 does not divide" in row["problem"] for row in broken)
    assert document["options"][document["cheapest"]]["tried"] == 1


def test_the_same_plan_gives_the_same_document(plain, tmp_path):
    assert make_plan(load_plan(plan_file(tmp_path))).to_dict() == plain


@pytest.mark.parametrize("name", plan_names())
def test_shipped_plans_are_valid_and_every_price_has_an_origin(name):
    loaded = load_plan(name)
    assert all(offer.point.scenario is not None for offer in loaded.offers)
    assert len(loaded.try_names) == len(loaded.file.tries)


def test_overrides_change_the_plan(tmp_path):
    assert load_plan(plan_file(tmp_path), ["slo.ttft=3 s"]).file.slo.ttft == 3


def test_progress_counts_offers_and_parts_of_them(tmp_path):
    seen = []
    make_plan(load_plan(plan_file(tmp_path)), on_progress=seen.append)
    assert seen == sorted(seen)
    assert [done for done in seen if done == int(done)] == [1, 2, 3, 4]  # two topologies, each with two routings
    assert any(0 < done < 1 for done in seen)


def test_an_interrupt_leaves_the_offers_before_it(tmp_path):
    def interrupt(done):
        if done > 1:
            raise KeyboardInterrupt

    found = make_plan(load_plan(plan_file(tmp_path)), on_progress=interrupt, keeps_finished=True)
    assert {option.scenario for option in found.options} == {0}
    assert (found.offers, found.offers_left) == (4, 3)
    assert found.answer.startswith("Interrupted with 3 of 4 offers to go; of the others: ")
    with pytest.raises(KeyboardInterrupt):
        make_plan(load_plan(plan_file(tmp_path)), on_progress=interrupt)


def test_an_answer_is_printed_plotted_and_given_as_rows(tmp_path):
    found = make_plan(load_plan(plan_file(tmp_path)))
    assert found.to_polars()["cost_per_hour"].to_list() == [option.cost_per_hour for option in found.options]
    tables = as_text(found.tables()[1:4])
    assert max(map(len, tables.splitlines())) <= 100
    assert "margin (1 is just met)" in str(found.plot().to_dict())
