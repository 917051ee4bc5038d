"""A plan with ``serving``: rates as ``serve`` finds them, judged against the rate that is asked."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from small_plan import plan_file
from small_scenario import small

from smoes_sim.cli import main
from smoes_sim.planning import load_plan
from smoes_sim.planning.options import margins_of
from smoes_sim.planning.plan_file import Serving, Slo
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.prediction import NOMINAL
from smoes_sim.results.read import read_results
from smoes_sim.serving import Objective, largest_rates, limits_of
from smoes_sim.serving.step_cost import StepBatch, StepCosts

ASKED = "slo: {ttft: 500 us, tokens_per_s: 40000}"
EXACT = {"flops_efficiency": 0.5, "memory_efficiency": 0.8}
"""One set of constants."""
ONE = "try=[{routing.policy: standard}]"
LIMITS = "requests: 40, max_batch_tokens: 64, max_sequences: 2"


def written(folder, *, rate="20000/s", slo="{ttft: 300 us, tpot: 1 ms}"):
    """The small plan with requests that arrive, as a file."""
    return plan_file(folder, ASKED, f"slo: {slo}\nserving: {{rate: {rate}, {LIMITS}}}")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of the plan under load, with the stated ranges of efficiency."""
    folder = tmp_path_factory.mktemp("load")
    assert main(["plan", written(folder), ONE, "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def document(results):
    """Their document."""
    return json.loads((results / "summary.json").read_text())


def test_the_rate_of_an_option_is_the_one_that_serve_finds(document, tmp_path, capsys):
    row = document["options"][1]
    scenario = load_plan(written(tmp_path), [ONE]).offers[row["scenario"]].point.scenario
    (tmp_path / "s.yaml").write_text(scenario.model_dump_json(by_alias=True))  # JSON is YAML
    limits = ["--requests", "40", "--max-batch-tokens", "64", "--max-sequences", "2"]
    assert main(["serve", str(tmp_path / "s.yaml"), "--slo", "ttft=300us,tpot=1ms", *limits, "--json"]) == 0
    served = json.loads(capsys.readouterr().out)
    assert row["replicas"] == 2
    assert row["max_rate_per_s"] == pytest.approx(2 * served["max_rate_per_s"], rel=1e-12)
    low, high = served["intervals"]["max_rate_per_s"]
    assert row["intervals"]["max_rate_per_s"] == pytest.approx([2 * low, 2 * high], rel=1e-12)
    assert low < high


def test_an_option_meets_what_is_asked_if_its_rate_is_at_least_the_one_that_arrives(document):
    meeting = [row["meets_slo"] for row in document["options"]]
    assert meeting == [row["max_rate_per_s"] >= 20000 for row in document["options"]]
    assert 0 < sum(meeting) < len(meeting)
    for row in document["options"]:
        assert row["margin"] == pytest.approx(row["max_rate_per_s"] / 20000)
        assert row["tightest"] == "max_rate_per_s"
        assert row["binds"]
    best = document["options"][document["cheapest"]]
    assert best["cost_per_hour"] == min(row["cost_per_hour"] for row in document["options"] if row["meets_slo"])
    assert "TTFT <= 300 us, TPOT <= 1 ms for 90 % of requests at 20000/s" in document["answer"]
    assert "the rate that keeps it" in document["answer"]
    assert document["meaning"].startswith("Under load")


def test_text_and_page_show_rates(results, document, tmp_path):
    assert main(["report", str(results), "-o", str(tmp_path / "p.html")]) == 0
    page = (tmp_path / "p.html").read_text()
    best = document["options"][document["cheapest"]]
    assert re.search(r"<th[^>]*>TPOT of a batch[^<]*</th><th[^>]*>requests/s</th>", page)
    assert f"{best['max_rate_per_s']:,.0f}" in page


def test_margins_under_load_by_hand():
    margins = margins_of(Slo(ttft="1 s"), {"max_rate_per_s": np.array([3.0, 1.0])}, 2, serving=Serving(rate="4/s"))
    assert {key: values.tolist() for key, values in margins.items()} == {"max_rate_per_s": [1.5, 0.5]}


def test_a_tenth_of_requests_may_find_another_one_in_service(tmp_path):
    # one group and one place: a request takes one step of s seconds, and may not wait at all; the place is taken for a share
    # rate * s of Poisson arrivals, so 90 % meet it up to 0.1 / s
    workload = "workload={batch: 16, text_tokens: 64, output_tokens: 1}"
    deployment = deploy(small(tmp_path, "parallelism.tensor=4", workload, *(f"compute.{k}={v}" for k, v in EXACT.items())))
    seconds = StepCosts(deployment.under({})).seconds(StepBatch(prefill=((64, 0),)))
    limits = limits_of(deployment, max_batch_tokens=64, max_sequences=1)
    (rate,) = largest_rates(deployment, limits, Objective(ttft=1.0001 * seconds), number=4000)
    # of the later 2000 requests: standard error of the share 0.007, of the rate 7 %
    assert rate * seconds == pytest.approx(0.1, rel=0.2)


def test_what_is_too_slow_alone_has_a_rate_of_zero_and_the_page_says_so(tmp_path, capsys):
    exact = f"scenario.compute={json.dumps({'device': 'h100-sxm', **EXACT})}"
    assert main(["plan", written(tmp_path, rate="1/s", slo="{ttft: 1 us}"), exact, ONE, "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{NOMINAL}\nNothing on offer meets TTFT <= 1 us for 90 % of requests at 1/s.")
    assert "requests/s" in text.partition("Options")[2].splitlines()[1]
    assert "no (0%)" in text
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "p.html")]) == 0
    assert capsys.readouterr().out.strip() == text.splitlines()[1]
    assert all(option.max_rate_per_s == 0 for option in read_results(tmp_path / "out").options)


@pytest.mark.parametrize(
    ("rate", "slo", "problem"),
    [
        ("2000/s", "{ttft: 1 ms, tokens_per_s: 5}", "serving.rate and slo.tokens_per_s both say how much"),
        ("2000", "{ttft: 1 ms}", "serving.rate = 2000 has no unit of arrivals"),
        ("0/s", "{ttft: 1 ms}", 'serving.rate = "0/s" is zero'),
    ],
)
def test_a_broken_section_is_one_line_that_says_where(tmp_path, capsys, rate, slo, problem):
    assert main(["plan", written(tmp_path, rate=rate, slo=slo)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "plan.yaml:" in line
    assert problem in line


@pytest.mark.parametrize("workload", ["{phase: prefill, batch: 4, text_tokens: 8}", "{phase: decode, batch: 4, context: 8}"])
def test_a_workload_of_one_phase_is_refused_in_one_line(tmp_path, capsys, workload):
    assert main(["plan", written(tmp_path, slo="{ttft: 1 ms}"), f"scenario.workload={workload}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "requests are prefilled and then decoded. Write phase: both" in line
