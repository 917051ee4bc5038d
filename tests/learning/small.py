"""A study small enough for a test: every kind of variant, a few steps each."""

from __future__ import annotations

from pathlib import Path

STUDY = """
seeds: [0, 1]
model: {hidden: 16, layers: 2, heads: 2, experts: 8, inner: 8, top_k: 2, vocabulary: 512}
training: {steps: 6, images: 3, questions: 2, texts: 2, encoder_steps: 2, checkpoint_every: 2}
num_bins: 4
ranks: [2, 4]
accuracy_questions: 20
accuracy_windows: 4
sets:
  test: {images: 6, texts: 3}
  unseen: {questions: yes_no, images: 4, texts: 0}
variants:
  dense: {layer: dense_active}
  standard: {experts: contiguous}
  skipping: {trained_as: standard, skip: modes_like}
  smoes: {score: attention, divergence_weight: 0.5}
claims:
  - {text: less traffic, first: smoes, second: standard, lower: [transmission_rate], not_worse: [accuracy]}
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path
