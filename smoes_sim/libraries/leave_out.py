"""Cross-validation: predict whole systems, kinds of hardware, sizes and node counts that were left out of the fit.

A *system* (:attr:`~smoes_sim.libraries.system.SystemCase.system`) is a hardware with its software, at any number of ranks
and nodes: H100 at 2, 4 and 8 ranks is one system, left out as a whole. *Hardware* is the transport class inside its nodes:
all A100 servers are left out together.
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
"""Number of folds of the sizes; every fifth size is in the same fold."""
_NORMAL = 100
"""Number of rows of the synthetic system in :func:`scale_of`."""
_Z80 = NormalDist().inv_cdf(0.9)
"""Standard deviations from the middle to either end of an 80% interval of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePrediction:
    """A prediction beside its measurement.

    Attributes:
        prepared: The case.
        fitted: The fit that predicted it.
        seconds: Predicted time, seconds.
        deviation: Standard deviation of its logarithm.
    """

    prepared: PreparedCase
    fitted: FittedPool
    seconds: float
    deviation: float

    @property
    def measured(self) -> float:
        """Measured time, seconds."""
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
        """Error in standard deviations: log(predicted / measured) / deviation."""
        return math.log(self.seconds / self.measured) / self.deviation


def outcome_of(fitted: FittedPool, prepared: PreparedCase) -> CasePrediction:
    """The prediction for a case."""
    seconds, deviation = fitted.predict(prepared)
    return CasePrediction(prepared=prepared, fitted=fitted, seconds=seconds, deviation=deviation)


Key = Callable[[PreparedCase], Hashable]


def system_of(prepared: PreparedCase) -> Hashable:
    """System of a case; the headline leaves out whole systems."""
    return prepared.case.system


def class_of(prepared: PreparedCase) -> Hashable:
    """Transport class inside the node; the stricter split leaves out whole classes."""
    return prepared.case.intra


def _ignore() -> None:
    """Default of ``on_fit``."""


def leave_out(
    cases: Sequence[PreparedCase], key: Key, *, full: FittedPool, on_fit: Callable[[], None] = _ignore
) -> list[CasePrediction]:
    """Predictions for each group of cases with constants fitted on the other cases of the pool.

    Args:
        cases: All cases of a pool.
        key: Group of a case; cases of the same group are left out together, those of group None never.
        full: A fit to all cases, from which each fit starts.
        on_fit: Called after every fit.
    """
    found: list[CasePrediction] = []
    for group in _groups(cases, key):
        fitted = fit([prepared for prepared in cases if key(prepared) != group], start=full.deviations)
        found += [outcome_of(fitted, prepared) for prepared in cases if key(prepared) == group]
        on_fit()
    return found


def _groups(cases: Sequence[PreparedCase], key: Key) -> list[Hashable]:
    """The groups that are left out, in order of appearance."""
    return list(dict.fromkeys(key(prepared) for prepared in cases if key(prepared) is not None))


def size_folds(cases: Iterable[PreparedCase]) -> Key:
    """Fold of each case by its size; equal sizes are in the same fold, for all systems."""
    sizes = sorted({_size(prepared.case.row) for prepared in cases})
    fold = {size: number % _FOLDS for number, size in enumerate(sizes)}
    return lambda prepared: fold[_size(prepared.case.row)]


def _size(row: Measurement) -> tuple[float, str]:
    """Size of a row for comparison: bytes, tokens, or (raw RDMA) the message size in the notes."""
    return (row.size or 0.0, f"{row.tokens_per_rank or ''}{row.notes if row.mode == 'alltoall_rdma' else ''}")


def most_nodes(cases: Sequence[PreparedCase]) -> Key:
    """Group of the cases with the largest node count of their system and operation; None for all others."""
    counts: dict[Hashable, set[int]] = {}
    for prepared in cases:
        counts.setdefault(_series(prepared), set()).add(prepared.case.row.nodes)

    def key(prepared: PreparedCase) -> Hashable:
        nodes = counts[_series(prepared)]
        return _series(prepared) if len(nodes) > 1 and prepared.case.row.nodes == max(nodes) else None

    return key


def _series(prepared: PreparedCase) -> Hashable:
    return prepared.case.system, prepared.family.name


def scale_of(outcomes: Sequence[CasePrediction]) -> float:
    """Factor on the standard deviations with which 80% intervals cover 80% of the outcomes.

    The weight of a system is the square root of its number of rows. One synthetic system is added that is exactly normal
    and has the mean weight, so that no single row or system decides alone.
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


def scaled(outcomes: Sequence[CasePrediction]) -> list[CasePrediction]:
    """The same predictions with intervals scaled by the outcomes of all other systems."""
    found = []
    factors: dict[Hashable, float] = {}
    for outcome in outcomes:
        system = system_of(outcome.prepared)
        if system not in factors:
            factors[system] = scale_of([other for other in outcomes if system_of(other.prepared) != system])
        found.append(replace(outcome, deviation=outcome.deviation * factors[system]))
    return found


def fit_scaled(cases: Sequence[PreparedCase]) -> FittedPool:
    """A fit to all cases of a pool, with intervals scaled so that they cover 80% in cross-validation."""
    full = fit(cases)
    if not cases:
        return full
    return replace(
        full,
        scale_seen=scale_of(leave_out(cases, size_folds(cases), full=full)),
        scale_unseen=scale_of(leave_out(cases, system_of, full=full)),
    )


Splits = Mapping[str, list[CasePrediction]]


def num_fits(cases: Sequence[PreparedCase]) -> int:
    """Number of fits of :func:`evaluate`."""
    keys = (system_of, class_of, size_folds(cases), most_nodes(cases))
    return 1 + sum(len(_groups(cases, key)) for key in keys)


def evaluate(cases: Sequence[PreparedCase], *, on_fit: Callable[[], None] = _ignore) -> Splits:
    """Outcomes of every split of one pool: ``system`` (the headline), ``hardware``, ``size``, ``nodes``, ``in-sample``."""
    full = fit(cases)
    on_fit()
    return {
        "system": scaled(leave_out(cases, system_of, full=full, on_fit=on_fit)),
        "hardware": scaled(leave_out(cases, class_of, full=full, on_fit=on_fit)),
        "size": scaled(leave_out(cases, size_folds(cases), full=full, on_fit=on_fit)),
        "nodes": scaled(leave_out(cases, most_nodes(cases), full=full, on_fit=on_fit)),
        "in-sample": [outcome_of(full, prepared) for prepared in cases],
    }
