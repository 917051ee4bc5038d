from __future__ import annotations

import pytest

from smoes_sim.compute import StepSize, memory_of_rank
from smoes_sim.models import find_model

STEP = StepSize(tokens=100, outputs=4, cached=1000, imbalance=1.5, copy_bytes=8192, has_images=True)


def need(name="olmoe-1b-7b", step=STEP, **changes):
    settings = {"slots": 32, "num_ranks": 2, "tensor": 1, "weights": "bf16", "cache": "bf16"} | changes
    return memory_of_rank(find_model(name), step, **settings)


def test_weights_of_olmoe_on_two_ranks_by_hand():
    weights = need().weights
    assert weights["experts"] == 16 * 32 * 6291456 * 2  # 6.44 GB
    assert weights["attention"] == 16 * 4 * 2048**2 * 2
    assert weights["router"] == 16 * 64 * 2048 * 2
    assert weights["embeddings"] == 2 * 50304 * 2048 * 2
    assert weights["norms"] == 33 * 2048 * 2
    assert (weights["shared"], weights["dense"]) == (0, 0)
    assert weights["vision"] == 2 * find_model("olmoe-1b-7b").vision.parameters(2048)


def test_all_weights_of_one_rank_are_the_model():
    for name in ("olmoe-1b-7b", "deepseek-v3", "llama-4-maverick"):
        model = find_model(name)
        step = StepSize(tokens=0, outputs=0, cached=0, imbalance=1.0, copy_bytes=0, has_images=False)
        whole = need(name, step, slots=model.experts, num_ranks=1)
        assert whole.total == pytest.approx(2 * model.total_parameters, rel=1e-9)


def test_attention_groups_divide_attention_and_vocabulary_but_no_latent_cache():
    halved, whole = need("qwen3-30b-a3b", tensor=2), need("qwen3-30b-a3b")
    for part, share in {"attention": 2, "embeddings": 2, "router": 1, "experts": 1}.items():
        assert halved.weights[part] == whole.weights[part] / share
    assert halved.cache_per_token == whole.cache_per_token / 2
    assert need("deepseek-v3", tensor=2).cache_per_token == need("deepseek-v3").cache_per_token == 61 * 576 * 2


def test_attention_groups_divide_the_feed_forward_layers_of_dense_models_only():
    whole, halved = (need("olmoe-1b-7b-dense-total", slots=0, tensor=tensor).weights["dense"] for tensor in (1, 2))
    assert (whole, halved) == (16 * 3 * 2048 * 65536 * 2, 16 * 3 * 2048 * 65536)
    assert need("deepseek-v3", tensor=2).weights["dense"] == need("deepseek-v3").weights["dense"]


def test_fp8_halves_projections_experts_and_cache():
    small, large = need(weights="fp8", cache="fp8"), need()
    for part in ("attention", "experts"):
        assert small.weights[part] == large.weights[part] / 2 * (1 + 4 / 128**2)  # a float32 per 128 x 128
    assert small.weights["embeddings"] == large.weights["embeddings"]
    assert small.cache_per_token == large.cache_per_token / 2 == 65536


def test_buffers_by_hand():
    buffers = need().buffers
    # 100 tokens: 4 hidden vectors and queries, keys, values of 16 + 2 * 16 heads of 128
    assert buffers["activations"] == 2 * 100 * (4 * 2048 + 48 * 128)
    # 100 * 8 * 1.5 routed tokens of 2 hidden vectors and 3 of the expert's width
    assert buffers["experts"] == 2 * 1200 * (2 * 2048 + 3 * 1024)
    # a token goes to 2 ranks at most
    assert buffers["exchanges"] == 100 * 2 * 1.5 * 8192
    assert buffers["logits"] == 4 * 4 * 50304


def test_tied_embeddings_are_held_once():
    model = find_model("olmoe-1b-7b")
    tied = model.model_copy(update={"tie_embeddings": True})
    found = memory_of_rank(tied, STEP, slots=32, num_ranks=2, tensor=1, weights="bf16", cache="bf16")
    assert found.weights["embeddings"] == 50304 * 2048 * 2  # vocabulary x hidden in bf16, for input and output
    assert need().weights["embeddings"] == 2 * found.weights["embeddings"]


def test_activations_take_the_widest_of_attention_dense_and_shared_layers():
    # 100 tokens in bf16: 4 hidden vectors, and queries, keys and values of 48 heads of 128 (6144), or 3 vectors of 5 shared
    # experts of 1024 (15360), or 3 of a dense layer of 8192 (24576)
    model = find_model("olmoe-1b-7b")
    widest = {"attention": (0, 0, 6144), "shared": (5, 0, 15360), "dense": (5, 8192, 24576)}
    for shared, dense, width in widest.values():
        changed = model.model_copy(update={"shared_experts": shared, "dense_ffn": dense})
        found = memory_of_rank(changed, STEP, slots=32, num_ranks=2, tensor=1, weights="bf16", cache="bf16")
        assert found.buffers["activations"] == 2 * 100 * (4 * 2048 + width)


def test_the_cache_is_that_of_the_tokens_kept():
    found = need()
    assert found.total - found.fixed == 1000 * 131072


def test_a_text_deployment_loads_no_tower():
    text = StepSize(tokens=1, outputs=1, cached=1, imbalance=1.0, copy_bytes=1, has_images=False)
    assert need(step=text).weights["vision"] == 0
