"""The shipped studies: every point is a valid scenario, and a tiny version of each runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import studies
from smoes_sim.sweep import Sweep, load_sweep, sweep_names

TINY = [
    "model={name: tiny, layers: 2, hidden: 64, experts: 16, top_k: 2, expert_ffn: 64, vocab: 128, heads: 2, kv_heads: 2, "
    "head_dim: 32, image_tokens: {kind: fixed, tokens: 4}, source: made up, image_source: made up}",
    "routing.rates=null",
]


def tiny(name: str) -> Sweep:
    """The first four points of a study on a model of two small layers."""
    sweep = load_sweep(name, TINY)
    return replace(sweep, points=sweep.points[:4])


@pytest.mark.parametrize("name", sweep_names())
def test_every_point_is_a_valid_scenario(name: str) -> None:
    assert [point.problem for point in load_sweep(name).points if point.scenario is None] == []


@pytest.mark.parametrize("name", sweep_names())
def test_a_tiny_version_runs(name: str, tmp_path: Path) -> None:
    sweep = tiny(name)
    outcomes = studies.outcomes_of(sweep, tmp_path)
    assert all(outcome["values"]["ttft_s"] > 0 for outcome in outcomes)
    rows = studies.table(sweep, outcomes).splitlines()
    assert len(rows) == 2 + len(sweep.points)
    assert rows[2].endswith("|  |  |  |"), "the baseline has no change"


def test_a_change_is_taken_draw_by_draw() -> None:
    mine, base = ({"draws": {"ttft_s": draws}} for draws in ([1.0, 2.0], [2.0, 2.0]))
    assert studies.change(mine, base, "ttft_s") == (-0.25, [-0.5, 0.0])  # 1/2 - 1 and 2/2 - 1
    assert studies.change(mine, base, "tpot_s") is None


def test_a_finished_point_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = replace(tiny("paper"), points=tiny("paper").points[:1])
    first = studies.outcomes_of(sweep, tmp_path)
    monkeypatch.delattr(studies, "simulate")
    assert studies.outcomes_of(sweep, tmp_path)[0]["draws"] == first[0]["draws"]


def test_a_grid_compares_with_its_first_value_and_a_list_with_its_first_point() -> None:
    assert studies.baselines(load_sweep("paper"))[:4] == [0, 0, 2, 2]
    assert set(studies.baselines(load_sweep("upgrades"))) == {0}


def test_bad_study_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert studies.main(["no-such-study", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith('sweep study "no-such-study" is neither')
