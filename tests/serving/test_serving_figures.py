"""The table of published serving figures, and how a prediction is held against a row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_scenario import small

from benchmarks.serving import Figure, main, predict_figure, read_figures
from smoes_sim.prediction.deploy import deploy
from smoes_sim.scenario import load_scenario
from smoes_sim.serving.step_cost import StepBatch, StepCosts


def test_every_figure_names_its_source_and_a_scenario_that_loads():
    figures = read_figures()
    assert len(figures) >= 5
    assert len({figure.id for figure in figures}) == len(figures)
    for figure in figures:
        assert figure.source
        assert figure.measured > 0
        load_scenario(f"benchmarks/{figure.scenario}.yaml", figure.overrides)


@pytest.fixture
def figure(tmp_path):
    small(tmp_path)
    return Figure(
        id="small",
        scenario=str(tmp_path / "small"),
        overrides=(),
        phase="decode",
        tokens=4,
        context=100,
        quantity="tokens_per_s_rank",
        measured=1.0,
        source="made up",
    )


def test_throughput_is_tokens_over_the_cost_of_a_step(figure, tmp_path):
    cost = StepCosts(deploy(small(tmp_path)).under({})).seconds(StepBatch(decode=(100,) * 16))
    low, middle, high = predict_figure(figure)
    assert low < middle < high
    assert middle == pytest.approx(4 / cost)
    # every rank of a star is a node of its own
    assert predict_figure(replace(figure, quantity="tokens_per_s_node"))[1] == pytest.approx(4 / cost)


def test_a_time_to_first_token_is_that_of_one_prompt(figure, tmp_path):
    cost = StepCosts(deploy(small(tmp_path)).under({})).seconds(StepBatch(prefill=((100, 0),)))
    assert predict_figure(replace(figure, phase="prefill", quantity="ttft_s"))[1] == pytest.approx(cost)


def test_every_figure_stands_in_the_documents_with_its_measured_value():
    table = Path("docs/explanation/models.md").read_text().partition("| figure | measured |")[2].partition("\n\n")[0]
    cells = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    shown = [float(cell.removesuffix(" ms").replace(",", "")) * (1e-3 if cell.endswith("ms") else 1) for cell in cells]
    assert shown == pytest.approx([figure.measured for figure in read_figures()], rel=1e-3)


def test_the_command_prints_the_rows_that_are_named(capsys):
    main(["no such figure"])
    assert capsys.readouterr().out.split() == ["figure", "quantity", "measured", "predicted", "[low,", "high]", "error"]
