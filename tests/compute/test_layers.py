from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from smoes_sim.compute import ComputeRates, Device, RankLoad, WeightFormats, compute_times
from smoes_sim.models import ModelShape, find_model
from smoes_sim.models.image_tokens import FixedImageTokens

# attention 2 * 4 * 2 * (2 + 1) = 48 parameters, 4 * 2 * 2 = 16 operations a pair, 2 * 1 * 2 * 2 = 8 bytes of cache a
# token and layer; router 4 * 4 = 16; expert 3 * 4 * 8 = 96; dense 3 * 4 * 16 = 192; head 4 * 10 = 40
TOY = ModelShape(
    name="toy",
    layers=3,
    dense_layers=1,
    hidden=4,
    experts=4,
    top_k=2,
    shared_experts=1,
    expert_ffn=8,
    dense_ffn=16,
    vocab=10,
    heads=2,
    kv_heads=1,
    head_dim=2,
    image_tokens=FixedImageTokens(kind="fixed", tokens=1),
    source="made up",
    image_source="made up",
)
# rank 0 prefills a sequence of 3 tokens (1 + 2 + 3 pairs) and its experts get 5 slots on 2 experts in the first MoE
# layer, 1 slot in the second; rank 1 has no token at home but 1 and 0 slots
LOAD = RankLoad(
    prefill=np.array([3, 0]),
    pairs=np.array([6, 0]),
    earlier=np.array([0, 0]),
    decode=np.array([0, 0]),
    context=np.array([0, 0]),
    outputs=np.array([1, 0]),
    slots=np.array([[5, 1], [1, 0]]),
    active_experts=np.array([[2, 1], [1, 0]]),
)


def rates(*, flops="1 GFLOPS", memory="1 GB/s", peak_fp8=None, peak_fp4=None, **changes):
    peaks = {"peak_bf16": flops, "peak_fp8": peak_fp8, "peak_fp4": peak_fp4}
    device = Device(name="toy", memory_bandwidth=memory, memory="1 GB", source="made up", **peaks)
    defaults = {"flops_efficiency": 1.0, "memory_efficiency": 1.0, "launch": 0.0, "per_layer": 0.0}
    return ComputeRates(device=device, **(defaults | changes))


def nanoseconds(load, model=TOY, tensor=1, **settings):
    """Times by part, in ns; at 1 GFLOPS or 1 GB/s that is operations or bytes."""
    times = compute_times(model, load, rates(**settings), tensor=tensor)
    parts = {field.name: getattr(times, field.name) for field in fields(times)} | {"attention": times.attention.whole[0]}
    return {name: pytest.approx(seconds * 1e9, abs=1e-6) for name, seconds in parts.items()}


def test_operations_of_each_part():
    assert nanoseconds(LOAD, memory="1000 TB/s") == {
        "attention": np.array([2 * 48 * 3 + 16 * 6, 0.0]),
        "gate": np.array([2 * 16 * 3, 0.0]),
        "shared": np.array([2 * 96 * 3, 0.0]),
        "dense": np.array([2 * 192 * 3, 0.0]),
        "head": np.array([2 * 40 * 1, 0.0]),
        "experts": np.array([[2 * 96 * 5, 2 * 96 * 1], [2 * 96 * 1, 0.0]]),
    }


def test_bytes_of_each_part_in_two_byte_elements():
    # weights once, activations in and out; attention moves four and the new cache entries
    assert nanoseconds(LOAD, flops="1000 PFLOPS") == {
        "attention": np.array([2 * (48 + 4 * 4 * 3) + 8 * 3, 0.0]),
        "gate": np.array([2 * (16 + 2 * 4 * 3), 0.0]),
        "shared": np.array([2 * (96 + 2 * 4 * 3), 0.0]),
        "dense": np.array([2 * (192 + 2 * 4 * 3), 0.0]),
        "head": np.array([2 * 40, 0.0]),
        "experts": np.array([[2 * 96 * 2 + 2 * 2 * 4 * 5, 2 * 96 + 2 * 2 * 4], [2 * 96 + 2 * 2 * 4, 0.0]]),
    }


