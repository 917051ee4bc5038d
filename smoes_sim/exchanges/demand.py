"""Who sends how many bytes to whom in an all-to-all: equal blocks, a skew, a trace or a matrix file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, PlacementError, TraceError
from smoes_sim.routing import load_trace
from smoes_sim.traffic.skewed import (
    full_workload_name,
    lognormal_matrix,
    read_matrix,
    trace_matrix,
    uniform_matrix,
    workload_matrix,
    zipf_matrix,
)
from smoes_sim.units import parse_message_size

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Traffic of an all-to-all as requested; default: equal blocks, 64 MiB per rank.

    At most one of ``size``, ``sweep``, ``matrix``, and one of ``matrix``, ``zipf``, ``lognormal``, ``workload``, ``trace``.

    Attributes:
        size: Bytes that each rank sends, its own block included: a number, ``64 MiB``, or ``64M`` as in nccl-tests.
        sweep: First and last of sizes that double, such as ``1K:1G``.
        matrix: File of bytes from rank to rank, or the matrix, shape (R, R).
        zipf: Exponent of the popularity of destinations.
        per_source: Whether each rank has its own popular destinations, for ``zipf``.
        lognormal: Standard deviation of the logarithm of the popularity of destinations.
        workload: Name of an imbalance workload, ``W0`` to ``W7``.
        step: Step of the workload; default 0.
        trace: File of a routing trace.
    """

    size: str | float | None = None
    sweep: str | None = None
    matrix: Path | Matrix | None = None
    zipf: float | None = None
    per_source: bool = False
    lognormal: float | None = None
    workload: str | None = None
    step: int | None = None
    trace: Path | None = None

    def check(self) -> None:
        """Check that the options agree.

        Raises:
            ConfigError: If options exclude each other, or one needs another.
        """
        if sum(given is not None for given in (self.size, self.sweep, self.matrix)) > 1:
            raise ConfigError("--bytes, --sweep and --matrix exclude each other. Give one of them.")
        names = ("matrix", "zipf", "lognormal", "workload", "trace")
        given = [f"--{name}" for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} each say who sends what. Give one of them.")
        if self.per_source and self.zipf is None:
            raise ConfigError("--per-source says how --zipf is drawn. Give --zipf too.")
        if self.step is not None and self.workload is None:
            raise ConfigError("--step picks a step of --workload. Give --workload too.")
        for name, value in (("--zipf", self.zipf), ("--lognormal", self.lognormal)):
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name} = {value}: must be a number >= 0. Write for example {name} 1.")

    @property
    def is_uniform(self) -> bool:
        """Whether all blocks are equal by construction."""
        return all(given is None for given in (self.matrix, self.zipf, self.lognormal, self.workload, self.trace))

    @property
    def description(self) -> str:
        """The traffic in words.

        Example:
            >>> Demand(zipf=1).description
            'Zipf 1, the same for all sources'
        """
        if self.zipf is not None:
            return f"Zipf {self.zipf:g}, {'drawn for each source' if self.per_source else 'the same for all sources'}"
        if self.lognormal is not None:
            return f"log-normal, sigma {self.lognormal:g}, the same for all sources"
        if self.workload is not None:
            return f"workload {full_workload_name(self.workload)}, step {self.step or 0}"
        if self.trace is not None:
            return f"in the proportions of {self.trace}"
        if self.matrix is None:
            return "equal blocks"
        return "a given matrix" if isinstance(self.matrix, np.ndarray) else f"{self.matrix}"


def sweep_sizes(low: float, high: float) -> list[float]:
    """Sizes from ``low`` to ``high`` bytes, doubling.

    Raises:
        ConfigError: If the range is empty or starts at zero.

    Example:
        >>> sweep_sizes(1024, 5000)
        [1024.0, 2048.0, 4096.0]
    """
    if not 0 < low <= high:
        raise ConfigError(
            f"--sweep = {low:.0f} B to {high:.0f} B is empty: the first size must be > 0 and <= the last. "
            'Write "1 KiB:1 GiB".'
        )
    return (low * 2.0 ** np.arange(int(np.floor(np.log2(high / low))) + 1)).tolist()


def sizes_of(size: str | float | None, sweep: str | None) -> list[float]:
    """Bytes per rank of each exchange: those of the sweep, or the one size; default 64 MiB.

    Raises:
        ConfigError: If a size cannot be read, or the sweep is empty.

    Example:
        >>> sizes_of(None, "1K:4K"), sizes_of("64M", None)
        ([1024.0, 2048.0, 4096.0], [67108864.0])
    """
    if sweep is None:
        return [_size("--bytes", "64 MiB" if size is None else size)]
    low, separator, high = sweep.partition(":")
    if not separator:
        raise ConfigError(f'--sweep = "{sweep}" is not LOW:HIGH. Write "1 KiB:1 GiB".')
    return sweep_sizes(_size("--sweep", low), _size("--sweep", high))


def choose_matrices(num_ranks: int, demand: Demand, *, seed: int) -> Iterator[Matrix]:
    """The traffic matrices of a demand in bytes, one per size, shape (R, R) each; each is made when it is asked for.

    Args:
        num_ranks: Number of ranks, R.
        demand: Sizes and skew.
        seed: Random seed of the skew.

    Raises:
        ConfigError: If the demand contradicts itself, or a size, name or file breaks a rule.
    """
    demand.check()
    if isinstance(demand.matrix, np.ndarray):
        return iter([_checked(demand.matrix, num_ranks)])
    if demand.matrix is not None:
        return iter([read_matrix(demand.matrix, num_ranks)])
    return map(_matrix_of(num_ranks, demand, seed), sizes_of(demand.size, demand.sweep))


def _matrix_of(num_ranks: int, demand: Demand, seed: int) -> Callable[[float], Matrix]:
    """A function from the bytes of a rank to the traffic matrix."""
    zipf, sigma, workload, trace = demand.zipf, demand.lognormal, demand.workload, demand.trace
    if zipf is not None:
        return lambda size: zipf_matrix(num_ranks, size, exponent=zipf, seed=seed, per_source=demand.per_source)
    if sigma is not None:
        return lambda size: lognormal_matrix(num_ranks, size, sigma=sigma, seed=seed)
    if workload is not None:
        name = full_workload_name(workload)
        return lambda size: workload_matrix(name, num_ranks, size, seed=seed, step=demand.step or 0)
    if trace is not None:
        routing = load_trace(trace)
        try:
            of_one_byte = trace_matrix(routing, num_ranks, 1.0)
        except (PlacementError, TraceError) as error:
            raise error.at(str(trace)) from None
        return lambda size: size * of_one_byte
    return lambda size: uniform_matrix(num_ranks, size)


def _checked(matrix: Matrix, num_ranks: int) -> Matrix:
    """A matrix given as an array, checked for its shape and values."""
    if matrix.shape != (num_ranks, num_ranks):
        shape = " x ".join(map(str, matrix.shape))
        raise ConfigError(f"matrix is {shape}, the topology has {num_ranks} ranks: it must be {num_ranks} x {num_ranks}.")
    if not (np.isfinite(matrix) & (matrix >= 0)).all():
        raise ConfigError("matrix holds negative or infinite numbers: its cells are bytes >= 0. Fix these cells.")
    return matrix.astype(np.float64)


def _size(option: str, text: str | float) -> float:
    try:
        return parse_message_size(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None
