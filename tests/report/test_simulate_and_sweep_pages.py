"""Pages of ``simulate`` and ``sweep``: the answer first, all escaped, nothing fetched, and broken folders refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from report.outline import assert_stands_alone, outline_of
from sweeps.cheap import SCENARIO

from smoes_sim.cli import main

HOSTILE = '<script>alert("1")</script>'
IMAGE = "<img src=http://example.org/x onerror=alert(2)>"
ESCAPED = "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;"
BASE = SCENARIO.replace("name: tiny", f"name: '{HOSTILE}'")
STUDY = f"""
description: '{HOSTILE}'
{BASE}grid:
  model.source: [made up, '{IMAGE}']
  workload.batch: [1, 0, 2]
"""


def one_scenario(text: str) -> str:
    """The scenario of a study as a file of its own."""
    body = [line[2:] for line in text.splitlines() if line.startswith("  ")]
    return "\n".join([f"description: '{HOSTILE}'", *body]) + "\n"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Results of ``simulate`` whose names are hostile."""
    folder = tmp_path_factory.mktemp("simulate")
    (folder / "s.yaml").write_text(one_scenario(BASE))
    assert main(["simulate", str(folder / "s.yaml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Results of a sweep whose names are hostile and of which two points fail."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "study.yaml").write_text(STUDY)
    assert main(["sweep", str(folder / "study.yaml"), "--out", str(folder / "out")]) == 1
    return folder / "out"


@pytest.fixture(params=["simulated", "swept"])
def results(request):
    """Each of both folders."""
    return request.getfixturevalue(request.param)


def page_of(results, tmp_path, capsys):
    """The page, and what the command printed."""
    capsys.readouterr()
    assert main(["report", str(results), "-o", str(tmp_path / "p.html")]) == 0
    return tmp_path / "p.html", capsys.readouterr().out.strip()


def test_the_page_stands_alone_and_escapes_everything(results, tmp_path, capsys):
    page, _ = page_of(results, tmp_path, capsys)
    assert_stands_alone(page)
    text = page.read_text()
    assert HOSTILE not in text
    assert IMAGE not in text
    assert ESCAPED in text
    tags = re.findall(r"<[a-zA-Z][^>]*>", text)
    addresses = {found for tag in tags for found in re.findall(r'[\w:]+="https?://[^"]*"', tag)}
    assert {found.partition("=")[0] for found in addresses} <= {"xmlns", "xmlns:xlink"}  # names of namespaces, never fetched


def test_the_answer_comes_before_anything_else(results, tmp_path, capsys):
    page, answer = page_of(results, tmp_path, capsys)
    words = outline_of(page).words
    start = words.index(HOSTILE, words.index(HOSTILE) + 1)  # the title of the window, then the heading
    assert words[start + 1] == answer
    assert page.read_text().index('class="answer"') < page.read_text().index("<figure")


def test_the_answer_of_one_deployment_has_its_intervals(simulated, tmp_path, capsys):
    page, answer = page_of(simulated, tmp_path, capsys)
    (row,) = json.loads((simulated / "summary.json").read_text())["rows"]
    ends = row["intervals"]["tokens_per_s"]
    assert f"{row['tokens_per_s']:,.0f} [{ends[0]:,.0f}, {ends[1]:,.0f}] output tokens/s" in answer
    low, high = row["intervals"]["ep_overhead"]
    share = f"{100 * row['ep_overhead']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert f"expert-parallel communication adds {share} % of prefill" in answer
    assert outline_of(page).tags.count("figure") == 3  # nothing to compare with: time, experts, links


def test_every_point_is_in_the_table_and_failed_points_have_their_reason(swept, tmp_path, capsys):
    page, _ = page_of(swept, tmp_path, capsys)
    words = " ".join(outline_of(page).words)
    rows = json.loads((swept / "summary.json").read_text())["rows"]
    assert [row["error"] is None for row in rows] == [True, False, True, True, False, True]
    for row in rows:
        if row["error"] is None:
            ends = row["intervals"]["tokens_per_s"]
            assert f"{row['tokens_per_s']:,.0f} [{ends[0]:,.0f}, {ends[1]:,.0f}]" in words
    assert "2 of 6 points failed" in words
    assert rows[1]["error"].split(": ")[-1] in words


def test_what_was_swept_is_drawn_over_the_key_with_most_values(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(BASE + "grid:\n  routing.policy: [standard, smoes]\n  workload.batch: [1, 2, 3]\n")
    assert main(["sweep", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 0
    page, _ = page_of(tmp_path / "out", tmp_path, capsys)
    words = outline_of(page).words
    assert words.count("workload.batch") == words.count("routing.policy") == 2  # axis and legend of two pictures
    assert "Latency and output; up and to the left is better, bars are intervals" not in words


def test_the_scenario_on_the_page_gives_the_numbers_again(results, tmp_path, capsys):
    page, _ = page_of(results, tmp_path, capsys)
    words = outline_of(page).words
    assert any(word.startswith("Save the scenario as scenario.yaml") for word in words)
    text = re.search(r"<pre>(.*?)</pre>", page.read_text(), re.DOTALL)
    assert text
    written = text[1].replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", '"').replace("&#39;", "'")
    (tmp_path / "scenario.yaml").write_text(written.replace("&amp;", "&"))
    assert main(["simulate", str(tmp_path / "scenario.yaml"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    rows = json.loads((results / "summary.json").read_text())["rows"]
    assert again["ttft_s"] in [row.get("ttft_s") for row in rows]


def broken(results, tmp_path, change):
    """A copy of the results whose document was changed."""
    folder = tmp_path / "broken"
    shutil.copytree(results, folder)
    document = json.loads((folder / "summary.json").read_text())
    change(document)
    (folder / "summary.json").write_text(json.dumps(document))
    return folder


def refused(folder, tmp_path, capsys):
    """The one line that says why there is no page."""
    capsys.readouterr()
    assert main(["report", str(folder), "-o", str(tmp_path / "p.html")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not (tmp_path / "p.html").exists()
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize("key", ["ttft_s", "tokens_per_s", "intervals", "memory", "ep_overhead", "not_counted", "name"])
def test_a_row_that_lacks_something_is_refused(simulated, tmp_path, capsys, key):
    line = refused(broken(simulated, tmp_path, lambda document: document["rows"][0].pop(key)), tmp_path, capsys)
    assert "summary.json: " in line
    assert "Run the command again" in line or "Name the --out folder" in line


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ttft_s": "fast"}, "rows.0.ttft_s: input should be a valid number"),
        ({"ttft_s": -1.0}, "rows.0.ttft_s: input should be greater than 0"),
        ({"intervals": {"ttft_s": [1.0]}}, "rows.0.intervals.ttft_s: list should have at least 2 items"),
        ({"name": 7}, "rows.0.name: input should be a valid string"),
    ],
)
def test_a_value_of_another_kind_is_refused(results, tmp_path, capsys, change, problem):
    folder = broken(results, tmp_path, lambda document: document["rows"][0].update(change))
    assert problem in refused(folder, tmp_path, capsys)


def test_a_sweep_without_its_points_or_with_another_s_is_refused(swept, tmp_path, capsys):
    folder = broken(swept, tmp_path, lambda document: document["rows"][0].update(ttft_s=1.0))
    assert "no file in points has the values of" in refused(folder, tmp_path, capsys)
    shutil.copy(swept / "summary.json", folder)
    for path in (folder / "points").glob("*.json"):
        path.write_text("{")
    line = refused(folder, tmp_path, capsys)
    assert re.search(r"points/\w+\.json:1:\d+: is not JSON", line)


def test_a_folder_without_scenarios_is_refused(simulated, tmp_path, capsys):
    folder = broken(simulated, tmp_path, lambda _: None)
    (folder / "scenario.resolved.yaml").write_text("topology: [")
    assert "scenario.resolved.yaml: is not YAML" in refused(folder, tmp_path, capsys)
    (folder / "scenario.resolved.yaml").write_text("topology: nowhere\n")
    assert "scenario.resolved.yaml: " in refused(folder, tmp_path, capsys)
    (folder / "scenario.resolved.yaml").unlink()
    assert "cannot be read" in refused(folder, tmp_path, capsys)


def test_results_of_another_command_are_refused(tmp_path, capsys):
    for document in ({"rows": [{"name": "x", "rate_per_s": 1.0}]}, {"over_time": [], "policies": []}):  # serve, adapt
        (tmp_path / "summary.json").write_text(json.dumps(document))
        assert "is not of simulate, compare, sweep or plan" in refused(tmp_path, tmp_path, capsys)
