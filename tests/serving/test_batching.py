"""What a step takes: every rule of the scheduler on a case that can be followed by hand."""

from __future__ import annotations

import numpy as np

from smoes_sim.serving.batching import Group, Limits, Sequence
from smoes_sim.serving.requests import Request


def group(*, blocks=100, tokens=100, sequences=10, chunk=100):
    return Group(
        Limits(groups=1, cache_blocks=blocks, max_batch_tokens=tokens, max_sequences=sequences, prefill_chunk=chunk)
    )


def sequence(prompt, output):
    return Sequence(Request(arrival=0.0, prompt_tokens=prompt, output_tokens=output))


def steps(one, number):
    """(prompt tokens of the request, tokens taken) of each of the next steps."""
    log = []
    for now in range(1, number + 1):
        plan = one.plan()
        log.append([(going.request.prompt_tokens, taken) for going, taken in plan])
        one.complete(plan, float(now))
    return log


def test_a_prompt_gives_the_first_token_and_each_decode_step_one_more():
    one, going = group(), sequence(5, 3)
    one.waiting.append(going)
    assert steps(one, 4) == [[(5, 5)], [(5, 1)], [(5, 1)], []]
    assert (going.first_token, going.finish) == (1.0, 3.0)
    assert (one.free, one.running) == (100, [])


def test_a_long_prompt_is_cut_and_decoding_goes_on_beside_it():
    one = group(tokens=10)
    one.waiting.extend([sequence(4, 9), sequence(21, 1)])
    # 10 tokens a step: first the whole short prompt, then one decoded token comes before the prompt
    assert steps(one, 4) == [[(4, 4), (21, 6)], [(4, 1), (21, 9)], [(4, 1), (21, 6)], [(4, 1)]]


def test_the_chunk_of_the_scenario_bounds_prompts_but_not_decoding():
    one = group(tokens=100, chunk=8)
    one.waiting.extend([sequence(8, 9), sequence(20, 1)])
    assert steps(one, 4) == [[(8, 8)], [(8, 1), (20, 8)], [(8, 1), (20, 8)], [(8, 1), (20, 4)]]


def test_no_more_sequences_run_than_allowed():
    one = group(sequences=2)
    one.waiting.extend(sequence(prompt, 2) for prompt in (1, 2, 3))
    assert steps(one, 3) == [[(1, 1), (2, 2)], [(1, 1), (2, 1)], [(3, 3)]]


def test_a_sequence_waits_until_its_whole_prompt_fits_although_a_chunk_of_it_would():
    one = group(blocks=4, tokens=20)
    one.waiting.extend([sequence(20, 2), sequence(40, 1)])
    # 20 tokens hold 2 of 4 blocks, 40 need 3: they wait until the first has ended
    assert steps(one, 4) == [[(20, 20)], [(20, 1)], [(40, 20)], [(40, 20)]]


def test_no_sequence_overtakes_the_head_of_the_queue():
    one = group(blocks=4)
    one.waiting.extend([sequence(20, 9), sequence(40, 1), sequence(3, 1)])
    assert steps(one, 2) == [[(20, 20)], [(20, 1)]]


def test_a_full_cache_preempts_the_youngest_and_its_answer_is_computed_again():
    one = group(blocks=3)
    old, young = sequence(31, 4), sequence(15, 4)
    one.waiting.extend([old, young])
    # blocks 2 + 1; the first decoded tokens are the 32nd and the 16th: no new block. The 33rd needs one: the young one goes.
    assert steps(one, 2) == [[(31, 31), (15, 15)], [(31, 1), (15, 1)]]
    assert one.free == 0
    assert steps(one, 1) == [[(31, 1)]]
    assert (one.preemptions, young.computed, young.generated, young.blocks, list(one.waiting)) == (1, 0, 2, 0, [young])
    # 15 + 2 known tokens are 2 blocks, none is free until the old one ends with its fourth token
    assert steps(one, 1) == [[(31, 1)]]
    assert (old.finish, one.free) == (1.0, 3)
    assert steps(one, 2) == [[(15, 17)], [(15, 1)]]
    assert (young.generated, one.free) == (4, 3)


def test_who_is_preempted_goes_before_those_who_never_ran():
    one = group(blocks=3)
    young, new = sequence(15, 4), sequence(1, 1)
    one.waiting.extend([sequence(31, 4), young, new])
    steps(one, 3)
    assert list(one.waiting) == [young, new]


def test_a_step_that_preempts_admits_no_sequence():
    # whoever lost its blocks heads the queue and needs them all again, and some of them are taken
    rng, preempting = np.random.default_rng(0), 0
    for _ in range(50):
        one = group(blocks=12, tokens=48, chunk=32)
        one.waiting.extend(sequence(int(rng.integers(1, 100)), int(rng.integers(1, 60))) for _ in range(20))
        while one.waiting or one.running:
            running, before = set(one.running), one.preemptions
            plan = one.plan()
            if one.preemptions > before:
                preempting += 1
                assert {going for going, _ in plan} <= running
            one.complete(plan, 0.0)
    assert preempting > 100
