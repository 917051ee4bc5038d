from __future__ import annotations

import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.models import find_model, model_names
from smoes_sim.models.image_tokens import InternVLTileTokens, PixelGridTokens

WITH_IMAGES = [name for name in model_names() if find_model(name).image_tokens is not None]


def count(model: str, width: int, height: int) -> int:
    return find_model(model).image_tokens.count(width=width, height=height)


@pytest.mark.parametrize("model", ["olmoe-1b-7b", "deepseekmoe-16b", "moonlight-16b-a3b", "qwen3-30b-a3b"])
def test_the_backbones_of_smoes_see_576_tokens_whatever_the_image(model):
    assert count(model, 336, 336) == count(model, 3000, 10) == 576  # (336 / 14)**2


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (1024, 768, 768),  # 32 * 24 cells of 32 px
        (1000, 760, 744),  # 31.25 and 23.75 round to 31 * 24
        (32, 32, 64),  # 1 cell is below 64: enlarged 8 times a side, 8 * 8
        (8192, 8192, 16384),  # 256 * 256 cells, shrunk by 2 a side to 128 * 128
        (8192, 4096, 16290),  # 256 * 128: shrunk by sqrt(2) to 181.02 * 90.51, cut to 181 * 90
    ],
)
def test_qwen3_vl_has_a_token_for_each_32_pixels(width, height, tokens):
    assert count("qwen3-vl-30b-a3b", width, height) == tokens


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (1024, 768, 999),  # 36.57 and 27.43 round to 37 * 27 cells of 28 px
        (28, 28, 9),  # 1 cell is below 8: sqrt(8) = 2.83 a side, 3 * 3
        (280, 7, 40),  # 7 px are enlarged 4 times to one cell: 40 * 1
        (5600, 5600, 6084),  # 200 * 200 > 6144: 78.4 a side, cut to 78 * 78
    ],
)
def test_glm_has_a_token_for_each_28_pixels(width, height, tokens):
    assert count("glm-4.5v", width, height) == tokens


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (280, 280, 100),  # 10 * 10
        (281, 280, 110),  # padded to 11 * 10
        (1024, 768, 1036),  # 73 * 54 = 3942 patches are allowed; padded to 37 * 28, above the limit of 1024
        (2000, 1000, 1058),  # 142 * 71 = 10082 patches > 4096: times 0.6374 is 1274 * 637 px, padded to 46 * 23
    ],
)
def test_kimi_vl_pads_up_to_cells_of_28_pixels(width, height, tokens):
    assert count("kimi-vl-a3b", width, height) == tokens


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (384, 384, 421),  # 14 * 15 + 1 + 14 * 15
        (100, 100, 421),  # a small image stays one tile
        (768, 384, 617),  # 2 columns: 211 + 14 * (28 + 1)
        (384, 768, 631),  # 2 rows: 211 + 28 * (14 + 1)
        (1152, 1152, 2017),  # 3 x 3: 211 + 42 * (42 + 1)
        (1700, 2200, 2017),  # a page: 3 x 3 keeps 890 * 1152 px, 2 x 3 and 2 x 4 keep 768 * 993
    ],
)
def test_deepseek_vl2_counts_tiles_and_line_ends(width, height, tokens):
    for model in ("deepseek-vl2-tiny", "deepseek-vl2-small", "deepseek-vl2"):
        assert count(model, width, height) == tokens


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (448, 448, 256),  # 1 tile, no thumbnail; 2 x 2 has the same ratio but needs more than 2 * 448**2 px
        (896, 448, 768),  # 2 x 1 and the thumbnail
        (800, 600, 3328),  # 4:3 exactly: 4 x 3 and the thumbnail, 13 * 256
        (1000, 1000, 2560),  # ratio 1: 3 x 3 since 1e6 > 0.5 * 9 * 448**2 = 903 168
        (9000, 100, 3328),  # the widest grid is 12 x 1
    ],
)
def test_internvl_stretches_to_the_nearest_aspect_ratio(width, height, tokens):
    assert count("internvl3.5-30b-a3b", width, height) == tokens


def test_internvl_without_thumbnail_counts_its_tiles_only():
    rule = InternVLTileTokens(tile=448, tokens_per_tile=256, max_tiles=12, thumbnail=False)
    assert rule.count(width=896, height=448) == 512


@pytest.mark.parametrize(
    ("width", "height", "tokens"),
    [
        (336, 336, 147),  # one tile and 3 markers
        (672, 672, 727),  # 4 tiles and the global one, 4 separators, 3 markers: 144 * 5 + 7
        (1000, 500, 1017),  # 3 x 2 is the smallest canvas of scale 1.008: 144 * 7 + 6 + 3
        (10000, 10000, 2467),  # nothing is large enough: 4 x 4 shrinks least, 144 * 17 + 16 + 3
    ],
)
def test_llama_4_counts_tiles_separators_and_a_global_tile(width, height, tokens):
    assert count("llama-4-scout", width, height) == count("llama-4-maverick", width, height) == tokens


@pytest.mark.parametrize("model", WITH_IMAGES)
def test_an_image_without_pixels_is_refused(model):
    with pytest.raises(ConfigError, match="image of 0 x 5 px: both sides must be >= 1"):
        count(model, 0, 5)


@pytest.mark.parametrize("model", WITH_IMAGES)
def test_every_image_becomes_at_least_one_token(model):
    for width, height in ((1, 1), (1, 4000), (4000, 1), (333, 777)):
        assert count(model, width, height) >= 1


def test_nearest_grids_stay_inside_their_budget():
    rule = PixelGridTokens(patch=16, merge=2, min_tokens=256, max_tokens=1280)
    for width in range(40, 4000, 97):
        assert 256 <= rule.count(width=width, height=1000) <= 1280
