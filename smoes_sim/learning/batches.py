"""Batches of questions and text windows for the tiny model; a batch depends only on the seed and its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smoes_sim.learning.data import ANSWER, END, PAD, Images, Question, Tokenizer
from smoes_sim.learning.tiny_vlm import NUM_VISION_TOKENS, SequenceBatch

_PROMPT = "what is in the image?"
_NO_TARGET = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionLayout:
    """Layout of a sequence with an image: prompt, vision tokens, then S slots that do not attend to each other.

    Each slot holds a question. S questions per sequence give S times the supervision, and no slot sees another's answer.

    Attributes:
        prompt: Tokens before the image, the only text that vision tokens attend to.
        slots: Number of slots, S.
        slot_length: Tokens per slot: question, answer mark, padding.
    """

    prompt: tuple[int, ...]
    slots: int
    slot_length: int

    @property
    def head(self) -> int:
        """Number of tokens before the first slot."""
        return len(self.prompt) + NUM_VISION_TOKENS

    @property
    def length(self) -> int:
        """Number of tokens of a sequence, T."""
        return self.head + self.slots * self.slot_length

    @property
    def slot(self) -> NDArray[np.int64]:
        """Slot of each token, shape (T,); -1 before the first slot."""
        place = np.arange(self.length) - self.head
        return np.where(place < 0, -1, place // self.slot_length)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Attention mask, shape (T, T), True where allowed: earlier tokens, not those of another slot."""
        slot = self.slot
        is_open = (slot[None, :] < 0) | (slot[None, :] == slot[:, None])
        return is_open & np.tri(self.length, dtype=bool)


def make_layout(tokenizer: Tokenizer, questions: Sequence[Question], *, slots: int) -> QuestionLayout:
    """Layout whose slots hold the longest of the questions."""
    longest = max(len(tokenizer.encode(text)) for text in {question.text for question in questions})
    return QuestionLayout(prompt=tuple(tokenizer.encode(_PROMPT)), slots=slots, slot_length=longest + 1)


def text_stream(tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.int64]:
    """Tokens of the texts in order, an end mark after each; one-dimensional."""
    return np.array([token for text in texts for token in (*tokenizer.encode(text), END)])


@dataclass(frozen=True, slots=True)
class BatchMaker:
    """Make batches of one layout.

    Attributes:
        tokenizer: Encodes questions and answers.
        images: Images and their pixels.
        layout: Layout of all batches; text windows have its length.
    """

    tokenizer: Tokenizer
    images: Images
    layout: QuestionLayout

    def make(self, questions: Sequence[Sequence[Question]], windows: NDArray[np.int64]) -> SequenceBatch:
        """One batch: a sequence per list of up to S questions on an image, then a sequence per window of T + 1 tokens."""
        rows, T = len(questions) + len(windows), self.layout.length
        num_images = len(questions)
        tokens = np.full((rows, T), PAD)
        targets = np.full((rows, T), _NO_TARGET)
        modality = np.zeros((rows, T), dtype=np.int64)
        positions = np.tile(np.arange(T), (rows, 1))
        mask = np.tile(np.tri(T, dtype=bool), (rows, 1, 1))
        head, prompt = self.layout.head, len(self.layout.prompt)
        tokens[:num_images, :prompt] = self.layout.prompt
        modality[:num_images, prompt:head] = 1
        positions[:num_images] -= np.maximum(self.layout.slot, 0) * self.layout.slot_length
        mask[:num_images] = self.layout.mask
        is_token = np.ones((rows, T), dtype=bool)
        is_token[:num_images, head:] = False
        for row, asked in enumerate(questions):
            for slot, question in enumerate(asked):
                ids = [*self.tokenizer.encode(question.text), ANSWER]
                start = head + slot * self.layout.slot_length
                tokens[row, start : start + len(ids)] = ids
                is_token[row, start : start + len(ids)] = True
                targets[row, start + len(ids) - 1] = self.tokenizer.encode(f" {question.answer}")[0]
        tokens[num_images:], targets[num_images:] = windows[:, :-1], windows[:, 1:]
        pixels = self.images.pixels[[asked[0].image for asked in questions]]
        arrays = {
            "tokens": tokens,
            "positions": positions,
            "modality": modality,
            "is_token": is_token,
            "mask": mask,
            "targets": targets,
            "pixels": pixels,
        }
        return SequenceBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def draw(self, stream: NDArray[np.int64], *, images: int, texts: int, rng: np.random.Generator) -> SequenceBatch:
        """Random training batch: open questions on images drawn with replacement, and windows of a token stream."""
        asked = [questions for questions in self.images.open_questions if questions]
        chosen = [asked[index] for index in rng.integers(len(asked), size=images)]
        questions = [[one[pick] for pick in rng.integers(len(one), size=self.layout.slots)] for one in chosen]
        starts = rng.integers(len(stream) - self.layout.length, size=texts)
        return self.make(questions, windows_at(stream, starts, self.layout.length))


def windows_at(stream: NDArray[np.int64], starts: NDArray[np.integer], length: int) -> NDArray[np.int64]:
    """Windows of ``length + 1`` tokens of a stream, shape (len(starts), length + 1)."""
    return stream[starts[:, None] + np.arange(length + 1)]
