"""Accuracy and routing of a trained model on held-out data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from smoes_sim.learning.batches import BatchMaker, make_layout, text_stream, windows_at
from smoes_sim.learning.data import Images, Question, Tokenizer, load_images, load_topics
from smoes_sim.learning.experts import Routing
from smoes_sim.learning.selection import Skip, SkipByImportance, SkipByRatio
from smoes_sim.learning.study_file import SetSpec, VariantSpec
from smoes_sim.learning.tiny_vlm import SequenceBatch, TinyVLM, VisionEncoder
from smoes_sim.routing import RoutingTrace
from smoes_sim.routing.trace import PREFILL

_ROWS = 40
"""Number of sequences per batch at evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutData:
    """Held-out data that all evaluations share.

    Attributes:
        tokenizer: Tokenizer of questions and text.
        images: Images of the test split.
        maker: Makes batches with one question per image.
        stream: Tokens of the test topics, one-dimensional.
    """

    tokenizer: Tokenizer
    images: Images
    maker: BatchMaker
    stream: NDArray[np.int64]

    def windows(self, count: int) -> NDArray[np.int64]:
        """Windows spread evenly over the test topics, shape (count, T + 1)."""
        starts = np.linspace(0, len(self.stream) - self.maker.layout.length - 1, count).astype(np.int64)
        return windows_at(self.stream, starts, self.maker.layout.length)

    def batches(self, questions: Sequence[Question], windows: NDArray[np.int64]) -> Iterator[SequenceBatch]:
        """Batches of the questions, then of the windows."""
        for start in range(0, len(questions), _ROWS):
            yield self.maker.make([[question] for question in questions[start : start + _ROWS]], windows[:0])
        for start in range(0, len(windows), _ROWS):
            yield self.maker.make([], windows[start : start + _ROWS])

    def questions(self, spec: SetSpec) -> list[Question]:
        """One question about each of the first images that have one of this kind."""
        images = self.images
        by_image = images.open_questions if spec.questions == "open" else images.yes_no_questions
        return [questions[0] for questions in by_image if questions][: spec.images]

    def of_set(self, spec: SetSpec) -> Iterator[SequenceBatch]:
        """Batches of a test set."""
        return self.batches(self.questions(spec), self.windows(spec.texts))


