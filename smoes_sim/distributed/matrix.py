"""Traffic matrices of whole bytes, and the file format that nccl-tests and ``alltoall`` read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import write_bytes

Matrix = NDArray[np.int64]
ALIGNMENT = 16
"""nccl-tests' alltoallv needs cells that are a multiple of this number of bytes."""


def even_blocks(matrix: NDArray[np.float64]) -> Matrix:
    """Equal blocks of whole bytes, rounded down, as nccl-tests does; 100 bytes over 3 ranks: 33 each."""
    return np.floor(matrix).astype(np.int64)


def aligned(matrix: NDArray[np.float64]) -> Matrix:
    """Cells rounded to the nearest multiple of 16 bytes, so that nccl-tests takes them too."""
    return np.rint(matrix / ALIGNMENT).astype(np.int64) * ALIGNMENT


def as_written(matrix: NDArray[np.float64], name: str) -> Matrix:
    """A matrix from a file, unchanged.

    Raises:
        ConfigError: If a cell is no whole number of bytes.
    """
    broken = np.argwhere(matrix != np.floor(matrix))
    if len(broken):
        row, column = broken[0].tolist()
        raise ConfigError(
            f"{name}: row {row + 1}, column {column + 1} = {matrix[row, column]:g}: only whole bytes can be sent. Round it."
        )
    return matrix.astype(np.int64)


def one_way(num_ranks: int, source: int, destination: int, size: int) -> Matrix:
    """A matrix with one message, (R, R)."""
    matrix = np.zeros((num_ranks, num_ranks), dtype=np.int64)
    matrix[source, destination] = size
    return matrix


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write rows of bytes from rank to rank, for ``NCCL_TESTS_ALLTOALLV_MATRIX_FILE`` and ``alltoall --matrix``.

    Raises:
        ConfigError: If the file cannot be written.
    """
    write_bytes(path, "".join(" ".join(map(str, row)) + "\n" for row in matrix.tolist()).encode("ascii"))
