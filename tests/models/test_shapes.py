from __future__ import annotations

from importlib import resources

import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.models import ModelShape, dense_equal, find_model, model_names
from smoes_sim.yaml_files import Document

# Printed to fewer digits than 1.5% (12 B, 3.3 B): within one unit of the last digit instead.
LAST_DIGIT = {"glm-4.5v": 1.0, "glm-4.6v": 1.0, "qwen3-30b-a3b": 0.1, "qwen3-vl-30b-a3b": 0.1}


def shipped_document() -> Document:
    text = (resources.files("smoes_sim") / "data" / "models.yaml").read_text(encoding="utf-8")
    return Document(text, name="models.yaml")


def change(shape: ModelShape, **changes: object) -> ModelShape:
    return ModelShape.model_validate(shape.model_dump() | changes)


def test_models_are_shipped_under_unique_names():
    names = [model["name"] for model in shipped_document().data["models"]]
    assert len(names) == len(set(names))
    assert tuple(sorted(names)) == model_names()


@pytest.mark.parametrize("name", model_names())
def test_every_model_names_its_sources(name):
    model = find_model(name)
    assert (model.image_source is None) == (model.image_tokens is None)
    for source in (model.source, model.image_source or model.source):
        assert any(word in source for word in ("hf ", "/", "assumed:"))


@pytest.mark.parametrize("name", model_names())
def test_totals_are_within_1_5_percent_of_the_published_ones(name):
    model = find_model(name)
    assert model.published_total is not None
    if name == "ernie-4.5-vl-28b-a3b":  # its name, in whole billions
        assert model.total_as_published == pytest.approx(28.62, abs=0.01)
        return
    assert model.total_as_published == pytest.approx(model.published_total, rel=0.015)


@pytest.mark.parametrize("name", [name for name in model_names() if find_model(name).published_active is not None])
def test_active_parameters_are_within_1_5_percent_of_the_published_ones(name):
    model = find_model(name)
    if name in LAST_DIGIT:
        assert model.active_as_published == pytest.approx(model.published_active, abs=LAST_DIGIT[name], rel=0)
        assert model.active_as_published == pytest.approx(model.published_active, rel=0.02)
    else:
        assert model.active_as_published == pytest.approx(model.published_active, rel=0.015)


def test_only_models_whose_active_figure_cannot_be_placed_have_none():
    without = {name for name in model_names() if find_model(name).published_active is None}
    assert without == {
        "deepseek-vl2-small",
        "ernie-4.5-vl-28b-a3b",
        "internvl3.5-30b-a3b",
        "kimi-k2.5",
        "kimi-vl-a3b",
        "minimax-m2.5",
        "qwen3-next-80b-a3b",
    }


def test_olmoe_by_hand():
    olmoe = find_model("olmoe-1b-7b")
    assert olmoe.moe_layer_indices == tuple(range(16))
    assert olmoe.expert_parameters == 6_291_456  # 3 * 2048 * 1024
    assert olmoe.expert_bytes(2) == 12 * 2**20
    assert olmoe.full_attention.parameters == 16_777_216  # 4 * 2048**2
    # 2 * 50304 * 2048 + 33 * 2048 + 16 * (16 777 216 + 64 * 6 291 456 + 64 * 2048)
    assert olmoe.total_parameters == 206_045_184 + 67_584 + 16 * (16_777_216 + 402_653_184 + 131_072)
    # one token uses 8 of the 64 experts
    assert olmoe.total_parameters - olmoe.active_parameters == 16 * 56 * 6_291_456
    assert olmoe.kv_bytes_per_token(2) == 131_072  # 2 * 16 layers * 16 heads * 128 * 2 bytes
    assert olmoe.full_attention.flops_per_pair == 8192  # 2 * 16 * (128 + 128)


def test_deepseek_v3_by_hand():
    v3 = find_model("deepseek-v3")
    assert v3.moe_layer_indices == tuple(range(3, 61))
    # query 7168*1536 + 1536 + 1536*128*192, latent 7168*576 + 512, up 512*128*256, out 128*128*7168
    assert v3.full_attention.parameters == 11_010_048 + 1536 + 37_748_736 + 4_128_768 + 512 + 16_777_216 + 117_440_512
    assert v3.kv_bytes_per_token(2) == 70_272  # 61 * (512 + 64) * 2, against 61 * 2 * 128 * 192 without MLA
    assert v3.full_attention.flops_per_pair == 81_920  # 2 * 128 * (192 + 128)
    assert v3.expert_bytes(2) == 84 * 2**20  # the reference prints 84 MiB


