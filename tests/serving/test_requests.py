"""Poisson requests of a scenario, and files of requests with every way to break them."""

from __future__ import annotations

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.serving import Request, poisson_requests, read_requests


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    images = (
        "workload={batch: 4, text_tokens: 64, output_tokens: 9, spread: 0.5, images: 2, image_width: 99, image_height: 99}"
    )
    return deploy(small(tmp_path_factory.mktemp("s"), images))


def test_gaps_are_exponential_and_lengths_those_of_the_workload(deployment):
    requests = poisson_requests(deployment, 4.0, number=5000)
    gaps = np.diff([0.0, *(request.arrival for request in requests)])
    # mean and standard deviation of an exponential are both 1 / rate; four standard errors of 5000 draws
    assert gaps.mean() == pytest.approx(0.25, abs=4 * 0.25 / 5000**0.5)
    assert gaps.std() == pytest.approx(0.25, abs=4 * 0.25 * 2**0.5 / 5000**0.5)
    # an image of the small model is 4 tokens
    prompts = np.array([request.prompt_tokens for request in requests]) - 2 * 4
    assert prompts.mean() == pytest.approx(64, abs=4 * 32 / 5000**0.5)
    assert prompts.std() == pytest.approx(32, rel=0.1)
    assert {(request.output_tokens, request.images) for request in requests} == {(9, 2)}


def test_the_same_requests_come_at_every_rate_only_faster(deployment):
    slow, fast = (poisson_requests(deployment, rate, number=100) for rate in (1.0, 8.0))
    assert [r.prompt_tokens for r in slow] == [r.prompt_tokens for r in fast]
    assert [r.arrival for r in slow] == pytest.approx([8 * r.arrival for r in fast])
    assert poisson_requests(deployment, 1.0, number=100) == slow


def test_a_duration_ends_the_same_process(deployment):
    all_of_them = poisson_requests(deployment, 2.0, number=100)
    some = poisson_requests(deployment, 2.0, duration=10.0)
    assert some == [request for request in all_of_them if request.arrival <= 10.0]
    with pytest.raises(ConfigError, match=r"no request arrives in 1e-09 s at 2/s"):
        poisson_requests(deployment, 2.0, duration=1e-9)


def test_a_file_is_read_in_the_order_of_arrival(tmp_path):
    wanted = [
        Request(arrival=0.5, prompt_tokens=3, output_tokens=2, images=1),
        Request(arrival=1.0, prompt_tokens=9, output_tokens=1, images=0),
    ]
    table = tmp_path / "a.csv"
    table.write_text("arrival_s,prompt_tokens,output_tokens,images\n1,9,1,0\n0.5,3,2,1\n")
    lines = tmp_path / "a.jsonl"
    lines.write_text(
        '{"arrival_s": 1, "prompt_tokens": 9, "output_tokens": 1}\n\n'
        '{"images": 1, "arrival_s": 0.5, "prompt_tokens": 3, "output_tokens": 2}\n'
    )
    assert read_requests(table) == read_requests(lines) == wanted


HEADER = "arrival_s,prompt_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", HEADER, r"a\.csv: has no request"),
        ("a.csv", "arrival_s,prompt_tokens\n1,2\n", r"a\.csv:2: output_tokens is missing"),
        ("a.csv", HEADER.replace("out", "ouput_tokens,out") + "1,2,3,4\n", r'unknown name "ouput_tokens"\. Did you mean'),
        ("a.csv", HEADER + "1,2\n", r"a\.csv:2: has another number of cells"),
        ("a.csv", HEADER + "1,2,3,4\n", r"a\.csv:2: has another number of cells"),
        ("a.csv", HEADER + "1,2,3\n-1,2,3\n", r"a\.csv:3: arrival_s = '-1': must be a number of seconds of at least 0"),
        ("a.csv", HEADER + "inf,2,3\n", r"a\.csv:2: arrival_s = 'inf'"),
        ("a.csv", HEADER + "1,2.5,3\n", r"a\.csv:2: prompt_tokens = '2\.5': must be a whole number of at least 1"),
        ("a.csv", HEADER + "1,2,0\n", r"a\.csv:2: output_tokens = '0'"),
        ("a.csv", HEADER + "1,many,3\n", r"a\.csv:2: prompt_tokens = 'many'"),
        ("a.jsonl", '{"arrival_s": ', r"a\.jsonl:1: is not JSON"),
        ("a.jsonl", "[1, 2, 3]", r"a\.jsonl:1: is not an object"),
        ("a.jsonl", '{"arrival_s": 1, "prompt_tokens": true, "output_tokens": 1}', r"prompt_tokens = True"),
        ("a.jsonl", '{"arrival_s": 1, "prompt_tokens": null, "output_tokens": 1}', r"another number of cells|prompt_tokens"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_requests(path)
