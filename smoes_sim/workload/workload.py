"""The tokens of a batch of requests, as the arrays that routing needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.models.shapes import ModelShape
from smoes_sim.workload.spec import Phase, WorkloadSpec

TEXT = 0
IMAGE = 1
PREFILL = 0
DECODE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The tokens of a batch: B sequences, T tokens.

    All prefill tokens come first, sequence by sequence, image tokens before the question's text (as in LLaVA prompts).
    Then all decode tokens, sequence by sequence. Prefill produces the first output token; each of the other
    ``output_tokens - 1`` takes one decode step, whose token is the one fed in. So a sequence of one output token has no
    decode tokens. Every decode token is text.

    Where only decode steps are asked for, the prompts are no tokens of the workload: the token arrays hold decode tokens
    alone, and the prompts count by their lengths, as the context of the decode tokens and in the KV cache. Where only the
    prefill is asked for, every sequence has one output token.

    Attributes:
        sequence_vision_tokens: Image tokens of each sequence, int64 [B].
        sequence_text_tokens: Prompt text tokens of each sequence, int64 [B].
        sequence_output_tokens: Output tokens of each sequence, the first included, int64 [B].
        modality: 0 text, 1 image, uint8 [T].
        sequence_id: Sequence of each token, int32 [T].
        phase: 0 prefill, 1 decode, uint8 [T].
        decode_batch: Number of sequences that are decoded together.
        together: Tokens of a sequence that a decode step takes: one, and those that are proposed.
        yielded: Output tokens of a sequence that a decode step yields on average.
    """

    sequence_vision_tokens: NDArray[np.int64]
    sequence_text_tokens: NDArray[np.int64]
    sequence_output_tokens: NDArray[np.int64]
    modality: NDArray[np.uint8]
    sequence_id: NDArray[np.int32]
    phase: NDArray[np.uint8]
    decode_batch: int
    together: int = 1
    yielded: float = 1.0

    @property
    def num_sequences(self) -> int:
        """Number of sequences of the batch, B."""
        return len(self.sequence_text_tokens)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that pass through the model, T."""
        return len(self.modality)

    @property
    def num_prefill_tokens(self) -> int:
        """Number of prompt tokens; they come first in every token array. 0 where only decode steps are asked for."""
        return int(np.count_nonzero(self.phase == PREFILL))

    @property
    def num_decode_tokens(self) -> int:
        """Number of tokens that decode steps feed in: the sum of output_tokens - 1."""
        return self.num_tokens - self.num_prefill_tokens

    @property
    def sequence_prompt_tokens(self) -> NDArray[np.int64]:
        """Prompt tokens of each sequence, whether or not they are tokens of the workload, int64 [B]."""
        return self.sequence_vision_tokens + self.sequence_text_tokens

    @property
    def context_lengths(self) -> NDArray[np.int64]:
        """Number of tokens that each token attends to, itself included (causal attention), int64 [T].

        Example:
            A prompt of 3 tokens and 3 output tokens: 1 2 3 in prefill, 4 5 in decode.
        """
        prompts, steps = self.sequence_prompt_tokens, self.sequence_output_tokens - 1
        decode = _positions(steps) + np.repeat(prompts, steps)
        return (np.concatenate((_positions(prompts), decode)) if self.num_prefill_tokens else decode) + 1

    def only(self, phase: Phase) -> Workload:
        """The workload of the same sequences whose tokens are those of a phase; ``both``: this one.

        Example:
            Two prompts of 3 tokens and 3 output tokens each: 6 tokens in ``prefill``, 4 in ``decode``.
        """
        if phase == "both":
            return self
        tokens = self.phase == (PREFILL if phase == "prefill" else DECODE)
        return replace(
            self,
            modality=self.modality[tokens],
            sequence_id=self.sequence_id[tokens],
            phase=self.phase[tokens],
            sequence_output_tokens=np.ones_like(self.sequence_output_tokens)
            if phase == "prefill"
            else self.sequence_output_tokens,
        )


def build_workload(spec: WorkloadSpec, model: ModelShape, *, rng: np.random.Generator) -> Workload:
    """The tokens of a batch on a model.

    Text lengths are text_tokens * exp(s z - s**2 / 2) with s**2 = ln(1 + spread**2) and z standard normal: the mean is
    text_tokens and the standard deviation spread * text_tokens, before rounding to whole tokens of at least 1.

    Args:
        spec: The batch.
        model: The model; its rule says how many tokens an image becomes.
        rng: Draws the text lengths; not used if spread is 0.

    Raises:
        ConfigError: If the tokens are those of a trace, or the context has no room for the images.

    Example:
        T = 2 sequences * (576 image + 4 text tokens) + 2 * 2 decode tokens = 1164; decode alone has 2 * 2 tokens.

        >>> from smoes_sim.models import find_model
        >>> spec = WorkloadSpec(batch=2, text_tokens=4, output_tokens=3, images=1, image_width=336, image_height=336)
        >>> build_workload(spec, find_model("olmoe-1b-7b"), rng=np.random.default_rng(0)).num_tokens
        1164
        >>> decode = WorkloadSpec(phase="decode", batch=2, context=580, output_tokens=3)
        >>> build_workload(decode, find_model("olmoe-1b-7b"), rng=np.random.default_rng(0)).context_lengths.tolist()
        [581, 582, 581, 582]
    """
    if spec.is_from_trace:
        raise ConfigError("workload.preset = trace: the tokens are those of the routing trace. Use workload_of_tokens.")
    full = spec.filled()
    batch, outputs = full.batch, full.output_tokens
    assert batch is not None, "sequences_per_rank is turned into batch by WorkloadSpec.for_ranks"
    assert outputs is not None, "filled() gives output_tokens, or the spec is refused"
    image = 0
    if full.images and full.image_width is not None and full.image_height is not None:
        if model.image_tokens is None:
            raise ConfigError(
                f"workload.images = {full.images}: {model.name} is a model for text (its shape has no image_tokens). Write "
                "images: 0, or give the model a rule for images."
            )
        image = full.images * model.image_tokens.count(width=full.image_width, height=full.image_height)
    mean = _text_tokens(full, model, image)
    text = _text_lengths(mean, spread=full.spread or 0.0, batch=batch, rng=rng)
    made = _expand(
        vision=np.full(batch, image, np.int64),
        text=text,
        output=np.full(batch, 1 if spec.phase == "prefill" else outputs, np.int64),
        decode_batch=full.decode_batch or batch,
        has_prompts=spec.phase != "decode",
    )
    return replace(made, together=spec.decoded_together, yielded=spec.yielded)


def _text_tokens(full: WorkloadSpec, model: ModelShape, image: int) -> int:
    """Mean number of text tokens of a prompt with ``image`` image tokens."""
    if full.context is None:
        assert full.text_tokens is not None, "filled() gives text_tokens, or the spec is refused"
        return full.text_tokens
    if full.context < image:
        raise ConfigError(
            f"workload.context = {full.context} has no room for the {image} image tokens of a prompt ({full.images} of "
            f"{full.image_width} x {full.image_height} pixels on {model.name}). Use at least {image}, or fewer images."
        )
    return full.context - image


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
    if (phase != PREFILL).all():
        raise ConfigError(
            "the trace holds decoded tokens without their prompts, so their contexts are not known. Say context, and how "
            "many sequences there are, in place of preset: trace."
        )
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


def _expand(
    *,
    vision: NDArray[np.int64],
    text: NDArray[np.int64],
    output: NDArray[np.int64],
    decode_batch: int,
    has_prompts: bool,
) -> Workload:
    """The workload of sequences of known lengths; without ``has_prompts`` there is no array over the prompts' tokens."""
    prompts, steps = vision + text if has_prompts else np.zeros_like(text), output - 1
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
