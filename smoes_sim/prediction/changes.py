"""How one prediction differs from another, draw by draw, so that what both do not know cancels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.prediction.simulate import Prediction, interval

CHANGES = ("ttft_s", "tpot_s", "tokens_per_s", "ep_comm_s", "decode_ep_comm_s", "bytes_remote")
"""Quantities whose change is told, as far as a prediction has them."""


def changes(mine: Prediction, base: Prediction) -> dict[str, Any]:
    """Relative changes ``mine / base - 1`` of :data:`CHANGES`, with ``<key>_interval`` where there are several draws.

    With equally many draws they are taken draw by draw; otherwise it is that of the medians and has no interval. Quantities
    that one of the two lacks, or whose base is 0, are left out.

    Example:
        1 s and 2 s under two draws against 2 s and 2 s: -0.5 and 0, so -0.25 [-0.5, 0].
    """
    found: dict[str, Any] = {}
    for key in CHANGES:
        here, there = _series(mine, key), _series(base, key)
        if here is None or there is None or (there == 0).any():
            continue
        paired = len(here) == len(there)
        ratio = here / there - 1 if paired else np.median(here) / np.median(there, keepdims=True) - 1
        found[key] = float(np.median(ratio))
        if paired and len(ratio) > 1:
            found[f"{key}_interval"] = interval(ratio.tolist())
    return found


def _series(prediction: Prediction, key: str) -> NDArray[np.float64] | None:
    """The draws of a quantity, the one value of what has none, or None where the prediction lacks it."""
    if key in prediction.draws:
        return np.array(prediction.draws[key])
    value = prediction.values.get(key)
    return None if value is None else np.array([float(value)])
