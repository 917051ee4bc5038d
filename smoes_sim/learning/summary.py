"""One document of a whole study: means and spread over seeds, claims, other task mixes. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from smoes_sim.learning.claims import Results, judge_claim
from smoes_sim.learning.study_file import Study

Row = dict[str, Any]
_SCALARS = ("accuracy", "language_accuracy", "bits_per_byte", "train_cpu_seconds", "parameters")
_ROUTED = ("msi", "expert_imbalance", "experts_per_token")
_TRAFFIC = (
    "transmission_rate",
    "transmission_rate_vision",
    "transmission_rate_text",
    "copies_per_token",
    "bytes_remote",
    "imbalance",
)


def spread(values: Sequence[float | None]) -> Row | None:
    """Mean and sample standard deviation of what is known; the deviation is null for a single value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": float(np.mean(known)), "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None}


def _mean(value: Row | None) -> float | None:
    return None if value is None else float(value["mean"])


def summarise(study: Study, results: Results) -> Row:
    """The document that ``smoes-sim train --json`` prints.

    ``variants`` holds means for scripts (traffic and imbalance over the smallest number of ranks, under the variant's own
    placement of experts) with ``spread`` and the ``placements`` of every number of ranks; ``claims`` and ``other_mixes``
    follow.
    """
    ranks = min(study.ranks)
    placements = {name: variant.experts for name, variant in study.variants.items()}
    return {
        "seeds": list(study.seeds),
        "ranks": ranks,
        "variants": {name: _variant(study, name, by_seed) for name, by_seed in results.items()},
        "claims": [row for claim in study.claims for row in judge_claim(claim, results, placements, ranks=ranks)],
        "other_mixes": _other_mixes(study, results),
    }


def _variant(study: Study, name: str, by_seed: dict[int, Row]) -> Row:
    runs = [by_seed[seed] for seed in study.seeds]
    test = [run["sets"]["test"] for run in runs]
    scalars = {key: spread([run[key] for run in runs]) for key in _SCALARS}
    has_router = study.has_router(name)
    if has_router:
        scalars |= {key: spread([one[key] for one in test]) for key in _ROUTED}
    rows = _placements(test) if has_router else []
    chosen = _own_rows(study, name, rows)
    return {
        "accuracy": _mean(scalars["accuracy"]),
        "language_accuracy": _mean(scalars["language_accuracy"]),
        "msi": _mean(scalars.get("msi")),
        "msi_per_layer": np.mean([one["msi_per_layer"] for one in test], axis=0).tolist() if has_router else None,
        "transmission_rate": {row["tokens"]: row["transmission_rate"]["mean"] for row in chosen} or None,
        "imbalance": chosen[0]["imbalance"]["mean"] if chosen else None,
        "expert_placement": study.variants[name].experts if has_router else None,
        "spread": scalars,
        "placements": rows,
        "seeds": [{"seed": run["seed"], **{key: run[key] for key in _SCALARS}} for run in runs],
    }


def _placements(sets: list[Row]) -> list[Row]:
    """Rows of one set, each number as mean and spread over seeds."""
    rows = []
    for same in zip(*(one["placements"] for one in sets), strict=True):
        place = {key: same[0][key] for key in ("ranks", "experts", "tokens")}
        rows.append(place | {key: spread([row[key] for row in same]) for key in _TRAFFIC})
    return rows


def _other_mixes(study: Study, results: Results) -> list[Row]:
    """Specialisation and traffic of every mixture on every set, experts placed by its training counts."""
    return [
        _mix(study, name, key, [by_seed[seed]["sets"][key] for seed in study.seeds])
        for name, by_seed in results.items()
        if study.has_router(name)
        for key in study.sets
    ]


def _mix(study: Study, name: str, key: str, sets: list[Row]) -> Row:
    rows = _own_rows(study, name, _placements(sets))
    return {
        "variant": name,
        "set": key,
        "vision_share": sets[0]["vision_share"],
        "accuracy": spread([one["accuracy"] for one in sets]),
        "msi": spread([one["msi"] for one in sets]),
        "imbalance": rows[0]["imbalance"],
        "transmission_rate": {row["tokens"]: row["transmission_rate"] for row in rows},
    }


def _own_rows(study: Study, name: str, rows: list[Row]) -> list[Row]:
    """Rows of a variant's own placement of experts over the smallest number of ranks."""
    place = (min(study.ranks), study.variants[name].experts)
    return [row for row in rows if (row["ranks"], row["experts"]) == place]
