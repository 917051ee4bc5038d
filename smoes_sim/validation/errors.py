"""Errors of predictions, per row and per group of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedRow:
    """A prediction beside its measurement; fields are named as in the JSON document.

    Attributes:
        id: Name of the row.
        family: Kind of operation; rows of one family share a line of the table of errors.
        system: Hardware or topology.
        ranks: Number of ranks.
        size_bytes: Bytes that one rank sends; None where the row does not state it.
        measured_s: Measured time, seconds.
        predicted_s: Predicted time, seconds.
        low_s: 10th percentile of the prediction, seconds; None without an interval.
        high_s: 90th percentile of the prediction, seconds; None without an interval.
        inside: Whether the measurement lies inside that interval; None without one.
        relative_error: (predicted - measured) / measured.
        repeatability: Half the distance from the 10th to the 90th percentile of repeats, relative to the measured time.
        in_sample: Whether the constants were fitted on this row.
        doubt: Known weakness of the prediction; "" if there is none.
    """

    id: str
    family: str
    system: str
    ranks: int
    size_bytes: float | None
    measured_s: float
    predicted_s: float
    low_s: float | None
    high_s: float | None
    inside: bool | None
    relative_error: float
    repeatability: float | None
    in_sample: bool
    doubt: str


AnyRow = TypeVar("AnyRow", bound=ValidatedRow)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmeasuredRow:
    """The prediction for a row without a time; fields as in :class:`ValidatedRow`."""

    id: str
    family: str
    system: str
    size_bytes: float | None
    predicted_s: float
    low_s: float | None
    high_s: float | None
    doubt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRow:
    """Name of a row that cannot be predicted, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSummary:
    """Absolute relative errors of a group of rows, as shares (0.05 is 5%).

    Attributes:
        n: Number of rows.
        median_ape: Median.
        mape: Mean.
        p90_ape: 90th percentile.
        max_ape: Largest.
        coverage: Share of the measurements that lie inside their 80% interval; None where no row has an interval.
    """

    n: int
    median_ape: float
    mape: float
    p90_ape: float
    max_ape: float
    coverage: float | None


def errors_by(rows: Iterable[AnyRow], key: Callable[[AnyRow], Sequence[str]]) -> dict[str, ErrorSummary]:
    """Errors of each group of rows, by name of the group in alphabetical order.

    Args:
        rows: Predicted rows.
        key: Names of the groups in which a row counts.
    """
    groups: dict[str, list[ValidatedRow]] = {}
    for row in rows:
        for name in key(row):
            groups.setdefault(name, []).append(row)
    return {name: _summary(groups[name]) for name in sorted(groups)}


def _summary(rows: Sequence[ValidatedRow]) -> ErrorSummary:
    absolute = np.abs([row.relative_error for row in rows])
    inside = [row.inside for row in rows if row.inside is not None]
    return ErrorSummary(
        n=len(rows),
        median_ape=float(np.median(absolute)),
        mape=float(absolute.mean()),
        p90_ape=float(np.percentile(absolute, 90)),
        max_ape=float(absolute.max()),
        coverage=float(np.mean(inside)) if inside else None,
    )


def repeatability_of(rows: Iterable[ValidatedRow]) -> float | None:
    """Median over rows of the relative scatter of their repeats; None where no row has repeats."""
    known = [row.repeatability for row in rows if row.repeatability is not None]
    return float(np.median(known)) if known else None
