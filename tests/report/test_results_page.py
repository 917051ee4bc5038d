"""The page of a folder of results: alone in one file, nothing unescaped, the same bytes again, and what it says is so."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from report.outline import assert_stands_alone, outline_of
from small_scenario import small

from smoes_sim.cli import main
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.comparison import ComparedScenario, compare
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.simulate import simulate
from smoes_sim.report.inline import with_own_ids
from smoes_sim.report.inside import look_inside, modality_of_slots
from smoes_sim.report.results_page import write_report
from smoes_sim.report.sentences import distinct
from smoes_sim.results.read import read_results
from smoes_sim.results.write import write_results
from smoes_sim.topology import find_topology
from smoes_sim.topology.picture import draw_topology

HOSTILE = '<script>alert("1")</script>'
QUICK = ("workload.batch=4", "workload.text_tokens=16", "workload.output_tokens=3", "routing.policy=smoes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of a comparison whose names are hostile."""
    path = tmp_path_factory.mktemp("results")
    scenarios = [
        (f"{HOSTILE} {tokens}", small(path, *QUICK, f"placement.tokens={tokens}"))
        for tokens in ("data_parallel", "modality")
    ]
    hostile = [
        (
            name,
            scenario.model_copy(
                update={"description": HOSTILE, "model": scenario.model.model_copy(update={"name": HOSTILE})}
            ),
        )
        for name, scenario in scenarios
    ]
    candidates = [ComparedScenario(name=name, scenario=scenario, varied={}) for name, scenario in hostile]
    write_results(path / "out", compare(candidates).row_dicts(), hostile)
    return path / "out"


def test_the_page_needs_nothing_else_and_escapes_everything(folder, tmp_path):
    write_report(folder, tmp_path / "p.html")
    assert_stands_alone(tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert outline_of(tmp_path / "p.html").tags.count("figure") == 4


def test_the_answer_comes_first_with_its_interval(folder, tmp_path):
    answer = write_report(folder, tmp_path / "p.html")
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    best = max(rows, key=lambda row: row["tokens_per_s"])
    low, high = best["intervals"]["tokens_per_s"]
    assert f"{best['tokens_per_s']:,.0f} [{low:,.0f}, {high:,.0f}] output tokens/s" in answer
    text = (tmp_path / "p.html").read_text()
    assert text.index('class="answer"') < text.index("<figure")


def test_the_row_that_others_are_compared_with_is_named(tmp_path, capsys):
    small(tmp_path)
    arguments = ["compare", str(tmp_path / "small.yaml"), *QUICK, "topology.link.bandwidth=1 MB/s,1 GB/s,20 GB/s", "--out"]
    answers, texts = [], []
    for baseline in (0, 1, 2):
        out = tmp_path / str(baseline)
        assert main([*arguments, str(out), "--baseline", str(baseline)]) == 0
        texts.append(capsys.readouterr().out)
        answers.append(write_report(out, tmp_path / "p.html"))
    rows = json.loads((tmp_path / "1" / "summary.json").read_text())["rows"]
    gain = rows[2]["change"]["tokens_per_s"]
    assert f" Against topology.link.bandwidth=1 GB/s that is {100 * gain:+.1f} %" in answers[1]
    assert " Against the first row that is " in answers[0]
    assert answers[2].endswith("It is the row that the others are compared with.")
    assert "Change from the first row (%)" in texts[0]
    assert "Change from row 2 (%)" in texts[1]


def test_the_same_results_give_the_same_bytes(folder, tmp_path):
    for name in ("a", "b"):
        write_report(folder, tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_scenario_on_the_page_gives_the_same_numbers_again(folder):
    results = read_results(folder)
    assert results.kind == "compare"
    again = simulate(results.rows[0].scenario)
    assert again.ttft_s == results.rows[0].prediction.ttft_s


def test_results_that_the_model_no_longer_gives_are_marked(folder, tmp_path):
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["rows"]:
        row["ttft_s"] *= 2
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "scenario.resolved.yaml").write_bytes((folder / "scenario.resolved.yaml").read_bytes())
    write_report(tmp_path, tmp_path / "p.html")
    assert "has changed since" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("summary", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "is not of simulate, compare, sweep or plan"),
        ('{"rows": [1]}', "is not of simulate"),
        ('{"rows": []}', "no prediction"),
    ],
)
def test_damaged_results_are_refused_in_one_line(tmp_path, summary, problem):
    (tmp_path / "summary.json").write_text(summary)
    with pytest.raises(ConfigError, match=problem):
        read_results(tmp_path)


