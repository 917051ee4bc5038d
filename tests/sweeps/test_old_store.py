"""Points that release 0.1.0 stored are used where scenario and model are the same; that release wrote ``old_store``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from smoes_sim.scenario import load_scenario
from smoes_sim.sweeps import identity, load_sweep, run_sweep
from smoes_sim.sweeps.identity import data_of, digest_of
from smoes_sim.topology import shipped

OLD = Path(__file__).parent / "old_store"


@pytest.fixture
def model_1(monkeypatch):
    """As if the model were still that of 0.1.0."""
    monkeypatch.setattr(identity, "MODEL", 1)
    monkeypatch.setattr("smoes_sim.sweeps.store.MODEL", 1)


@pytest.fixture
def old(tmp_path):
    """A copy of the store, to be continued."""
    shutil.copytree(OLD, tmp_path / "out")
    return tmp_path / "out"


def counts(tally):
    return tally.done, tally.skipped, tally.failed


def test_points_of_another_model_are_computed_again(old):
    assert identity.MODEL > 1
    assert counts(run_sweep(load_sweep(str(OLD / "study.yaml")), old)) == (4, 0, 0)


@pytest.mark.usefixtures("model_1")
def test_nothing_of_an_old_store_of_this_model_is_computed_again(old):
    before = {path.name: path.read_bytes() for path in (old / "points").glob("*.json")}
    tally = run_sweep(load_sweep(str(OLD / "study.yaml")), old)
    assert counts(tally) == (0, 4, 0)
    assert {path.name: path.read_bytes() for path in (old / "points").glob("*.json")} == before
    rows = json.loads((OLD / "summary.json").read_text())["rows"]
    assert [row.prediction.ttft_s for row in tally.result.rows] == [row["ttft_s"] for row in rows]
    assert [row.to_dict()["change"] for row in tally.result.rows] == [row["change"] for row in rows]


@pytest.mark.usefixtures("model_1")
def test_points_of_an_old_store_are_copied_into_another(tmp_path):
    tally = run_sweep(load_sweep(str(OLD / "study.yaml")), tmp_path / "new", sources=[OLD])
    assert counts(tally) == (0, 4, 0)
    assert len(list((tmp_path / "new" / "points").glob("[!.]*.json"))) == 4


@pytest.mark.usefixtures("model_1")
def test_a_changed_scenario_is_computed_again(old, tmp_path):
    text = (OLD / "study.yaml").read_text()
    (tmp_path / "study.yaml").write_text(text.replace("workload.batch: [1, 2]", "workload.batch: [1, 3]"))
    assert counts(run_sweep(load_sweep(str(tmp_path / "study.yaml")), old)) == (2, 2, 0)


@pytest.mark.usefixtures("model_1")
def test_a_new_version_of_the_model_computes_everything_again(old, monkeypatch):
    sweep = load_sweep(str(OLD / "study.yaml"), ["seed=1"])
    assert counts(run_sweep(sweep, old)) == (4, 0, 0)
    monkeypatch.setattr(identity, "MODEL", 2)
    monkeypatch.setattr("smoes_sim.sweeps.store.MODEL", 2)
    assert counts(run_sweep(sweep, old)) == (4, 0, 0)
    assert counts(run_sweep(load_sweep(str(OLD / "study.yaml")), old)) == (4, 0, 0)


def test_a_point_from_before_a_key_was_added_is_used(old):
    # as if a later version had added communication.tolerance: the stored scenario lacks it and has the default
    sweep = load_sweep(str(OLD / "study.yaml"), ["seed=1"])
    run_sweep(sweep, old)
    for path in (old / "points").glob("[!.]*.json"):
        document = json.loads(path.read_text())
        if document["scenario"]["seed"] == 1:
            del document["scenario"]["communication"]["tolerance"]
            path.unlink()
            digest = identity.hash_of([path.stem])  # the name that a version without the key gave it
            (path.parent / f"{digest}.json").write_text(json.dumps(document | {"digest": digest}))
    assert counts(run_sweep(sweep, old)) == (0, 4, 0)


def test_an_old_point_whose_scenario_was_edited_is_not_used(old):
    for path in (old / "points").glob("*.json"):
        document = json.loads(path.read_text())
        document["scenario"]["communication"]["per_message"] = 0.5
        path.write_text(json.dumps(document))
    sweep = load_sweep(str(OLD / "study.yaml"), ["communication.per_message=0.5 s"])
    assert counts(run_sweep(sweep, old)) == (4, 0, 0)


def test_a_point_whose_file_changed_is_computed_again(tmp_path):
    (tmp_path / "star.yaml").write_text("{kind: star, ranks: 2, link: {bandwidth: 1 GB/s}}")
    sweep = load_sweep(str(OLD / "study.yaml"), [f"topology={tmp_path / 'star.yaml'}"])
    assert counts(run_sweep(sweep, tmp_path / "out")) == (4, 0, 0)
    (tmp_path / "star.yaml").write_text("{kind: star, ranks: 2, link: {bandwidth: 2 GB/s}}")
    assert counts(run_sweep(sweep, tmp_path / "out")) == (4, 0, 0)


def shipped_content(topologies, data):
    """A hash of each shipped entry that a scenario can name, without its documentation and peaks that 0.1.0 did not read."""
    found = {path.stem: identity._content(path.read_bytes()) for path in topologies.glob("*.yaml")}
    found |= {path.stem: identity._content(path.read_bytes()) for path in (data / "calibrations").glob("*.json")}
    read = YAML(typ="safe", pure=True).load
    for file, key in (("models", "models"), ("devices", "devices"), ("workloads", "presets"), ("routing", "published")):
        part = read(data / f"{file}.yaml")[key]
        entries = part.items() if isinstance(part, dict) else ((entry["name"], entry) for entry in part)
        bare = {name: identity._bare(entry) for name, entry in entries}
        for entry in bare.values():
            entry.pop("peak_int8", None), entry.pop("peak_fp4", None)
        found |= {f"{file} {name}": identity.hash_of(entry) for name, entry in bare.items()}
    return {name: digest[:12] for name, digest in found.items()}


def test_shipped_data_are_those_of_0_1_0():
    # points of 0.1.0 do not say which data they used; if one of these changes on purpose, raise MODEL
    today = shipped_content(shipped.folder(), Path(identity.__file__).parents[1] / "data")
    old = json.loads((OLD / "data_of_0.1.0.json").read_text())
    changed = {
        "two-orin-baseline": 2,  # with the MODEL it came with: fitted again with the routing of version 2
        **{f"models llama-4-{name}": 3 for name in ("scout", "maverick")},  # three of four layers attend to a window
        "models deepseek-v3": 3,  # has a layer that proposes tokens
    }
    assert {name: today.get(name) for name in old if name not in changed} == {n: old[n] for n in old if n not in changed}
    assert max(changed.values()) <= identity.MODEL


def test_documentation_of_shipped_data_does_not_count_and_numbers_do(tmp_path, monkeypatch):
    scenario = load_scenario("olmoe-two-orin")
    before = data_of(scenario)
    text = (shipped.folder() / "two-orin-10gbe.yaml").read_text()
    edits = {
        "words": text.replace("description: ", "description: Now with "),
        "comment": f"# a comment\n{text}",
        "device": text.replace("device: jetson-agx-orin-64gb", "device: l4"),
        "number": text.replace("10 Gb/s", "11 Gb/s"),
    }
    assert all(edited != text for edited in edits.values())
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)
    same = {}
    for name, edited in edits.items():
        (tmp_path / "two-orin-10gbe.yaml").write_text(edited)
        same[name] = data_of(scenario) == before
    assert same == {"words": True, "comment": True, "device": True, "number": False}


def test_other_shipped_data_do_not_count(tmp_path, monkeypatch):
    scenario = load_scenario("olmoe-two-orin")
    before = digest_of(scenario)
    (tmp_path / "two-orin-10gbe.yaml").write_bytes((shipped.folder() / "two-orin-10gbe.yaml").read_bytes())
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)  # no other topology is left
    assert digest_of(scenario) == before
