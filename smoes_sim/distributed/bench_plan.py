"""What a benchmark sends: the cases that are asked for, one per size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from smoes_sim.distributed.matrix import Matrix, aligned, as_written, even_blocks, one_way
from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.demand import Demand, choose_matrices

Operation = Literal["alltoall", "sendrecv"]


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """One operation of one size.

    Attributes:
        operation: ``alltoall`` sends a matrix; ``sendrecv`` sends one message there and back.
        matrix: Bytes from rank to rank, the own blocks on the diagonal, shape (R, R).
        is_even: Whether all blocks are equal by construction, so that the size describes the matrix.
    """

    operation: Operation
    matrix: Matrix
    is_even: bool

    @property
    def collective(self) -> str:
        """``alltoall``, ``alltoallv`` or ``sendrecv``, as nccl-tests calls it."""
        return "alltoallv" if self.operation == "alltoall" and not self.is_even else self.operation

    @property
    def size(self) -> int:
        """Bytes: the largest sum over a row or column; for equal blocks what a rank sends, its own block included."""
        return int(max(self.matrix.sum(axis=0).max(), self.matrix.sum(axis=1).max()))

    @property
    def words(self) -> str | None:
        """What is sent, in words; None where the demand describes it."""
        if self.operation == "alltoall":
            return None
        source, destination = np.argwhere(self.matrix)[0].tolist()
        return f"from rank {source} to rank {destination} and back, half of the time for both"

    @property
    def name(self) -> str:
        """Name for messages and progress."""
        return f"{self.collective} of {self.size} B"


def choose_cases(
    operation: Operation, num_ranks: int, demand: Demand, *, pair: tuple[int, int], seed: int
) -> list[BenchCase]:
    """The cases that are asked for, one per size.

    Args:
        operation: Operation to measure.
        num_ranks: R.
        demand: Sizes and skew; for ``sendrecv`` sizes only.
        pair: Ranks between which ``sendrecv`` goes.
        seed: Seed of the skew.

    Raises:
        ConfigError: If the demand contradicts itself, or nothing would be sent.
    """
    matrices = list(choose_matrices(num_ranks, demand, seed=seed))
    if operation == "sendrecv":
        if not demand.is_uniform:
            raise ConfigError("sendrecv sends one message there and back. Give only --bytes or --sweep.")
        if not (min(pair) >= 0 and max(pair) < num_ranks and pair[0] != pair[1]):
            raise ConfigError(f"--pair = {pair[0]}:{pair[1]}: must be two of the ranks 0 to {num_ranks - 1}. Write 0:1.")
        sizes = [round(float(matrix.sum(axis=1)[0])) for matrix in matrices]
        cases = [BenchCase(operation=operation, matrix=one_way(num_ranks, *pair, size), is_even=False) for size in sizes]
    elif demand.matrix is not None:
        cases = [BenchCase(operation=operation, matrix=as_written(matrices[0], str(demand.matrix)), is_even=False)]
    else:
        whole = even_blocks if demand.is_uniform else aligned
        cases = [BenchCase(operation=operation, matrix=whole(matrix), is_even=demand.is_uniform) for matrix in matrices]
    if num_ranks < 2:
        raise ConfigError("1 rank has no other rank to send to. Use --ranks 2 or more.")
    for case in cases:
        if not (case.matrix * (1 - np.eye(num_ranks, dtype=np.int64))).any():
            raise ConfigError(f"{case.name}: no rank sends anything to another. Give a larger size.")
    return cases
