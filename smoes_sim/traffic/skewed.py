"""Traffic matrices with a given skew, without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, TraceError
from smoes_sim.placement import home_tokens, place_experts
from smoes_sim.routing import RoutingTrace
from smoes_sim.traffic.copies import count_traffic
from smoes_sim.yaml_files import nearest, read_text

Matrix = NDArray[np.float64]
_EXPERTS_PER_RANK = 8
"""Number of experts per rank in the named workloads; W1 and W3 make some of them hot."""
_HEAT = 4.0
"""Ratio of the load of a hot expert or rank to that of a cold one in the named workloads."""
_HOT_SHARE = 16
"""One expert in 16 is hot in W1 and W3."""
_BURST_PERIOD = 10
"""W7 bursts in one step of 10."""


def uniform_matrix(num_ranks: int, size: float) -> Matrix:
    """Bytes from rank to rank if each sends ``size`` in equal blocks, its own included, shape (R, R).

    Example:
        >>> uniform_matrix(2, 64.0).tolist()
        [[32.0, 32.0], [32.0, 32.0]]
    """
    return np.full((num_ranks, num_ranks), size / num_ranks)


def zipf_matrix(num_ranks: int, size: float, *, exponent: float, seed: int, per_source: bool) -> Matrix:
    """Bytes from rank to rank if the k-th most popular destination gets a share of ``k ** -exponent``, shape (R, R).

    Every rank sends ``size`` in total. The order of popularity is drawn once for all ranks or, with ``per_source``, for each
    rank. Exponent 0 is uniform; 4 ranks and exponent 1: shares 12/25, 6/25, 4/25, 3/25.

    Example:
        >>> sorted(zipf_matrix(4, 25.0, exponent=1, seed=0, per_source=False)[0].round(6).tolist())
        [3.0, 4.0, 6.0, 12.0]
    """
    rng = np.random.default_rng(seed)
    share = np.arange(1, num_ranks + 1, dtype=np.float64) ** -exponent
    share /= share.sum()
    if per_source:
        return size * np.stack([rng.permutation(share) for _ in range(num_ranks)])
    return size * np.tile(rng.permutation(share), (num_ranks, 1))


def lognormal_matrix(num_ranks: int, size: float, *, sigma: float, seed: int) -> Matrix:
    """Bytes from rank to rank if the popularity of destinations is log-normal, the same for all sources, shape (R, R).

    ``sigma`` is the standard deviation of the logarithm. Measured per-rank loads of expert parallelism fit a log-normal best
    (DeepEP pull request 393).
    """
    level = sigma * np.random.default_rng(seed).standard_normal(num_ranks)
    share = np.exp(level - level.max())  # the same shares, and no overflow
    return size * np.tile(share / share.sum(), (num_ranks, 1))


def workload_matrix(name: str, num_ranks: int, size: float, *, seed: int, step: int = 0) -> Matrix:
    """Bytes from rank to rank of a named imbalance workload, shape (R, R); depends on (name, seed, step) only.

    Names and purposes are those of Megatron-LM pull request 7488 (September 2026); the numbers are our choice: 8 experts per
    rank, one expert in 16 hot, hot is 4 times cold. Ranks send ``size`` on average.

    Args:
        name: ``W0_balanced`` or ``W0``; see :func:`workload_names`.
        num_ranks: Number of ranks, R.
        size: Bytes.
        seed: Random seed that chooses the hot ranks.
        step: Moves the hot rank of W6; every tenth step from 0 on is a burst in W7.

    Raises:
        ConfigError: If there is no such workload.
    """
    rng = np.random.default_rng(seed)
    sends, receives = _WORKLOADS[full_workload_name(name)](num_ranks, rng, step)
    return size * np.outer(sends / sends.mean(), receives / receives.sum())


def full_workload_name(name: str) -> str:
    """Full name of a workload, from it or from its first two characters.

    Raises:
        ConfigError: If there is no such workload.

    Example:
        >>> full_workload_name("W2")
        'W2_hot_rank'
    """
    for known in _WORKLOADS:
        if name in {known, known.partition("_")[0]}:
            return known
    raise ConfigError(f'workload = "{name}" is unknown. {nearest(name, _WORKLOADS)}')


def workload_names() -> list[str]:
    """Names of the imbalance workloads."""
    return list(_WORKLOADS)


Vectors = tuple[NDArray[np.float64], NDArray[np.float64]]


def _balanced(num_ranks: int, _rng: np.random.Generator, _step: int) -> Vectors:
    return np.ones(num_ranks), np.ones(num_ranks)


def _hot_experts(num_ranks: int, rng: np.random.Generator, *, spread: bool) -> Vectors:
    """Hot experts side by side from a random one on, or spread evenly over the layout."""
    num_experts = num_ranks * _EXPERTS_PER_RANK
    count = max(1, num_experts // _HOT_SHARE)
    first = int(rng.integers(num_experts))
    hot = (first + np.arange(count) * (num_experts // count if spread else 1)) % num_experts
    heat = np.ones(num_experts)
    heat[hot] = _HEAT
    return np.ones(num_ranks), heat.reshape(num_ranks, _EXPERTS_PER_RANK).sum(axis=1)


def _hot_expert_set(num_ranks: int, rng: np.random.Generator, _step: int) -> Vectors:
    return _hot_experts(num_ranks, rng, spread=False)


def _spread_hot_experts(num_ranks: int, rng: np.random.Generator, _step: int) -> Vectors:
    return _hot_experts(num_ranks, rng, spread=True)


def _hot_rank(num_ranks: int, rng: np.random.Generator, step: int) -> Vectors:
    del step
    receives = np.ones(num_ranks)
    receives[rng.integers(num_ranks)] = _HEAT
    return np.ones(num_ranks), receives


def _source_ragged(num_ranks: int, rng: np.random.Generator, _step: int) -> Vectors:
    """Sources hold between one and four times the tokens of the smallest."""
    return rng.uniform(1, _HEAT, num_ranks), np.ones(num_ranks)


def _zero_expert_rank(num_ranks: int, rng: np.random.Generator, _step: int) -> Vectors:
    """A quarter of the ranks, never all of them, receives nothing."""
    receives = np.ones(num_ranks)
    receives[rng.permutation(num_ranks)[: min(max(1, num_ranks // 4), num_ranks - 1)]] = 0
    return np.ones(num_ranks), receives


def _rotating_hotspot(num_ranks: int, rng: np.random.Generator, step: int) -> Vectors:
    receives = np.ones(num_ranks)
    receives[(int(rng.integers(num_ranks)) + step) % num_ranks] = _HEAT
    return np.ones(num_ranks), receives


def _burst(num_ranks: int, rng: np.random.Generator, step: int) -> Vectors:
    """Balanced, except for one step in ten, which has a hot rank."""
    return _hot_rank(num_ranks, rng, step) if step % _BURST_PERIOD == 0 else _balanced(num_ranks, rng, step)


_WORKLOADS: dict[str, Callable[[int, np.random.Generator, int], Vectors]] = {
    "W0_balanced": _balanced,
    "W1_hot_expert_set": _hot_expert_set,
    "W2_hot_rank": _hot_rank,
    "W3_spread_hot_experts": _spread_hot_experts,
    "W4_source_ragged": _source_ragged,
    "W5_zero_expert_rank": _zero_expert_rank,
    "W6_rotating_hotspot": _rotating_hotspot,
    "W7_burst": _burst,
}


def trace_matrix(trace: RoutingTrace, num_ranks: int, size: float) -> Matrix:
    """Bytes from rank to rank in the proportions of a trace, summed over its layers, shape (R, R).

    Ranks send ``size`` on average. Experts are in the model's order, sequences are spread over the ranks, no deduplication.

    Raises:
        PlacementError: If some ranks have no expert.
        TraceError: If no token goes to any expert.
    """
    placement = place_experts("contiguous", trace, num_ranks=num_ranks, rng=np.random.default_rng(0))
    home = home_tokens("data_parallel", trace, placement)
    copies = count_traffic(trace, placement, home, deduplicate="none").stages[0].sum(axis=0)
    if not copies.any():
        raise TraceError("no token goes to any expert. Take a trace with expert ids >= 0.")
    matrix: Matrix = copies * (size * num_ranks / copies.sum())
    return matrix


def read_matrix(path: Path, num_ranks: int) -> Matrix:
    """Bytes from rank to rank from a file, shape (R, R): numbers separated by white space, row i sent by rank i.

    The form is that of the alltoallv file of nccl-tests.

    Raises:
        ConfigError: With file and line, if a cell is no number >= 0 or the shape is not R x R.
    """
    rows = []
    for line_number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            rows.append([_cell(path, line_number, text) for text in line.split()])
    widths = {len(row) for row in rows}
    if len(rows) != num_ranks or widths != {num_ranks}:
        found = f"{len(rows)} x {'/'.join(map(str, sorted(widths))) or 0}"
        raise ConfigError(f"{path}: is {found}, the topology has {num_ranks} ranks: it must be {num_ranks} x {num_ranks}.")
    return np.array(rows)


def _cell(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value) or value < 0:
        raise ConfigError(f'{path}:{line}: "{text}" is not a number of bytes >= 0. Fix this cell.')
    return value
