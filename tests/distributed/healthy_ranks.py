"""Ranks of which none fails: every exchange against the obvious answer, and clocks; healthy_ranks.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clock_checks import check_clocks
from numpy.typing import NDArray
from torch import Tensor

from smoes_sim.distributed import patterns
from smoes_sim.distributed.group import RankGroup, join
from smoes_sim.distributed.patterns import exchange, pattern_names

DTYPES = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64)
NODES = ([0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 1, 2, 3], [0, 0, 0, 0])
WIDTH = 3


def tables(num_ranks: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(7)
    uneven = [rng.integers(0, 40, (num_ranks, num_ranks)) for _ in range(3)]
    sparse = np.where(rng.random((num_ranks, num_ranks)) < 0.6, 0, uneven[0])
    mute, deaf, hot = uneven[1].copy(), uneven[2].copy(), np.zeros_like(uneven[0])
    mute[1], deaf[:, 2], hot[:, 0] = 0, 0, 50
    return [*uneven, sparse, mute, deaf, hot, np.zeros_like(hot), np.ones_like(hot)]


def rows_of(source: int, destination: int, count: int, dtype: torch.dtype) -> Tensor:
    """What a pair exchanges: known to all, different for every pair."""
    numbers = torch.arange(count * WIDTH).reshape(-1, WIDTH) + 7 * source + 3 * destination
    return (numbers % 97).to(torch.float32).to(dtype)


def check_table(group: RankGroup, counts: NDArray[np.int64], dtype: torch.dtype) -> None:
    rank, ranks = group.place.rank, range(group.place.num_ranks)
    send = torch.cat([rows_of(rank, peer, int(counts[rank, peer]), dtype) for peer in ranks])
    expected = torch.cat([rows_of(peer, rank, int(counts[peer, rank]), dtype) for peer in ranks])
    outward, inward = counts[rank].tolist(), counts[:, rank].tolist()
    for name in pattern_names():
        for nodes in NODES if name == "two_hop" else NODES[:1]:
            send_all = exchange(name, node_of_rank=nodes)
            for known in (None, counts.tolist()):
                received = send_all(send, outward, inward, counts=known)
                assert received.dtype == dtype
                assert torch.equal(received.view(torch.uint8), expected.view(torch.uint8)), (name, nodes, counts)
            room = torch.zeros_like(expected)
            assert send_all(send, outward, inward, out=room, counts=counts.tolist()) is room
            assert torch.equal(room.view(torch.uint8), expected.view(torch.uint8)), (name, nodes, counts)


def main() -> None:
    with join(timeout=600, backend="gloo") as group:
        check_clocks(group, Path(sys.argv[1]))
        for number, counts in enumerate(tables(group.place.num_ranks)):
            check_table(group, counts, DTYPES[number % len(DTYPES)])
            patterns._is_coalescing = lambda _: True  # the order of NCCL's batches, on gloo
            check_table(group, counts, DTYPES[number % len(DTYPES)])
            patterns._is_coalescing = lambda _: False
        with pytest.raises(ValueError, match="add up to 2"):
            exchange("direct")(torch.zeros(3, 1), [1, 1, 0, 0], [0, 0, 0, 0])


if __name__ == "__main__":
    main()
