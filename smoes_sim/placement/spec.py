"""The sections ``placement`` and ``parallelism`` of a scenario, as a person writes them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.models import ModelShape
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
        "eplb and optimal. 0: every expert has one slot, and where they do not divide, the first ranks have one more.",
        examples=[1],
    )
    tokens: TokenRule = Field(
        "data_parallel",
        description="Home rank of each token: by sequence (data_parallel), equal runs of the batch (sharded), by modality "
        "(modality), the rank that holds most of its experts (affinity), or rank 0 for all tokens of the batch (single).",
        examples=["modality"],
    )
    decode_tokens: TokenRule | None = Field(
        None,
        description="Home rank of each decoded token, where it is not by the rule of the prompts; the cache moves there "
        "once, or queries travel to it (attention.exchange). Not given: as tokens.",
        examples=["data_parallel"],
    )

    @model_validator(mode="after")
    def _decode_has_no_runs(self) -> PlacementSpec:
        if self.decode_tokens == "sharded":
            raise ValueError("decode_tokens = sharded: decoded tokens have no runs of a batch. Write data_parallel.")
        return self


class ParallelismSpec(Spec):
    """How attention and experts are divided over ranks."""

    tensor: int = Field(
        1,
        ge=1,
        description="Number of neighbouring ranks that share the attention of their sequences (tensor parallelism), and the "
        "feed-forward layers of a dense model; 1: each rank has its own.",
        examples=[2],
    )
    expert: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Number of neighbouring ranks that form an EP group, which holds all experts; each group serves its "
        "own tokens. A multiple of tensor. Not given: all, or with more ranks than experts one expert per rank.",
        examples=[8],
    )
    expert_tensor: int = Field(
        1,
        ge=1,
        description="Number of neighbouring ranks in an EP group that share each expert: each has a part of its inner "
        "width, receives every token of the expert and returns a part of the sum.",
        examples=[2],
    )
    prefill_chunk: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Prompt tokens that such a group of ranks takes in one step (chunked prefill). Not given: the whole "
        "batch in one step.",
        examples=[8192],
    )

    @model_validator(mode="after")
    def _groups_nest(self) -> ParallelismSpec:
        for key, size in (("tensor", self.tensor), ("expert_tensor", self.expert_tensor)):
            if self.expert is not None and self.expert % size:
                raise ValueError(
                    f"parallelism.{key} = {size} does not divide the {self.expert} ranks of an EP group "
                    "(parallelism.expert): no engine lets such a group cross EP groups. Use a divisor."
                )
        return self

    def check_model(self, model: ModelShape) -> None:
        """Refuse experts that cannot be divided as asked.

        Raises:
            ConfigError: If the model has no experts, or their inner width does not divide.
        """
        if not model.experts and (self.expert is not None or self.expert_tensor > 1):
            key, value = ("expert", self.expert) if self.expert is not None else ("expert_tensor", self.expert_tensor)
            raise ConfigError(f"parallelism.{key} = {value}: {model.name} has no experts. Leave it out.")
        if model.experts and model.expert_ffn % self.expert_tensor:
            raise ConfigError(
                f"parallelism.expert_tensor = {self.expert_tensor} does not divide the inner width {model.expert_ffn} of an "
                f"expert of {model.name}. Use a divisor."
            )
