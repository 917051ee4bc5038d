"""A small decoder-only vision-language model with a frozen vision encoder: the layout of LLaVA with a million parameters.

A prompt, 64 vision tokens and questions form one causal sequence; every layer has attention and a feed-forward part, dense
or a mixture of experts. It trains from scratch in minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from smoes_sim.learning.experts import DenseFeedForward, MixtureOfExperts, Routing
from smoes_sim.learning.scores import accumulate_scores, attend_with_scores, hard_scores
from smoes_sim.learning.selection import Selection

NUM_VISION_TOKENS = 64
FEATURES = 96
"""Channels of a vision token at the output of the encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sizes of the decoder.

    Attributes:
        hidden: Hidden size, D.
        layers: Number of layers, L.
        heads: Number of attention heads; divides D.
        inner: Inner size of one expert, F.
        vocabulary: Size of the vocabulary.
        positions: Length of the longest sequence.
    """

    hidden: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBatch:
    """B sequences, of images with questions first and of text after them, padded to one length T.

    Attributes:
        tokens: Token ids, shape (B, T); ignored at vision tokens.
        positions: Positions, shape (B, T).
        modality: 0 text, 1 vision, shape (B, T).
        is_token: False at padding, shape (B, T).
        mask: Attention mask, True where allowed, shape (B, T, T).
        targets: Token to predict, -100 for none, shape (B, T).
        pixels: Images of the first I sequences, uint8, shape (I, 64, 64, 3).
    """

    tokens: Tensor
    positions: Tensor
    modality: Tensor
    is_token: Tensor
    mask: Tensor
    targets: Tensor
    pixels: Tensor

    def to(self, device: torch.device) -> SequenceBatch:
        """The same batch on a device."""
        return SequenceBatch(**{name: getattr(self, name).to(device) for name in self.__slots__})

    def spread(self, values: Tensor, *, fill: float) -> Tensor:
        """Values of the real tokens (N, X) in the layout (B, T, X), with ``fill`` at padding."""
        full = values.new_full((*self.is_token.shape, values.shape[-1]), fill)
        full[self.is_token] = values
        return full


class LayerRecord(NamedTuple):
    """Input and decision of a layer's router, for the N real tokens in order.

    Attributes:
        routing: Probabilities and chosen experts.
        states: Input of the router, shape (N, D).
        scores: Modality scores after the attention of this layer, shape (B, T, M); None unless requested.
    """

    routing: Routing
    states: Tensor
    scores: Tensor | None


class VisionEncoder(nn.Module):
    """Three convolutions from 64 x 64 pixels to an 8 x 8 grid of features; in place of a pre-trained CLIP."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, kernel in ((3, 32, 5), (32, 64, 3), (64, FEATURES, 3)):
            layers += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.GroupNorm(8, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features, shape (I, 64, 96), of uint8 pixels (I, 64, 64, 3)."""
        x = self.layers(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return x.flatten(2).transpose(1, 2)


class DecoderLayer(nn.Module):
    """Attention and feed-forward part, each with a norm before it and a residual connection."""

    def __init__(self, shape: Shape, feed_forward: MixtureOfExperts | DenseFeedForward) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.RMSNorm(shape.hidden)
        self.project_in = nn.Linear(shape.hidden, 3 * shape.hidden, bias=False)
        self.project_out = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.feed_forward_norm = nn.RMSNorm(shape.hidden)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, batch: SequenceBatch, scores: Tensor | None) -> tuple[Tensor, LayerRecord | None]:
        """Residual stream (B, T, D) after this layer, and the record of its router (None if dense)."""
        B, T, D = x.shape
        packed = self.project_in(self.attention_norm(x)).view(B, T, 3, self.heads, D // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4)
        mask = batch.mask[:, None]
        attended = None
        if scores is None:
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            mixed, attended = attend_with_scores(query, key, value, scores, mask=mask)
        output = self.project_out(mixed.transpose(1, 2).reshape(B, T, D))
        if scores is not None and attended is not None:
            scores = accumulate_scores(scores, attended, residual=x, attention_output=output).detach()
        x = x + output
        states = self.feed_forward_norm(x)[batch.is_token]
        y, routing = self.feed_forward(states, batch.modality[batch.is_token])
        x = x + batch.spread(y, fill=0.0)
        return x, None if routing is None else LayerRecord(routing, states, scores)


class TinyVLM(nn.Module):
    """The decoder, its embeddings, and the projection of vision features.

    Args:
        shape: Sizes of the decoder.
        selection: Rule that chooses experts, or None for a dense feed-forward part.
        dense_inner: Inner size of a dense feed-forward part.
    """

    def __init__(self, shape: Shape, *, selection: Selection | None, dense_inner: int = 0) -> None:
        super().__init__()
        D = shape.hidden
        self.embed = nn.Embedding(shape.vocabulary, D)
        self.place = nn.Embedding(shape.positions, D)
        nn.init.normal_(self.embed.weight, std=D**-0.5)
        nn.init.normal_(self.place.weight, std=D**-0.5)
        self.see = nn.Sequential(nn.Linear(FEATURES, D), nn.GELU(), nn.Linear(D, D))
        self.layers = nn.ModuleList(
            DecoderLayer(
                shape,
                DenseFeedForward(D, dense_inner) if selection is None else MixtureOfExperts(D, shape.inner, selection),
            )
            for _ in range(shape.layers)
        )
        self.norm = nn.RMSNorm(D)

    @property
    def mixtures(self) -> list[MixtureOfExperts]:
        """Mixture of experts of each layer; empty for a dense model."""
        parts = [layer.feed_forward for layer in self.layers]
        return [part for part in parts if isinstance(part, MixtureOfExperts)]

    def forward(
        self, batch: SequenceBatch, features: Tensor, *, with_scores: bool = False
    ) -> tuple[Tensor, list[LayerRecord]]:
        """Logits at the tokens with a target, shape (targets, vocabulary), and a record of each layer with experts.

        Args:
            batch: The sequences.
            features: Features of the images, shape (I, 64, 96).
            with_scores: Whether to accumulate modality scores along attention.
        """
        x = self.embed(batch.tokens)
        is_vision = batch.modality == 1
        x = x.masked_scatter(is_vision[..., None], self.see(features)) + self.place(batch.positions)
        scores = hard_scores(batch.modality) if with_scores else None
        records: list[LayerRecord] = []
        for layer in self.layers:
            x, record = layer(x, batch, scores)
            if record is not None:
                records.append(record)
                scores = record.scores
        return self.norm(x[batch.targets >= 0]) @ self.embed.weight.T, records
