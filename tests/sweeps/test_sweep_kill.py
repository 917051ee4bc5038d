"""Killed with SIGKILL at seeded moments, a sweep loses nothing; ``python -m benchmarks.sweep``: 20 times on 500 points."""

from __future__ import annotations

import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is in the repository, not in the package")

from benchmarks.sweep import finished, kill_repeatedly, run, write_study
from smoes_sim.sweeps import load_sweep, run_sweep

POINTS = 24


def test_killed_again_and_again_a_sweep_loses_no_point_and_ends_with_the_same_bytes(tmp_path):
    study = write_study(tmp_path / "study.yaml", num_points=POINTS)
    run_sweep(load_sweep(str(study)), tmp_path / "quiet")
    kills = list(kill_repeatedly(study, tmp_path / "killed", num_points=POINTS, kills=2, jobs=2, seed=11))
    assert {kill.with_workers for kill in kills} == {True, False}
    assert kills[-1].finished > 0
    last = run(study, tmp_path / "killed")
    assert (last["skipped"], last["done"]) == (kills[-1].finished, POINTS - kills[-1].finished)
    for name in ("runs.parquet", "summary.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()
    points = [{name: content for name, (content, _) in finished(tmp_path / out).items()} for out in ("killed", "quiet")]
    assert points[0] == points[1]
    assert not list((tmp_path / "killed" / "points").glob(".*"))
