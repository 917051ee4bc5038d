"""nccl-tests for a cluster that is not there: time one all-to-all of a given size, skew or matrix."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.metrics import alltoall_bandwidth
from smoes_sim.network import Flows, Network, Order, Schedule, exchange_time, lower_bound, phases_of
from smoes_sim.network.fifo import Injection, fifo_exchange_time
from smoes_sim.skew import read_matrix, uniform_matrix, zipf_matrix
from smoes_sim.units import parse_size

Fidelity = Literal["bound", "fluid", "fifo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlltoallOptions:
    """How the exchange is done."""

    schedule: Schedule = "direct"
    order: Order = "shifted"
    fidelity: Fidelity = "fluid"
    tolerance: float = 1e-4
    injection: Injection = "fifo"
    window: float = math.inf
    seed: int = 0


def sweep_sizes(low: float, high: float) -> list[float]:
    """Sizes from ``low`` to ``high``, doubling.

    Raises:
        ConfigError: If the range is empty or starts at zero.
    """
    if not 0 < low <= high:
        raise ConfigError(
            f"--sweep = {low:.0f} B to {high:.0f} B is empty: the first size must be > 0 and <= the last. "
            'Write "1 KiB:1 GiB".'
        )
    return list(low * 2.0 ** np.arange(int(np.floor(np.log2(high / low))) + 1))


def choose_matrices(
    num_ranks: int,
    *,
    size: str | None,
    sweep: str | None,
    matrix: Path | None,
    zipf: float | None,
    per_source: bool,
    seed: int,
) -> list[NDArray[np.float64]]:
    """The matrices that the command line asks for: one size (64 MiB when nothing is said), a sweep, or a file.

    Raises:
        ConfigError: If more than one is asked for, or one breaks a rule.
    """
    if sum(given is not None for given in (size, sweep, matrix)) > 1:
        raise ConfigError("--bytes, --sweep and --matrix exclude each other. Give one of them.")
    if per_source and zipf is None:
        raise ConfigError("--per-source says how --zipf is drawn. Give --zipf too.")
    if matrix is not None:
        if zipf is not None:
            raise ConfigError("--matrix already says who sends what. Leave out --zipf.")
        return [read_matrix(matrix, num_ranks)]
    if sweep is not None:
        low, separator, high = sweep.partition(":")
        if not separator:
            raise ConfigError(f'--sweep = "{sweep}" is not LOW:HIGH. Write "1 KiB:1 GiB".')
        sizes = sweep_sizes(_size("--sweep", low), _size("--sweep", high))
    else:
        sizes = [_size("--bytes", "64 MiB" if size is None else size)]
    if zipf is None:
        return [uniform_matrix(num_ranks, value) for value in sizes]
    return [zipf_matrix(num_ranks, value, exponent=zipf, seed=seed, per_source=per_source) for value in sizes]


def _size(option: str, text: str) -> float:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None


def _time(network: Network, phases: Sequence[Flows], options: AlltoallOptions) -> tuple[float, float]:
    """Seconds of an exchange at a fidelity, and the relative error of the solution (not of the model)."""
    if options.fidelity == "bound":
        return lower_bound(network, phases), 0.0
    if options.fidelity == "fifo":
        return fifo_exchange_time(network, phases, injection=options.injection, window=options.window).duration, 0.0
    result = exchange_time(network, phases, tolerance=options.tolerance)
    return result.duration, result.error_bound


def alltoall_rows(
    network: Network, matrices: Sequence[NDArray[np.float64]], options: AlltoallOptions
) -> Iterator[dict[str, Any]]:
    """One row per matrix: nccl-tests' columns, the lower bound, how many flows and links.

    ``size_bytes`` is what nccl-tests prints: for equal blocks the bytes of a rank, its own block included; for unequal
    ones the largest sum over a row or column.
    """
    for matrix in matrices:
        size = float(max(matrix.sum(axis=0).max(), matrix.sum(axis=1).max()))
        phases = phases_of(network, [matrix], schedule=options.schedule, order=options.order, seed=options.seed)
        started = time.perf_counter()
        bound = lower_bound(network, phases)
        duration, error = _time(network, phases, options)
        algbw, busbw = alltoall_bandwidth(size, duration, network.topology.num_ranks)
        yield {
            "size_bytes": size,
            "time_s": duration,
            "algbw_GBps": algbw / 1e9,
            "busbw_GBps": busbw / 1e9,
            "bound_s": bound,
            "flows": sum(len(flows) for flows in phases),
            "links": network.topology.num_links,
            "error_bound": error,
            "wall_s": time.perf_counter() - started,
        }
