from __future__ import annotations

import pytest
from small_scenario import small

from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.memory_fit import memory

# an expert of 3 * 8192 * 32768 parameters is 1.61 GB in bf16; 8 of them in each of 3 MoE layers: 38.7 GB
LARGE = ("model.hidden=8192", "model.expert_ffn=32768", "model.shared_experts=0", "model.dense_ffn=1024")


def fit(tmp_path, *overrides):
    return memory(deploy(small(tmp_path, *overrides)))


def test_what_is_needed_is_weights_buffers_and_the_cache_of_the_whole_batch(tmp_path):
    found = fit(tmp_path)
    # 16 sequences of 64 + 8 tokens (the ninth is never fed in) over 4 ranks
    assert found.need.cached == 4 * 72
    assert found.need.cache_per_token == 4 * 2 * 4 * 64 * 2
    assert found.usable == pytest.approx(0.9 * 80e9)
    assert found.need.weights["experts"] == 3 * 2 * 3 * 512 * 256 * 2
    assert found.cache_capacity == int((found.usable - found.need.fixed) // 4096)
    assert found.fits
    assert found.ranks_needed == 1


def test_a_model_that_does_not_fit_says_how_many_ranks_would_do(tmp_path):
    # 2 ranks hold 19.3 GB of experts each, 4 ranks 9.7 GB, 8 ranks 4.8 GB; 16 GB usable
    found = fit(tmp_path, *LARGE, "topology.ranks=2", "compute.memory_share=0.2")
    assert found.need.weights["experts"] == pytest.approx(3 * 4 * 1.6106e9, rel=1e-4)
    assert not found.fits
    assert found.cache_capacity == 0
    assert found.ranks_needed == 4
    there = fit(tmp_path, *LARGE, "topology.ranks=4", "compute.memory_share=0.2")
    assert there.fits
    assert there.ranks_needed == 4


def test_what_every_rank_holds_never_fits_on_more_of_them(tmp_path):
    found = fit(tmp_path, *LARGE, "model.shared_experts=8", "compute.memory_share=0.2")
    assert not found.fits
    assert found.ranks_needed is None


def test_chunks_need_smaller_buffers_and_fp8_half_the_experts(tmp_path):
    whole, cut = fit(tmp_path), fit(tmp_path, "parallelism.prefill_chunk=16")
    # 4 * 64 prompt tokens a rank, or 16 and 4 decoded sequences beside them
    assert cut.need.buffers["activations"] == pytest.approx(whole.need.buffers["activations"] * 20 / 256)
    halved = fit(tmp_path, "compute.weights=fp8").need.weights["experts"]
    assert halved == whole.need.weights["experts"] / 2 * (1 + 4 / 128**2)  # a float32 per 128 x 128


def test_attention_groups_keep_whole_sequences(tmp_path):
    found = fit(tmp_path, "parallelism.tensor=4")
    assert found.need.cached == 16 * 72  # one group holds all
    assert found.need.cache_per_token == 1024  # a quarter of the four key heads
