"""The result of a study: its variants, claims and test sets, printed, plotted and as JSON. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table
from smoes_sim.errors import ConfigError
from smoes_sim.learning.charts import share_chart
from smoes_sim.learning.claims import JudgedClaim, judge_claim
from smoes_sim.learning.study_file import Study, saved_study
from smoes_sim.learning.study_tables import study_tables
from smoes_sim.learning.summary import MixSummary, VariantSummary, summarise_mixes, summarise_variant
from smoes_sim.learning.unit_result import Results, UnitResult, read_result

if TYPE_CHECKING:
    import altair as alt


@dataclass(frozen=True, kw_only=True, repr=False)
class TrainedStudy(Result):
    """Every variant of a study over its seeds.

    Attributes:
        seeds: Seeds of the study.
        ranks: Number of ranks of the claims and of the test sets: the smallest of the study.
        variants: Summary by variant.
        claims: Verdicts, one per claim and token placement.
        other_mixes: Every variant with experts on every test set.
        results: The result of each variant and seed; not part of :meth:`to_dict`.
    """

    seeds: tuple[int, ...]
    ranks: int
    variants: dict[str, VariantSummary]
    claims: tuple[JudgedClaim, ...]
    other_mixes: tuple[MixSummary, ...]
    results: Results = field(compare=False)

    @classmethod
    def of(cls, study: Study, results: Results) -> Self:
        """The result of a study whose variants and seeds are all measured."""
        ranks = min(study.ranks)
        placements = {name: variant.experts for name, variant in study.variants.items()}
        return cls(
            seeds=study.seeds,
            ranks=ranks,
            variants={
                name: summarise_variant(study, name, [by_seed[seed] for seed in study.seeds])
                for name, by_seed in results.items()
            },
            claims=tuple(row for claim in study.claims for row in judge_claim(claim, results, placements, ranks=ranks)),
            other_mixes=summarise_mixes(study, results),
            results=results,
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The result of a finished study, from its folder; trains and measures nothing.

        Raises:
            ConfigError: If the folder holds no finished study, or a result is missing or damaged.
        """
        study = saved_study(folder)
        return cls.of(
            study, {name: {seed: _read(folder, study, name, seed) for seed in study.seeds} for name in study.variants}
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON document that ``smoes-sim train --json`` prints."""
        document = {
            "seeds": self.seeds,
            "ranks": self.ranks,
            "variants": self.variants,
            "claims": self.claims,
            "other_mixes": self.other_mixes,
        }
        plain: dict[str, Any] = orjson.loads(orjson.dumps(document))
        return plain

    def records(self) -> list[dict[str, Any]]:
        """One row per variant, number of ranks, expert placement and token placement; one row for a dense variant.

        Figures are means over the seeds.
        """
        return [row for name, variant in self.variants.items() for row in _records(name, variant)]

    def tables(self) -> list[Table]:
        """What was learned, what the router does, traffic, claims and test sets."""
        return study_tables(self.variants, self.claims, self.other_mixes, seeds=len(self.seeds), ranks=self.ranks)

    @property
    def has_plot(self) -> bool:
        """Whether the study has a claim about two variants with experts, which :meth:`plot` shows."""
        names = self._compared
        return bool(names) and all(self.variants[name].expert_placement is not None for name in names)

    def plot(self) -> alt.HConcatChart:
        """Vision share of what each expert receives: second and first variant of the first claim, lowest seed.

        Raises:
            ConfigError: If the plotting libraries are not installed, or no claim compares two variants with experts.
        """
        if not self.has_plot:
            raise ConfigError("the study has no claim about two variants with experts: there is nothing to plot.")
        seed = min(self.seeds)
        return share_chart({name.replace("_", " "): self.results[name][seed] for name in self._compared})

    @property
    def _compared(self) -> tuple[str, ...]:
        return (self.claims[0].second, self.claims[0].first) if self.claims else ()


def _read(folder: Path, study: Study, name: str, seed: int) -> UnitResult:
    result = read_result(folder, study, name, seed)
    if result is None:
        raise ConfigError(f"{folder}: has no result of {name}, seed {seed}. `smoes-sim train` measures what is missing.")
    return result


def _records(name: str, variant: VariantSummary) -> list[dict[str, Any]]:
    head = {
        "variant": name,
        "accuracy": variant.accuracy,
        "language_accuracy": variant.language_accuracy,
        "msi": variant.msi,
    }
    rows = [
        {
            "ranks": row.ranks,
            "expert_placement": row.experts,
            "token_placement": row.tokens,
            **{
                key: None if value is None else value.mean
                for key, value in (
                    ("transmission_rate", row.transmission_rate),
                    ("copies_per_token", row.copies_per_token),
                    ("bytes_remote", row.bytes_remote),
                    ("imbalance", row.imbalance),
                )
            },
        }
        for row in variant.placements
    ]
    none = dict.fromkeys(
        (
            "ranks",
            "expert_placement",
            "token_placement",
            "transmission_rate",
            "copies_per_token",
            "bytes_remote",
            "imbalance",
        )
    )
    return [head | row for row in rows or [none]]
