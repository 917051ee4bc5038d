"""``smoes-sim sweep``: what it prints and draws, and its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sweeps.cheap import GRID, written

from smoes_sim.cli import main
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.simulate import simulate
from smoes_sim.sweeps import PlotSpec, SweepPoint, load_sweep
from smoes_sim.sweeps.charts import sweep_chart
from smoes_sim.sweeps.result import thousands

PLOT = "plot: {metric: ttft_s, over: workload.batch, by: routing.policy}\n"


def test_an_interrupt_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt("2 of 6 points are finished")

    monkeypatch.setattr("smoes_sim.api.study.run_sweep", interrupted)
    assert main(["sweep", written(tmp_path, GRID), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr() == ("", "interrupted: 2 of 6 points are finished\n")


def test_an_interrupted_comparison_says_what_is_lost(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("smoes_sim.prediction.comparison.predict", interrupted)
    assert main(["compare", "olmoe-two-orin", "seed=0,1"]) == 130
    told = "interrupted: 0 of 2 deployments were predicted, and are lost; a sweep keeps its finished points\n"
    assert capsys.readouterr() == ("", told)


def test_a_study_end_to_end_and_again_with_nothing_to_do(tmp_path, capsys):
    arguments = ["sweep", written(tmp_path, GRID + PLOT), "seed=3", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    first = capsys.readouterr()
    assert json.loads(first.out) == {"points": 6, "done": 6, "skipped": 0, "failed": 0, "missing": 0, "failures": {}}
    assert "6 points, 6 done, 0 skipped, 0 failed, 0 missing" in first.err.splitlines()
    assert (tmp_path / "out" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "sweep.svg").read_text().startswith("<svg")
    assert main(arguments) == 0
    again = capsys.readouterr()
    assert "6 points, 0 done, 6 skipped" in again.err
    assert "6 of 6 points are already in" in again.err
    nominal, _, *lines = again.out.splitlines()
    assert nominal.startswith("nominal: links at their full rated bandwidth, no software cost")
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == ["row", "routing.policy", "workload.batch", "GB", "max/mean"]
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert [line.split()[1:4] for line in lines[1:7]] == [
        [row["set"]["routing.policy"], str(row["set"]["workload.batch"]), f"{row['bytes_remote'] / 1e9:.3g}"] for row in rows
    ]
    assert lines[7].split()[:3] == ["row", "TTFT", "(us)"]
    assert [line.split()[1] for line in lines[8:]] == [f"{1e6 * row['ttft_s']:.0f}" for row in rows]


def test_a_failed_point_is_reported_and_the_exit_code_is_1(tmp_path, capsys):
    arguments = ["sweep", written(tmp_path, "grid: {workload.batch: [0, 1]}\n"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert (document["done"], document["failed"]) == (1, 1)
    assert "greater than or equal to 1" in document["failures"]["workload.batch=0"]
    assert 'failed: workload.batch=0: "workload.batch=0": workload.batch = 0: ' in printed.err
    assert main(arguments) == 1
    assert capsys.readouterr().out.splitlines()[3].split() == ["1", "0", "-", "-"]  # row 1, batch 0


def test_the_table_has_what_is_plotted_and_no_column_that_is_empty(tmp_path, capsys):
    text = "grid: {workload.output_tokens: [1], workload.batch: [1, 2]}\nplot: {metric: step_s, over: workload.batch}\n"
    assert main(["sweep", written(tmp_path, text), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert " step (us)" in printed
    assert "TPOT" not in printed  # nothing is decoded


@pytest.mark.parametrize(("value", "text"), [(9994.0, "9.99e+03"), (123456.0, "123,000"), (1.5e6, "1,500,000")])
def test_large_numbers_are_printed_in_thousands(value, text):
    assert thousands(value) == text


def test_a_label_is_explained_by_the_keys_in_which_the_points_differ(tmp_path, capsys):
    text = "list:\n  - {label: today, seed: 1}\n  - {label: longer, seed: 1, workload.text_tokens: 16}\n"
    assert main(["sweep", written(tmp_path, text), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["today: the base scenario", "longer: workload.text_tokens=16"]


def test_a_shard_says_that_tables_come_with_the_last_one(tmp_path, capsys):
    arguments = ["sweep", written(tmp_path), "--out", str(tmp_path / "out"), "--shard"]
    assert main([*arguments, "1/2"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "3 points, 3 done, 0 skipped, 0 failed, 3 missing" in printed.err
    assert "the tables are written when no point is missing" in printed.err
    assert main([*arguments, "2/2"]) == 0
    assert "results: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard", "0/4"], 'shard = "0/4" is not i/n'),
        (["--scheduler", "tcp://here:1"], "--scheduler = tcp://here:1 goes with --backend dask"),
        (
            ["--scheduler", "tcp://here:1", "--backend", "dask", "--jobs", "2"],
            "with --backend dask, and not with --jobs",
        ),
        (["--from", "nowhere"], "--from nowhere: holds no points of a sweep"),
        (["--jobs", "0"], "Invalid value for '--jobs'"),
        (["--backend", "ray"], "Invalid value for '--backend'"),
        (["workload.batch=3"], '"workload.batch=3": workload.batch is swept by '),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(tmp_path, capsys, options, message):
    assert main(["sweep", written(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A prediction of which the tests change what they draw."""
    (point, *_) = load_sweep(written(tmp_path_factory.mktemp("tiny"))).points
    return simulate(point.scenario)