def test_pangu_pro_moe_by_hand():
    pangu = find_model("pangu-pro-moe-72b")
    assert pangu.expert_parameters == 20_643_840  # 3 * 5120 * 1344
    assert pangu.full_attention.parameters == 62_914_560  # 2 * 5120 * 128 * (40 + 8)
    # embedding and head, norms, and 48 layers of attention, router, 64 + 4 experts
    layer = 62_914_560 + 64 * 5120 + 68 * 20_643_840
    assert pangu.total_parameters == 2 * 153_376 * 5120 + 97 * 5120 + 48 * layer  # 71.99e9
    assert pangu.total_parameters - pangu.active_parameters == 48 * 56 * 20_643_840


def test_ranks_that_share_attention_gather_once_a_layer_and_twice_in_a_dense_model():
    assert [find_model("olmoe-1b-7b").gathers(tensor) for tensor in (1, 2, 8)] == [0, 16, 16]
    assert [find_model("olmoe-1b-7b-dense-total").gathers(tensor) for tensor in (1, 2, 8)] == [0, 32, 32]


def test_the_leading_layer_of_deepseekmoe_is_dense():
    assert find_model("deepseekmoe-16b").moe_layer_indices == tuple(range(1, 28))


def test_every_second_layer_of_maverick_is_moe():
    maverick = find_model("llama-4-maverick")
    assert maverick.moe_layer_indices == tuple(range(1, 48, 2))
    assert maverick.num_moe_layers == 24


def test_mixtral_keys_are_shared_by_four_heads():
    assert find_model("mixtral-8x7b").kv_bytes_per_token(2) == 131_072  # 2 * 32 layers * 8 heads * 128 * 2 bytes


def test_tied_embeddings_are_counted_once():
    olmoe = find_model("olmoe-1b-7b")
    tied = change(olmoe, tie_embeddings=True)
    assert olmoe.total_parameters - tied.total_parameters == 50304 * 2048
    assert change(tied, active_counts="head").active_as_published == tied.active_as_published
    assert change(tied, active_counts="none").active_as_published == pytest.approx(
        change(olmoe, active_counts="none").active_as_published
    )


@pytest.mark.parametrize("of", ["total", "active"])
@pytest.mark.parametrize("name", model_names())
def test_dense_counterparts_have_as_many_parameters(name, of):
    model = find_model(name)
    dense = find_model(f"{name}-dense-{of}")
    target = model.total_parameters if of == "total" else model.active_parameters
    assert dense.total_parameters == pytest.approx(target, rel=0.015)
    assert dense.active_parameters == dense.total_parameters
    assert dense.moe_layer_indices == ()
    assert dense.kv_bytes_per_token(2) == model.kv_bytes_per_token(2)
    assert ModelShape.model_validate(dense.model_dump()) == dense


def test_eight_olmoe_experts_make_a_dense_layer_of_8192():
    # 8 experts of width 1024 are one layer of width 8192 (the router's 131 072 weights are less than one step of 64)
    assert dense_equal(find_model("olmoe-1b-7b"), of="active").dense_ffn == 8192
    assert dense_equal(find_model("olmoe-1b-7b"), of="total").dense_ffn == 65_536


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("olmoe-1b-8b", r'model = "olmoe-1b-8b" is unknown. Did you mean "olmoe-1b-7b"\?'),
        ("olmo-1b-7b-dense-total", r'model = "olmo-1b-7b-dense-total" is unknown'),
        ("x", r'model = "x" is unknown. Known: deepseek-v3, .*qwen3-vl-30b-a3b'),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one(name, message):
    with pytest.raises(ConfigError, match=message):
        find_model(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 65}, r"top_k = 65 must lie in 1\.\.64"),
        ({"attention": "mla"}, r'attention = "mla": the section mla'),
        ({"experts": 0}, r"experts = 0 .* must be 0 too"),
        ({"expert_ffn": 0}, r"expert_ffn = 0 with 64 experts"),
        ({"dense_layers": 1}, r"dense_ffn = 0, but 1 layers are dense"),
        ({"kv_heads": 3}, r"kv_heads = 3 does not divide heads = 16"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        change(find_model("olmoe-1b-7b"), **changes)


def test_an_unknown_key_of_the_data_file_is_an_error():
    with pytest.raises(ValueError, match="topk"):
        change(find_model("olmoe-1b-7b"), topk=8)
