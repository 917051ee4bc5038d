"""All families, and the family of a row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from smoes_sim.libraries import expert_parallel, nccl, pairwise, rdma
from smoes_sim.libraries.family import Family
from smoes_sim.libraries.pooling import PreparedCase
from smoes_sim.libraries.system import Skip, system_case
from smoes_sim.measurements import Measurement

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        nccl.ALLTOALL,
        nccl.SENDRECV,
        rdma.ALLTOALL,
        pairwise.ALLTOALL,
        expert_parallel.NORMAL,
        expert_parallel.LOW_LATENCY,
    )
}
"""By the name that :func:`~smoes_sim.libraries.system.system_case` gives."""


def prepare_case(row: Measurement) -> PreparedCase | Skip:
    """The case of a row with its stages and its measured time, or the reason why it cannot be predicted."""
    case = system_case(row)
    if isinstance(case, Skip):
        return case
    family = FAMILIES.get(case.family)
    if family is None:
        return Skip(f"no library model for {case.family}")
    stages = family.stages(case)
    if isinstance(stages, Skip):
        return stages
    return PreparedCase(case=case, family=family, stages=stages, measured=family.measured(case))


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTable:
    """The rows of a measurements table, sorted into cases and skipped rows.

    Attributes:
        cases: Measured cases that can be predicted.
        skipped: Names of the other rows, each with the reason.
    """

    cases: list[PreparedCase]
    skipped: list[tuple[str, str]]


def prepare_cases(rows: Iterable[Measurement]) -> PreparedTable:
    """The rows that can be predicted and have a measured time, and the others with reasons."""
    cases: list[PreparedCase] = []
    skipped: list[tuple[str, str]] = []
    for row in rows:
        prepared = prepare_case(row)
        if isinstance(prepared, Skip):
            skipped.append((row.id, prepared.reason))
        elif prepared.measured is None:
            skipped.append((row.id, "neither a time nor a bandwidth from which one follows"))
        else:
            cases.append(prepared)
    return PreparedTable(cases=cases, skipped=skipped)
