from __future__ import annotations

import json

import pytest
from sweeps.cheap import written

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import load_scenario
from smoes_sim.sweeps import load_sweep
from smoes_sim.sweeps.identity import digest_of
from smoes_sim.sweeps.store import Outcome, Store, digest_of_point

BASE = ["calibration=null", "workload.batch=2"]


def digest(*overrides):
    return digest_of(load_scenario("olmoe-two-orin", [*BASE, *overrides]))


def test_equal_scenarios_have_one_digest_however_they_are_written():
    star = "topology={{kind: star, ranks: 2, link: {{bandwidth: {}}}}}"
    assert digest(star.format("400 Gb/s")) == digest(star.format("50 GB/s"), "placement.tokens=data_parallel")
    assert digest(star.format("400 Gb/s")) != digest(star.format("401 Gb/s"))
    assert digest("seed=1") != digest()


@pytest.mark.parametrize("key", ["topology", "routing.trace", "placement.experts.file", "calibration"])
def test_the_content_of_a_named_file_counts(tmp_path, key):
    file = tmp_path / "file.json"
    file.write_text("one")
    before = digest(f"{key}={file}")
    file.write_text("two")
    after = digest(f"{key}={file}")
    assert before != after
    file.write_text("one")
    assert digest(f"{key}={file}") == before


def test_what_is_written_is_read_and_a_damaged_file_is_none(tmp_path):
    (point, *_) = load_sweep(written(tmp_path)).points
    store, name = Store(tmp_path), digest_of_point(point)
    with store.open():
        assert store.read(name) is None
        store.write(name, point, Outcome(prediction=simulate(point.scenario)))
    file = tmp_path / "points" / f"{name}.json"
    assert store.read(name).prediction.values() == simulate(point.scenario).values()
    assert json.loads(file.read_text())["scenario"]["workload"]["text_tokens"] == 8
    whole = file.read_bytes()
    for damaged in (b"", whole[:-9], b"[1]", b"{}", whole.replace(name.encode(), b"0" * 64)):
        file.write_bytes(damaged)
        assert store.read(name) is None


def test_incomplete_files_are_removed_by_a_run_that_is_alone(tmp_path):
    left = tmp_path / "points" / ".abc.json.x1y2.json"
    with Store(tmp_path).open():
        left.write_text("{")
        with Store(tmp_path).open():  # another run starts while this one may be writing
            assert left.exists()
    with Store(tmp_path).open():
        assert not left.exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "points").write_text("a file")
    with pytest.raises(ConfigError, match=r"points.*cannot be written .*Choose another --out"), Store(tmp_path).open():
        pass
