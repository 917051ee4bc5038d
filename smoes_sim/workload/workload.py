"""A batch of requests: the section of a scenario, the presets, and the arrays of tokens that routing needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.models.shapes import ModelShape
from smoes_sim.yaml_files import Document, Spec, nearest

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]

TEXT = 0
IMAGE = 1
PREFILL = 0
DECODE = 1


FROM_TRACE = "trace"
"""The preset that takes the tokens from the scenario's routing trace."""


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


class WorkloadSpec(Spec):
    """The requests of a batch: a preset, numbers, or a preset with some numbers replaced.

    Images come first in each sequence. Output length and images do not vary between sequences. ``preset: trace`` takes the
    tokens from the scenario's routing trace and allows no other key than ``decode_batch``.

    Example:
        ``preset: mmmu, batch: 8`` on OLMoE: 8 * (576 image + 150 text) = 5808 prefill tokens if spread is 0.
    """

    preset: str | None = Field(
        None,
        description="Name of a shipped workload, whose numbers fill the keys that are not given; trace: the tokens of "
        "routing.trace. Not given: text_tokens and output_tokens are required.",
        examples=["mmmu"],
    )
    batch: Positive = Field(1, description="Sequences that are prefilled together, of all ranks.", examples=[8])
    decode_batch: Positive | None = Field(
        None, description="Sequences that are decoded together, of all ranks, at most batch. Not given: batch.", examples=[1]
    )
    output_tokens: Positive | None = Field(
        None,
        description="Output tokens of each sequence; the first comes from prefill. Not given: that of the preset.",
        examples=[128],
    )
    text_tokens: Count | None = Field(
        None, description="Mean number of text tokens in a prompt. Not given: that of the preset.", examples=[512]
    )
    images: Count | None = Field(
        None, description="Images in each prompt. Not given: that of the preset, or 0.", examples=[1]
    )
    image_width: Positive | None = Field(
        None, description="Width of each image in pixels. Not given: that of the preset.", examples=[800]
    )
    image_height: Positive | None = Field(
        None, description="Height of each image in pixels. Not given: that of the preset.", examples=[600]
    )
    spread: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="Standard deviation of the number of text tokens between sequences, over its mean (log-normal). Not "
        "given: that of the preset, or 0.",
        examples=[0.3],
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_from_trace:
            if others := self.model_fields_set - {"preset", "decode_batch"}:
                raise ValueError(
                    f"preset = trace takes every token from the routing trace. Leave out {', '.join(sorted(others))}."
                )
            return self
        if self.preset is not None and self.preset not in _presets():
            raise ValueError(f'preset = "{self.preset}" is unknown. {nearest(self.preset, _presets())}')
        if self.decode_batch is not None and self.decode_batch > self.batch:
            raise ValueError(
                f"decode_batch = {self.decode_batch} is more than batch = {self.batch}: the sequences that are decoded "
                f"together are taken from those of the prefill. Use 1..{self.batch}, or a larger batch."
            )
        full = self.filled()
        for name in ("text_tokens", "output_tokens"):
            if getattr(full, name) is None:
                raise ValueError(f"{name} is missing, and no preset gives it. Add it, or a preset.")
        if full.images and (full.image_width is None or full.image_height is None):
            raise ValueError(f"images = {full.images} need image_width and image_height in pixels. Add both.")
        if not full.images and not full.text_tokens:
            raise ValueError("text_tokens = 0 and images = 0: a prompt needs at least one token. Raise one of them.")
        return self

    @property
    def is_from_trace(self) -> bool:
        """Whether the tokens are taken from the routing trace."""
        return self.preset == FROM_TRACE

    def filled(self) -> WorkloadSpec:
        """The same workload with the numbers of the preset filled in; without a preset 0 images and spread 0."""
        defaults: dict[str, object] = {"decode_batch": self.batch, "images": 0, "spread": 0.0}
        if self.preset is not None:
            defaults |= {name: value for name, value in _presets()[self.preset] if name != "sources"}
        return self.model_copy(update={name: value for name, value in defaults.items() if getattr(self, name) is None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The tokens of a batch: B sequences, T tokens.

    All prefill tokens come first, sequence by sequence, image tokens before the question's text (as in LLaVA prompts).
    Then all decode tokens, sequence by sequence. Prefill produces the first output token; each of the other
    ``output_tokens - 1`` takes one decode step, whose token is the one fed in. So a sequence of one output token has no
    decode tokens. Every decode token is text.

    Attributes:
        sequence_vision_tokens: Image tokens of each sequence, int64 [B].
        sequence_text_tokens: Prompt text tokens of each sequence, int64 [B].
        sequence_output_tokens: Output tokens of each sequence, the first included, int64 [B].
        modality: 0 text, 1 image, uint8 [T].
        sequence_id: Sequence of each token, int32 [T].
        phase: 0 prefill, 1 decode, uint8 [T].
        decode_batch: Number of sequences that are decoded together.
    """

    sequence_vision_tokens: NDArray[np.int64]
    sequence_text_tokens: NDArray[np.int64]
    sequence_output_tokens: NDArray[np.int64]
    modality: NDArray[np.uint8]
    sequence_id: NDArray[np.int32]
    phase: NDArray[np.uint8]
    decode_batch: int

    @property
    def num_sequences(self) -> int:
        """Number of sequences that are prefilled together, B."""
        return len(self.sequence_text_tokens)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that pass through the model, T."""
        return len(self.modality)

    @property
    def num_prefill_tokens(self) -> int:
        """Number of prompt tokens; they come first in every token array."""
        return int(self.sequence_prompt_tokens.sum())

    @property
    def num_decode_tokens(self) -> int:
        """Number of tokens that decode steps feed in: the sum of output_tokens - 1."""
        return self.num_tokens - self.num_prefill_tokens

    @property
    def sequence_prompt_tokens(self) -> NDArray[np.int64]:
        """Prompt tokens of each sequence, int64 [B]."""
        return self.sequence_vision_tokens + self.sequence_text_tokens

    @property
    def context_lengths(self) -> NDArray[np.int64]:
        """Number of tokens that each token attends to, itself included (causal attention), int64 [T].

        Example:
            A prompt of 3 tokens and 3 output tokens: 1 2 3 in prefill, 4 5 in decode.
        """
        prompts, steps = self.sequence_prompt_tokens, self.sequence_output_tokens - 1
        decode = _positions(steps) + np.repeat(prompts, steps)
        return np.concatenate((_positions(prompts), decode)) + 1


def build_workload(spec: WorkloadSpec, model: ModelShape, *, rng: np.random.Generator) -> Workload:
    """The tokens of a batch on a model.

    Text lengths are text_tokens * exp(s z - s**2 / 2) with s**2 = ln(1 + spread**2) and z standard normal: the mean is
    text_tokens and the standard deviation spread * text_tokens, before rounding to whole tokens of at least 1.

    Args:
        spec: The batch.
        model: The model; its rule says how many tokens an image becomes.
        rng: Draws the text lengths; not used if spread is 0.

    Raises:
        ConfigError: If the tokens are those of a trace.

    Example:
        T = 2 sequences * (576 image + 4 text tokens) + 2 * 2 decode tokens = 1164.

        >>> from smoes_sim.models import find_model
        >>> spec = WorkloadSpec(batch=2, text_tokens=4, output_tokens=3, images=1, image_width=336, image_height=336)
        >>> build_workload(spec, find_model("olmoe-1b-7b"), rng=np.random.default_rng(0)).num_tokens
        1164
    """
    full = None if spec.is_from_trace else spec.filled()
    if full is None or full.text_tokens is None or full.output_tokens is None:
        raise ConfigError("workload.preset = trace: the tokens are those of the routing trace. Use workload_of_tokens.")
    text = _text_lengths(full.text_tokens, spread=full.spread or 0.0, batch=full.batch, rng=rng)
    image = 0
    if full.images and full.image_width is not None and full.image_height is not None:
        image = full.images * model.image_tokens.count(width=full.image_width, height=full.image_height)
    vision = np.full(full.batch, image, np.int64)
    output = np.full(full.batch, full.output_tokens, np.int64)
    return _expand(vision=vision, text=text, output=output, decode_batch=full.decode_batch or full.batch)


def workload_of_tokens(
    modality: NDArray[np.uint8], sequence_id: NDArray[np.int32], phase: NDArray[np.uint8], *, decode_batch: int | None
) -> Workload:
    """The workload that consists of the given tokens; every token that is not text counts as vision.

    Args:
        modality: 0 text, shape (T,).
        sequence_id: Shape (T,).
        phase: 0 prefill, 1 decode, shape (T,).
        decode_batch: Number of sequences that are decoded together; None: all.

    Raises:
        ConfigError: If the tokens are not in the order of a :class:`Workload`, or ``decode_batch`` exceeds its sequences.
    """
    number = phase.astype(np.int64) * (int(sequence_id.max()) + 1) + sequence_id
    sequences, first = np.unique(sequence_id[phase == PREFILL], return_index=True)
    if (np.diff(number) < 0).any() or sequence_id.min() < 0 or len(sequences) != sequence_id.max() + 1:
        raise ConfigError(
            "the tokens are not in the order of a workload: first all prompts by sequence (0, 1, ...), "
            "then the decoded tokens in the same order. Sort them."
        )
    if decode_batch is not None and decode_batch > len(first):
        raise ConfigError(f"decode_batch = {decode_batch} is more than the {len(first)} sequences. Use 1..{len(first)}.")
    is_prompt = phase == PREFILL
    vision, text = (
        np.bincount(sequence_id[is_prompt & kind], minlength=len(first)) for kind in (modality != TEXT, modality == TEXT)
    )
    return Workload(
        sequence_vision_tokens=vision,
        sequence_text_tokens=text,
        sequence_output_tokens=np.bincount(sequence_id[phase == DECODE], minlength=len(first)) + 1,
        modality=modality,
        sequence_id=sequence_id,
        phase=phase,
        decode_batch=decode_batch or len(first),
    )


def _text_lengths(mean: int, *, spread: float, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if spread == 0 or mean == 0:
        return np.full(batch, mean, np.int64)
    variance = math.log1p(spread**2)
    drawn = mean * np.exp(math.sqrt(variance) * rng.standard_normal(batch) - variance / 2)
    lengths: NDArray[np.int64] = np.maximum(1, np.rint(drawn)).astype(np.int64)
    return lengths


def _expand(*, vision: NDArray[np.int64], text: NDArray[np.int64], output: NDArray[np.int64], decode_batch: int) -> Workload:
    prompts, steps = vision + text, output - 1
    num_prefill, num_decode = int(prompts.sum()), int(steps.sum())
    sequences = np.arange(len(text), dtype=np.int32)
    image = _positions(prompts) < np.repeat(vision, prompts)
    return Workload(
        sequence_vision_tokens=vision,
        sequence_text_tokens=text,
        sequence_output_tokens=output,
        modality=np.concatenate((np.where(image, IMAGE, TEXT), np.full(num_decode, TEXT))).astype(np.uint8),
        sequence_id=np.concatenate((np.repeat(sequences, prompts), np.repeat(sequences, steps))),
        phase=np.repeat(np.array([PREFILL, DECODE], np.uint8), [num_prefill, num_decode]),
        decode_batch=decode_batch,
    )


def _positions(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, .., n - 1 for each length n, concatenated, shape (sum of lengths,)."""
    starts: NDArray[np.int64] = np.cumsum(lengths) - lengths
    positions: NDArray[np.int64] = np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)
    return positions
