"""The tables of a study, at most 100 columns wide. Needs no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from smoes_sim.display.tables import WIDTH, Table
from smoes_sim.learning.claims import TRAFFIC, JudgedClaim
from smoes_sim.learning.summary import MixSummary, PlacementSpread, RoutedSpread, SeedSpread, VariantSummary
from smoes_sim.placement import TOKEN_RULES

_ORDERS = (("contiguous", "in the model's order"), ("bins", "sorted by the modality of their training tokens"))


def study_tables(
    variants: Mapping[str, VariantSummary],
    claims: Sequence[JudgedClaim],
    mixes: Sequence[MixSummary],
    *,
    seeds: int,
    ranks: int,
) -> list[Table]:
    """Tables of a study, each figure as mean (standard deviation) over the seeds."""
    return [
        _learned(variants, seeds=seeds),
        *_routing(variants),
        *_traffic(variants),
        *_claims(claims, ranks=ranks),
        *_mixes(mixes, ranks=ranks),
    ]


def _learned(variants: Mapping[str, VariantSummary], *, seeds: int) -> Table:
    rows = [
        [
            name,
            _percent(variant.spread.accuracy),
            _percent(variant.spread.language_accuracy),
            _figure(variant.spread.bits_per_byte, 2),
            _mean(variant.spread.train_cpu_seconds, 0),
        ]
        for name, variant in variants.items()
    ]
    return Table(
        title=f"What was learned: mean (standard deviation) over {seeds} seeds",
        header=["variant", "questions %", "next token %", "bits/byte", "CPU s"],
        rows=rows,
    )


def _routing(variants: Mapping[str, VariantSummary]) -> list[Table]:
    """Specialisation and load of the experts, of the variants that have some."""
    rows = []
    for name, variant in variants.items():
        if isinstance(variant.spread, RoutedSpread) and variant.msi_per_layer:
            layers = variant.msi_per_layer
            rows.append(
                [
                    name,
                    _figure(variant.spread.msi, 2),
                    f"{min(layers):.2f} to {max(layers):.2f}",
                    _figure(variant.spread.expert_imbalance, 2),
                    _mean(variant.spread.experts_per_token, 1),
                ]
            )
    notes = ["MSI: modality specialisation index; max/mean: busiest expert; K: experts per token"]
    header = ["variant", "MSI", "MSI of the layers", "max/mean", "K"]
    return [Table(title="What the router does on the test set", header=header, rows=rows, notes=notes)] if rows else []


def _traffic(variants: Mapping[str, VariantSummary]) -> list[Table]:
    """Per number of ranks, by placement of tokens: share of (token, layer) pairs that need another rank, and bytes."""
    own = {
        name: [row for row in variant.placements if row.experts == variant.expert_placement]
        for name, variant in variants.items()
    }
    tables = []
    for ranks in sorted({row.ranks for rows in own.values() for row in rows}):
        here = {name: [row for row in rows if row.ranks == ranks] for name, rows in own.items() if rows}
        share = [
            [name, *(_percent(row.transmission_rate) for row in rows), _figure(rows[0].imbalance, 2)]
            for name, rows in here.items()
        ]
        title = f"Traffic of the test set over {ranks} ranks: (token, layer) pairs that need another rank (%)"
        tables.append(Table(title=title, header=[*_head(here), "max/mean"], rows=share))
        size = [[name, *(_mean(row.bytes_remote, 2, 1e-6) for row in rows)] for name, rows in here.items()]
        title = f"Bytes between {ranks} ranks (MB, dispatch and combine in bf16)"
        tables.append(Table(title=title, header=_head(here), rows=size))
    if tables:
        tables.append(Table(notes=_legend(variants)))
    return tables


def _head(rows: Mapping[str, Sequence[PlacementSpread]]) -> list[str]:
    return ["variant", *(row.tokens for row in next(iter(rows.values())))]


def _legend(variants: Mapping[str, VariantSummary]) -> list[str]:
    lines = ["Columns: placement of the tokens. max/mean: busiest rank"]
    for order, words in _ORDERS:
        names = [name for name, variant in variants.items() if variant.expert_placement == order]
        if names:
            lines += textwrap.wrap(f"Experts {words}: {', '.join(names)}", WIDTH, subsequent_indent="  ")
    return lines


def _claims(claims: Sequence[JudgedClaim], *, ranks: int) -> list[Table]:
    """A table per claim and a row per part; a part that does not depend on the token placement has one row."""
    groups: dict[tuple[str, str, str], list[JudgedClaim]] = {}
    for claim in claims:
        groups.setdefault((claim.claim, claim.first, claim.second), []).append(claim)
    header = ["tokens", "claim", "part", "wanted", "mean", "95% interval", "verdict"]
    tables = []
    for (text, first, second), judged in groups.items():
        load = " -> ".join("-" if value is None else f"{value:.2f}" for value in reversed(judged[0].imbalance.values()))
        title = textwrap.fill(
            f"Claim over {ranks} ranks: {text}: {first} - {second} (max/mean {load})", WIDTH, subsequent_indent="  "
        )
        rows = [row for number, claim in enumerate(judged) for row in _parts(claim, with_all=number == 0)]
        tables.append(Table(title=title, header=header, rows=rows, left=3))
    if tables:
        notes = [
            "Differences are paired by seed. A part is supported or refuted if its whole interval is on one side",
            "of the wanted value. tokens: token placement; max/mean: busiest rank, second -> first variant",
        ]
        tables.append(Table(notes=notes))
    return tables


def _parts(claim: JudgedClaim, *, with_all: bool) -> list[list[str]]:
    rows: list[list[str]] = []
    for part in claim.parts:
        if with_all or part.measure in TRAFFIC:
            tokens = claim.token_placement if part.measure in TRAFFIC else "any"
            head = ["", ""] if rows else [tokens, claim.verdict]
            interval = "-" if part.interval is None else f"{part.interval[0]:+.3f} to {part.interval[1]:+.3f}"
            rows.append([*head, part.measure, part.wanted, f"{part.mean:+.3f}", interval, part.verdict])
    return rows


def _mixes(mixes: Sequence[MixSummary], *, ranks: int) -> list[Table]:
    """A table per test set."""
    by_set: dict[str, list[MixSummary]] = {}
    for mix in mixes:
        by_set.setdefault(mix.set, []).append(mix)
    tables = []
    for name, rows in by_set.items():
        title = f"Test set {name}, {100 * rows[0].vision_share:.0f}% vision tokens, over {ranks} ranks: means"
        body = [
            [
                mix.variant,
                _mean(mix.accuracy, 1, 100),
                _mean(mix.msi, 2),
                _mean(mix.imbalance, 2),
                *(_percent(mix.transmission_rate[rule]) for rule in TOKEN_RULES),
            ]
            for mix in rows
        ]
        header = ["variant", "questions %", "MSI", "max/mean", *TOKEN_RULES]
        tables.append(Table(title=title, header=header, rows=body))
    if tables:
        notes = [
            "Experts are placed by the training counts; the ranks that serve text are chosen on the set test.",
            "By token placement: (token, layer) pairs that need another rank (%), mean (standard deviation)",
        ]
        tables.append(Table(notes=notes))
    return tables


def _percent(value: SeedSpread | None) -> str:
    return _figure(value, 1, 100)


def _figure(value: SeedSpread | None, digits: int, factor: float = 1) -> str:
    """Mean and, where there is one, the standard deviation in brackets."""
    if value is None or value.sd is None:
        return _mean(value, digits, factor)
    return f"{_mean(value, digits, factor)} ({factor * value.sd:.{digits}f})"


def _mean(value: SeedSpread | None, digits: int, factor: float = 1) -> str:
    return "-" if value is None else f"{factor * value.mean:.{digits}f}"
