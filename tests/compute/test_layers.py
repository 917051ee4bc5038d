from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from smoes_sim.compute import ComputeRates, Device, RankLoad, compute_times
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
    tokens=np.array([3, 0]),
    context=np.array([6, 0]),
    cached=np.array([3, 0]),
    outputs=np.array([1, 0]),
    slots=np.array([[5, 1], [1, 0]]),
    active_experts=np.array([[2, 1], [1, 0]]),
)


def rates(*, flops="1 GFLOPS", memory="1 GB/s", **changes):
    device = Device(name="toy", peak_bf16=flops, memory_bandwidth=memory, memory="1 GB", source="made up")
    defaults = {"flops_efficiency": 1.0, "memory_efficiency": 1.0, "launch": 0.0, "per_layer": 0.0}
    return ComputeRates(device=device, **(defaults | changes))


def nanoseconds(load, model=TOY, **settings):
    """Times by part, in ns; at 1 GFLOPS or 1 GB/s that is operations or bytes."""
    times = compute_times(model, load, rates(**settings))
    return {field.name: pytest.approx(getattr(times, field.name) * 1e9, abs=1e-6) for field in fields(times)}


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
    # 1 GFLOPS, 1 GB/s: attention 384 operations against 216 bytes, gate 96 against 80, head 80 against 80
    both = nanoseconds(LOAD)
    assert both["attention"] == np.array([384, 0.0])
    assert both["head"] == np.array([80, 0.0])
    # with half the bandwidth, 160 bytes-time of the gate wins over its 96 operations
    assert nanoseconds(LOAD, memory_efficiency=0.5)["gate"] == np.array([160, 0.0])
    assert nanoseconds(LOAD, flops_efficiency=0.5)["gate"] == np.array([192, 0.0])


def test_launch_and_time_per_layer_are_paid_only_by_ranks_with_work():
    plain = compute_times(TOY, LOAD, rates())
    slow = compute_times(TOY, LOAD, rates(launch=1e-3, per_layer=1.0))
    assert slow.attention - plain.attention == pytest.approx([1.001, 0])
    for part in ("gate", "shared", "dense", "head"):
        assert getattr(slow, part) - getattr(plain, part) == pytest.approx([1e-3, 0])
    assert slow.experts - plain.experts == pytest.approx(np.array([[1e-3, 1e-3], [1e-3, 0]]))


def test_decode_reads_the_cache_of_the_whole_context():
    # one token after 99 others: 8 bytes of cache for each of 100, one row of activations
    load = replace(
        LOAD, tokens=np.array([1, 0]), context=np.array([100, 0]), cached=np.array([100, 0]), outputs=np.array([1, 0])
    )
    assert nanoseconds(load, flops="1000 PFLOPS")["attention"] == np.array([2 * (48 + 4 * 4) + 800, 0.0])


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


def test_latent_attention_caches_one_vector_and_one_rotary_key():
    # DeepSeek-V3: (512 + 64) * 2 bytes a token and layer; the part that grows with the context
    model = find_model("deepseek-v3")
    near, far = (
        compute_times(
            model,
            replace(LOAD, tokens=np.array([1]), context=np.array([n]), cached=np.array([n]), outputs=np.array([1])),
            rates(flops="1000 PFLOPS"),
        ).attention[0]
        for n in (1000, 2000)
    )
    assert (far - near) * 1e9 == pytest.approx(1000 * 1152)
