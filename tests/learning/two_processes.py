"""Run a function in two gloo processes and return what each returned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

from smoes_sim.learning.bins import ExpertBins
from smoes_sim.learning.scores import GaussianScores

IDS = torch.tensor([[0, 1], [1, 3], [1, -1], [2, 3]])
MODALITY = torch.tensor([0, 0, 1, 1])
STATES = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([[0] * 4 + [1] * 4, [0] * 8])


def _work(rank: int, function: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def in_two_processes(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """``[function(0), function(1)]``, each called where ``torch.distributed`` knows both."""
    multiprocessing.spawn(_work, args=(function, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def counted(ids: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
    bins = ExpertBins(4, 2)
    bins.update(ids, modality)
    return bins.counts


def gaussian_of(states: torch.Tensor, modality: torch.Tensor) -> list[torch.Tensor]:
    """Mean and variance after two batches."""
    gaussian = GaussianScores(5).double()
    for part in range(2):
        gaussian.update(states[part], modality[part])
    return [gaussian.mean, gaussian.variance]


def halves(rank: int) -> dict[str, Any]:
    """Statistics that a rank holds after it has seen every second token."""
    return {
        "counts": counted(IDS[rank::2], MODALITY[rank::2]),
        "gaussian": gaussian_of(STATES[:, rank::2], LABELS[:, rank::2]),
    }
