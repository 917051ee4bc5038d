"""Time of the vision tower before a prefill."""

from __future__ import annotations

import numpy as np

from smoes_sim.compute.load import ComputeRates
from smoes_sim.models import ModelShape

_ACTIVATION = 2
"""Bytes of an activation or weight of the tower: bf16."""


def vision_time(model: ModelShape, rates: ComputeRates, *, images: int, width: int, height: int, num_ranks: int) -> float:
    """Seconds of the rank with the most images; 0 without images, or without a known tower.

    The tower is on every rank and images are spread evenly, ``ceil(images / ranks)`` on the busiest, all in one pass:
    ``max(flops / (peak e_f), bytes / (bandwidth e_m)) + launch`` per layer. Bytes are the weights and four activations of
    every patch and layer. Decoding and resizing of the image on the host are not counted.

    Args:
        model: Shape of the model with its tower.
        rates: Rates that a device reaches.
        images: Number of images of the batch.
        width: Width of an image in pixels.
        height: Height of an image in pixels.
        num_ranks: Number of ranks, R.

    Example:
        OLMoE with CLIP, 8 images over 2 ranks of 42.6 TFLOPS at 0.5: 4 * 0.389e12 / 21.3e12 = 73 ms and 24 launches.
    """
    tower = model.vision
    if tower is None or model.image_tokens is None or images == 0:
        return 0.0
    frames, patches = model.image_tokens.frames(width=width, height=height, merge=tower.merge)
    each = -(-images // num_ranks)
    flops = each * tower.image_flops(frames=frames, patches=patches, width=model.hidden)
    activations = each * frames * (patches + tower.class_tokens) * 4 * tower.hidden * tower.layers
    moved = _ACTIVATION * (tower.parameters(model.hidden) + activations)
    per_layer = rates.time(np.array(flops / tower.layers), np.array(moved / tower.layers))
    return float(tower.layers * per_layer)
