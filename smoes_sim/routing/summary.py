"""What a trace holds, in numbers: the answer of ``trace info``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smoes_sim.display.result import Result
from smoes_sim.display.tables import WIDTH, Table
from smoes_sim.routing.information import expert_counts, gini, modality_specialisation
from smoes_sim.routing.trace import PREFILL, RoutingTrace


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TraceSummary(Result):
    """Sizes of a trace, and how its routing depends on modality.

    Attributes:
        tokens: Number of tokens, T.
        prefill_tokens: Number of prompt tokens.
        vision_tokens: Number of tokens of images and video.
        sequences: Number of sequences.
        layers: Number of MoE layers, L.
        experts: Routed experts of a layer, E.
        top_k: Slots of a token in each layer, K.
        empty_slots: Slots without an expert.
        msi: Modality specialisation index, mean over layers; None without text or without vision.
        msi_per_layer: The same of each layer.
        expert_load_gini: Gini coefficient of the load of experts, mean over layers.
        metadata: Model, source, seed and parameters.
    """

    tokens: int
    prefill_tokens: int
    vision_tokens: int
    sequences: int
    layers: int
    experts: int
    top_k: int
    empty_slots: int
    msi: float | None
    msi_per_layer: Sequence[float | None]
    expert_load_gini: float
    metadata: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``trace info --json``."""
        return asdict(self)

    def records(self) -> list[dict[str, Any]]:
        """One row per layer: its index among the MoE layers, and its modality specialisation index."""
        return [{"layer": layer, "msi": value} for layer, value in enumerate(self.msi_per_layer)]

    def tables(self) -> list[Table]:
        """One line per key, nested keys joined by dots; long values continue on further lines."""
        flat = list(_flat(self.to_dict()))
        room = max(WIDTH - max(len(key) for key, _ in flat) - 2, 20)
        rows: list[list[str]] = []
        for key, value in flat:
            first, *rest = textwrap.wrap(value, room, break_on_hyphens=False) or ["-"]
            rows += [[key, first], *(["", line] for line in rest)]
        return [Table(rows=rows, left=2)]


def describe(trace: RoutingTrace) -> TraceSummary:
    """The summary of a trace."""
    specialisation = [None if np.isnan(value) else float(value) for value in modality_specialisation(trace)]
    known = [value for value in specialisation if value is not None]
    return TraceSummary(
        tokens=trace.num_tokens,
        prefill_tokens=int((trace.phase == PREFILL).sum()),
        vision_tokens=int(trace.is_vision.sum()),
        sequences=len(np.unique(trace.sequence_id)),
        layers=trace.num_layers,
        experts=trace.num_experts,
        top_k=trace.top_k,
        empty_slots=int((trace.expert_ids < 0).sum()),
        msi=float(np.mean(known)) if known else None,
        msi_per_layer=specialisation,
        expert_load_gini=float(np.mean([gini(load) for load in expert_counts(trace)])),
        metadata=dict(trace.metadata),
    )


def _flat(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", text) for name, text in _flat(value))
        else:
            yield key, _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return "-" if value is None else str(value)
