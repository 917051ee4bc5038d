from __future__ import annotations

import pytest

from smoes_sim.models import find_model, model_names

TOWERS = [name for name in model_names() if find_model(name).vision is not None]
# billions of parameters of the towers, as their authors print them
SIZES = {
    "olmoe-1b-7b": 0.30,  # CLIP ViT-L/14
    "deepseek-vl2": 0.43,  # SigLIP-SO400M, with the projector
    "kimi-vl-a3b": 0.43,  # MoonViT
    "internvl3.5-30b-a3b": 0.30,
    "internvl3.5-241b-a28b": 5.5,
}


def frames(name, width, height):
    model = find_model(name)
    return model.image_tokens.frames(width=width, height=height, merge=model.vision.merge)


@pytest.mark.parametrize(("name", "billions"), SIZES.items())
def test_towers_have_the_size_that_is_printed(name, billions):
    model = find_model(name)
    assert model.vision.parameters(model.hidden) / 1e9 == pytest.approx(billions, rel=0.06)


def test_clip_by_hand():
    clip = find_model("olmoe-1b-7b").vision
    assert clip.layer_parameters == 4 * 1024**2 + 2 * 1024 * 4096
    assert clip.projector_parameters(2048) == 2048 * (1024 + 2048)
    # patches: 2 * 588 * 1024 * 576; layers: 24 * (2 * 12582912 * 577 + 4 * 1024 * 577**2); projector: 2 * 6291456 * 576
    assert clip.image_flops(frames=1, patches=576, width=2048) == pytest.approx(
        0.000694e12 + 0.381225e12 + 0.007248e12, rel=1e-5
    )


def test_gated_towers_have_three_matrices():
    assert find_model("glm-4.5v").vision.layer_parameters == 4 * 1536**2 + 3 * 1536 * 4096


def test_a_token_is_merged_from_four_patches_and_the_tower_sees_them_all():
    # Qwen3-VL: 1024 x 768 px in patches of 16: 64 * 48
    assert frames("qwen3-vl-30b-a3b", 1024, 768) == (1, 64 * 48)
    # InternVL: 2 tiles and a thumbnail of (448 / 14)**2
    assert frames("internvl3.5-30b-a3b", 896, 448) == (3, 32 * 32)
    # DeepSeek-VL2: one tile and the thumbnail of 27 * 27 whole patches
    assert frames("deepseek-vl2", 384, 384) == (2, 27 * 27)
    # Llama 4: 4 tiles and a global one of (336 / 14)**2
    assert frames("llama-4-scout", 672, 672) == (5, 24 * 24)
    assert frames("llama-4-scout", 336, 336) == (1, 24 * 24)
    assert frames("olmoe-1b-7b", 800, 600) == (1, 576)


def test_work_grows_with_the_square_of_a_frame_but_not_of_frames():
    tower = find_model("qwen3-vl-30b-a3b").vision
    one, two = (tower.image_flops(frames=count, patches=1024, width=2048) for count in (1, 2))
    assert two == 2 * one
    large = tower.image_flops(frames=1, patches=2048, width=2048)
    # 2 * one and twice the scores of 1024 patches over: 27 layers * 4 * 1152 * (2048**2 - 2 * 1024**2)
    assert large - 2 * one == pytest.approx(27 * 4 * 1152 * 2 * 1024**2)


@pytest.mark.parametrize("name", TOWERS)
def test_every_tower_names_its_source(name):
    assert any(word in find_model(name).vision.source for word in ("/", "notes", "assumed:"))
