from __future__ import annotations

import pytest

from smoes_sim.models import ModelShape, find_model


def change(name: str, **changes: object) -> ModelShape:
    return ModelShape.model_validate(find_model(name).model_dump() | changes)


def test_a_quarter_of_the_layers_of_qwen3_5_keeps_keys_and_values():
    model = find_model("qwen3.5-397b-a17b")
    assert [one.kind for one in model.attentions] == ["linear", "full"]
    assert model.attention_kinds == (0, 0, 0, 1) * 15
    assert model.kv_bytes_per_token(2) == 30_720  # 15 layers * 2 * 2 heads * 256 * 2 bytes; 60 layers would have 122 880
    # a layer: 64 heads * 128 * 128 * 4 bytes, and 3 tokens of 2 * 16 * 128 + 64 * 128 convolved numbers of 2 bytes
    assert model.state_bytes == 45 * (4_194_304 + 73_728)
    assert model.window_bytes_per_token(2) == 0


def test_parameters_of_qwen3_5_by_hand():
    model = find_model("qwen3.5-397b-a17b")
    linear, full = model.attentions
    # in: 4096 (4096 + 8192 of keys and values, 8192 of the gate, 2 * 64), convolution 4 * 12 288, out 8192 * 4096
    assert linear.parameters == 4096 * (12_288 + 8192 + 128) + 49_152 + 33_554_432
    assert full.parameters == 4096 * (2 * 8192 + 2 * 512) + 8192 * 4096  # queries and gate, keys and values, output
    assert model.attention_parameters == 45 * linear.parameters + 15 * full.parameters
    assert linear.flops_per_token == 6 * 64 * 128 * 128 + 2 * 4 * 12_288


def test_every_other_layer_of_gpt_oss_keeps_a_window():
    model = find_model("gpt-oss-120b")
    assert model.attention_kinds == (0, 1) * 18
    assert [one.window for one in model.attentions] == [128, None]
    assert model.kv_bytes_per_token(2) == model.window_bytes_per_token(2) == 18 * 2 * 8 * 64 * 2
    assert model.state_bytes == 0


def test_step3_projects_its_queries_through_a_smaller_width():
    # queries 7168 * 2048 + a norm of 2048 + 2048 * 64 * 256, one head of keys and values, output 64 * 256 * 7168
    expected = 7168 * 2048 + 2048 + 2048 * 16_384 + 2 * 7168 * 256 + 16_384 * 7168
    assert find_model("step3").full_attention.parameters == expected


def test_states_are_divided_by_heads_and_windows_like_the_cache():
    assert find_model("qwen3.5-397b-a17b").state_share(8) == 1 / 8
    assert find_model("qwen3.5-397b-a17b").state_share(128) == 1 / 64
    assert find_model("qwen3.5-397b-a17b").kv_share(8) == 1 / 2


def test_shared_experts_may_have_a_width_of_their_own():
    ernie, olmoe = find_model("ernie-4.5-vl-28b-a3b"), find_model("olmoe-1b-7b")
    assert ernie.shared_parameters == 3 * 2560 * 3072
    assert change("olmoe-1b-7b", shared_experts=3).shared_parameters == 3 * olmoe.expert_parameters
    assert olmoe.shared_parameters == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_layers": {"pattern": ["sliding"], "window": 8}}, r"pattern = \['sliding'\] has no full layer"),
        ({"attention_layers": {"pattern": ["sliding", "full"]}}, r"window belongs to sliding layers"),
        ({"attention_layers": {"pattern": ["full"], "window": 8}}, r"window belongs to sliding layers"),
        ({"attention_layers": {"pattern": ["linear", "full"]}}, r"linear belongs to linear layers"),
        ({"shared_ffn": 64}, r"shared_ffn = 64, but there are no shared experts"),
        ({"image_tokens": None}, r"given without image_tokens"),
    ],
)
def test_attention_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        change("olmoe-1b-7b", **changes)


def test_gates_belong_to_grouped_queries():
    with pytest.raises(ValueError, match="attention_gate and query_rank belong to attention: gqa"):
        change("deepseek-v3", attention_gate=True)
