"""``smoes-sim plan`` and ``report``: what they print, write and refuse."""

from __future__ import annotations

import json
import re

import pytest
from small_plan import plan_file

from smoes_sim.cli import main
from smoes_sim.prediction.prediction import NOMINAL


def test_a_plan_end_to_end_and_its_page(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["plan", plan_file(tmp_path), "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document == json.loads((out / "summary.json").read_text())
    assert "smoes-sim report" in printed.err
    wanted = {"topology", "ranks", "cost_per_hour", "ttft_s", "tpot_s", "tokens_per_s", "meets_slo"}
    assert all(wanted <= row.keys() for row in document["options"])
    assert {row["ranks"] for row in document["options"]} == {4, 8, 12, 16}
    assert main(["plan", plan_file(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{NOMINAL}\n{document['answer']}\n")
    assert "EUR/h" in text
    page = tmp_path / "plan.html"
    assert main(["report", str(out), "-o", str(page)]) == 0
    assert capsys.readouterr().out.strip() == document["answer"]
    assert document["options"][document["cheapest"]]["name"] in page.read_text()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("a shop, 2026-11-24", "a shop", r"plan.yaml:\d+:\d+: .*a price needs a day"),
        ("ttft: 500 us, tokens_per_s: 40000", "", r"nothing is asked for"),
        ("ttft: 500 us", "ttft: 0 s", r"a time of 0 s cannot be met"),
        ("ttft: 500 us", "ttft: 1", r"has no unit of time"),
        ("replicas: [1, 2]", "replicas: [2, 2]", r"a number is given twice"),
        ("cost_per_hour: 5", "cost_per_hour: 0", r"cost_per_hour"),
        ("cost_per_hour: 5", "cost: 5", r'unknown key "cost"'),
        (
            "cost_per_hour: 5",
            "cost_per_hour: 5\n    set: {routing.policy: hard}",
            r"routing.policy is set by star and by try",
        ),
        ("h100-sxm", "h1", r"no offer is a valid scenario"),
    ],
)
def test_a_broken_plan_is_one_line_that_says_where(tmp_path, capsys, old, new, problem):
    assert main(["plan", plan_file(tmp_path, old, new)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(problem, error), error


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "p.html")]) == 2
    assert "holds no results" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "p.pdf")]) == 2
    assert 'ends in ".pdf"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
