"""The sections ``placement`` and ``parallelism`` of a scenario, as a person writes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from smoes_sim.placement.experts import ExpertRule
from smoes_sim.placement.tokens import TokenRule
from smoes_sim.yaml_files import Spec


class ExpertFile(Spec):
    """A placement file with a ``physical_to_logical_map``, as EPLB and SGLang use it."""

    file: str = Field(
        description="Path of a JSON file with a physical_to_logical_map; `smoes-sim placement make` writes one.",
        examples=["placement.json"],
    )

    def __str__(self) -> str:
        return f"file {self.file}"


class PlacementSpec(Spec):
    """Which rank holds each expert, and which rank each token is on during attention."""

    experts: ExpertRule | ExpertFile | None = Field(
        None,
        description="Rule that places the experts on ranks, or a placement file. Not given: bins for policy smoes, hard and "
        "hybrid, else contiguous.",
        examples=["eplb", {"file": "placement.json"}],
    )
    spare: int = Field(
        0,
        ge=0,
        description="Slots of each rank for replicas of experts, beside its share of the experts (rounded down); for bins, "
        "eplb and optimal.",
        examples=[1],
    )
    tokens: TokenRule = Field(
        "data_parallel",
        description="Home rank of each token: by sequence (data_parallel), equal runs of the batch (sharded), by modality "
        "(modality), or the rank that holds most of its experts (affinity).",
        examples=["modality"],
    )


class ParallelismSpec(Spec):
    """How attention is divided; experts are always spread over all ranks (or over EP groups of them)."""

    tensor: int = Field(
        1,
        ge=1,
        description="Number of neighbouring ranks that share the attention of their sequences (tensor parallelism), and the "
        "feed-forward layers of a dense model; 1: each rank has its own.",
        examples=[2],
    )
    prefill_chunk: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Prompt tokens that such a group of ranks takes in one step (chunked prefill). Not given: the whole "
        "batch in one step.",
        examples=[8192],
    )
