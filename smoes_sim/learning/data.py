"""Training and test data from installed packages: easy-VQA images and questions, and Python's language reference.

Images and open questions ("what color is the circle?") come from the ``easy-vqa`` package with its official split; text
from the standard library's ``pydoc_data.topics``. Yes/no questions are not trained on: a model of this size
does not learn them (it answers with the prior), so they serve as an unseen type of question.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Literal

import easy_vqa
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Split = Literal["train", "test"]
QuestionKind = Literal["open", "yes_no"]
PAD, END, ANSWER = range(3)
"""Padding, end of a topic, and the mark after which an answer is expected."""
_NUM_MARKS = 3
_NUM_BYTES = 256
_PIECES = re.compile(r" ?[A-Za-z]+| ?[^\sA-Za-z]{1,4}|\s+(?!\S)|\s+")
_TEST_SHARE = 0.15
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one image, given by its index."""

    image: int
    text: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images of one split and their questions.

    Attributes:
        pixels: Pixels, uint8, shape (N, 64, 64, 3).
        open_questions: Questions about colour or shape, by image.
        yes_no_questions: Yes/no questions, by image.
    """

    pixels: NDArray[np.uint8]
    open_questions: Sequence[Sequence[Question]]
    yes_no_questions: Sequence[Sequence[Question]]

    def questions(self, kind: QuestionKind) -> list[Question]:
        """All questions of a kind, in the order of the images."""
        by_image = self.open_questions if kind == "open" else self.yes_no_questions
        return [question for questions in by_image for question in questions]

    def colour_and_shape(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Index of each image's colour and shape, shape (N,) each; -1 where its open questions do not tell."""
        labels = np.full((2, len(self.pixels)), -1)
        for question in self.questions("open"):
            for row, names in enumerate((COLOURS, SHAPES)):
                for word in (question.answer, *question.text.rstrip("?").split()):
                    if word in names:
                        labels[row, question.image] = names.index(word)
        return labels[0], labels[1]


def load_images(split: Split) -> Images:
    """Decoded images of the official split and their questions."""
    is_train = split == "train"
    paths = easy_vqa.get_train_image_paths() if is_train else easy_vqa.get_test_image_paths()
    asked = easy_vqa.get_train_questions() if is_train else easy_vqa.get_test_questions()
    ids = sorted(paths)
    place = {image: index for index, image in enumerate(ids)}
    by_kind: dict[bool, dict[int, list[Question]]] = {True: defaultdict(list), False: defaultdict(list)}
    for text, answer, image in zip(*asked, strict=True):
        by_kind[answer in {"yes", "no"}][place[image]].append(Question(place[image], text, answer))
    pixels = []
    for image in ids:
        with Image.open(paths[image]) as picture:
            pixels.append(np.asarray(picture.convert("RGB")))
    return Images(
        pixels=np.stack(pixels),
        open_questions=[by_kind[False][index] for index in range(len(ids))],
        yes_no_questions=[by_kind[True][index] for index in range(len(ids))],
    )


def load_topics(split: Split) -> list[str]:
    """Texts of the language reference; 15% of the topics, spread over the alphabet, are the test split."""
    names = sorted(topics)
    is_test = np.zeros(len(names), dtype=bool)
    is_test[np.linspace(0, len(names) - 1, round(_TEST_SHARE * len(names))).astype(int)] = True
    return [topics[name] for name, test in zip(names, is_test, strict=True) if test == (split == "test")]


class Tokenizer:
    """Lossless tokenizer: frequent words are tokens, everything else is spelled in UTF-8 bytes.

    Args:
        texts: Texts whose words are counted.
        always: Texts of which every word becomes a token (questions and answers).
        size: Size of the vocabulary, marks and bytes included.
    """

    def __init__(self, texts: Iterable[str], *, always: Iterable[str], size: int) -> None:
        wanted = sorted({piece for text in always for piece in _PIECES.findall(text)})
        counts = Counter(piece for text in texts for piece in _PIECES.findall(text))
        frequent = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1] * (len(item[0]) - 1), item[0]))]
        words = list(dict.fromkeys([*wanted, *frequent]))[: size - _NUM_MARKS - _NUM_BYTES]
        self._word_ids = {word: _NUM_MARKS + _NUM_BYTES + index for index, word in enumerate(words)}
        self._words = words
        self.size = size

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = []
        for piece in _PIECES.findall(text):
            word = self._word_ids.get(piece)
            ids.extend([word] if word is not None else [_NUM_MARKS + byte for byte in piece.encode()])
        return ids

    def num_bytes(self, tokens: NDArray[np.integer]) -> int:
        """Number of UTF-8 bytes of the text of some tokens; marks have none."""
        lengths = np.array([0] * _NUM_MARKS + [1] * _NUM_BYTES + [len(word.encode()) for word in self._words])
        return int(lengths[tokens].sum())

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of some tokens; marks are left out."""
        parts = [
            self._words[token - _NUM_MARKS - _NUM_BYTES].encode()
            if token >= _NUM_MARKS + _NUM_BYTES
            else bytes([token - _NUM_MARKS])
            for token in tokens
            if token >= _NUM_MARKS
        ]
        return b"".join(parts).decode(errors="replace")


def make_tokenizer(size: int) -> Tokenizer:
    """Tokenizer of the study: words of the questions, then frequent words of the training topics."""
    questions = [*easy_vqa.get_train_questions()[0], *(f" {answer}" for answer in easy_vqa.get_answers())]
    return Tokenizer(load_topics("train"), always=questions, size=size)
