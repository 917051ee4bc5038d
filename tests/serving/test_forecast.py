"""A deployment served: bounds from its memory, steps from its step model, intervals from its constants."""

from __future__ import annotations

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.memory_fit import memory
from smoes_sim.serving import Objective, Request, forecast, forecast_curve, limits_of, poisson_requests
from smoes_sim.serving.forecast import SHARES, remembered
from smoes_sim.serving.step_cost import StepBatch, StepCosts

WORKLOAD = "workload={batch: 16, text_tokens: 200, output_tokens: 20, spread: 0.5}"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    return deploy(small(tmp_path_factory.mktemp("s"), WORKLOAD))


@pytest.fixture(scope="module")
def limits(deployment):
    return limits_of(deployment, max_batch_tokens=512, max_sequences=32)


def test_the_cache_is_what_memory_says_when_the_step_is_its_own(tmp_path):
    # 16 prompts of 64 tokens over 4 ranks: the largest step has 256 tokens a rank and 4 outputs
    deployment = deploy(small(tmp_path))
    found = limits_of(deployment, max_batch_tokens=256, max_sequences=4)
    assert found.cache_blocks == memory(deployment).cache_capacity // 16
    assert found.groups == 4


def test_groups_follow_attention_and_sequences_that_are_spread_make_one(tmp_path):
    two = limits_of(deploy(small(tmp_path, "parallelism.tensor=2")), max_batch_tokens=100, max_sequences=8)
    assert (two.groups, two.max_batch_tokens, two.max_sequences) == (2, 100, 8)
    spread = deploy(small(tmp_path, "placement.tokens=sharded", "parallelism.prefill_chunk=30"))
    one = limits_of(spread, max_batch_tokens=100, max_sequences=8)
    assert (one.groups, one.max_batch_tokens, one.max_sequences, one.prefill_chunk) == (1, 400, 32, 120)
    # tokens are dealt out evenly: nearly four caches
    alone = limits_of(deploy(small(tmp_path)), max_batch_tokens=100, max_sequences=8)
    assert one.cache_blocks == pytest.approx(4 * alone.cache_blocks, rel=0.02)


def test_no_room_for_a_cache_is_an_answer(deployment):
    with pytest.raises(ConfigError, match=r"a step of 50000000 tokens leave no room for a KV cache\. Use more ranks"):
        limits_of(deployment, max_batch_tokens=50_000_000, max_sequences=1)


def test_remembered_costs_are_those_of_the_step_model_within_a_hundredth(deployment):
    steps, rng = StepCosts(deployment.under({})), np.random.default_rng(0)
    cost = remembered(steps)
    for _ in range(50):
        contexts = rng.integers(100, 2000, int(rng.integers(1, 100))).tolist()
        prompts = [(int(rng.integers(1, 500)), 0)] * int(rng.integers(0, 3))
        batch = StepBatch(prefill=prompts, decode=contexts)
        assert cost(batch) == pytest.approx(steps.seconds(batch), rel=0.01)
        assert cost(batch) == cost(batch)


def test_a_request_that_is_alone_takes_its_own_steps(deployment, limits):
    row = forecast(deployment, [Request(arrival=5.0, prompt_tokens=100, output_tokens=3)], limits)
    steps = StepCosts(deployment.under({}))
    first = steps.seconds(StepBatch(prefill=((100, 0),)))
    later = [steps.seconds(StepBatch(decode=(context,))) for context in (101, 102)]
    assert row.ttft_p50_s == pytest.approx(first)
    assert row.tpot_p50_s == pytest.approx(sum(later) / 2, rel=0.01)
    low, high = row.intervals["ttft_p50_s"]
    assert low < row.ttft_p50_s < high


def test_images_without_a_size_are_refused(deployment, limits):
    with pytest.raises(ConfigError, match="requests have images, but the scenario's workload has none"):
        forecast(deployment, [Request(arrival=0.0, prompt_tokens=9, output_tokens=1, images=1)], limits)


def test_more_load_means_more_waiting_and_never_more_attainment(deployment, limits):
    objective = Objective(ttft=5e-3)
    rows = [
        forecast(deployment, poisson_requests(deployment, rate, number=200), limits, objective) for rate in (10.0, 5e3, 1e6)
    ]
    assert rows[0].ttft_p90_s < rows[1].ttft_p90_s < rows[2].ttft_p90_s
    assert rows[0].attainment >= rows[1].attainment > rows[2].attainment
    for row in rows:
        assert row.requests == 200
        # Little's law once more; each figure is a median of its own over the sets of constants
        spent = row.requests_per_s * row.e2e_mean_s
        assert row.waiting_mean + row.running_mean == pytest.approx(spent, rel=0.01)


@pytest.fixture(scope="module")
def few(deployment):
    """Bounds that are soon reached."""
    return limits_of(deployment, max_batch_tokens=512, max_sequences=2)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A deployment with one set of constants."""
    efficiency = ["compute.flops_efficiency=0.5", "compute.memory_efficiency=0.8"]
    return deploy(small(tmp_path_factory.mktemp("s"), WORKLOAD, *efficiency))


def test_the_curve_ends_where_the_objective_breaks(exact, few):
    curve, again = (forecast_curve(exact, few, Objective(ttft=5e-3), number=50) for _ in range(2))
    assert again == curve
    rows = curve.rows
    assert [rate / curve.max_rate_per_s for rate in curve.rates] == pytest.approx(SHARES)
    assert rows[0].attainment == 1.0
    assert rows[SHARES.index(1.0)].attainment >= 0.9 > rows[-1].attainment
    # steady: requests come for at least 20 times as long as one takes
    row = rows[SHARES.index(1.0)]
    assert row.makespan_s >= 20 * row.e2e_mean_s


def test_a_lenient_objective_ends_at_what_can_be_served(exact, few):
    # a minute is never exceeded by so few requests: only the growing queue says that the rate is too high
    curve = forecast_curve(exact, few, Objective(ttft=60.0), number=50)
    crowd = forecast(exact, poisson_requests(exact, 1e9, number=2000), few)
    assert curve.max_rate_per_s == pytest.approx(crowd.requests_per_s, rel=0.15)


def test_each_set_of_constants_has_its_own_largest_rate(deployment, few):
    curve = forecast_curve(deployment, few, Objective(ttft=1e-3), number=20)
    low, high = curve.intervals["max_rate_per_s"]
    assert low < curve.max_rate_per_s < high


def test_an_objective_that_no_request_meets_gives_rate_zero_and_how_it_is_alone(deployment, limits):
    curve = forecast_curve(deployment, limits, Objective(ttft=1e-7), number=20)
    assert curve.max_rate_per_s == 0.0
    (row,) = curve.rows
    assert row.attainment == 0.0
    assert row.waiting_max == 1.0
