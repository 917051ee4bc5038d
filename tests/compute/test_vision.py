from __future__ import annotations

import pytest

from smoes_sim.compute import ComputeRates, find_device, vision_time
from smoes_sim.models import find_model

OLMOE = find_model("olmoe-1b-7b")


def rates(**changes):
    defaults = {"flops_efficiency": 0.5, "memory_efficiency": 0.8, "launch": 0.0, "per_layer": 0.0}
    return ComputeRates(device=find_device("jetson-agx-orin-64gb"), **(defaults | changes))


def time(images, num_ranks=2, **changes):
    return vision_time(OLMOE, rates(**changes), images=images, width=336, height=336, num_ranks=num_ranks)


def test_images_are_dealt_out_and_the_busiest_rank_counts():
    # 8 images over 2 ranks: 4 * 0.389167e12 / (42.6e12 / 2) = 73.08 ms
    assert time(8) == pytest.approx(4 * 0.389167e12 / 21.3e12, rel=1e-5)
    assert time(7) == time(8)
    assert time(8, num_ranks=8) == pytest.approx(time(8) / 4)


def test_every_layer_is_launched():
    assert time(8, launch=1e-3) - time(8) == pytest.approx(24e-3)


def test_one_image_on_a_device_of_little_bandwidth_waits_for_the_weights():
    # weights 308.9e6 * 2 B and activations 577 * 4 * 1024 * 24 * 2 B at 204.8e9 * 0.001 B/s
    weights = 301989888 + 588 * 1024 + 2048 * (1024 + 2048)
    moved = 2 * weights + 2 * 577 * 4 * 1024 * 24
    assert time(1, num_ranks=1, memory_efficiency=0.001) == pytest.approx(moved / 204.8e6)


def test_no_image_or_no_known_tower_takes_no_time():
    assert time(0) == 0
    assert vision_time(find_model("mixtral-8x7b"), rates(), images=8, width=336, height=336, num_ranks=1) == 0