def load_held_out_data(tokenizer: Tokenizer) -> HeldOutData:
    """Read and decode the test split."""
    images = load_images("test")
    layout = make_layout(tokenizer, [*images.questions("open"), *images.questions("yes_no")], slots=1)
    stream = text_stream(tokenizer, load_topics("test"))
    return HeldOutData(tokenizer=tokenizer, images=images, maker=BatchMaker(tokenizer, images, layout), stream=stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of a model on held-out data; NaN where there was nothing to score.

    Attributes:
        accuracy: Share of questions whose answer is the most probable token.
        language_accuracy: Share of text tokens that are the most probable next token.
        bits_per_byte: Cross entropy of text, bits per UTF-8 byte.
    """

    accuracy: float
    language_accuracy: float
    bits_per_byte: float


@torch.no_grad()
def score(
    model: TinyVLM, encoder: VisionEncoder, data: HeldOutData, questions: Sequence[Question], windows: NDArray[np.int64]
) -> Scores:
    """Scores on questions and on windows of text, shape (windows, T + 1)."""
    device = next(model.parameters()).device
    right, asked, nats = {True: 0, False: 0}, {True: 0, False: 0}, 0.0
    for batch in data.batches(questions, windows):
        moved = batch.to(device)
        logits, _ = model(moved, encoder(moved.pixels))
        targets = moved.targets[moved.targets >= 0]
        is_text = len(batch.pixels) == 0
        right[is_text] += int((logits.argmax(dim=-1) == targets).sum())
        asked[is_text] += len(targets)
        if is_text:
            nats += float(functional.cross_entropy(logits, targets, reduction="sum"))
    num_bytes = data.tokenizer.num_bytes(windows[:, 1:]) if len(windows) else 0
    return Scores(
        accuracy=right[False] / asked[False] if asked[False] else float("nan"),
        language_accuracy=right[True] / asked[True] if asked[True] else float("nan"),
        bits_per_byte=nats / math.log(2) / num_bytes if num_bytes else float("nan"),
    )


@torch.no_grad()
def capture_routing(
    model: TinyVLM, encoder: VisionEncoder, batches: Iterator[SequenceBatch], *, source: str
) -> RoutingTrace:
    """Routing trace of some batches; sequences are numbered in order and every token is prefill.

    Args:
        model: A model with experts.
        encoder: Vision encoder.
        batches: Batches to run.
        source: Source that the metadata of the trace names.
    """
    device = next(model.parameters()).device
    ids, weights, modality, sequence = [], [], [], []
    first = 0
    for batch in batches:
        moved = batch.to(device)
        _, records = model(moved, encoder(moved.pixels))
        chosen = [record.routing.chosen for record in records]
        ids.append(torch.stack([one.expert_ids for one in chosen], dim=1).cpu().numpy())
        weights.append(torch.stack([one.weights for one in chosen], dim=1).cpu().numpy())
        modality.append(batch.modality[batch.is_token].numpy())
        sequence.append(first + np.nonzero(batch.is_token.numpy())[0])
        first += len(batch.tokens)
    T = sum(map(len, modality))
    return RoutingTrace(
        expert_ids=np.concatenate(ids).astype(np.int16),
        expert_weights=np.concatenate(weights).astype(np.float16),
        modality=np.concatenate(modality).astype(np.uint8),
        sequence_id=np.concatenate(sequence).astype(np.int32),
        phase=np.full(T, PREFILL, dtype=np.uint8),
        moe_layers=np.arange(len(model.mixtures), dtype=np.int32),
        num_experts=model.mixtures[0].selection.num_experts,
        metadata={"source": source},
    )


def calibrate_skips(model: TinyVLM, encoder: VisionEncoder, batch: SequenceBatch, variant: VariantSpec) -> list[Skip]:
    """Skip rule of each layer, calibrated on one batch of training data.

    ``modes_like``: the importance of a layer is the mean KL divergence of the output when the layer is left out. Of
    ``importance x weight`` over all layers, the smallest share ``skip_share`` of each modality is skipped. ``naee_like``:
    the limit of a slot is the layer's median ratio of its weight to the largest weight.
    """
    routings, modality = _observe(model, encoder, batch)
    if variant.skip == "naee_like":
        return [SkipByRatio(ratios=_median_ratios(routing.chosen.weights)) for routing in routings]
    importance = _layer_importance(model, encoder, batch)
    all_scores = torch.stack(
        [alpha * routing.chosen.weights for alpha, routing in zip(importance, routings, strict=True)], dim=1
    )

    def threshold(label: int) -> float:
        return float(torch.quantile(all_scores[modality == label].flatten(), variant.skip_share[label]))

    thresholds = (threshold(0), threshold(1))
    return [SkipByImportance(layer_importance=alpha, thresholds=thresholds) for alpha in importance]


@torch.no_grad()
def _observe(model: TinyVLM, encoder: VisionEncoder, batch: SequenceBatch) -> tuple[list[Routing], Tensor]:
    _, records = model(batch, encoder(batch.pixels))
    return [record.routing for record in records], batch.modality[batch.is_token]


@torch.no_grad()
def _layer_importance(model: TinyVLM, encoder: VisionEncoder, batch: SequenceBatch) -> list[float]:
    """For each layer, mean KL divergence (nats) between the outputs with and without the experts of that layer."""
    features = encoder(batch.pixels)
    whole = model(batch, features)[0].log_softmax(dim=-1)
    importance = []
    for mixture in model.mixtures:
        mixture.scale = 0.0
        without = model(batch, features)[0].log_softmax(dim=-1)
        mixture.scale = 1.0
        importance.append(float((whole.exp() * (whole - without)).sum(dim=-1).mean()))
    return importance


def _median_ratios(weights: Tensor) -> tuple[float, ...]:
    ordered = weights.sort(dim=-1, descending=True).values
    medians = (ordered / ordered[:, :1]).median(dim=0).values.tolist()
    return (0.0, *medians[1:])