def test_missing_scenarios_are_refused(folder, tmp_path):
    (tmp_path / "summary.json").write_bytes((folder / "summary.json").read_bytes())
    first = (folder / "scenario.resolved.yaml").read_text().split("---")[1]
    (tmp_path / "scenario.resolved.yaml").write_text(first)
    with pytest.raises(ConfigError, match="1 scenarios for 2 rows"):
        read_results(tmp_path)


def test_parts_of_a_pass_add_up_and_links_carry_all_bytes(tmp_path):
    scenario = small(tmp_path, *QUICK)
    prediction = simulate(scenario)
    inside = look_inside(scenario, ttft_s=prediction.ttft_s)
    total = sum(row.seconds for row in inside.parts if row.of == "prefill")
    assert total == pytest.approx(prediction.ttft_s, rel=1e-9)
    assert inside.step_s == pytest.approx(prediction.step_s, rel=1e-9)
    assert inside.ttft_s == pytest.approx(prediction.ttft_s, rel=1e-9)
    topology = inside.deployment.topology  # a star: every byte between ranks crosses two links
    carried = float((inside.busy * topology.link_bandwidth).sum())
    assert carried == pytest.approx(2 * prediction.bytes_remote, rel=1e-9)


def test_the_set_of_constants_shown_is_the_nearest(tmp_path):
    scenario = small(tmp_path, *QUICK, "routing.popularity=2")
    prediction = simulate(scenario)
    for number, overhead in enumerate(prediction.draws["ep_overhead"]):
        row = {key: prediction.draws[key][number] for key in ("ttft_s", "tpot_s", "ep_overhead")}
        inside = look_inside(scenario, **row)
        assert inside.ttft_s == pytest.approx(row["ttft_s"], rel=1e-9)
        assert inside.ep_overhead == pytest.approx(overhead, rel=1e-9)
    assert inside.num_sets == 3


def test_the_rank_shown_is_the_one_that_others_wait_for(tmp_path):
    # slow devices on fast links: on an idle rank combine would last as long as the experts of the busiest
    slow = ("compute.flops_efficiency=1e-4", "compute.memory_efficiency=1e-4", "routing.popularity=3")
    scenario = small(tmp_path, *QUICK, *slow)
    inside = look_inside(scenario, ttft_s=simulate(scenario).ttft_s)
    spent = {part.part: part.seconds for part in inside.parts if part.of == "prefill"}
    assert spent["dispatch"] + spent["combine"] < 0.1 * spent["experts"]


def test_modality_of_an_expert_by_hand(tmp_path):
    deployment = deploy(small(tmp_path, *QUICK))
    trace = replace(
        deployment.trace,
        expert_ids=np.zeros_like(deployment.trace.expert_ids),
        modality=(np.arange(deployment.trace.num_tokens) % 4 > 0).astype(np.uint8),
        phase=np.zeros(deployment.trace.num_tokens, dtype=np.uint8),
    )
    rows = modality_of_slots(trace, deployment.placement)
    images = float((trace.modality > 0).mean())
    (busy,) = {row.share for row in rows if row.share is not None}
    assert busy == pytest.approx(images)
    assert sum(row.share is not None for row in rows) == trace.num_layers  # expert 0 of every layer
    assert [row.rank for row in rows[:8]] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_busiest_link_is_red_and_idle_ones_are_grey():
    topology = find_topology("8x-h100")
    busy = np.zeros(topology.num_links)
    busy[3] = 2.0
    strokes = re.findall(
        r'stroke="(#[0-9a-f]{6})" stroke-width="[0-9.]+" stroke-opacity', draw_topology(topology, busy=busy)
    )
    assert strokes.count("#d12137") == 1
    assert set(strokes) == {"#d12137", "#9ea7af"}


def test_names_lose_what_all_share():
    assert distinct(["olmoe a=1 b=1", "olmoe a=2 b=1"]) == ["a=1", "a=2"]
    assert distinct(["a.b=10 Gb/s c=1", "a.b=25 Gb/s c=1"]) == ["a.b=10 Gb/s", "a.b=25 Gb/s"]
    assert distinct(["olmoe"]) == ["olmoe"]
    assert distinct(["x", "x"]) == ["x", "x"]


def test_every_picture_of_a_page_has_its_own_ids():
    assert with_own_ids('<g id="clip7"/><g clip-path="url(#clip7)">clip7</g>', 2) == (
        '<g id="figure-2-0"/><g clip-path="url(#figure-2-0)">clip7</g>'
    )