def test_the_slower_of_both_counts_part_by_part():
    # 1 GFLOPS, 1 GB/s: projections 288 operations against 192 bytes, scores 96 against 24; gate 96 against 80, head 80
    # against 80
    both = nanoseconds(LOAD)
    assert both["attention"] == np.array([384, 0.0])
    assert both["head"] == np.array([80, 0.0])
    # with half the bandwidth, 160 bytes-time of the gate wins over its 96 operations
    assert nanoseconds(LOAD, memory_efficiency=0.5)["gate"] == np.array([160, 0.0])
    assert nanoseconds(LOAD, flops_efficiency=0.5)["gate"] == np.array([192, 0.0])


def test_launch_and_time_per_layer_are_paid_only_by_ranks_with_work():
    plain = compute_times(TOY, LOAD, rates())
    slow = compute_times(TOY, LOAD, rates(launch=1e-3, per_layer=1.0))
    assert (slow.attention.whole - plain.attention.whole)[0] == pytest.approx([1.001, 0])
    for part in ("gate", "shared", "dense", "head"):
        assert getattr(slow, part) - getattr(plain, part) == pytest.approx([1e-3, 0])
    assert slow.experts - plain.experts == pytest.approx(np.array([[1e-3, 1e-3], [1e-3, 0]]))


def decoding(contexts):
    """Rank 0 decodes a sequence for each context."""
    none = np.array([0, 0])
    count = np.array([len(contexts), 0])
    return replace(LOAD, prefill=none, pairs=none, decode=count, context=np.array([sum(contexts), 0]), outputs=count)


def test_projections_and_scores_follow_each_other_and_do_not_hide_each_other():
    # 2 GFLOPS, 1 GB/s: projections 144 ns of arithmetic, 192 of memory; scores 48 and 24: 192 + 48, not max(192, 216)
    assert nanoseconds(LOAD, flops="2 GFLOPS")["attention"] == np.array([192 + 48, 0.0])


def test_decode_reads_the_cache_of_the_whole_context():
    # one token after 99 others: 8 bytes of cache for each of 100, one row of activations
    assert nanoseconds(decoding([100]), flops="1000 PFLOPS")["attention"] == np.array([2 * (48 + 4 * 4) + 800, 0.0])


def test_a_chunk_reads_the_cache_of_the_chunks_before():
    # 3 tokens after 5 others attend to 6 + 7 + 8 = 21; 8 tokens of 8 bytes are read
    load = replace(LOAD, pairs=np.array([21, 0]), earlier=np.array([5, 0]))
    assert nanoseconds(load, flops="1000 PFLOPS")["attention"] == np.array([2 * (48 + 4 * 4 * 3) + 8 * 8, 0.0])
    assert nanoseconds(load, memory="1000 TB/s")["attention"] == np.array([2 * 48 * 3 + 16 * 21, 0.0])


def test_a_mixed_step_adds_decode_to_prefill_and_shares_weights_and_launch():
    # weights (96 bytes) once for both: 3 prompt tokens and 1 decoded one with 100 in the cache
    mixed = replace(LOAD, decode=np.array([1, 0]), context=np.array([100, 0]))
    assert nanoseconds(mixed, flops="1000 PFLOPS")["attention"] == np.array([96 + 32 * 4 + 24 + 800, 0.0])
    slow = compute_times(TOY, mixed, rates(launch=1.0, per_layer=1.0)).attention.whole[0]
    assert slow == pytest.approx(compute_times(TOY, mixed, rates()).attention.whole[0] + np.array([2.0, 0.0]))


