"""Points held against one another, entries with labels."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from sweeps.cheap import GRID, written

from smoes_sim.cli import main
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.simulate import simulate
from smoes_sim.sweeps import PlotSpec, load_sweep, run_sweep

LABELLED = """\
list:
  - {label: today, workload.text_tokens: 8}
  - {label: longer, workload.text_tokens: 16}
grid: {routing.policy: [standard, smoes]}
"""
NEAR = """\
list:
  - {label: a, seed: 1, routing.policy: standard}
  - {label: b, seed: 1, routing.policy: smoes, workload.text_tokens: 9}
  - {label: c, seed: 2, routing.policy: standard}
  - {label: d, seed: 2, routing.policy: smoes}
"""


@pytest.mark.parametrize(
    ("text", "bases"),
    [
        (GRID + "against: {routing.policy: standard}\n", [0, 1, 2, 0, 1, 2]),
        (GRID + "against: {routing.policy: smoes, workload.batch: 2}\n", [4] * 6),
        (LABELLED + "against: {routing.policy: standard}\n", [0, 0, 2, 2]),
        (LABELLED + "against: {label: today}\n", [0, 1, 0, 1]),
        (LABELLED + "against: {workload.text_tokens: 16, routing.policy: standard}\n", [2] * 4),
        (NEAR + "against: {routing.policy: standard}\n", [0, 0, 2, 2]),
        (GRID, []),
    ],
)
def test_every_point_has_the_base_that_against_names(tmp_path, text, bases):
    assert load_sweep(written(tmp_path, text)).file.bases() == bases


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GRID + "against: {routing.polcy: standard}\n", r'against: "routing\.polcy" is not swept\. Did you mean'),
        (GRID + "against: {routing.policy: hard}\n", r"against: no point sets routing\.policy=hard workload\.batch=1\. Add"),
        (
            LABELLED + "against: {label: tomorrow}\n",
            r"against: 0 entries of list set label=tomorrow and are as near to label=",
        ),
        (
            NEAR.replace("seed: 2", "seed: 1") + "against: {routing.policy: standard}\n",
            "against: 2 entries of list set routing",
        ),
        (
            "list: [{label: a, seed: 1}, {label: a, seed: 2}]\n",
            "list: labels must be words, one for each entry, all",
        ),
        ("list: [{label: a, seed: 1}, {seed: 2}]\n", "list: labels must be words, one for each entry, all"),
        ("list: [{label: 1, seed: 1}, {label: 2, seed: 2}]\n", "list: labels must be words, one for each entry"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_sweep(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_changes_are_those_of_two_predictions_draw_by_draw(tmp_path):
    sweep = load_sweep(written(tmp_path, LABELLED + "against: {label: today}\n"))
    rows = run_sweep(sweep, tmp_path / "out").result.to_dict()["rows"]
    ratio = np.divide(*(simulate(sweep.points[index].scenario).draws["ttft_s"] for index in (3, 1))) - 1
    assert rows[3]["change"]["ttft_s"] == np.median(ratio)
    assert rows[3]["change"]["ttft_s_interval"] == [ratio.min(), ratio.max()]
    assert rows[1]["change"]["ttft_s"] == 0
    table = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    assert table["set_label"].to_list() == ["today", "today", "longer", "longer"]
    assert table["change_ttft_s"].to_list() == [row["change"]["ttft_s"] for row in rows]
    assert table["change_ttft_s_interval_high"][3] == ratio.max()


def test_a_point_whose_base_failed_has_no_change(tmp_path):
    text = "grid: {workload.text_tokens: [0, 8]}\nagainst: {workload.text_tokens: 0}\n"
    rows = run_sweep(
        load_sweep(written(tmp_path, text.replace("0, 8", "-1, 8").replace(": 0}", ": -1}"))), tmp_path / "o"
    ).result.rows
    assert [row.changes for row in rows] == [{}, {}]
    assert rows[0].error
    assert rows[1].prediction.ttft_s > 0


def test_labels_and_changes_are_printed(tmp_path, capsys):
    study = written(tmp_path, LABELLED + "against: {label: today}\n")
    assert main(["sweep", study, "--out", str(tmp_path / "out")]) == 0
    first, second = capsys.readouterr().out.split("\nChange from the point with label=today (%), draw by draw\n")
    # wider than 100 columns: the rows are numbered
    assert [line.split()[1:3] for line in first.splitlines()[2:7]] == [
        ["label", "routing.policy"],
        ["today", "standard"],
        ["today", "smoes"],
        ["longer", "standard"],
        ["longer", "smoes"],
    ]
    header, today, *_, longer = second.splitlines()
    assert header.split() == ["label", "routing.policy", "TTFT", "TPOT", "tokens/s", "exchanges", "bytes"]
    assert today.split()[2] == "+0.0"
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    assert longer.split()[:3] == ["longer", "smoes", f"{100 * rows[3]['change']['ttft_s']:+.1f}"]


def test_bars_have_the_intervals_of_changes(tmp_path):
    sweep = load_sweep(written(tmp_path, LABELLED + "against: {label: today}\n"))
    result = run_sweep(sweep, tmp_path / "out").result
    plot = PlotSpec(metric="change_ttft_s", over="label", by="routing.policy", kind="bars")
    drawn = result.plot(plot).to_dict()
    assert drawn["layer"][0]["encoding"]["x"]["title"] == "change of TTFT (%)"
    data = drawn["data"]["values"]
    assert [(cell["over"], cell["by"]) for cell in data] == [
        ("today", "standard"),
        ("today", "smoes"),
        ("longer", "standard"),
        ("longer", "smoes"),
    ]
    low, high = result.rows[3].changes["ttft_s"].interval
    assert (data[3]["low"], data[3]["high"]) == (100 * low, 100 * high)
