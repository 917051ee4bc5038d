"""Against queueing theory. Seeds are fixed; a mean may be off by four standard errors, found from means of 50 batches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smoes_sim.serving import Limits, Request, run_service

NUMBER = 20_000
STEPS = 10
"""Of an answer, on average, where steps stand for time."""
ONE_BY_ONE = Limits(groups=1, cache_blocks=10**9, max_batch_tokens=10**9, max_sequences=1, prefill_chunk=10**9)


def served(rate, prompts, outputs, cost, *, limits=ONE_BY_ONE, seed=1):
    rng = np.random.default_rng(seed)
    moments = np.cumsum(rng.exponential(1 / rate, len(prompts)))
    columns = zip(moments.tolist(), prompts.tolist(), outputs.tolist(), strict=True)
    requests = [Request(arrival=moment, prompt_tokens=prompt, output_tokens=output) for moment, prompt, output in columns]
    return run_service(requests, limits, cost)


def close(values, expected, *, bias=0.0):
    """Whether the mean of a series is the expected one within four standard errors (and a known bias)."""
    means = values[: len(values) // 50 * 50].reshape(50, -1).mean(axis=1)
    error = float(means.std(ddof=1) / math.sqrt(50))
    assert error < 0.1 * expected  # or the test would accept anything
    return abs(float(values.mean()) - expected) <= 4 * error + bias


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_m_d_1(load):
    # one request at a time, every one takes 1 s: W = rho / (2 (1 - rho))
    one = np.ones(NUMBER, dtype=np.int64)
    service = served(load, one, one, lambda batch: 1.0)
    assert close(service.finish - service.arrival - 1.0, load / (2 * (1 - load)))


def test_m_g_1_by_pollaczek_and_khinchine():
    # service is 1 ms a prompt token; a third of the prompts is five times as long: W = lambda E[S^2] / (2 (1 - rho))
    prompts = np.random.default_rng(2).choice([200, 1000], size=NUMBER, p=[2 / 3, 1 / 3])
    seconds = 1e-3 * prompts
    mean, square = 1.4 / 3, (2 * 0.2**2 + 1.0**2) / 3
    rate = 0.6 / mean
    service = served(rate, prompts, np.ones_like(prompts), lambda batch: 1e-3 * batch.prefill[0][0])
    waited = service.finish - service.arrival - seconds
    assert close(waited, rate * square / (2 * (1 - 0.6)))


def test_m_m_1_where_answers_are_long_and_geometric():
    # an answer of N tokens takes N steps of 0.1 s, N geometric with mean 10: nearly exponential with mean 1 s
    outputs = np.random.default_rng(3).geometric(1 / STEPS, size=NUMBER)
    service = served(0.5, np.ones_like(outputs), outputs, lambda batch: 1 / STEPS)
    waited = service.first_token - service.arrival - 1 / STEPS
    square = 2 - 1 / STEPS  # of a geometric number with that mean, over the mean squared
    assert close(waited, 0.5 * square / (2 * 0.5))  # 0.95 s; M/M/1 says 1 s
    spent = service.finish - service.arrival
    # the time spent is exponential with rate mu - lambda = 0.5: 13.5% stay longer than 4 s
    assert float((spent > 4.0).mean()) == pytest.approx(math.exp(-2), abs=0.02)


def test_m_m_c_with_places_for_four():
    # four sequences at a time, whatever their number a step takes 0.1 s: Erlang's C, load 0.8
    outputs = np.random.default_rng(4).geometric(1 / STEPS, size=NUMBER)
    four = Limits(groups=1, cache_blocks=10**9, max_batch_tokens=10**9, max_sequences=4, prefill_chunk=10**9)
    service = served(3.2, np.ones_like(outputs), outputs, lambda batch: 1 / STEPS, limits=four)
    offered, places = 3.2, 4
    full = offered**places / math.factorial(places) / (1 - offered / places)
    wait = full / (sum(offered**n / math.factorial(n) for n in range(places)) + full) / (places - offered)
    # places fall free at the ends of steps only, half a step later than in the formula
    assert close(service.first_token - service.arrival - 1 / STEPS, wait, bias=0.5 / STEPS)


def test_who_joins_a_busy_batch_waits_half_a_step():
    # places for everybody: an answer of 20 tokens takes 20 steps of 1 s, behind the step that runs (1/2 s)
    outputs = np.full(NUMBER, 20)
    everybody = Limits(groups=1, cache_blocks=10**9, max_batch_tokens=10**9, max_sequences=10**9, prefill_chunk=10**9)
    service = served(2.0, np.ones_like(outputs), outputs, lambda batch: 1.0, limits=everybody)
    assert close(service.finish - service.arrival, 20.5)
    # Poisson arrivals that never wait for each other: lambda W of them are there
    assert service.waiting + service.running == pytest.approx(2.0 * 20.5, rel=0.03)
