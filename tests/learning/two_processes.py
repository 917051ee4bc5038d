"""Runs a function in two gloo processes and hands back what each returned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing


def _work(rank: int, function: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def in_two_processes(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """``[function(0), function(1)]``, each called where ``torch.distributed`` knows both."""
    multiprocessing.spawn(_work, args=(function, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]
