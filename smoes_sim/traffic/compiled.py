"""The counts of ``copies`` as a loop compiled by numba, with the same results; imported only when that pays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smoes_sim.jit import jit

Longs = NDArray[np.int64]
Ids = NDArray[np.int16]


@jit(
    "void(i2[:, :], i8[::1], i8[:, ::1], i8[::1], i8[::1], i8, i8, b1,"
    " i8[::1], i8[::1], i8[:, ::1], b1[:, ::1], i8[::1], i8[::1])"
)
def count_layer(  # noqa: PLR0912, PLR0917 (one loop; numba takes no keywords)
    experts: Ids, home: Longs, copies: Longs, number: Longs, forwarder: Longs, ep_size: int, sharing: int, once: bool,
    turn: Longs, slots: Longs, expert_slots: Longs, is_active: NDArray[np.bool_], first: Longs, second: Longs,
) -> None:  # fmt: skip
    """Add the counts of some tokens in a layer.

    Args:
        experts: Expert of each slot, -1 for none, shape (T, K).
        home: Home rank of each token, shape (T,).
        copies: Ranks of the copies of each expert in its group, shape (E, C).
        number: Their number, shape (E,).
        forwarder: Rank that takes what home ``i`` sends to rank ``j``, at ``i * R + j``; empty: none does.
        ep_size: Ranks of a group.
        sharing: Ranks that share each expert.
        once: Whether a token is sent once to each rank.
        turn: Routed tokens of each expert so far that had no copy of it at home, shape (E,).
        slots: Routed tokens of each rank, shape (R,).
        expert_slots: Routed tokens of each expert in each group, shape (G, E).
        is_active: Whether a rank has tokens for an expert, shape (R, E).
        first: Copies from rank to rank, shape (R * R,); with forwarders those between nodes.
        second: Copies that forwarders send on, shape (R * R,); empty without forwarders.
    """
    num_ranks, top_k = len(slots), experts.shape[1]
    ranks, gateways = np.empty(top_k * sharing, np.int64), np.empty(top_k * sharing, np.int64)
    for token in range(len(home)):
        source = home[token]
        start = source // ep_size * ep_size
        seen, passed = 0, 0
        for slot in range(top_k):
            expert = experts[token, slot]
            if expert < 0:
                continue
            at = 0
            if number[expert] > 1:
                here = (source - start) // sharing * sharing
                at = -1
                for copy in range(number[expert]):
                    if copies[expert, copy] == here:
                        at = copy
                if at < 0:
                    at = turn[expert] % number[expert]
                    turn[expert] += 1
            expert_slots[source // ep_size, expert] += 1
            for part in range(sharing):
                rank = start + copies[expert, at] + part
                slots[rank] += 1
                is_active[rank, expert] = True
                is_new = True
                if once:
                    for earlier in range(seen):
                        if ranks[earlier] == rank:
                            is_new = False
                    ranks[seen] = rank
                    seen += is_new
                if not is_new:
                    continue
                if not len(forwarder):
                    first[source * num_ranks + rank] += 1
                    continue
                gateway = forwarder[source * num_ranks + rank]
                second[gateway * num_ranks + rank] += 1
                is_new = gateway != source
                for earlier in range(passed):
                    if gateways[earlier] == gateway:
                        is_new = False
                if is_new:
                    gateways[passed] = gateway
                    passed += 1
                    first[source * num_ranks + gateway] += 1
