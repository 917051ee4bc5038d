"""Training loss of a variant: task, router balance, and the losses that separate modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from smoes_sim.errors import SimulationError
from smoes_sim.learning import losses
from smoes_sim.learning.bins import ExpertBins, modality_presence
from smoes_sim.learning.scores import GaussianScores, hard_scores
from smoes_sim.learning.study_file import Study, VariantSpec
from smoes_sim.learning.tiny_vlm import LayerRecord, SequenceBatch


class TrainingObjective(nn.Module):
    """Loss of a variant, and the running statistics of each layer.

    Every layer with experts keeps bins, even if no loss uses them: their counts are the training counts that place experts.
    """

    def __init__(self, study: Study, variant: VariantSpec) -> None:
        super().__init__()
        self.variant = variant
        layers = study.model.layers if variant.layer == "mixture" else 0
        adaptive = variant.bins == "adaptive"
        self.bins = [
            ExpertBins(study.model.experts, study.num_bins, decay=study.decay, is_adaptive=adaptive) for _ in range(layers)
        ]
        gaussians = layers if variant.score == "gaussian" else 0
        self.gaussians = [GaussianScores(study.model.hidden, decay=study.decay) for _ in range(gaussians)]
        self.statistics = nn.ModuleList([*self.bins, *self.gaussians])

    @property
    def needs_attention(self) -> bool:
        """Whether the model must accumulate scores along attention."""
        return self.variant.score == "attention"

    def forward(self, logits: Tensor, records: list[LayerRecord], batch: SequenceBatch, allowed: Tensor | None) -> Tensor:
        """Loss of a batch, a scalar; updates the statistics with the batch first.

        Args:
            logits: Logits at the tokens with a target, shape (targets, vocabulary).
            records: Record of each layer with experts.
            batch: The batch.
            allowed: Experts that each modality may use, shape (M, E), or None.
        """
        loss = _task_loss(logits, batch)
        for layer, record in enumerate(records):
            bins = self.bins[layer]
            modality = batch.modality[batch.is_token]
            bins.update(record.routing.chosen.expert_ids, modality)
            loss = loss + self.variant.balance * self._balance(record, modality, bins.assignment(), allowed)
            if self.variant.smar_weight:
                loss = loss + self.variant.smar_weight * losses.smar_like_loss(record.routing.probabilities, modality)
            if self.variant.score is not None:
                loss = loss + self.variant.divergence_weight * self._divergence(layer, record, batch, bins.assignment())
        return loss

    def _balance(self, record: LayerRecord, modality: Tensor, bins: Tensor, allowed: Tensor | None) -> Tensor:
        probabilities, ids = record.routing.probabilities, record.routing.chosen.expert_ids
        if allowed is not None:
            return losses.split_balance_loss(probabilities, ids, modality, allowed)
        if self.variant.balance_over == "within_bins":
            return losses.bin_balance_loss(probabilities, ids, bins, reading="within")
        if self.variant.balance_over == "devices":
            return losses.device_balance_loss(probabilities, ids, bins)
        return losses.balance_loss(probabilities, ids)

    def _divergence(self, layer: int, record: LayerRecord, batch: SequenceBatch, bins: Tensor) -> Tensor:
        apart = losses.inter_bin_loss if self.variant.divergence == "information" else losses.inter_bin_kl_like
        scores = self._scores(layer, record, batch) * batch.is_token[..., None]
        probabilities = batch.spread(record.routing.probabilities, fill=0.0)
        return apart(probabilities, scores, bins, is_used=modality_presence(batch.modality))

    def _scores(self, layer: int, record: LayerRecord, batch: SequenceBatch) -> Tensor:
        if self.variant.score == "attention":
            if record.scores is None:
                raise SimulationError("the model ran without scores. This is a bug; please report it.")
            return record.scores
        if self.variant.score == "hard":
            return hard_scores(batch.modality)
        states = record.states.detach()
        gaussian = self.gaussians[layer]
        gaussian.update(states, batch.modality[batch.is_token])
        return batch.spread(gaussian(states), fill=0.0)

    def counts(self) -> Tensor:
        """Running training counts, shape (L, M, E)."""
        return torch.stack([bins.counts for bins in self.bins])


def _task_loss(logits: Tensor, batch: SequenceBatch) -> Tensor:
    """Mean cross entropy of answers plus that of text, nats, so that neither dominates."""
    has_target = batch.targets >= 0
    is_answer = (batch.modality.sum(dim=1) > 0)[:, None].expand_as(has_target)[has_target]
    entropy = functional.cross_entropy(logits, batch.targets[has_target], reduction="none")
    return entropy[is_answer].mean() + entropy[~is_answer].mean()
