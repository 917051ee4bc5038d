"""Folders that release 0.1.0 wrote are still read, and ``report`` still makes a page of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report.outline import assert_stands_alone, outline_of

from smoes_sim.report.results_page import write_report
from smoes_sim.results.expected import PredictedOption
from smoes_sim.results.read import read_results
from smoes_sim.sweeps import load_sweep, run_sweep

FOLDERS = {
    **{kind: Path(__file__).parent / f"old_{kind}" for kind in ("simulate", "compare", "plan")},
    "sweep": Path(__file__).parents[1] / "sweeps" / "old_store",
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_report_makes_a_page_of_an_old_folder(kind, tmp_path):
    answer = write_report(FOLDERS[kind], tmp_path / "p.html")
    assert_stands_alone(tmp_path / "p.html")
    words = outline_of(tmp_path / "p.html").words
    assert answer in words
    assert not any("has changed since" in word or "cannot be shown" in word for word in words)


@pytest.mark.parametrize("kind", ["simulate", "compare", "sweep"])
def test_rows_of_an_old_folder_have_their_values_and_scenarios(kind):
    results = read_results(FOLDERS[kind])
    rows = json.loads((FOLDERS[kind] / "summary.json").read_text())["rows"]
    assert [row.prediction.ttft_s for row in results.rows] == [row["ttft_s"] for row in rows]
    assert [row.prediction.interval("tpot_s") for row in results.rows] == [tuple(row["intervals"]["tpot_s"]) for row in rows]
    assert [row.scenario.routing.policy for row in results.rows] == [row["policy"] for row in rows]
    if kind != "simulate":
        assert [row.changes["ttft_s"].value for row in results.rows] == [row["change"]["ttft_s"] for row in rows]


def test_options_of_an_old_plan_have_their_values_and_scenarios():
    results = read_results(FOLDERS["plan"])
    document = json.loads((FOLDERS["plan"] / "summary.json").read_text())
    assert [type(option) for option in results.plan.options] == [PredictedOption] * 6
    assert [option.margin for option in results.options] == [row["margin"] for row in document["options"]]
    assert [scenario.routing.policy for scenario in results.scenarios] == [row["policy"] for row in document["options"]]


def test_a_page_is_made_of_an_old_sweep_that_was_continued(tmp_path):
    # its points were written by 0.1.0, its summary by this version
    run_sweep(load_sweep(str(FOLDERS["sweep"] / "study.yaml")), tmp_path / "out", sources=[FOLDERS["sweep"]])
    for path in (FOLDERS["sweep"] / "points").glob("*.json"):
        (tmp_path / "out" / "points" / path.name).write_bytes(path.read_bytes())
    assert "output tokens/s change by" in write_report(tmp_path / "out", tmp_path / "p.html")
