"""How one prediction differs from another, draw by draw, so that what is unknown in both cancels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.display.tables import Interval, ranged
from smoes_sim.prediction.constants import interval
from smoes_sim.prediction.prediction import Prediction

CHANGES = (
    "ttft_s",
    "tpot_s",
    "tokens_per_s",
    "ep_comm_s",
    "decode_ep_comm_s",
    "bytes_remote",
    "exchanges_s",
    "exchanges_bytes",
)
"""Quantities whose change is reported where a prediction has them."""
_OF_ASKED = {"tokens_per_s", "ep_comm_s", "bytes_remote", "exchanges_s", "exchanges_bytes"}
"""Those that describe a decode step, or its steady state, where only decode was asked for, and otherwise the whole batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A relative change ``mine / base - 1`` and its interval; None where the two have no common draws."""

    value: float
    interval: Interval | None = None

    def __str__(self) -> str:
        """In percent: ``+14.8 [-17.9, +42.7]``."""
        return ranged(self.value, self.interval, lambda value: f"{100 * value:+.1f}")


def changes(mine: Prediction, base: Prediction) -> dict[str, Change]:
    """Relative changes of :data:`CHANGES`, by name.

    With equal numbers of draws the changes are taken draw by draw and have an interval; otherwise the change is that of the
    medians. Quantities that one of the two lacks, or whose base is 0, are left out; where only one asks for decode alone, so
    are those that describe another pass in it.

    Example:
        1 s and 2 s under two draws against 2 s and 2 s: -0.5 and 0, so -0.25 [-0.5, 0].
    """
    found: dict[str, Change] = {}
    same = (mine.phase == "decode") == (base.phase == "decode")
    for key in CHANGES:
        if key in _OF_ASKED and not same:
            continue
        here, there = _series(mine, key), _series(base, key)
        if here is None or there is None or (there == 0).any():
            continue
        paired = len(here) == len(there)
        ratio = here / there - 1 if paired else np.median(here) / np.median(there, keepdims=True) - 1
        ends = interval(ratio.tolist()) if paired and len(ratio) > 1 else None
        found[key] = Change(value=float(np.median(ratio)), interval=ends)
    return found


def changes_as_dict(found: Mapping[str, Change]) -> dict[str, Any]:
    """Changes as JSON: ``<key>``, and ``<key>_interval`` where there is one."""
    document: dict[str, Any] = {}
    for key, change in found.items():
        document[key] = change.value
        if change.interval is not None:
            document[f"{key}_interval"] = list(change.interval)
    return document


def changes_of_dict(document: Mapping[str, Any]) -> dict[str, Change]:
    """The inverse of :func:`changes_as_dict`."""
    names = [key for key in document if not key.endswith("_interval")]
    ends = {key: document.get(f"{key}_interval") for key in names}
    return {
        key: Change(value=document[key], interval=None if (pair := ends[key]) is None else (pair[0], pair[1]))
        for key in names
    }


def _series(prediction: Prediction, key: str) -> NDArray[np.float64] | None:
    """The draws of a quantity, its single value if it has no draws, or None where the prediction lacks it."""
    if key in prediction.draws:
        return np.array(prediction.draws[key])
    value = getattr(prediction, key)
    return None if value is None else np.array([float(value)])
