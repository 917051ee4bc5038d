"""Percentiles, throughput and goodput of a record that was written by hand, and the objective's spelling."""

from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.serving import Objective, Service, measure

RECORD = Service(
    arrival=np.array([0.0, 1.0, 2.0, 3.0]),
    first_token=np.array([1.0, 3.0, 3.0, 7.0]),
    finish=np.array([1.0, 5.0, 9.0, 10.0]),
    prompt_tokens=np.array([10, 20, 30, 40]),
    output_tokens=np.array([1, 3, 4, 2]),
    steps=9,
    busy=9.5,
    preemptions=1,
    waiting=0.5,
    most_waiting=2,
    running=1.5,
    cache_use=0.25,
    most_cache_use=0.75,
)


def test_figures_follow_from_the_record():
    values = measure(RECORD)
    # TTFT 1 2 1 4; TPOT - 1 2 3 of three requests; end to end 1 4 7 7
    assert [values[f"ttft_{name}_s"] for name in ("mean", "p50", "p90")] == pytest.approx([2.0, 1.5, 3.4])
    assert [values[f"tpot_{name}_s"] for name in ("mean", "p50", "p99")] == pytest.approx([2.0, 2.0, 2.98])
    assert values["e2e_mean_s"] == pytest.approx(19 / 4)
    assert values["makespan_s"] == 10.0
    assert values["requests_per_s"] == 0.4
    assert values["output_tokens_per_s"] == 1.0
    assert values["tokens_per_s"] == 11.0
    assert values["busy"] == 0.95
    assert "goodput_per_s" not in values


@pytest.mark.parametrize(
    ("text", "met"),
    [("ttft=1s", 2), ("ttft=1.99s", 2), ("ttft=2s", 3), ("tpot=2 s", 3), ("ttft=2s, tpot=1000ms", 2), ("e2e=500ms", 0)],
)
def test_goodput_counts_requests_that_exceed_no_limit(text, met):
    values = measure(RECORD, Objective.parse(text))
    assert values["attainment"] == met / 4
    assert values["goodput_per_s"] == pytest.approx(met / 10)


def test_requests_that_come_before_it_settled_are_not_judged():
    values = measure(RECORD, Objective.parse("ttft=1s"), settled=0.5)
    # TTFT of the later two: 1 and 4
    assert (values["attainment"], values["ttft_mean_s"]) == (0.5, 2.5)
    assert values["requests_per_s"] == 0.4
    assert values["goodput_per_s"] == pytest.approx(0.2)


def test_answers_of_one_token_have_no_tpot():
    one = Service(**{name: getattr(RECORD, name) for name in Service.__slots__} | {"output_tokens": np.ones(4, np.int64)})
    values = measure(one, Objective.parse("tpot=1us"))
    assert values["attainment"] == 1.0
    assert not [key for key in values if key.startswith("tpot")]


def test_an_objective_is_printed_as_it_is_written():
    assert str(Objective.parse("tpot=50ms , ttft=2 s")) == "ttft=2 s,tpot=50 ms"
    assert Objective.parse(str(Objective.parse("e2e=1.5s"))) == Objective(e2e=1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttfft=2s", r'unknown name "ttfft"\. Did you mean "ttft"'),
        ("", r'unknown name ""'),
        ("ttft=2", r'ttft = "2" has no unit of time'),
        ("ttft=2s,ttft=3s", r"ttft is given twice"),
        ("tpot=0 s", r"tpot = 0 s: no request can meet it"),
    ],
)
def test_a_broken_objective_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Objective.parse(text)
