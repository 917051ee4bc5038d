"""Exact placements of small cases by mixed-integer programs (SciPy HiGHS), the reference for the other rules."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import PlacementError
from smoes_sim.placement.layout import slots_of

_TIME_LIMIT = 60.0
"""Seconds for one layer; an optimum that is not proven by then is an error."""


def least_load(loads: NDArray[np.integer] | NDArray[np.floating], *, num_ranks: int, spare: int = 0) -> NDArray[np.int64]:
    """Expert in each slot, ordered by rank, shape (S,), with the least possible load of the busiest rank.

    Integers y[e, n, r] say how many of the n copies of expert e are on rank r; each copy takes 1 / n of its load::

        minimise z;  sum_{e,n} load[e] / n y[e,n,r] <= z;  sum_{e,n} y[e,n,r] = S_r;  sum_r y[e,n,r] = n u[e,n];
        sum_n u[e,n] = 1, u binary

    Args:
        loads: Routed tokens of each expert, shape (E,).
        num_ranks: R; the slots of each, S_r, are those of :func:`~smoes_sim.placement.layout.slots_of`.
        spare: Slots of each rank beside its share of the experts.

    Raises:
        PlacementError: If HiGHS does not prove the optimum in time.

    Example:
        Two ranks of load 5 + 3 + 1 and 4 + 3 + 2.

        >>> loads = np.array([5, 4, 3, 3, 2, 1])
        >>> loads[least_load(loads, num_ranks=2)].reshape(2, 3).sum(axis=1).tolist()
        [9, 9]
    """
    values, E, R = np.asarray(loads, dtype=np.float64), len(loads), num_ranks
    sizes = slots_of(E, R, spare=spare)
    most = 1 + int(sizes.sum()) - E
    rows: list[tuple[dict[int, float], float, float]] = []
    copies = np.arange(E * most * R).reshape(E, most, R)
    used = copies.size + np.arange(E * most).reshape(E, most)
    top = copies.size + used.size
    share = values[:, None] / np.arange(1, most + 1) / max(values.max(initial=0.0), 1.0)
    for rank in range(R):
        here = copies[:, :, rank].ravel().tolist()
        rows.append((dict(zip(here, share.ravel().tolist(), strict=True)) | {top: -1.0}, -np.inf, 0.0))
        rows.append((dict.fromkeys(here, 1.0), float(sizes[rank]), float(sizes[rank])))
    for expert in range(E):
        rows.append((dict.fromkeys(used[expert].tolist(), 1.0), 1.0, 1.0))
        for index in range(most):
            balance = dict.fromkeys(copies[expert, index].tolist(), 1.0) | {int(used[expert, index]): -(index + 1.0)}
            rows.append((balance, 0.0, 0.0))
    upper = np.full(top + 1, np.inf)
    upper[used.ravel()] = 1
    upper[: copies.size] = np.broadcast_to(np.arange(1, most + 1)[:, None], copies.shape).ravel()
    if len(set(sizes.tolist())) == 1:  # ranks are interchangeable
        rows.append((dict.fromkeys(copies[int(values.argmax()), :, 0].tolist(), 1.0), 1.0, np.inf))
    found = _solve(rows, cost={top: 1.0}, upper=upper, whole=top, what=f"the least load of {E} experts on {R} ranks")
    number = found[: copies.size].reshape(E, most, R).sum(axis=1)
    return np.concatenate([np.repeat(np.arange(E), number[:, rank]) for rank in range(R)])


def most_together(together: NDArray[np.float64], *, num_ranks: int) -> NDArray[np.int64]:
    """Experts ordered by rank, shape (E,), with the largest possible number of pairs on one rank.

    Binary x[e, r] places experts; p[e, f, r] <= x[e, r], x[f, r] counts a pair; the sum of together[e, f] p is maximised.

    Raises:
        PlacementError: If HiGHS does not prove the optimum in time.
    """
    E, R = len(together), num_ranks
    place = np.arange(E * R).reshape(E, R)
    rows: list[tuple[dict[int, float], float, float]] = []
    rows += [(dict.fromkeys(place[expert].tolist(), 1.0), 1.0, 1.0) for expert in range(E)]
    sizes = slots_of(E, R).tolist()
    rows += [(dict.fromkeys(place[:, rank].tolist(), 1.0), size, size) for rank, size in enumerate(sizes)]
    cost: dict[int, float] = {}
    variable = E * R
    for first, second in zip(*np.nonzero(np.triu(together)), strict=True):
        for rank in range(R):
            cost[variable] = -float(together[first, second])
            rows += [({variable: 1.0, int(place[expert, rank]): -1.0}, -np.inf, 0.0) for expert in (first, second)]
            variable += 1
    upper = np.ones(variable)
    if E % R == 0:
        upper[place[0, 1:]] = 0  # ranks are interchangeable: expert 0 is on the first
    found = _solve(rows, cost=cost, upper=upper, whole=E * R, what=f"the most pairs of {E} experts on {R} ranks")
    return np.argsort(found[: E * R].reshape(E, R).argmax(axis=1), kind="stable")


def _solve(
    rows: list[tuple[dict[int, float], float, float]],
    *,
    cost: dict[int, float],
    upper: NDArray[np.float64],
    whole: int,
    what: str,
) -> NDArray[np.int64]:
    """The proven optimum, rounded; the first ``whole`` variables are integers."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415 - 0.4 s to import, and only this rule needs it
    from scipy.sparse import coo_array  # noqa: PLC0415 - as above

    entries = [(number, column, value) for number, (row, _, _) in enumerate(rows) for column, value in row.items()]
    at_row, at_column, value = (np.array(part) for part in zip(*entries, strict=True))
    matrix = coo_array((value, (at_row, at_column)), shape=(len(rows), len(upper))).tocsr()
    objective = np.zeros(len(upper))
    objective[list(cost)] = list(cost.values())
    found = milp(
        objective,
        constraints=LinearConstraint(matrix, [row[1] for row in rows], [row[2] for row in rows]),
        bounds=Bounds(0, upper),
        integrality=np.arange(len(upper)) < whole,
        options={"time_limit": _TIME_LIMIT, "mip_rel_gap": 0.0},
    )
    if found.status != 0:
        raise PlacementError(
            f"{what}: not proven within {_TIME_LIMIT:g} s. Exact placement is for small cases. Use eplb or coactivation."
        )
    return np.rint(found.x).astype(np.int64)
