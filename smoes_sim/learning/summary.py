"""Summary of a study over its seeds: means and standard deviations, claims, test sets. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smoes_sim.learning.study_file import Study
from smoes_sim.learning.unit_result import ExpertOrder, PlacementTraffic, Results, RoutedSetResult, UnitResult
from smoes_sim.placement import TokenRule


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """Mean and sample standard deviation over seeds; the deviation is None for a single value."""

    mean: float
    sd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedSpread:
    """What a variant learned, each measure over its seeds; None where it is not known."""

    accuracy: SeedSpread | None
    language_accuracy: SeedSpread | None
    bits_per_byte: SeedSpread | None
    train_cpu_seconds: SeedSpread | None
    parameters: SeedSpread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedSpread(LearnedSpread):
    """The same for a variant with experts, and what its router does on the test set."""

    msi: SeedSpread | None
    expert_imbalance: SeedSpread | None
    experts_per_token: SeedSpread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSpread:
    """Traffic of the test set under one placement, each figure over the seeds; fields as :class:`PlacementTraffic`."""

    ranks: int
    experts: ExpertOrder
    tokens: TokenRule
    transmission_rate: SeedSpread | None
    transmission_rate_vision: SeedSpread | None
    transmission_rate_text: SeedSpread | None
    copies_per_token: SeedSpread | None
    bytes_remote: SeedSpread | None
    imbalance: SeedSpread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedScores:
    """What one seed of a variant learned; fields as :class:`UnitResult`."""

    seed: int
    accuracy: float | None
    language_accuracy: float | None
    bits_per_byte: float | None
    train_cpu_seconds: float | None
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSummary:
    """A variant over its seeds.

    Traffic and imbalance are those of the test set over the smallest number of ranks, under the variant's own placement of
    experts. They are None for a dense model.

    Attributes:
        accuracy: Mean share of questions answered right.
        language_accuracy: Mean share of next tokens predicted right.
        msi: Mean modality specialisation index.
        msi_per_layer: The same for each layer, L values.
        transmission_rate: Share of (token, layer) pairs that need another rank, by placement of tokens.
        imbalance: Busiest rank over the mean.
        expert_placement: The variant's own placement of experts.
        spread: Means and standard deviations.
        placements: Traffic for every number of ranks and placement.
        seeds: The single seeds.
    """

    accuracy: float | None
    language_accuracy: float | None
    msi: float | None
    msi_per_layer: tuple[float, ...] | None
    transmission_rate: dict[TokenRule, float | None] | None
    imbalance: float | None
    expert_placement: ExpertOrder | None
    spread: LearnedSpread
    placements: tuple[PlacementSpread, ...]
    seeds: tuple[SeedScores, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSummary:
    """A variant with experts on one test set, over its seeds and the smallest number of ranks.

    Attributes:
        variant: Name of the variant.
        set: Name of the test set.
        vision_share: Share of vision tokens.
        accuracy: Share of questions answered right.
        msi: Modality specialisation index.
        imbalance: Busiest rank over the mean.
        transmission_rate: Share of (token, layer) pairs that need another rank, by placement of tokens.
    """

    variant: str
    set: str
    vision_share: float
    accuracy: SeedSpread | None
    msi: SeedSpread | None
    imbalance: SeedSpread | None
    transmission_rate: dict[TokenRule, SeedSpread | None]


def spread_of(values: Sequence[float | None]) -> SeedSpread | None:
    """Mean and sample standard deviation of the known values; None if no value is known.

    Example:
        >>> spread_of([1.0, 3.0, None])
        SeedSpread(mean=2.0, sd=1.4142135623730951)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    return SeedSpread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)


