"""Predict what a fit has not seen: whole systems, hardware of a kind, sizes, node counts.

A *system* is a hardware with its software, at any number of ranks and nodes (:attr:`SystemCase.system`): H100 at 2, 4 and 8
ranks is one system and leaves together. *Hardware* is the transport class inside its nodes: all A100 boxes leave together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from smoes_sim.libraries.pooling import FittedPool, PreparedCase, fit
from smoes_sim.measurements import Measurement

_FOLDS = 5
"""Parts into which sizes are dealt, every fifth into one."""
_NORMAL = 100
"""Rows of the imaginary system."""
_Z80 = NormalDist().inv_cdf(0.9)
"""Standard deviations from the middle to either end of an 80% interval of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A prediction beside what was measured.

    Attributes:
        prepared: The case.
        fitted: The fit that it was made with.
        seconds: Predicted.
        deviation: Standard deviation of the logarithm of that.
    """

    prepared: PreparedCase
    fitted: FittedPool
    seconds: float
    deviation: float

    @property
    def measured(self) -> float:
        """Seconds that were measured."""
        return self.prepared.measured or math.nan

    @property
    def low(self) -> float:
        """10th percentile of the prediction, seconds."""
        return self.seconds * math.exp(-_Z80 * self.deviation)

    @property
    def high(self) -> float:
        """90th percentile of the prediction, seconds."""
        return self.seconds * math.exp(_Z80 * self.deviation)

    @property
    def score(self) -> float:
        """Standard deviations between prediction and measurement."""
        return math.log(self.seconds / self.measured) / self.deviation


def outcome_of(fitted: FittedPool, prepared: PreparedCase) -> Outcome:
    """Predict a case."""
    seconds, deviation = fitted.predict(prepared)
    return Outcome(prepared=prepared, fitted=fitted, seconds=seconds, deviation=deviation)


Key = Callable[[PreparedCase], Hashable]


def system_of(prepared: PreparedCase) -> Hashable:
    """What leaves together for the headline."""
    return prepared.case.system


def class_of(prepared: PreparedCase) -> Hashable:
    """What leaves together in the stricter form."""
    return prepared.case.intra


def leave_out(cases: Sequence[PreparedCase], key: Key, *, full: FittedPool) -> list[Outcome]:
    """Predict each group of cases with constants fitted on the others of the pool.

    Args:
        cases: All cases of a pool.
        key: Cases with the same key leave together; those with None never leave.
        full: A fit to all of them, where each fit starts.
    """
    found: list[Outcome] = []
    for group in dict.fromkeys(key(prepared) for prepared in cases if key(prepared) is not None):
        fitted = fit([prepared for prepared in cases if key(prepared) != group], start=full.deviations)
        found += [outcome_of(fitted, prepared) for prepared in cases if key(prepared) == group]
    return found


def size_folds(cases: Iterable[PreparedCase]) -> Key:
    """Fold of each case by its size; equal sizes leave together, at all systems."""
    sizes = sorted({_size(prepared.case.row) for prepared in cases})
    fold = {size: number % _FOLDS for number, size in enumerate(sizes)}
    return lambda prepared: fold[_size(prepared.case.row)]


def _size(row: Measurement) -> tuple[float, str]:
    """What makes two rows equally large: bytes, tokens, or (raw RDMA) the message that the notes state."""
    return (row.size or 0.0, f"{row.tokens_per_rank or ''}{row.notes if row.mode == 'alltoall_rdma' else ''}")


def most_nodes(cases: Sequence[PreparedCase]) -> Key:
    """The largest node count of each system and operation that has several; None for the rest."""
    counts: dict[Hashable, set[int]] = {}
    for prepared in cases:
        counts.setdefault(_series(prepared), set()).add(prepared.case.row.nodes)

    def key(prepared: PreparedCase) -> Hashable:
        nodes = counts[_series(prepared)]
        return _series(prepared) if len(nodes) > 1 and prepared.case.row.nodes == max(nodes) else None

    return key


def _series(prepared: PreparedCase) -> Hashable:
    return prepared.case.system, prepared.family.name


def scale_of(outcomes: Sequence[Outcome]) -> float:
    """The factor on standard deviations with which 80% intervals hold 80% of the outcomes.

    A system counts as the root of its rows, and one imaginary system that is exactly normal and counts as their mean is
    added, so that neither one row nor one system decides alone.
    """
    per_system: dict[Hashable, list[float]] = {}
    for outcome in outcomes:
        per_system.setdefault(system_of(outcome.prepared), []).append(abs(outcome.score))
    groups = [np.array(scores) for scores in per_system.values()]
    counts = [math.sqrt(len(group)) for group in groups]
    groups.append(np.array([NormalDist().inv_cdf(0.5 + (index + 0.5) / _NORMAL / 2) for index in range(_NORMAL)]))
    counts.append(float(np.mean(counts)) if counts else 1.0)
    scores = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), count / len(group)) for group, count in zip(groups, counts, strict=True)])
    order = np.argsort(scores, kind="stable")
    place = int(np.searchsorted(np.cumsum(weights[order]), 0.8 * weights.sum()))
    return float(scores[order][min(place, len(scores) - 1)]) / _Z80


def scaled(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The same predictions with intervals whose width each system's others have set, so that no system sets its own."""
    found = []
    factors: dict[Hashable, float] = {}
    for outcome in outcomes:
        system = system_of(outcome.prepared)
        if system not in factors:
            factors[system] = scale_of([other for other in outcomes if system_of(other.prepared) != system])
        found.append(replace(outcome, deviation=outcome.deviation * factors[system]))
    return found


def fit_scaled(cases: Sequence[PreparedCase]) -> FittedPool:
    """A fit to all cases of a pool whose intervals have the width that leaving out showed to be right."""
    full = fit(cases)
    if not cases:
        return full
    return replace(
        full,
        scale_seen=scale_of(leave_out(cases, size_folds(cases), full=full)),
        scale_unseen=scale_of(leave_out(cases, system_of, full=full)),
    )


Splits = Mapping[str, list[Outcome]]


def evaluate(cases: Sequence[PreparedCase]) -> Splits:
    """Every split of one pool: ``system`` (the headline), ``hardware``, ``size``, ``nodes``, ``in-sample``."""
    full = fit(cases)
    return {
        "system": scaled(leave_out(cases, system_of, full=full)),
        "hardware": scaled(leave_out(cases, class_of, full=full)),
        "size": scaled(leave_out(cases, size_folds(cases), full=full)),
        "nodes": scaled(leave_out(cases, most_nodes(cases), full=full)),
        "in-sample": [outcome_of(full, prepared) for prepared in cases],
    }
