from __future__ import annotations

import re
from pathlib import Path

import pytest
from sweeps.cheap import SCENARIO, written

from smoes_sim.errors import ConfigError
from smoes_sim.sweeps import load_sweep, sweep_names
from smoes_sim.topology.specs import StarSpec


def test_the_last_key_of_the_grid_changes_fastest(tmp_path):
    sweep = load_sweep(written(tmp_path, "grid: {seed: [0, 1], workload.batch: [2, 4]}\n"))
    assert [point.name for point in sweep.points] == [
        "seed=0 workload.batch=2",
        "seed=0 workload.batch=4",
        "seed=1 workload.batch=2",
        "seed=1 workload.batch=4",
    ]
    assert [(p.scenario.seed, p.scenario.workload.batch) for p in sweep.points] == [(0, 2), (0, 4), (1, 2), (1, 4)]


def test_every_entry_of_the_list_meets_every_combination_of_the_grid(tmp_path):
    text = "list:\n  - {seed: 1, routing.policy: smoes}\n  - {seed: 2}\ngrid: {workload.batch: [2, 4]}\n"
    found = [
        (p.scenario.seed, p.scenario.routing.policy, p.scenario.workload.batch)
        for p in load_sweep(written(tmp_path, text)).points
    ]
    assert found == [(1, "smoes", 2), (1, "smoes", 4), (2, "standard", 2), (2, "standard", 4)]


def test_sections_are_set_before_what_is_inside_them(tmp_path):
    text = """\
grid: {topology.link.bandwidth: [10 Gb/s, 100 Gb/s], topology: [{kind: star, ranks: 2, link: {bandwidth: 1 B/s}}]}
"""
    topologies = [point.scenario.topology for point in load_sweep(written(tmp_path, text)).points]
    assert all(isinstance(topology, StarSpec) for topology in topologies)
    assert [topology.link.bandwidth for topology in topologies] == [1.25e9, 12.5e9]


def test_keys_with_one_value_are_not_swept(tmp_path):
    sweep = load_sweep(written(tmp_path, "grid: {seed: [0], workload.batch: [2, 4]}\n"))
    assert sweep.swept() == ["workload.batch"]


def test_overrides_change_the_base(tmp_path):
    sweep = load_sweep(written(tmp_path), ["seed=7", "workload.text_tokens=4"])
    assert {(p.scenario.seed, p.scenario.workload.text_tokens) for p in sweep.points} == {(7, 4)}


def test_a_broken_point_is_kept_with_its_rule_and_the_others_are_whole(tmp_path):
    broken, whole = load_sweep(written(tmp_path, "grid: {workload.batch: [0, 1]}\n")).points
    assert broken.scenario is None
    assert re.fullmatch(r'"workload\.batch=0": workload\.batch = 0: .* greater than or equal to 1\.', broken.problem)
    assert whole.scenario.workload.batch == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"study\.yaml:1:1: neither grid nor list is given: there is nothing to sweep\. Add one\."),
        ("grid: {seed: []}\n", r"study\.yaml:8:8: grid\.seed = \[\]: list should have at least 1 item"),
        ("grid: {seed: 3}\n", r"study\.yaml:8:14: grid\.seed = 3: input should be a valid list"),
        ("list: [{}]\n", r"study\.yaml:8:8: list\.0 = \{\}: dictionary should have at least 1 item"),
        ("grdi: {seed: [3]}\n", r'study\.yaml:8:1: unknown key "grdi"\. Did you mean "grid"\?'),
        ("grid: {seed: [1]}\nlist: [{seed: 2}]\n", r"seed is in grid and in list\. Keep one of them\."),
        ("grid: {sede: [1, 2]}\n", r'no point is a valid scenario: "sede=1": unknown key "sede"\. Did you mean "seed"\?'),
        ("grid: {seed.x: [1]}\n", r"seed\.x=1"),
        ("grid: {seed: [0, 1]}\nplot: {metric: ttft_s, over: sede}\n", r'plot: "sede" is not swept\. Did you mean "seed"\?'),
        (
            "grid: {seed: [0, 1], overlap: [none, two_batch]}\nplot: {metric: ttft_s, over: seed}\n",
            r"plot: several points share each place; overlap are swept too\. Give them one value\.",
        ),
        (
            "grid: {seed: [0, 1]}\nplot: {metric: ttft_s, over: seed, kind: heat_map}\n",
            r"plot: kind = heat_map needs a second swept key\. Give by, or kind: lines\.",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_sweep(written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "study.yaml" in str(caught.value)


def test_a_mistake_in_the_base_is_shown_where_it_stands(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(SCENARIO.replace("compute: {device:", "compute: {devise:") + "grid: {seed: [0, 1]}\n")
    with pytest.raises(ConfigError, match=r'study\.yaml:7:13: unknown key "devise"'):
        load_sweep(str(path))


@pytest.mark.parametrize("override", ["workload.batch=3", "workload.batch.x=3"])
def test_an_override_of_what_is_swept_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match=rf'"{override}": workload\.batch is swept by .*study\.yaml'):
        load_sweep(written(tmp_path), [override])


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(
        ConfigError, match=r'sweep study "link-sped" is neither shipped nor a file\. Did you mean "link-speed"'
    ):
        load_sweep("link-sped")


@pytest.mark.parametrize("name", sweep_names())
def test_every_shipped_study_is_whole_and_says_what_it_shows(name):
    sweep = load_sweep(name)
    assert all(point.scenario is not None for point in sweep.points)
    assert sweep.file.description
    assert sweep.file.plot is not None


def test_the_example_of_the_page_is_a_whole_study(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "sweep.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "study.yaml").write_text(example)
    sweep = load_sweep(str(tmp_path / "study.yaml"))
    assert [point.problem for point in sweep.points] == [""] * 4
    assert sweep.swept() == ["topology", "compute.device", "routing.policy", "calibration"]
