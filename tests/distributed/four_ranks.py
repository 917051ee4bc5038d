"""Runs a function in gloo processes, mostly four, and hands back what each returned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forked import fork_context
from torch import distributed

RANKS = 4


def _work(rank: int, num_ranks: int, function: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def on_four_ranks(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """``[function(0), .., function(3)]``, each called where ``torch.distributed`` knows all of them."""
    return on_ranks(function, folder, num_ranks=RANKS)


def on_ranks(function: Callable[[int], Any], folder: Path, *, num_ranks: int) -> list[Any]:
    """The same with another number of ranks."""
    context = fork_context()
    ranks = [context.Process(target=_work, args=(rank, num_ranks, function, str(folder))) for rank in range(num_ranks)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * num_ranks
    return [torch.load(folder / f"{rank}.pt") for rank in range(num_ranks)]
