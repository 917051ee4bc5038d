"""The command: a run, a file of requests, a curve with its plot, and what it refuses."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest
from small_scenario import small

from smoes_sim.cli import main
from smoes_sim.prediction.prediction import NOMINAL

EXACT = ["compute.flops_efficiency=0.5", "compute.memory_efficiency=0.8"]
"""One set of constants."""


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    small(tmp_path)
    monkeypatch.chdir(tmp_path)
    return "small.yaml"


def run(capsys, *arguments):
    assert main(["serve", *arguments]) == 0
    return capsys.readouterr().out


def test_a_rate_is_served_and_printed(capsys, scenario):
    arguments = [scenario, "--rate", "100/s", "--requests", "20", "--slo", "ttft=1s,tpot=5ms"]
    document = json.loads(run(capsys, *arguments, "--json"))
    assert (document["requests"], document["rate_per_s"], document["slo"]) == (20, 100.0, "ttft=1 s,tpot=5 ms")
    assert document["limits"]["groups"] == 4
    assert document["intervals"]["ttft_p99_s"][0] < document["ttft_p99_s"] < document["intervals"]["ttft_p99_s"][1]
    text = run(capsys, *arguments)
    assert text.splitlines()[0] == NOMINAL
    assert text.splitlines()[-3].split()[0] == "TTFT"
    assert max(map(len, text.splitlines()[1:])) <= 100
    assert re.search(rf"goodput +{document['goodput_per_s']:.4g} ", text)
    assert json.loads(run(capsys, *arguments, "--json")) == document


def test_a_file_of_requests_is_served(capsys, scenario, tmp_path):
    (tmp_path / "requests.csv").write_text("arrival_s,prompt_tokens,output_tokens\n7,100,1\n7,50,1\n")
    arguments = [scenario, *EXACT, "--arrivals", "requests.csv", "--out", "results"]
    document = json.loads(run(capsys, *arguments, "--json"))
    assert (document["requests"], document["arrivals"], document["intervals"]) == (2, "requests.csv", {})
    assert document["steps"] == 1.0
    assert not [key for key in document if key.startswith("tpot") or key == "goodput_per_s"]
    assert pl.read_parquet("results/runs.parquet")["e2e_p50_s"].item() == document["e2e_p50_s"]
    assert "requests.csv" in run(capsys, *arguments)


def test_with_an_objective_alone_the_largest_rate_is_found_and_drawn(capsys, scenario, tmp_path):
    arguments = [scenario, *EXACT, "--slo", "ttft=1ms", "--requests", "20", "--max-sequences", "2"]
    arguments += ["--out", "results"]
    document = json.loads(run(capsys, *arguments, "--json"))
    assert document["max_rate_per_s"] > 0
    assert len(document["rows"]) == 8
    text = run(capsys, *arguments)
    assert f"{document['max_rate_per_s']:.4g} requests/s" in text
    assert max(map(len, text.splitlines()[1:])) <= 100
    assert "requests that meet it (%)" in (tmp_path / "results" / "goodput.svg").read_text()
    assert len(pl.read_parquet("results/runs.parquet")) == 8
    # nobody meets a microsecond: said in words
    out = run(capsys, scenario, *EXACT, "--slo", "ttft=1us", "--requests", "5")
    assert "none: even requests that are alone miss it" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing says when requests arrive"),
        (["--rate", "2"], 'rate = "2" has no unit of arrivals'),
        (["--rate", "0/s"], 'rate = "0/s"'),
        (["--rate", "many/s"], 'rate = "many/s"'),
        (["--rate", "nan/s"], 'rate = "nan/s"'),
        (["--rate", "2/min"], 'rate = "2/min"'),
        (["--rate", "2/s", "--arrivals", "a.csv"], "both say when requests arrive"),
        (["--rate", "2/s", "--requests", "3", "--duration", "5 s"], "both say how many arrive"),
        (["--arrivals", "a.csv", "--requests", "3"], "arrivals says how many arrive"),
        (["--slo", "ttft=2s", "--duration", "5 s"], "duration needs rate"),
        (["--rate", "2/s", "--duration", "5"], 'duration = "5" has no unit of time'),
        (["--arrivals", "none.csv"], "none.csv: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, scenario, tmp_path, arguments, message):
    before = sorted(tmp_path.iterdir())
    assert main(["serve", scenario, "--out", "results", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(tmp_path.iterdir()) == before
