"""Choice of experts as an exponential race.

Expert e arrives after an exponential time of rate ``w_e = exp(score_e)``, and a token uses the first K arrivals that its
policy allows, in their order. That has the distribution of the K best of ``score_e + Gumbel noise``, in order: minus the
logarithm of the arrival time is such a noisy score (Plackett and Luce; Yellott, J. Math. Psychol. 15, 1977). The race has no
memory, so the next arrival that counts is a draw with probabilities ``w_e`` over all experts, repeated until it is one that
counts: K draws and a few more for a token, not E.

A draw takes integers only. A token's pull towards one of its two sides is the same for all experts of a side, so it
decides between the sides; inside a side an alias table decides (Walker 1977, built as Marsaglia's square histogram).
``compiled`` has the same loop for numba, with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smoes_sim.jit import pays
from smoes_sim.routing.compiled import draw_experts
from smoes_sim.routing.counters import Words, draw, uniform

Reals = NDArray[np.float64]
Longs = NDArray[np.int64]
Ids = NDArray[np.int16]

_ONE = 1 << 32
_LOW = np.uint64(_ONE - 1)
_HALF_WORD = np.uint64(32)
_TINY = 1e-300
"""Added to rates that may underflow to 0 before they divide."""
_COMPILED_SLOTS = 12_000_000
"""Slots from which loading numba takes less time than it saves."""


class Arrivals(NamedTuple):
    """Which arrivals count, by groups of neighbouring experts.

    Attributes:
        num_groups: Groups.
        per_group: Experts of one group that a token may use.
        kept: Groups that a token may use: the first that arrive.
    """

    num_groups: int
    per_group: int
    kept: int


class Tables(NamedTuple):
    """Alias tables with ``columns`` columns each, flat: a draw takes ``own`` below ``cut``, otherwise ``other``."""

    cut: Words
    own: Ids
    other: Ids
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """Rates of the experts in some layers, for text (0) and all other tokens (1).

    Attributes:
        scores: Logarithm of the rate of each expert without pull, shape (L, 2, E).
        side: Side of each expert, +1, -1 or 0, shape (L, E).
        used_sides: The two sides that text and other tokens may use, ((a, b), (a, b)).
        arrivals: Which arrivals count.
        top_k: Experts of a token, K.
    """

    scores: Reals
    side: NDArray[np.int8]
    used_sides: tuple[tuple[int, int], tuple[int, int]]
    arrivals: Arrivals
    top_k: int

    @property
    def attempts(self) -> int:
        """Draws after which the rest of a token's experts is chosen by a race of all that are left."""
        return 6 * self.top_k + 8

    def members(self, kind: int, which: int) -> NDArray[np.bool_]:
        """Experts of side ``which`` (0, 1) of text (kind 0) or other tokens (1), shape (L, E)."""
        result: NDArray[np.bool_] = self.side == self.used_sides[kind][which]
        return result

    def side_scores(self) -> Reals:
        """Logarithm of the sum of rates per layer, kind of token and side, shape (L, 2, 2); -inf without experts."""
        result = np.full((len(self.scores), 2, 2), -np.inf)
        for kind in range(2):
            for which in range(2):
                rates = np.where(self.members(kind, which), np.exp(self.scores[:, kind]), 0.0).sum(axis=1)
                np.log(rates, out=result[:, kind, which], where=rates > 0)
        return result

    def half_pull(self) -> Reals:
        """What a pull of 1 adds to the scores of each side, shape (2 kinds, 2 sides)."""
        return np.array(self.used_sides) / 2

    def tables(self) -> Tables:
        """Alias table of each layer, kind of token and side, in this order."""
        L = len(self.scores)
        columns = max(int(self.members(kind, which).sum(axis=1).max()) for kind in range(2) for which in range(2))
        same = self.used_sides[0] == self.used_sides[1] and np.array_equal(self.scores[:, 0], self.scores[:, 1])
        parts = []
        for kind in range(1 if same else 2):
            for which in range(2):
                inside = self.members(kind, which)
                expert = np.argsort(~inside, axis=1, kind="stable")[:, :columns]
                rate = np.where(inside, np.exp(self.scores[:, kind]), 0.0)
                parts.append((np.take_along_axis(rate, expert, axis=1), expert))
        rates, experts = (np.stack([part[i] for part in parts], axis=1).reshape(-1, columns) for i in range(2))
        cut, alias = alias_tables(rates)
        tables = (cut, experts, np.take_along_axis(experts, alias, axis=1))
        shape = (L, len(parts) // 2, 2 * columns)
        cut, own, other = (np.broadcast_to(table.reshape(shape), (L, 2, shape[2])).ravel() for table in tables)
        return Tables(cut.astype(np.uint64), own.astype(np.int16), other.astype(np.int16), columns)


def alias_tables(rates: Reals) -> tuple[Longs, Longs]:
    """Alias tables of several distributions: cuts out of 2^32 and aliases, shape (N, columns) each.

    A draw takes a column at random, all alike, and there the column itself below the cut, otherwise its alias. Shares are
    rounded to 2^-32 of a column.

    Args:
        rates: Unnormalised probabilities, shape (N, columns); a row without any is taken as uniform.

    Example:
        Probabilities 1/4 and 3/4: column 0 is kept in one half of its draws, column 1 always.

        >>> cut, alias = alias_tables(np.array([[1.0, 3.0]]))
        >>> (cut / 2**32).tolist(), alias.tolist()
        ([[0.5, 1.0]], [[1, 1]])
    """
    number, columns = rates.shape
    total = rates.sum(axis=1, keepdims=True)
    share = np.divide(rates, total, out=np.full(rates.shape, 1 / columns), where=total > 0)
    left = np.rint(share * (columns * _ONE)).astype(np.int64)
    left[np.arange(number), left.argmax(axis=1)] += columns * _ONE - left.sum(axis=1)
    cut, alias = np.full(rates.shape, _ONE), np.tile(np.arange(columns), (number, 1))
    rows = np.arange(number)
    for _ in range(columns):
        small = left[rows].argmin(axis=1)
        lacks = left[rows, small] < _ONE
        rows, small = rows[lacks], small[lacks]
        if not len(rows):
            break
        large = left[rows].argmax(axis=1)
        cut[rows, small], alias[rows, small] = left[rows, small], large
        left[rows, large] -= _ONE - left[rows, small]
        left[rows, small] = _ONE
    return cut, alias


class Rows(NamedTuple):
    """N pairs of a token and a layer, in order.

    Attributes:
        start: Start of the random numbers, shape (N,).
        layer: Index into the layers of the race, shape (N,).
        kind: 0 for text, 1 for other tokens, shape (N,).
        pull: Pull towards the text side, shape (N,).
    """

    start: Words
    layer: Longs
    kind: Longs
    pull: Reals

    def at(self, which: Longs) -> Rows:
        """Some of the rows."""
        return Rows(self.start[which], self.layer[which], self.kind[which], self.pull[which])


class Chooser:
    """Chooses the experts of tokens; ``num_slots``, the work to come, decides whether compiled code is worth loading."""

    def __init__(self, race: Race, *, num_slots: int) -> None:
        self._race = race
        self._tables = race.tables()
        self._side_scores = race.side_scores()
        self._half_pull = race.half_pull()
        self._is_compiled = pays(num_slots, least=_COMPILED_SLOTS)

    def choose(self, rows: Rows) -> Ids:
        """Experts of each row in the order of arrival, shape (N, K)."""
        race, tables = self._race, self._tables
        a, b = (self._side_scores[rows.layer, rows.kind, i] + self._half_pull[rows.kind, i] * rows.pull for i in range(2))
        with np.errstate(over="ignore"):
            chance = (_ONE / (1 + np.exp(b - a))).astype(np.uint64)
        table = (rows.layer * 2 + rows.kind) * (2 * tables.columns)
        group_size = race.scores.shape[2] // race.arrivals.num_groups
        if self._is_compiled:
            chosen = np.full((len(rows.start), race.top_k), -1, dtype=np.int16)
            count = draw_experts(rows.start, chance, table, *tables, group_size, *race.arrivals, race.attempts, chosen)
        else:
            chosen, count = _draw_experts(rows.start, chance, table, tables, group_size, race)
        unfinished = np.flatnonzero(count < race.top_k)
        if len(unfinished):
            chosen[unfinished] = _finish(race, rows.at(unfinished), chosen[unfinished])
        return chosen

    def weights(self, rows: Rows, chosen: Ids) -> Reals:
        """Softmax of the noisy scores over the slots of each row, shape (N, K): shares of 1 / arrival time.

        Between two arrivals that count passes an exponential time, whose rate is the sum over the experts that may be next.
        """
        race = self._race
        E, K = race.scores.shape[2], race.top_k
        groups, per_group, kept = race.arrivals
        here = np.arange(len(chosen))
        a, b = (self._side_scores[rows.layer, rows.kind, i] + self._half_pull[rows.kind, i] * rows.pull for i in range(2))
        total = np.logaddexp(a, b)
        pulled = race.scores[rows.layer[:, None], rows.kind[:, None], chosen]
        rate = np.exp(pulled + race.side[rows.layer[:, None], chosen] / 2 * rows.pull[:, None] - total[:, None])
        at_least = np.cumsum(rate[:, ::-1], axis=1)[:, ::-1]  # all that are still to come may be next
        if groups == 1:
            waiting = np.ones((len(chosen), 1))
        else:
            waiting = np.exp(_scores(race, rows) - total[:, None]).reshape(-1, groups, E // groups).sum(axis=2)
        used = np.zeros(waiting.shape, dtype=np.int64)
        passed, times = np.zeros(len(chosen)), np.empty((len(chosen), K))
        for k in range(K):
            may = (used < per_group) & ((used > 0) | ((used > 0).sum(axis=1) < kept)[:, None])
            speed = np.maximum((waiting * may).sum(axis=1), at_least[:, k]) + _TINY
            passed -= np.log(uniform(draw(rows.start, race.attempts + E + k))) / speed
            times[:, k] = passed
            group = chosen[:, k] // (E // groups)
            waiting[here, group] -= rate[:, k]
            used[here, group] += 1
        weight = times[:, :1] / times
        result: Reals = weight / weight.sum(axis=1, keepdims=True)
        return result


def _draw_experts(  # noqa: PLR0917 (as the compiled one)
    start: Words, chance: Words, table: Longs, tables: Tables, group_size: int, race: Race
) -> tuple[Ids, Longs]:
    """As ``compiled.draw_experts``, with arrays: experts by arrival, -1 where there are none yet, and their numbers."""
    K, groups, N = race.top_k, race.arrivals.num_groups, len(start)
    chosen, count = np.full((K, N), -1, dtype=np.int16), np.zeros(N, dtype=np.int64)
    drawn = 0
    if groups == 1:
        drawn = K  # every token needs as many
        for attempt in range(K):
            chosen[attempt] = _candidates(draw(start, attempt), chance, table, tables)
        count[:] = _first_of_each(chosen)
    left = np.flatnonzero(count < K)
    some, number, rows = chosen[:, left], count[left], np.arange(len(left))
    start, chance, table = start[left], chance[left], table[left]
    used = np.zeros((groups, len(left)), dtype=np.int64)
    for attempt in range(drawn, race.attempts):
        if not len(rows):
            break
        expert = _candidates(draw(start[rows], attempt), chance[rows], table[rows], tables)
        fresh = (some[:, rows] != expert).all(axis=0)
        if groups > 1:
            fresh &= _counts(used[:, rows], expert // group_size, race.arrivals)
        took, expert = rows[fresh], expert[fresh]
        some[number[took], took] = expert
        number[took] += 1
        if groups > 1:
            used[expert // group_size, took] += 1
        if attempt >= K - 1:
            rows = rows[number[rows] < K]
    chosen[:, left], count[left] = some, number
    return np.ascontiguousarray(chosen.T), count


def _first_of_each(drawn: Ids) -> Longs:
    """Keep the first appearance of each expert in every column of ``drawn``, -1 after them; returns their number, (N,)."""
    K, N = drawn.shape
    is_new = np.ones((K, N), dtype=bool)
    for k in range(1, K):
        is_new[k] = (drawn[:k] != drawn[k]).all(axis=0)
    some = np.flatnonzero(~is_new.all(axis=0))
    here, number = np.arange(len(some)), np.zeros(len(some), dtype=np.int64)
    kept = np.full((K + 1, len(some)), -1, dtype=np.int16)
    for k in range(K):
        kept[number, here] = drawn[k, some]  # the next one overwrites it unless it is new
        number += is_new[k, some]
    kept[number, here] = -1
    drawn[:, some] = kept[:K]
    result: Longs = is_new.sum(axis=0)
    return result


def _candidates(words: Words, chance: Words, table: Longs, tables: Tables) -> Ids:
    """The expert that a draw names: the high half decides the side, the low half the column and whether to keep it."""
    at = (words & _LOW) * np.uint64(tables.columns)
    place = table + (at >> _HALF_WORD).astype(np.int64)
    place += np.where((words >> _HALF_WORD) < chance, 0, tables.columns)
    return np.where((at & _LOW) < tables.cut[place], tables.own[place], tables.other[place])


def _counts(used: Longs, group: NDArray[np.integer], arrivals: Arrivals) -> NDArray[np.bool_]:
    """Whether an arrival of each ``group`` counts, (N,), when so many of each group have arrived, ``used`` (groups, N)."""
    here = used[group, np.arange(len(group))]
    result: NDArray[np.bool_] = (here < arrivals.per_group) & ((here > 0) | ((used > 0).sum(axis=0) < arrivals.kept))
    return result


def _scores(race: Race, rows: Rows) -> Reals:
    """Score of each expert with the pull, -inf on a side that the token does not use, shape (N, E)."""
    side = race.side[rows.layer]
    allowed = np.array(race.used_sides)[rows.kind]
    scores = race.scores[rows.layer, rows.kind] + side / 2 * rows.pull[:, None]
    return np.where((side == allowed[:, :1]) | (side == allowed[:, 1:]), scores, -np.inf)


def _finish(race: Race, rows: Rows, chosen: Ids) -> Ids:
    """The rest of the experts of tokens with few left to choose from: a race of all that have not arrived."""
    E, K = race.scores.shape[2], race.top_k
    groups = np.arange(E) // (E // race.arrivals.num_groups)
    here = np.arange(len(chosen))
    noise = np.stack([uniform(draw(rows.start, race.attempts + expert)) for expert in range(E)], axis=1)
    scores = _scores(race, rows) - np.log(-np.log(noise))
    used = np.zeros((race.arrivals.num_groups, len(chosen)), dtype=np.int64)
    chosen = chosen.copy()
    for k in range(K):
        may = np.stack([_counts(used, np.full(len(chosen), group), race.arrivals) for group in range(len(used))], axis=1)
        best = np.where(may[:, groups], scores, -np.inf).argmax(axis=1)
        chosen[:, k] = np.where(chosen[:, k] < 0, best, chosen[:, k])
        scores[here, chosen[:, k]] = -np.inf
        used[groups[chosen[:, k]], here] += 1
    return chosen
