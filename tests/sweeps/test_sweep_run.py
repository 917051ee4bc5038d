"""Whoever computes the points, in whatever order and however often, the tables are the same bytes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import polars as pl
import psutil
import pytest
from sweeps.cheap import written

from smoes_sim.errors import ConfigError, SimulationError
from smoes_sim.prediction.router import synthesize_trace
from smoes_sim.prediction.simulate import simulate
from smoes_sim.routing import save_trace
from smoes_sim.sweeps import Shard, load_sweep, run_sweep
from smoes_sim.sweeps.identity import digest_of
from smoes_sim.sweeps.workers import run_point


def contents(out: Path) -> dict[str, bytes]:
    names = [
        "runs.parquet",
        "summary.json",
        *(f"points/{path.name}" for path in sorted((out / "points").glob("[!.]*.json"))),
    ]
    return {name: (out / name).read_bytes() for name in names}


def counts(tally):
    return tally.points, tally.done, tally.skipped, tally.failed, tally.missing


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study computed in this process, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    sweep = load_sweep(written(folder))
    tally = run_sweep(sweep, folder / "out")
    assert counts(tally) == (6, 6, 0, 0, 0)
    return sweep, folder / "out", tally


def test_an_interrupt_says_what_is_kept_and_the_next_run_computes_the_others(alone, tmp_path):
    sweep, out, _ = alone

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^2 of 6 points are finished and kept in .*out; the same command "):
        run_sweep(sweep, tmp_path / "out", on_progress=interrupt)
    assert counts(run_sweep(sweep, tmp_path / "out")) == (6, 4, 2, 0, 0)
    assert contents(tmp_path / "out") == contents(out)


def test_rows_are_the_predictions_of_the_points(alone):
    sweep, out, tally = alone
    for point, row in zip(sweep.points, tally.result.rows, strict=True):
        assert row.settings == point.settings
        assert row.prediction.ttft_s == simulate(point.scenario).ttft_s
    table = pl.read_parquet(out / "runs.parquet")
    assert table["set_workload.batch"].to_list() == [1, 2, 3, 1, 2, 3]
    assert table["ttft_s"].to_list() == [row.prediction.ttft_s for row in tally.result.rows]
    assert table["error"].to_list() == [None] * 6
    document = json.loads((out / "summary.json").read_text())
    assert (document["points"], document["failed"], len(document["rows"])) == (6, 0, 6)
    assert document == tally.result.to_dict()
    assert tally.result.to_polars().equals(table)


def test_a_tally_prints_its_counts_and_the_table(alone):
    _, _, tally = alone
    first, _, *rest = repr(tally).splitlines()
    assert first == "6 points, 6 done, 0 skipped, 0 failed, 0 missing"
    assert rest == repr(tally.result).splitlines()


def test_processes_give_the_same_bytes(alone, tmp_path):
    sweep, out, _ = alone
    steps = []
    run_sweep(sweep, tmp_path, jobs=2, on_progress=lambda *step: steps.append(step))
    assert contents(tmp_path) == contents(out)
    assert steps == [(done, 6) for done in range(7)]


def test_progress_of_a_resumed_sweep_begins_with_the_points_that_were_found(alone, tmp_path):
    sweep, out, _ = alone
    run_sweep(sweep, tmp_path, shard=Shard(number=1, of=3))  # 2 of 6 points
    steps = []
    run_sweep(sweep, tmp_path, on_progress=lambda *step: steps.append(step))
    assert steps == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    assert contents(tmp_path) == contents(out)


def test_a_dask_cluster_of_ones_own_and_a_running_one_give_the_same_bytes(alone, tmp_path):
    from distributed import LocalCluster

    sweep, out, _ = alone
    run_sweep(sweep, tmp_path / "own", jobs=2, backend="dask")
    assert contents(tmp_path / "own") == contents(out)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        tally = run_sweep(sweep, tmp_path / "running", backend="dask", scheduler=cluster.scheduler_address)
    assert tally.done == 6
    assert contents(tmp_path / "running") == contents(out)


def test_a_scheduler_that_is_not_there_is_one_line(alone, tmp_path):
    import dask

    sweep, _, _ = alone
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "100ms"}),
        pytest.raises(ConfigError, match=r"--scheduler tcp://127\.0\.0\.1:1: cannot be reached .*Check the address"),
    ):
        run_sweep(sweep, tmp_path, backend="dask", scheduler="tcp://127.0.0.1:1")


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_in_one_folder_end_with_the_same_bytes(alone, tmp_path, order):
    sweep, out, _ = alone
    tallies = [run_sweep(sweep, tmp_path, shard=Shard(number=number, of=3)) for number in order]
    assert [tally.missing for tally in tallies] == [4, 2, 0]
    assert [(tally.points, tally.done, tally.result is not None) for tally in tallies] == [
        (2, 2, False),
        (2, 2, False),
        (2, 2, True),
    ]
    assert contents(tmp_path) == contents(out)


def test_shards_in_folders_of_their_own_are_gathered(alone, tmp_path):
    sweep, out, _ = alone
    folders = [tmp_path / str(number) for number in (1, 2, 3)]
    for number, folder in enumerate(folders[:2], start=1):
        run_sweep(sweep, folder, shard=Shard(number=number, of=3))
        assert not (folder / "runs.parquet").exists()
    tally = run_sweep(sweep, tmp_path / "all", sources=folders[:2])
    assert counts(tally) == (6, 2, 4, 0, 0)  # the third shard was never run
    assert contents(tmp_path / "all") == contents(out)
    with pytest.raises(ConfigError, match=r"--from .*3: holds no points of a sweep"):
        run_sweep(sweep, tmp_path / "all", sources=folders)


def test_costly_values_of_the_last_key_are_spread_over_shards(tmp_path):
    sweep = load_sweep(written(tmp_path, "grid: {seed: [0, 1, 2, 3, 4, 5, 6, 7], workload.batch: [1, 2]}\n"))
    run_sweep(sweep, tmp_path / "out", shard=Shard(number=1, of=2))
    computed = [json.loads(path.read_text()) for path in (tmp_path / "out" / "points").glob("[!.]*.json")]
    assert len(computed) == 8
    assert {point["scenario"]["workload"]["batch"] for point in computed} == {1, 2}


def test_a_point_that_fails_is_recorded_and_tried_again_and_the_others_go_on(tmp_path):
    trace = tmp_path / "trace.npz"
    text = f"list:\n  - {{seed: 1}}\n  - {{routing.trace: {trace}}}\n  - {{workload.batch: 0}}\n  - {{seed: 2}}\n"
    sweep = load_sweep(written(tmp_path, text))
    tally = run_sweep(sweep, tmp_path / "out", jobs=2)
    assert counts(tally) == (4, 2, 0, 2, 0)
    assert list(tally.failures) == [f"routing.trace={trace}", "workload.batch=0"]
    assert "trace.npz: cannot be read" in tally.failures[f"routing.trace={trace}"]
    assert [row.error is None for row in tally.result.rows] == [True, False, False, True]
    table = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    assert table["ttft_s"].is_null().to_list() == [False, True, True, False]

    save_trace(synthesize_trace(sweep.points[0].scenario), trace)
    again = run_sweep(sweep, tmp_path / "out")
    assert counts(again) == (4, 1, 2, 1, 0)  # the trace is there now; a batch of 0 will never do
    assert again.result.rows[1].prediction.policy == "standard"


def test_settings_of_several_kinds_are_text_in_the_table(tmp_path):
    text = "grid: {topology: [two-orin-10gbe, {kind: star, ranks: 2, link: {bandwidth: 1 GB/s}}]}\n"
    run_sweep(load_sweep(written(tmp_path, text)), tmp_path / "out")
    assert pl.read_parquet(tmp_path / "out" / "runs.parquet")["set_topology"].to_list() == [
        "two-orin-10gbe",
        '{"kind":"star","ranks":2,"link":{"bandwidth":"1 GB/s"}}',
    ]


def test_points_that_are_one_scenario_are_computed_once(tmp_path):
    text = "grid: {communication.per_message: [1 ms, 1000 us]}\n"
    tally = run_sweep(load_sweep(written(tmp_path, text)), tmp_path / "out")
    assert counts(tally) == (2, 2, 0, 0, 0)
    assert len(list((tmp_path / "out" / "points").glob("[!.]*.json"))) == 1
    first, second = tally.result.rows
    assert first.prediction.ttft_s == second.prediction.ttft_s


def test_a_worker_with_another_model_or_other_files_is_an_error(alone):
    sweep, _, _ = alone
    scenario = sweep.points[0].scenario
    assert "differs from when the sweep began" in run_point("0" * 64, scenario).error
    assert run_point(digest_of(scenario), scenario).prediction is not None


def test_a_bug_in_one_point_is_its_own_failure(alone, monkeypatch, tmp_path):
    sweep, _, _ = alone

    def broken(scenario):
        if scenario.workload.batch == 2:
            raise ZeroDivisionError("division\nby zero")
        return simulate(scenario)

    monkeypatch.setattr("smoes_sim.sweeps.workers.simulate", broken)
    tally = run_sweep(sweep, tmp_path)
    assert counts(tally) == (6, 4, 0, 2, 0)
    assert set(tally.failures.values()) == {"ZeroDivisionError: division by zero"}


def test_workers_that_are_killed_are_one_line_and_what_was_finished_stays(alone, tmp_path):
    sweep, out, _ = alone

    def kill_workers(done, total):
        if done == 1:
            for child in psutil.Process().children():
                if "LokyProcess" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)

    with pytest.raises(
        SimulationError, match=r"a worker was killed from outside .*it continues with the points that are missing"
    ):
        run_sweep(sweep, tmp_path, jobs=2, on_progress=kill_workers)
    tally = run_sweep(sweep, tmp_path, jobs=2)
    assert tally.skipped >= 1
    assert contents(tmp_path) == contents(out)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(ConfigError, match=r"shard = .* is not i/n with 1 <= i <= n"):
        Shard.parse(text)
    assert Shard.parse("3/4") == Shard(number=3, of=4)