def test_attention_groups_share_weights_and_heads_and_gather_their_tokens():
    # ranks 0 and 1 share 3 tokens of rank 0: half of the weights and scores each; one key head, so the cache is not halved
    both = nanoseconds(LOAD, memory="1000 TB/s", tensor=2)["attention"]
    assert both == np.array([(2 * 48 * 3 + 16 * 6) / 2] * 2)
    # bytes: 48 weights of 2 B, halved; 3 tokens read and written whole (2 * 4) and two vectors halved (4): 12 elements
    moved = nanoseconds(LOAD, flops="1000 PFLOPS", tensor=2)["attention"]
    assert moved == np.array([48 + 2 * 12 * 3 + 8 * 3] * 2)
    two_heads = TOY.model_copy(update={"kv_heads": 2})  # 64 weights, 16 bytes of cache a token, of which 8 on each rank
    assert nanoseconds(LOAD, model=two_heads, flops="1000 PFLOPS", tensor=2)["attention"] == np.array([64 + 72 + 24] * 2)
    # the head of rank 0's sequence is divided too
    assert nanoseconds(LOAD, memory="1000 TB/s", tensor=2)["head"] == np.array([40, 40])


def test_the_feed_forward_layers_of_a_dense_model_are_shared_too_and_dense_layers_beside_experts_are_not():
    changes = {"experts": 0, "top_k": 0, "shared_experts": 0, "expert_ffn": 0}
    dense = ModelShape.model_validate(TOY.model_dump() | changes)
    alone, shared = (nanoseconds(LOAD, model=dense, memory="1000 TB/s", tensor=tensor)["dense"] for tensor in (1, 2))
    assert (alone, shared) == (np.array([2 * 192 * 3, 0.0]), np.array([192 * 3] * 2))
    # bytes: half of the weights, the 3 tokens of the group in and out
    moved = nanoseconds(LOAD, model=dense, flops="1000 PFLOPS", tensor=2)["dense"]
    assert moved == np.array([2 * (96 + 2 * 4 * 3)] * 2)
    assert nanoseconds(LOAD, memory="1000 TB/s", tensor=2)["dense"] == np.array([2 * 192 * 3, 0.0])


def test_fp8_halves_bytes_of_weights_and_doubles_the_rate_of_their_products_only():
    fast = {"peak_fp8": "2 GFLOPS", "weights": "fp8"}
    # projections at 2 GFLOPS, scores at 1; gate and head stay bf16
    times = nanoseconds(LOAD, memory="1000 TB/s", **fast)
    assert times["attention"] == np.array([48 * 3 + 16 * 6, 0.0])
    assert times["shared"] == np.array([96 * 3, 0.0])
    assert (times["gate"], times["head"]) == (np.array([2 * 16 * 3, 0.0]), np.array([80, 0.0]))
    small = nanoseconds(LOAD, flops="1000 PFLOPS", peak_fp8="2000 PFLOPS", weights="fp8")
    expert = 96 * (1 + 4 / 128**2)  # a byte and a float32 per 128 x 128
    assert small["experts"] == np.array([[expert * 2 + 16 * 5, expert + 16], [expert + 16, 0.0]])
    halved = nanoseconds(decoding([100]), flops="1000 PFLOPS", cache="fp8")["attention"]
    assert halved == np.array([2 * (48 + 16) + 400, 0.0])


def test_weights_without_units_of_their_own_are_read_in_fewer_bytes_and_multiplied_in_bf16():
    for weights in ("fp8", "int4", "mxfp4"):  # the toy device has bf16 alone; int4 never has units
        times = nanoseconds(LOAD, memory="1000 TB/s", weights=weights)
        assert times["experts"] == np.array([[2 * 96 * 5, 2 * 96 * 1], [2 * 96 * 1, 0.0]])
        assert times["shared"] == np.array([2 * 96 * 3, 0.0])
    # 96 parameters of 4.25 bits are 51 bytes; a slot moves 2 * 2 * 4
    assert nanoseconds(LOAD, flops="1000 PFLOPS", weights="mxfp4")["experts"] == np.array(
        [[51 * 2 + 80, 51 + 16], [67, 0.0]]
    )


