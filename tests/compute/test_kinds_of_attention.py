from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smoes_sim.compute import ComputeRates, Device, RankLoad, StepSize, attention_times, memory_of_rank
from smoes_sim.models import ModelShape, find_model

LINEAR = {"key_heads": 1, "value_heads": 2, "key_dim": 3, "value_dim": 4, "conv": 2}
NONE = np.zeros((1, 1), dtype=np.int64)


def model_of(pattern, **sizes):
    shape = find_model("olmoe-1b-7b").model_dump() | {"hidden": 8, "heads": 4, "kv_heads": 2, "head_dim": 2, "layers": 4}
    return ModelShape.model_validate(shape | {"attention_layers": {"pattern": pattern} | sizes})


def load_of(*, prefill=0, pairs=0, earlier=0, decode=0, context=0, outputs=0, near=(0, 0, 0)):
    counts = {
        "prefill": prefill,
        "pairs": pairs,
        "earlier": earlier,
        "decode": decode,
        "context": context,
        "outputs": outputs,
    }
    arrays = {name: np.array([value]) for name, value in counts.items()}
    within = dict(zip(("near_pairs", "near_earlier", "near_context"), (np.array([value]) for value in near), strict=True))
    return RankLoad(**arrays, **within, slots=NONE, active_experts=NONE)


def parts(model, load, *, flops="1000 PFLOPS", memory="1000 TB/s", tensor=1):
    """Projections and scores of each kind in ns; at 1 GFLOPS or 1 GB/s that is operations or bytes."""
    device = Device(name="toy", peak_bf16=flops, memory_bandwidth=memory, memory="1 GB", source="made up")
    rates = ComputeRates(device=device, flops_efficiency=1.0, memory_efficiency=1.0, launch=0.0, per_layer=0.0)
    times = attention_times(model, load, rates, tensor=tensor)
    return [1e9 * row[:, 0] for row in (times.project + times.output, times.scores)]


def test_a_sliding_layer_has_the_pairs_within_its_window():
    model = model_of(["sliding", "full"], window=4)
    # 6 prompt tokens after 10: contexts 11 .. 16; a token decoded at context 20
    load = load_of(prefill=6, pairs=81, earlier=10, decode=1, context=20, outputs=2, near=(24, 3, 4))
    _, operations = parts(model, load, flops="1 GFLOPS")
    assert operations == pytest.approx(np.array([4 * 8 * (24 + 4), 4 * 8 * (81 + 20)]))  # 4 heads of 2: 32 operations a pair
    _, moved = parts(model, load, memory="1 GB/s")
    assert moved == pytest.approx(
        np.array([16 * (6 + 3 + 4), 16 * (6 + 10 + 20)])
    )  # keys and values of 2 heads of 2, 16 bytes


def test_a_linear_layer_works_by_token_and_moves_its_state_in_decode():
    model = model_of(["linear", "full"], linear=LINEAR)
    linear = model.attentions[0]
    # convolved 2 * 3 + 8 = 14, gate 8; parameters 8 (14 + 8 + 4) + 2 * 14 + 8 * 8; state 4 * 24 + 2 * 14 bytes
    assert (linear.parameters, linear.inner, linear.state_bytes) == (300, 22, 124)
    assert linear.flops_per_token == 6 * 24 + 2 * 2 * 14
    load = load_of(prefill=6, pairs=21, decode=2, context=50, outputs=3)
    project, operations = parts(model, load, flops="1 GFLOPS")
    assert project[0] == pytest.approx(2 * 300 * 8)
    assert operations[0] == pytest.approx(200 * (6 + 2))
    _, moved = parts(model, load, memory="1 GB/s")
    # one prompt ends; a decoded token reads and writes the state
    assert moved[0] == pytest.approx((2 * 22 * 6 + 124) + 2 * (2 * 22 + 2 * 124))


def test_linear_work_does_not_grow_with_the_context():
    model = model_of(["linear", "full"], linear=LINEAR)
    load = load_of(decode=2, context=50, outputs=2)
    (_, short), (_, long) = (parts(model, one, memory="1 GB/s") for one in (load, replace(load, context=np.array([5000]))))
    assert short[0] == long[0]
    assert short[1] < long[1]


def test_ranks_of_a_group_divide_states_by_heads():
    model = model_of(["linear", "full"], linear=LINEAR)
    load = load_of(decode=2, context=50, outputs=2)
    pair = RankLoad(
        **{name: np.repeat(getattr(load, name), 2, axis=-1) for name in RankLoad.__slots__ if "away" not in name}
    )
    alone, shared = parts(model, load, memory="1 GB/s")[1], parts(model, pair, memory="1 GB/s", tensor=2)[1]
    assert shared[0] == pytest.approx(alone[0])  # twice the sequences, half of each


def test_windows_and_states_of_a_batch_in_memory_by_hand():
    def need(name, **changes):
        step = StepSize(tokens=1, outputs=1, cached=1000, imbalance=1.0, copy_bytes=1, has_images=False, **changes)
        return memory_of_rank(find_model(name), step, slots=1, num_ranks=2, tensor=1, weights="bf16", cache="bf16")

    oss = need("gpt-oss-120b", near=256, sequences=2)
    assert (oss.cache_per_token, oss.kept) == (36_864, 256 * 36_864)
    assert oss.cache_per_sequence == 128 * 36_864
    assert oss.total == oss.fixed + 1000 * 36_864 + 256 * 36_864
    qwen = need("qwen3.5-397b-a17b", sequences=3)
    assert (qwen.cache_per_token, qwen.kept, qwen.cache_per_sequence) == (30_720, 3 * 192_061_440, 192_061_440)
    assert qwen.capacity(qwen.fixed + qwen.kept + 10 * 30_720) == 10