def summarise_variant(study: Study, name: str, units: Sequence[UnitResult]) -> VariantSummary:
    """Summary of a variant from the results of its seeds."""
    learned = {
        "accuracy": spread_of([unit.accuracy for unit in units]),
        "language_accuracy": spread_of([unit.language_accuracy for unit in units]),
        "bits_per_byte": spread_of([unit.bits_per_byte for unit in units]),
        "train_cpu_seconds": spread_of([unit.train_cpu_seconds for unit in units]),
        "parameters": spread_of([unit.parameters for unit in units]),
    }
    tests = [unit.routed() for unit in units] if study.has_router(name) else []
    spread = LearnedSpread(**learned)
    if tests:
        spread = RoutedSpread(
            **learned,
            msi=spread_of([test.msi for test in tests]),
            expert_imbalance=spread_of([test.expert_imbalance for test in tests]),
            experts_per_token=spread_of([test.experts_per_token for test in tests]),
        )
    rows = _placements(tests)
    own = _own_rows(study, name, rows)
    return VariantSummary(
        accuracy=_mean(spread.accuracy),
        language_accuracy=_mean(spread.language_accuracy),
        msi=_mean(spread.msi) if isinstance(spread, RoutedSpread) else None,
        msi_per_layer=tuple(np.mean([test.msi_per_layer for test in tests], axis=0).tolist()) if tests else None,
        transmission_rate={row.tokens: _mean(row.transmission_rate) for row in own} or None,
        imbalance=_mean(own[0].imbalance) if own else None,
        expert_placement=study.variants[name].experts if tests else None,
        spread=spread,
        placements=rows,
        seeds=tuple(_scores(unit) for unit in units),
    )


def summarise_mixes(study: Study, results: Results) -> tuple[MixSummary, ...]:
    """Summary of every variant with experts on every test set; experts are placed by the training counts."""
    return tuple(
        _mix(study, name, key, [by_seed[seed].routed(key) for seed in study.seeds])
        for name, by_seed in results.items()
        if study.has_router(name)
        for key in study.sets
    )


def _mix(study: Study, name: str, key: str, sets: Sequence[RoutedSetResult]) -> MixSummary:
    rows = _own_rows(study, name, _placements(sets))
    return MixSummary(
        variant=name,
        set=key,
        vision_share=sets[0].vision_share,
        accuracy=spread_of([one.accuracy for one in sets]),
        msi=spread_of([one.msi for one in sets]),
        imbalance=rows[0].imbalance,
        transmission_rate={row.tokens: row.transmission_rate for row in rows},
    )


def _scores(unit: UnitResult) -> SeedScores:
    return SeedScores(
        seed=unit.seed,
        accuracy=unit.accuracy,
        language_accuracy=unit.language_accuracy,
        bits_per_byte=unit.bits_per_byte,
        train_cpu_seconds=unit.train_cpu_seconds,
        parameters=unit.parameters,
    )


def _placements(sets: Sequence[RoutedSetResult]) -> tuple[PlacementSpread, ...]:
    """Traffic of one test set, each figure over the seeds."""
    return tuple(_placement(same) for same in zip(*(one.placements for one in sets), strict=True))


def _placement(same: Sequence[PlacementTraffic]) -> PlacementSpread:
    return PlacementSpread(
        ranks=same[0].ranks,
        experts=same[0].experts,
        tokens=same[0].tokens,
        transmission_rate=spread_of([row.transmission_rate for row in same]),
        transmission_rate_vision=spread_of([row.transmission_rate_vision for row in same]),
        transmission_rate_text=spread_of([row.transmission_rate_text for row in same]),
        copies_per_token=spread_of([row.copies_per_token for row in same]),
        bytes_remote=spread_of([row.bytes_remote for row in same]),
        imbalance=spread_of([row.imbalance for row in same]),
    )


def _own_rows(study: Study, name: str, rows: Sequence[PlacementSpread]) -> list[PlacementSpread]:
    """Rows of a variant's own placement of experts over the smallest number of ranks."""
    place = (min(study.ranks), study.variants[name].experts)
    return [row for row in rows if (row.ranks, row.experts) == place]


def _mean(value: SeedSpread | None) -> float | None:
    return None if value is None else value.mean