def drawn_point(settings, prediction, **fields):
    found = None if prediction is None else replace(prediction, intervals={}, **fields)
    return SweepPoint(name="", settings=settings, prediction=found, error=None, changes=None)


def row(tiny, batch, policy, value, interval=None):
    point = drawn_point({"batch": batch, "policy": policy}, tiny, ttft_s=value)
    return replace(point, prediction=replace(point.prediction, intervals={"ttft_s": interval} if interval else {}))


def test_the_picture_shows_each_point_with_its_interval_and_leaves_out_failed_ones(tiny):
    failed = drawn_point({"batch": 4, "policy": "a"}, None)
    rows = [row(tiny, 1, "a", 2.0, (1.0, 4.0)), row(tiny, 2, "a", 3.0), failed]
    drawn = sweep_chart(rows, PlotSpec(metric="ttft_s", over="batch", by="policy")).to_dict()
    assert drawn["data"]["values"] == [
        {"over": 1, "by": "a", "value": 2.0, "low": 1.0, "high": 4.0},
        {"over": 2, "by": "a", "value": 3.0, "low": None, "high": None},
    ]


@pytest.mark.parametrize(("batches", "kind"), [((1, 2, 8), "linear"), ((1, 2, 16), "log"), ((0, 2, 16), "linear")])
def test_an_axis_of_numbers_far_apart_is_logarithmic(tiny, batches, kind):
    rows = [row(tiny, batch, "a", 2.0) for batch in batches]
    drawn = sweep_chart(rows, PlotSpec(metric="ttft_s", over="batch")).to_dict()
    scale = drawn["layer"][1]["encoding"]["x"]["scale"]
    assert scale.get("type", "linear") == kind


def test_a_heat_map_keeps_the_order_of_the_study(tiny):
    rows = [row(tiny, batch, policy, 1.0) for policy in ("smoes", "hard") for batch in (10, 2)]
    drawn = sweep_chart(rows, PlotSpec(metric="ttft_s", over="batch", by="policy", kind="heat_map")).to_dict()
    encoding = drawn["layer"][0]["encoding"]
    assert (encoding["x"]["sort"], encoding["y"]["sort"]) == ([10, 2], ["smoes", "hard"])


@pytest.mark.parametrize(
    ("metric", "title", "drawn"),
    [
        ("ttft_s", "TTFT (ms)", 20.0),
        ("tokens_per_s", "output tokens/s", 5e4),
        ("ep_overhead", "EP overhead (%)", 25.0),
        ("outside_s", "outside (us)", 3.0),
        ("imbalance", "imbalance", 1.5),
    ],
)
def test_an_axis_has_the_unit_in_which_its_values_are_drawn(tiny, metric, title, drawn):
    values = {"ttft_s": 0.02, "tokens_per_s": 5e4, "ep_overhead": 0.25, "outside_s": 3e-6, "imbalance": 1.5}
    chart = sweep_chart([drawn_point({"batch": 1}, tiny, **values)], PlotSpec(metric=metric, over="batch")).to_dict()
    assert chart["layer"][1]["encoding"]["y"]["title"] == title
    assert chart["data"]["values"][0]["value"] == pytest.approx(drawn)


def test_a_metric_that_no_row_has_names_the_nearest(tiny):
    with pytest.raises(ConfigError, match=r'plot\.metric = "ttft" is not a number of this sweep\. Did you mean "ttft_s"\?'):
        sweep_chart([row(tiny, 1, "a", 2.0)], PlotSpec(metric="ttft", over="batch"))


def test_a_picture_has_a_line_for_each_setting_of_several_keys_and_a_panel_for_each_value_of_one(tiny):
    rows = [
        drawn_point({"batch": batch, "policy": policy, "seed": seed, "overlap": overlap}, tiny)
        for overlap in ("two_batch", "none")
        for policy, seed in (("smoes", 0), ("standard", 1))
        for batch in (1, 2)
    ]
    drawn = sweep_chart(rows, PlotSpec(metric="ttft_s", over="batch", by=["policy", "seed"], panels="overlap")).to_dict()
    assert drawn["facet"]["column"]["sort"] == ["two_batch", "none"]
    assert drawn["spec"]["layer"][1]["encoding"]["color"]["sort"] == ["smoes, 0", "standard, 1"]
    assert {cell["panel"] for cell in drawn["data"]["values"]} == {"two_batch", "none"}
