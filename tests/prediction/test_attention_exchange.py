"""Attention over sequences on several ranks in predictions: bytes by hand, and what must hold between the schemes."""

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.attention import cached_on_ranks
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import load_scenario

PAPER = ("routing.policy=smoes", "placement.tokens=modality", "calibration=null", "workload.output_tokens=3")
IMAGES = "workload={batch: 8, text_tokens: 28, output_tokens: 3, images: 9, image_width: 8, image_height: 8}"
SCHEMES = ("queries", "kv", "moved_cache")


def paper(*overrides):
    return load_scenario("olmoe-two-orin", [*PAPER, *overrides])


def spread(tmp_path, *overrides):
    return small(tmp_path, IMAGES, "placement.tokens=modality", *overrides)


def test_bytes_of_the_papers_deployment_by_hand():
    # 16 layers; a text token sends 16 * 128 * 2 B and gets 16 * (128 * 2 + 4) B back, a vision token's keys and values are
    # 2 * 16 * 128 * 2 B; 8 images of 576 tokens
    found = {scheme: simulate(paper(f"attention.exchange={scheme}")) for scheme in ("queries", "kv")}
    text = deploy(paper()).workload.sequence_text_tokens.sum()
    assert found["queries"].attention_exchange_bytes == 16 * text * (4096 + 4160)
    assert found["kv"].attention_exchange_bytes == 16 * 8 * 576 * 8192
    # decode: one sequence at a time, its token asks the rank with the image
    assert found["queries"].decode_attention_exchange_bytes == 16 * (4096 + 4160)
    assert found["kv"].decode_attention_exchange_bytes == 16 * 576 * 8192


@pytest.mark.parametrize("tokens", ["data_parallel", "single"])
def test_a_sequence_on_one_rank_owes_nothing(tokens):
    found = simulate(paper(f"placement.tokens={tokens}"))
    assert (found.attention_exchange_bytes, found.attention_exchange_s, found.attention_exchange) == (0, 0, "none")
    assert found.cache_move_bytes is None


def test_homes_of_decode_apart_from_those_of_prefill_cost_one_move_of_the_cache():
    # all prompts at home on rank 0; text is decoded where its experts are, on rank 1: every prompt token moves once
    homes = ("placement.tokens=single", "placement.decode_tokens=modality")
    found = simulate(paper(*homes, "attention.exchange=moved_cache"))
    workload = deploy(paper()).workload
    assert found.cache_move_bytes == 16 * 8192 * workload.sequence_prompt_tokens.sum()
    assert found.decode_attention_exchange_bytes == 0
    stays = simulate(paper(*homes, "attention.exchange=queries"))
    assert stays.cache_move_bytes is None
    assert stays.decode_attention_exchange_bytes == 16 * (4096 + 4160)
    outputs = workload.sequence_output_tokens.sum()
    total = found.ttft_s + found.cache_move_s + 16 * found.tpot_s
    assert found.tokens_per_s == pytest.approx(outputs / total, rel=1e-6)


def test_auto_takes_no_longer_than_any_scheme(tmp_path):
    def total(scheme):
        found = simulate(spread(tmp_path, f"attention.exchange={scheme}"))
        return found.ttft_s + (found.cache_move_s or 0.0) + 2 * found.tpot_s

    assert total("auto") <= 1.02 * min(total(scheme) for scheme in SCHEMES)  # it counts exchanges and scores, not waiting


def test_counting_can_only_add_time_and_overlap_only_take_it_away(tmp_path):
    for scheme in ("queries", "kv"):
        plain = simulate(spread(tmp_path, f"attention.exchange={scheme}"))
        during = simulate(spread(tmp_path, f"attention.exchange={scheme}", "overlap=attention"))
        assert during.step_s <= plain.step_s * (1 + 1e-9)
        assert plain.attention_exchange_s == during.attention_exchange_s > 0
        assert plain.step_s >= plain.attention_exchange_s


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("overlap", ["none", "attention"])
def test_all_engines_agree(tmp_path, scheme, overlap):
    options = (f"attention.exchange={scheme}", f"overlap={overlap}", "communication.tolerance=0")
    times = [simulate(spread(tmp_path, *options, f"engine={engine}")).ttft_s for engine in ("exact", "auto", "fast")]
    assert times[1] == pytest.approx(times[0], rel=1e-9)
    assert times[2] == pytest.approx(times[0], rel=0.05)


def test_chunks_keep_the_order_of_a_sequence_and_send_no_key_twice_where_it_is_kept(tmp_path):
    whole = deploy(spread(tmp_path, "attention.exchange=moved_cache"))
    cut = deploy(spread(tmp_path, "attention.exchange=moved_cache", "parallelism.prefill_chunk=16", "sampling=none"))
    sent = sum(step.attention_bytes for step in cut.chunks)
    assert sent == whole.prefill.attention_bytes
    again = deploy(spread(tmp_path, "attention.exchange=kv", "parallelism.prefill_chunk=16", "sampling=none"))
    assert sum(step.attention_bytes for step in again.chunks) > sent
    pairs = [sum(batch.load.pairs.sum() for step in one.chunks for batch in step.batches) for one in (whole, cut, again)]
    assert pairs[0] == pairs[1] == pairs[2]


def test_scores_are_computed_where_their_keys_are_at_that_moment(tmp_path):
    asks, sends = (deploy(spread(tmp_path, f"attention.exchange={scheme}")) for scheme in ("queries", "kv"))
    context = asks.workload.context_lengths
    for step in (asks.decode[0], sends.decode[0]):
        (batch,) = step.batches
        assert batch.load.context.sum() == context[asks.workload.phase == 1].reshape(8, -1)[:, 0].sum()
    at_keys, at_home = asks.decode[0].batches[0].load, sends.decode[0].batches[0].load
    assert at_home.context[at_home.decode == 0].sum() == 0 < at_keys.context[at_keys.decode == 0].sum()


def test_memory_follows_the_cache(tmp_path):
    stays, moves = (deploy(spread(tmp_path, f"attention.exchange={scheme}")) for scheme in ("queries", "moved_cache"))
    workload = stays.workload
    prefill, decode = cached_on_ranks(stays.parts)
    assert prefill.sum() == workload.num_prefill_tokens
    assert decode.sum() == workload.num_tokens
    kept, local = cached_on_ranks(moves.parts)
    assert local.sum() == workload.num_tokens  # moved, not copied
    assert local[np.bincount(moves.home[workload.phase == 1], minlength=4) == 0].sum() == 0
    assert kept.sum() > prefill.sum()  # what was received stays beside what was made


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("placement.tokens=data_parallel", "attention.exchange=kv"), "nothing is exchanged"),
        (("placement.tokens=single", "overlap=attention"), "nothing is exchanged"),
        (("placement.tokens=affinity", "attention.exchange=moved_cache"), "decoded on several ranks"),
    ],
)
def test_a_scheme_without_effect_or_sense_is_refused(tmp_path, overrides, part):
    with pytest.raises(ConfigError, match=part):
        deploy(small(tmp_path, IMAGES, *overrides))
