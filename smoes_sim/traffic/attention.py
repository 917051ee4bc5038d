"""What ranks owe each other in attention where a sequence lives on several: queries, or keys and values.

A token attends to the tokens of its sequence up to itself (causal order: an image that comes first needs nothing from the
text after it). Where some of them are on another rank, there are three ways:

- ``queries``: the query travels to every rank that holds some of what it may attend to, and a partial result with its
  log-sum-exp comes back. The cache stays where it was made, in decode too.
- ``kv``: keys and values travel, in every step, once to each rank whose tokens attend to them; they are not kept.
- ``moved_cache``: as ``kv`` in prefill, but what arrives is kept, and before the first decode step the cache of every
  sequence is brought to the rank that decodes it. Decode owes nothing.

The first two are pass-Q and pass-KV of context parallelism (arXiv 2411.01783).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.models import ModelShape

Scheme = Literal["queries", "kv", "moved_cache"]
SCHEMES: tuple[Scheme, ...] = ("queries", "kv", "moved_cache")
Ints = NDArray[np.int64]
_ACTIVATION = 2
"""Bytes of an element of a query and of a result: bf16."""
_LOG_SUM_EXP = 4
"""Bytes of the log-sum-exp of a head: float32."""
_AT_ONCE = 2_000_000
"""Pairs of a token and a part of its sequence that are looked at together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Who needs whom in the attention of one step; R ranks.

    Attributes:
        queries: Tokens at home on a rank (row) that attend to something on another one (column), (R, R).
        keys: Tokens on a rank (row) that tokens at home on a rank (column) attend to, (R, R); the diagonal is at hand.
        new_keys: Those of ``keys`` to which no token of that rank has attended in an earlier step, (R, R).
        pairs: Pairs of a query at home on a rank (row) and a key on a rank (column), (R, R); the diagonal needs nothing.
        read: Keys on each rank that some token of the step attends to, (R,).
    """

    queries: Ints
    keys: Ints
    new_keys: Ints
    pairs: Ints
    read: Ints

    @property
    def is_empty(self) -> bool:
        """Whether no rank needs anything from another one."""
        return not self.queries.any()


class KeyPlaces:
    """The tokens of each sequence by the rank that holds their keys and values.

    Args:
        sequence: Sequence of each token, (T,).
        position: Number of tokens of the same sequence before it, (T,).
        place: Rank that holds its keys and values, (T,).
        num_ranks: Number of ranks, R.

    Example:
        One sequence: two image tokens on rank 0, then two of text on rank 1, each of which needs both image tokens.

        >>> places = KeyPlaces(np.zeros(4, int), np.arange(4), np.array([0, 0, 1, 1]), num_ranks=2)
        >>> needs = places.needs(np.zeros(4, int), np.arange(4), np.array([0, 0, 1, 1]))
        >>> needs.queries.tolist(), needs.keys.tolist(), needs.pairs.tolist()
        ([[0, 0], [2, 0]], [[2, 2], [0, 2]], [[3, 0], [4, 3]])
    """

    def __init__(self, sequence: Ints, position: Ints, place: Ints, *, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        part = sequence.astype(np.int64) * num_ranks + place  # one part of a sequence for each rank
        self._length = int(position.max(initial=0)) + 2
        self._keys = np.sort(part * self._length + position)
        self._parts, self._starts = np.unique(self._keys // self._length, return_index=True)
        first = np.searchsorted(self._parts, np.arange(int(sequence.max(initial=-1)) + 2) * num_ranks)
        self._first, self._number = first[:-1], np.diff(first)

    def needs(self, sequence: Ints, position: Ints, home: Ints) -> Needs:
        """What the attention of some tokens needs.

        Args:
            sequence: Sequence of each, (N,).
            position: Their places in the sequence, (N,).
            home: Their home ranks, (N,).
        """
        ranks = self._num_ranks
        queries, pairs = np.zeros((ranks, ranks), np.int64), np.zeros((ranks, ranks), np.int64)
        for token, rank, count in self._reach(sequence, position):
            np.add.at(pairs, (home[token], rank), count)
            np.add.at(queries, (home[token], rank), (count > 0) & (rank != home[token]))
        part, first, last = _ends(sequence.astype(np.int64) * ranks + home, position)
        keys = self._keys_of(part, last)
        whole, _, end = _ends(sequence.astype(np.int64), position)
        read = np.zeros(ranks, np.int64)
        for _, rank, count in self._reach(whole, end):
            np.add.at(read, rank, count)
        new_keys = keys - self._keys_of(part, self._before(part, first))
        return Needs(queries=queries, keys=keys, new_keys=new_keys, pairs=pairs, read=read)

    def to_move(self, decode_home: Ints, last: Ints, *, up_to: Ints) -> Ints:
        """Tokens that are not yet on the rank that decodes their sequence, from rank to rank, (R, R).

        Args:
            decode_home: That rank, for each sequence, (B,); -1 where it is not decoded.
            last: Position up to which that rank has received the others, (B,); -1 for none.
            up_to: Position of the last token that may have to move, (B,).
        """
        found = np.zeros((self._num_ranks, self._num_ranks), np.int64)
        sequence = np.flatnonzero(decode_home >= 0)
        decode_home = decode_home[sequence]
        for position, sign in ((up_to[sequence], 1), (last[sequence], -1)):
            for index, rank, count in self._reach(sequence, position):
                np.add.at(found, (rank, decode_home[index]), sign * count)
        np.fill_diagonal(found, 0)
        return found

    def _keys_of(self, part: Ints, last: Ints) -> Ints:
        """Tokens up to a position of the same sequences, by their rank and that of the parts, (R, R)."""
        found = np.zeros((self._num_ranks, self._num_ranks), np.int64)
        for index, rank, count in self._reach(part // self._num_ranks, last):
            np.add.at(found, (rank, part[index] % self._num_ranks), count)
        return found

    def _before(self, part: Ints, position: Ints) -> Ints:
        """Position of the token before one in its part of the sequence; -1 where it is the first."""
        index = np.searchsorted(self._keys, part * self._length + position) - 1
        before = self._keys[np.maximum(index, 0)]
        is_same = (index >= 0) & (before // self._length == part)
        return np.where(is_same, before % self._length, -1)

    def _reach(self, sequence: Ints, position: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
        """For each token and each rank with a part of its sequence: token, rank, keys up to a position; in blocks."""
        number = self._number[sequence]
        block = np.cumsum(number) // _AT_ONCE
        for tokens in np.split(np.arange(len(sequence)), np.flatnonzero(np.diff(block)) + 1):
            each = np.repeat(tokens, number[tokens])
            among = np.arange(len(each)) - np.repeat(np.cumsum(number[tokens]) - number[tokens], number[tokens])
            index = self._first[sequence[each]] + among
            up_to = self._parts[index] * self._length + np.minimum(position[each], self._length - 1)
            count = np.searchsorted(self._keys, up_to, "right") - self._starts[index]
            yield each, self._parts[index] % self._num_ranks, count


def _ends(part: Ints, position: Ints) -> tuple[Ints, Ints, Ints]:
    """Parts that occur, ascending, with their first and last positions."""
    order = np.lexsort((position, part))
    found, start = np.unique(part[order], return_index=True)
    stop = np.append(start[1:], len(part)) - 1
    return found, position[order][start], position[order][stop]


def query_bytes(model: ModelShape) -> tuple[int, int]:
    """Bytes of a token's query in one layer, and of the partial result that comes back, in bf16.

    Query: heads * width of a query head. Result: heads * width of a value head, and a float32 log-sum-exp per head, by which
    partial results are weighted. MLA's up-projections are on every rank, so its heads travel in their own width.

    Example:
        OLMoE: 16 heads * 128 * 2 B = 4096 B, and back 64 B more.

        >>> from smoes_sim.models import find_model
        >>> query_bytes(find_model("olmoe-1b-7b"))
        (4096, 4160)
    """
    if model.mla is None:
        query = value = model.head_dim
    else:
        query, value = model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim, model.mla.v_head_dim
    return _ACTIVATION * model.heads * query, model.heads * (_ACTIVATION * value + _LOG_SUM_EXP)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTraffic:
    """Bytes from rank to rank around the scores of one layer, and the work of the scores on each rank.

    Attributes:
        outward: Bytes of queries, or of keys and values, before the scores, (R, R).
        homeward: Bytes of partial results after them, (R, R).
        pairs: Pairs of a query and a key that are computed on each rank, (R,).
        away: Those of them that wait for another rank, (R,).
        read: Keys that are read on each rank, (R,).
    """

    outward: NDArray[np.float64]
    homeward: NDArray[np.float64]
    pairs: Ints
    away: Ints
    read: Ints

    @property
    def total_bytes(self) -> float:
        """Bytes between ranks in one layer."""
        return float(self.outward.sum() + self.homeward.sum())


def attention_traffic(needs: Needs, scheme: Scheme, model: ModelShape, *, cache_bytes: float) -> AttentionTraffic:
    """What a scheme sends, and where it computes.

    Under ``queries`` scores are computed where the keys are, otherwise at the home of the query.

    Args:
        needs: Who needs whom.
        scheme: The way.
        model: Widths of the heads.
        cache_bytes: Bytes of the keys and values of a token in one layer, as they are in the cache.

    Example:
        OLMoE, the two image and two text tokens of :class:`KeyPlaces`: two queries, or keys and values of two tokens.

        >>> from smoes_sim.models import find_model
        >>> places = KeyPlaces(np.zeros(4, int), np.arange(4), np.array([0, 0, 1, 1]), num_ranks=2)
        >>> needs = places.needs(np.zeros(4, int), np.arange(4), np.array([0, 0, 1, 1]))
        >>> model = find_model("olmoe-1b-7b")
        >>> [attention_traffic(needs, way, model, cache_bytes=8192).total_bytes for way in ("queries", "kv")]
        [16512.0, 16384.0]
    """
    at_hand = np.diag(needs.pairs)
    if scheme == "queries":
        query, result = query_bytes(model)
        return AttentionTraffic(
            outward=np.multiply(needs.queries, float(query)),
            homeward=np.multiply(needs.queries.T, float(result)),
            pairs=needs.pairs.sum(axis=0),
            away=needs.pairs.sum(axis=0) - at_hand,
            read=needs.read,
        )
    sent = needs.keys if scheme == "kv" else needs.new_keys
    return AttentionTraffic(
        outward=np.multiply(sent - np.diag(np.diag(sent)), cache_bytes, dtype=np.float64),
        homeward=np.zeros(sent.shape),
        pairs=needs.pairs.sum(axis=1),
        away=needs.pairs.sum(axis=1) - at_hand,
        read=needs.keys.sum(axis=0),
    )