def test_each_part_has_its_own_format():
    formats = WeightFormats(experts="nvfp4", shared="fp8", embeddings="fp8")
    fast = {"peak_fp8": "2 GFLOPS", "peak_fp4": "4 GFLOPS", "weights": formats}
    times = nanoseconds(LOAD, memory="1000 TB/s", **fast)
    assert times["experts"] == np.array([[96 * 5 / 2, 96 / 2], [96 / 2, 0.0]])  # 2 operations at 4 GFLOPS
    assert (times["shared"], times["head"]) == (np.array([96 * 3, 0.0]), np.array([40, 0.0]))
    assert times["dense"] == np.array([2 * 192 * 3, 0.0])  # not named: bf16
    moved = nanoseconds(LOAD, flops="1000 PFLOPS", weights=formats)
    assert moved["experts"] == np.array([[54 * 2 + 80, 54 + 16], [54 + 16, 0.0]])  # 96 * 4.5 / 8 = 54
    assert moved["head"] == np.array([40 * (1 + 4 / 128**2), 0.0])


def test_weights_count_once_per_active_expert_not_per_slot():
    load = replace(LOAD, slots=np.array([[4, 4]]), active_experts=np.array([[1, 4]]))
    # activations 2 * 2 * 4 * 4 = 64 bytes each; weights 192 or 4 * 192
    assert nanoseconds(load, flops="1000 PFLOPS")["experts"] == np.array([[192 + 64, 768 + 64]])


def test_without_shared_experts_they_take_no_time_not_even_a_launch():
    model = TOY.model_copy(update={"shared_experts": 0})
    assert compute_times(model, LOAD, rates(launch=1.0)).shared.tolist() == [0.0, 0.0]


def test_a_thousand_slots_of_olmoe_are_12_58_gflop():
    # 2 * 3 * 2048 * 1024 * 1000
    load = replace(LOAD, slots=np.array([[1000]]), active_experts=np.array([[1]]))
    times = compute_times(find_model("olmoe-1b-7b"), load, rates(memory="1000 TB/s"))
    assert times.experts.tolist() == [[pytest.approx(12.582912)]]


def attention_of(context, **settings):
    return compute_times(find_model("deepseek-v3"), decoding([context]), rates(**settings)).attention.whole[0, 0]


def test_latent_attention_caches_one_vector_and_one_rotary_key():
    # DeepSeek-V3: (512 + 64) * 2 bytes a token and layer; the part that grows with the context
    near, far = attention_of(1000, flops="1000 PFLOPS"), attention_of(2000, flops="1000 PFLOPS")
    assert (far - near) * 1e9 == pytest.approx(1000 * 1152)


def test_latent_attention_decodes_on_latent_vectors():
    # 2 * 128 heads * (512 + 64 scores + 512 values) a pair
    near, far = attention_of(1000, memory="1000 TB/s"), attention_of(2000, memory="1000 TB/s")
    assert (far - near) * 1e9 == pytest.approx(1000 * 278528)


def test_latent_attention_rebuilds_keys_and_values_of_earlier_chunks():
    # 2 * 512 * 128 heads * (128 + 128) for each earlier token
    first = replace(LOAD, prefill=np.array([1, 0]), pairs=np.array([11, 0]))
    later = replace(first, earlier=np.array([10, 0]))
    model = find_model("deepseek-v3")
    times = [compute_times(model, load, rates(memory="1000 TB/s")).attention.whole[0, 0] for load in (first, later)]
    assert (times[1] - times[0]) * 1e9 == pytest.approx(10 * 33554432)


def test_latent_cache_is_on_every_rank_of_a_group():
    assert find_model("deepseek-v3").kv_share(8) == 1
    assert find_model("qwen3-30b-a3b").kv_share(2) == 1 / 2  # 4 key heads
    assert find_model("qwen3-30b-a3b").kv_share(8) == 1 / 4
