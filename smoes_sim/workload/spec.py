"""The workload section of a scenario: how many requests, how long each is, and which phase of them is asked for."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import Document, Spec, nearest

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Phase = Literal["both", "prefill", "decode"]

FROM_TRACE = "trace"
"""The preset that takes the tokens from the scenario's routing trace."""
_OF_TRACE = {"preset", "phase", "decode_batch"}
"""Keys that may stand beside the preset that takes the tokens from a trace."""


class Preset(Spec):
    """What one request of a benchmark looks like; ``sources`` names the origin of every number."""

    images: Count
    image_width: Positive | None = None
    image_height: Positive | None = None
    text_tokens: Count
    output_tokens: Positive
    spread: Annotated[float, Field(ge=0)]
    sources: dict[str, str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        numbers = {name for name, value in self if name != "sources" and value is not None}
        if numbers != set(self.sources):
            raise ValueError(f"sources: needs an entry for each number, no other: {sorted(numbers ^ set(self.sources))}.")
        return self


class _PresetFile(Spec):
    presets: dict[str, Preset]


@cache
def _presets() -> dict[str, Preset]:
    text = (resources.files("smoes_sim") / "data" / "workloads.yaml").read_text(encoding="utf-8")
    return Document(text, name="smoes_sim/data/workloads.yaml").validate(_PresetFile).presets


def preset_names() -> tuple[str, ...]:
    """Names of the presets, sorted."""
    return tuple(sorted(_presets()))


def find_preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises:
        ConfigError: If no preset has the name.
    """
    presets = _presets()
    if name not in presets:
        raise ConfigError(f'preset = "{name}" is unknown. {nearest(name, presets)}')
    return presets[name]


class SpeculationSpec(Spec):
    """Tokens that are proposed ahead and verified together in one decode step (multi-token prediction, a draft model).

    Example:
        ``tokens: 3, accepted: 1.8``: a step takes 4 tokens of each sequence and yields 2.8 on average.
    """

    tokens: Positive = Field(description="Tokens that are proposed for each sequence in a step.", examples=[3])
    accepted: Annotated[float, Field(ge=0)] = Field(
        description="Mean number of them that are accepted, as measured; at most tokens.", examples=[1.8]
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.accepted > self.tokens:
            raise ValueError(f"accepted = {self.accepted} of {self.tokens} proposed tokens. Use 0..{self.tokens}.")
        return self


class WorkloadSpec(Spec):
    """The requests of a batch: a preset, numbers, or a preset with some numbers replaced.

    Images come first in each sequence. Output length and images do not vary between sequences. ``preset: trace`` takes the
    tokens from the scenario's routing trace and allows no other keys than ``phase`` and ``decode_batch``.

    Example:
        ``preset: mmmu, batch: 8`` on OLMoE: 8 * (576 image + 150 text) = 5808 prefill tokens if spread is 0.
        ``phase: decode, sequences_per_rank: 128, context: 2048`` on 32 ranks: one decode step of 4096 sequences, each of
        whose tokens attends to 2048 others and itself.
    """

    phase: Phase = Field(
        "both",
        description="Which passes are asked for: the prefill alone (prefill), decode steps alone (decode), or both. What is "
        "not asked for is neither routed nor simulated. In phase prefill output_tokens and decode_batch mean nothing.",
        examples=["decode"],
    )
    preset: str | None = Field(
        None,
        description="Name of a shipped workload, whose numbers fill the keys that are not given; trace: the tokens of "
        "routing.trace. Not given: context (or text_tokens) and output_tokens say how long a sequence is.",
        examples=["mmmu"],
    )
    batch: Positive | None = Field(
        1,
        description="Sequences that are prefilled together (in phase decode: decoded together), of all ranks. Either this "
        "or sequences_per_rank.",
        examples=[8],
    )
    sequences_per_rank: Positive | None = Field(
        None, description="The same number for each rank: batch is this times the number of ranks.", examples=[128]
    )
    context: Positive | None = Field(
        None,
        description="Tokens of each sequence before its first decode step: its whole prompt, images included. Instead of "
        "text_tokens and spread. Not given: images and text_tokens.",
        examples=[2048],
    )
    decode_batch: Positive | None = Field(
        None,
        description="Sequences that are decoded together, of all ranks, at most batch. Not given: batch. Not to be given in "
        "phase decode.",
        examples=[1],
    )
    output_tokens: Positive | None = Field(
        None,
        description="Output tokens of each sequence; the first comes from prefill. Not given: that of the preset; without "
        "preset 2 in phase decode, which is one decode step, and 1 in phase prefill.",
        examples=[128],
    )
    speculation: SpeculationSpec | None = Field(
        None,
        description="Tokens that are proposed ahead in decode. Not given: one token of each sequence a step.",
        examples=[{"tokens": 3, "accepted": 1.8}],
    )
    text_tokens: Count | None = Field(
        None, description="Mean number of text tokens in a prompt. Not given: that of the preset.", examples=[512]
    )
    images: Count | None = Field(
        None, description="Images in each prompt. Not given: that of the preset, or 0.", examples=[1]
    )
    image_width: Positive | None = Field(
        None,
        description="Width of each image in pixels; without effect on models with a fixed number of tokens per image. "
        "Not given: that of the preset.",
        examples=[800],
    )
    image_height: Positive | None = Field(
        None,
        description="Height of each image in pixels; without effect on models with a fixed number of tokens per image. "
        "Not given: that of the preset.",
        examples=[600],
    )
    spread: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Standard deviation of the number of text tokens between sequences, over its mean (log-normal). Not "
        "given: that of the preset, or 0.",
        examples=[0.3],
    )

    @model_validator(mode="before")
    @classmethod
    def _one_number_of_sequences(cls, data: Any) -> Any:
        """The default of batch holds where nothing else says how many sequences there are."""
        if not isinstance(data, dict):
            return data
        if data.get("sequences_per_rank") is not None:
            return {"batch": None} | data
        return {key: value for key, value in data.items() if key != "batch" or value is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_from_trace:
            defaults = {name: field.default for name, field in type(self).model_fields.items()}
            if others := {name for name, value in self if name not in _OF_TRACE and value not in {None, defaults[name]}}:
                raise ValueError(
                    f"preset = trace takes every token from the routing trace. Leave out {', '.join(sorted(others))}."
                )
        elif self.preset is not None and self.preset not in _presets():
            raise ValueError(f'preset = "{self.preset}" is unknown. {nearest(self.preset, _presets())}')
        self._check_numbers()
        if not self.is_from_trace:
            self._check_lengths()
        return self

    def _check_numbers(self) -> None:
        """Refuse contradicting numbers of sequences."""
        if self.batch is not None and self.sequences_per_rank is not None:
            raise ValueError(
                f"batch = {self.batch} and sequences_per_rank = {self.sequences_per_rank} both say how many sequences there "
                "are. Leave out one."
            )
        if self.decode_batch is None:
            return
        if self.phase == "decode":
            raise ValueError(
                f"decode_batch = {self.decode_batch} says how many of the prefilled sequences are decoded together; with "
                "phase = decode nothing is prefilled. Leave it out and give batch or sequences_per_rank."
            )
        if self.batch is not None and not self.is_from_trace:
            _check_decode_batch(self.decode_batch, self.batch)

    def _check_lengths(self) -> None:
        """Refuse sequences whose length is not said, or said twice."""
        for name in ("text_tokens", "spread"):
            if self.context is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"context = {self.context} is the length of every prompt, and {name} = {getattr(self, name)} says "
                    f"something else about it. Leave out one."
                )
        full = self.filled()
        if full.context is None and full.text_tokens is None:
            raise ValueError("text_tokens is missing, and no preset gives it. Add it, context, or a preset.")
        if full.output_tokens is None:
            raise ValueError("output_tokens is missing, and no preset gives it. Add it, or a preset.")
        if self.phase == "decode" and full.output_tokens == 1:
            raise ValueError(
                "output_tokens = 1 with phase = decode: the first output token comes from prefill, so nothing is decoded. "
                "Use 2 or more."
            )
        if self.speculation is not None:
            if self.phase == "prefill" or full.output_tokens == 1:
                raise ValueError("speculation: nothing is decoded (phase = prefill, or output_tokens = 1). Leave it out.")
            if full.output_tokens <= self.decoded_together:
                raise ValueError(
                    f"output_tokens = {full.output_tokens} with {self.speculation.tokens} proposed tokens: a decode step "
                    f"takes {self.decoded_together} tokens after the first. Use {self.decoded_together + 1} or more."
                )
        if full.images and (full.image_width is None or full.image_height is None):
            raise ValueError(f"images = {full.images} need image_width and image_height in pixels. Add both.")
        if full.context is None and not full.images and not full.text_tokens:
            raise ValueError("text_tokens = 0 and images = 0: a prompt needs at least one token. Raise one of them.")

    @property
    def is_from_trace(self) -> bool:
        """Whether the tokens are taken from the routing trace."""
        return self.preset == FROM_TRACE

    @property
    def decoded_together(self) -> int:
        """Tokens of a sequence in a decode step: one, and those that are proposed."""
        return 1 if self.speculation is None else 1 + self.speculation.tokens

    @property
    def yielded(self) -> float:
        """Output tokens of a sequence that a decode step yields on average."""
        return 1.0 if self.speculation is None else 1.0 + self.speculation.accepted

    def filled(self) -> WorkloadSpec:
        """The same workload with the numbers of the preset filled in; without a preset 0 images and spread 0.

        With ``context`` the text tokens stay open: how many tokens an image takes depends on the model.
        """
        defaults: dict[str, object] = {"images": 0, "spread": 0.0, "decode_batch": self.batch}
        defaults["output_tokens"] = {"decode": 1 + self.decoded_together, "prefill": 1, "both": None}[self.phase]
        if self.preset is not None:
            defaults |= {name: value for name, value in _presets()[self.preset] if name != "sources"}
        if self.context is not None:
            defaults |= {"text_tokens": None, "spread": 0.0}
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})

    def for_ranks(self, num_ranks: int) -> WorkloadSpec:
        """The same workload with its number of sequences in ``batch``, on so many ranks.

        Raises:
            ConfigError: If ``decode_batch`` is more than that.

        Example:
            >>> WorkloadSpec(phase="decode", sequences_per_rank=128, context=2048).for_ranks(32).batch
            4096
        """
        if self.sequences_per_rank is None:
            return self
        batch = self.sequences_per_rank * num_ranks
        if self.decode_batch is not None:
            try:
                _check_decode_batch(self.decode_batch, batch)
            except ValueError as error:
                raise ConfigError(f"workload: {error}") from None
        return self.model_copy(update={"batch": batch, "sequences_per_rank": None})


_SAID_AGAIN = {
    "batch": ("sequences_per_rank",),
    "sequences_per_rank": ("batch",),
    "context": ("text_tokens", "spread"),
    "text_tokens": ("context",),
    "spread": ("context",),
}


def said_again(key: str, value: str) -> tuple[str, ...]:
    """Keys of a workload that must not stand beside a key, which an override of it replaces; ``value`` as it is written.

    Example:
        >>> said_again("context", "2048"), said_again("phase", "decode"), said_again("context", "null")
        (('text_tokens', 'spread'), ('decode_batch',), ())
    """
    if key == "phase" and value == "decode":
        return ("decode_batch",)
    return () if value == "null" else _SAID_AGAIN.get(key, ())


def _check_decode_batch(decode_batch: int, batch: int) -> None:
    if decode_batch > batch:
        raise ValueError(
            f"decode_batch = {decode_batch} is more than batch = {batch}: the sequences that are decoded together are taken "
            f"from those of the prefill. Use 1..{batch}, a larger batch, or workload.phase=decode for decode alone."
        )
