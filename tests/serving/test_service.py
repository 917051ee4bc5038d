"""A service as a log of moments, Little's law, and the batches that are asked for."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.serving import Limits, Request, measure, run_service
from smoes_sim.serving.batching import Group
from smoes_sim.serving.measures import Objective
from smoes_sim.serving.service import run_while
from smoes_sim.serving.step_cost import StepBatch

ROOMY = Limits(groups=1, cache_blocks=10_000, max_batch_tokens=1000, max_sequences=100, prefill_chunk=1000)
TIGHT = Limits(groups=2, cache_blocks=12, max_batch_tokens=64, max_sequences=8, prefill_chunk=64)


def request(arrival, prompt=10, output=1, images=0):
    return Request(arrival=arrival, prompt_tokens=prompt, output_tokens=output, images=images)


def crowd(number=300, seed=0):
    rng = np.random.default_rng(seed)
    moments = np.cumsum(rng.exponential(0.8, number))
    return [request(moment, int(rng.integers(1, 100)), int(rng.integers(1, 40))) for moment in moments.tolist()]


def of_tokens(batch):
    return 0.1 + 0.01 * (sum(tokens for tokens, _ in batch.prefill) + len(batch.decode))


def test_who_comes_during_a_step_waits_for_its_end():
    service = run_service([request(0.0), request(0.5, output=2), request(0.75)], ROOMY, lambda batch: 1.0)
    assert service.first_token.tolist() == [1.0, 2.0, 2.0]
    assert service.finish.tolist() == [1.0, 3.0, 2.0]
    assert (service.steps, service.busy, service.makespan) == (3, 3.0, 3.0)
    # waiting: 0.5 s and 0.25 s of 3; running: one for a second, two for a second, one for a second
    assert service.waiting == pytest.approx(0.75 / 3)
    assert service.running == pytest.approx(4 / 3)
    assert service.most_waiting == 2


def test_an_idle_service_starts_when_somebody_comes_and_its_clock_at_the_first_arrival():
    service = run_service([request(100.0), request(110.0)], ROOMY, lambda batch: 1.0)
    assert service.finish.tolist() == [101.0, 111.0]
    assert (service.makespan, service.busy) == (11.0, 2.0)


def test_those_who_come_together_are_batched_together():
    assert run_service([request(1.0)] * 3, ROOMY, lambda batch: 1.0).finish.tolist() == [2.0] * 3


def test_the_batch_says_what_is_computed():
    seen = []

    def cost(batch):
        seen.append(StepBatch(prefill=list(batch.prefill), decode=list(batch.decode), images=batch.images))
        return 1.0

    small = Limits(groups=1, cache_blocks=100, max_batch_tokens=8, max_sequences=9, prefill_chunk=8)
    run_service([request(0.0, 10, 3, images=2)], small, cost)
    assert seen == [
        StepBatch(prefill=[(8, 0)], decode=[], images=2),
        StepBatch(prefill=[(2, 8)], decode=[], images=0),
        StepBatch(prefill=[], decode=[11], images=0),
        StepBatch(prefill=[], decode=[12], images=0),
    ]


def test_requests_join_the_group_that_is_least_busy_and_groups_step_together():
    seen = []

    def cost(batch):
        seen.append([tokens for tokens, _ in batch.prefill])
        return 1.0

    two = Limits(groups=2, cache_blocks=100, max_batch_tokens=10, max_sequences=1, prefill_chunk=10)
    service = run_service([request(0.0, prompt) for prompt in (1, 2, 3, 4)], two, cost)
    assert seen == [[1, 2], [3, 4]]
    assert service.finish.tolist() == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("limits", [ROOMY, TIGHT])
def test_littles_law_holds(limits):
    # the watch integrates the lists on the clock; L = lambda W with the requests' own times
    service = run_service(crowd(), limits, of_tokens)
    spent = float((service.finish - service.arrival).sum())
    assert service.waiting + service.running == pytest.approx(spent / service.makespan, rel=1e-9)


def test_a_tight_cache_preempts_serves_everybody_and_is_never_overfull():
    tight, roomy = (run_service(crowd(), limits, of_tokens) for limits in (TIGHT, ROOMY))
    assert tight.preemptions > 0
    assert roomy.preemptions == 0
    assert 0.9 < tight.most_cache_use <= 1.0
    assert not np.isnan(tight.finish).any()
    assert (tight.finish >= tight.first_token).all()
    assert (tight.first_token > tight.arrival).all()
    # what is computed again costs steps
    assert measure(tight)["e2e_mean_s"] > measure(roomy)["e2e_mean_s"]


def test_the_same_requests_give_the_same_record():
    first, second = (measure(run_service(crowd(), TIGHT, of_tokens)) for _ in range(2))
    assert first == second


def test_a_faster_machine_and_faster_arrivals_are_the_same_in_other_units():
    slow = run_service(crowd(), TIGHT, of_tokens)
    halved = [request(r.arrival / 2, r.prompt_tokens, r.output_tokens) for r in crowd()]
    fast = run_service(halved, TIGHT, lambda batch: of_tokens(batch) / 2)
    assert 2 * fast.finish == pytest.approx(slow.finish, rel=1e-12)


@pytest.mark.parametrize("objective", [Objective(ttft=6.0), Objective(tpot=0.5), Objective(ttft=20.0, tpot=0.8, e2e=30.0)])
def test_requests_that_are_counted_as_missed_on_the_way_are_those_that_miss_it_in_the_end(objective):
    counts = []

    def watch(sequences, now):
        counts.append(objective.missed(sequences, now))
        return False

    service = run_while(crowd(), TIGHT, of_tokens, is_lost=watch)
    missed = int((~objective.met(service)).sum())
    assert len(counts) > 5
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= missed


def test_a_service_whose_outcome_is_certain_ends_early():
    steps = []

    def cost(batch):
        steps.append(batch)
        return of_tokens(batch)

    assert run_while(crowd(), TIGHT, cost, is_lost=lambda sequences, now: now > 50.0) is None
    assert len(steps) < run_service(crowd(), TIGHT, of_tokens).steps


def test_a_request_that_never_fits_is_refused():
    # 12 blocks of 16 tokens are 192: a prompt of 190 and the first 3 tokens of 4 are one too many
    assert run_service([request(0.0, 190, 3)], TIGHT, of_tokens).preemptions == 0
    with pytest.raises(ConfigError, match=r"190 \+ 4 tokens: the KV cache of an attention group holds 192"):
        run_service([request(0.0, 190, 4)], TIGHT, of_tokens)


def test_steps_that_repeat_are_those_taken_one_by_one(monkeypatch):
    together = run_service(crowd(), TIGHT, of_tokens)
    monkeypatch.setattr(Group, "repeats", lambda group, plan: 0)
    one_by_one = run_service(crowd(), TIGHT, of_tokens)
    assert together.preemptions > 0
    for field in fields(together):
        assert getattr(together, field.name) == pytest.approx(getattr(one_by_one, field.name), rel=1e-12)
