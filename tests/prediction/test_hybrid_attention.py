from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.simulate import simulate
from smoes_sim.routing.trace import PREFILL
from smoes_sim.serving.step_cost import pairs_within

SLIDING = "model.attention_layers={{pattern: [sliding, full], window: {}}}"
LINEAR = (
    "model.attention_layers={pattern: [linear, full], "
    "linear: {key_heads: 4, value_heads: 8, key_dim: 64, value_dim: 64, conv: 4}}"
)
WORK = "workload={batch: 6, text_tokens: 21, spread: 0.4, output_tokens: 5}"


@pytest.mark.parametrize("window", [1, 3, 8, 100])
@pytest.mark.parametrize("chunk", [None, 7])
def test_pairs_in_a_window_are_those_that_are_counted_one_by_one(tmp_path, window, chunk):
    deployment = deploy(small(tmp_path, WORK, SLIDING.format(window), f"parallelism.prefill_chunk={chunk or 'null'}"))
    workload, home = deployment.workload, deployment.home
    prompts = np.flatnonzero(workload.phase == PREFILL)
    pairs, reads = np.zeros(4, np.int64), np.zeros(4, np.int64)
    taken = np.zeros(4, np.int64)  # tokens of each rank so far: a chunk is the next so many of them
    chunk_of = {}
    for token in prompts:
        chunk_of[token] = taken[home[token]] // (chunk or 10**9)
        taken[home[token]] += 1
    for token in prompts:
        sequence = [other for other in prompts if workload.sequence_id[other] == workload.sequence_id[token]]
        place = sequence.index(token)
        pairs[home[token]] += sum(1 for other in range(place + 1) if place - other < window)
    for sequence in range(workload.num_sequences):
        own = [token for token in prompts if workload.sequence_id[token] == sequence]
        for number in {chunk_of[token] for token in own}:
            mine = [place for place, token in enumerate(own) if chunk_of[token] == number]
            seen = {place - back for place in mine for back in range(window) if place - back >= 0}
            reads[home[own[0]]] += len(seen - set(mine))
    loads = [step.batches[0].load for step in deployment.chunks]
    assert sum(load.near_pairs for load in loads).tolist() == pairs.tolist()
    assert sum(load.near_earlier for load in loads).tolist() == reads.tolist()
    for step in deployment.decode:
        load = step.batches[0].load
        assert (load.near_context <= window * load.decode).all()
    assert deployment.decode[0].batches[0].load.near_context.sum() == 6 * window if window < 8 else True


@pytest.mark.parametrize(("window", "tokens", "earlier"), [(1, 5, 0), (3, 4, 1), (4, 9, 2), (7, 3, 20), (50, 6, 6)])
def test_pairs_of_serving_are_those_of_the_simulator(window, tokens, earlier):
    expected = sum(min(context, window) for context in range(earlier + 1, earlier + tokens + 1))
    assert pairs_within(window, tokens, earlier) == expected


@pytest.mark.parametrize("changes", [(), ("overlap=two_batch",), ("parallelism.tensor=2",), ("engine=exact",)])
def test_a_window_longer_than_every_sequence_is_full_attention(tmp_path, changes):
    full = simulate(small(tmp_path, WORK, *changes))
    wide = simulate(small(tmp_path, WORK, SLIDING.format(1000), *changes))
    assert (wide.ttft_s, wide.tpot_s) == pytest.approx((full.ttft_s, full.tpot_s), rel=1e-9)
    assert wide.memory.need.total == pytest.approx(full.memory.need.total, rel=1e-12)


def test_shorter_windows_take_less_time_and_memory(tmp_path):
    work = "workload={batch: 64, text_tokens: 4000, output_tokens: 3}"
    found = [simulate(small(tmp_path, work, SLIDING.format(window))) for window in (8000, 512, 64)]
    for quantity in (lambda one: one.ttft_s, lambda one: one.tpot_s, lambda one: one.memory.need.total):
        assert quantity(found[0]) > quantity(found[1]) > quantity(found[2])
    # 64 sequences on 4 ranks, 2 sliding layers of 4 key heads of 64, keys and values in bf16
    assert [one.memory.need.kept for one in found] == [16 * length * 2 * 2 * 4 * 64 * 2 for length in (4002, 512, 64)]


def test_linear_layers_keep_a_state_instead_of_a_cache(tmp_path):
    work = "workload={batch: 64, text_tokens: 4000, output_tokens: 3}"
    full, linear = (simulate(small(tmp_path, work, *changes)) for changes in ((), (LINEAR,)))
    assert linear.ttft_s < full.ttft_s
    assert linear.tpot_s < full.tpot_s
    need = linear.memory.need
    assert need.cache_per_token == full.memory.need.cache_per_token / 2
    # 8 heads of 64 * 64 float32 numbers, 3 tokens of 2 * 256 + 512 convolved bf16 numbers, in two layers
    assert need.cache_per_sequence == 2 * (8 * 64 * 64 * 4 + 3 * 1024 * 2)
    assert need.kept == 16 * need.cache_per_sequence


def test_the_fullest_group_is_found_when_prompts_are_context_alone(tmp_path):
    decode = "workload={phase: decode, sequences_per_rank: 4, context: 500, output_tokens: 3}"
    need = simulate(small(tmp_path, decode, SLIDING.format(32))).memory.need
    assert (need.cached, need.kept) == (4 * 502, 4 * 32 * 2 * 2 * 4 * 64 * 2)


def test_a_model_for_text_refuses_images_in_one_line(tmp_path):
    text = ("model.image_tokens=null", "model.image_source=null")
    assert simulate(small(tmp_path, *text)).ttft_s > 0
    with pytest.raises(ConfigError, match=r"workload.images = 1: small is a model for text .* Write images: 0"):
        simulate(small(tmp_path, *text, "workload={preset: mmmu, batch: 4}"))


def test_routing_and_traffic_do_not_depend_on_the_attention(tmp_path):
    one, other = (deploy(small(tmp_path, WORK, *changes)) for changes in ((), (LINEAR,)))
    assert one.chunks[0].bytes_remote == other.chunks[0].bytes_remote
    loads = [deployment.chunks[0].batches[0].load for deployment in (one, other)]
    same = replace(loads[0], near_pairs=None)
    assert (same.pairs == loads[1].pairs).all()


def test_what_several_ranks_owe_for_windows_and_states_is_named_as_not_counted(tmp_path):
    spread = ("placement.tokens=sharded", WORK)
    full, linear, alone = (simulate(small(tmp_path, *changes)) for changes in (spread, (*spread, LINEAR), (WORK, LINEAR)))
    assert "windows and states between ranks" in linear.not_counted
    assert "windows and states between ranks" not in full.not_counted + alone.not_counted
