"""Formulas over named times and sizes; docs/explanation/metrics.md states each."""

from __future__ import annotations


def alltoall_bandwidth(size: float, duration: float, num_ranks: int) -> tuple[float, float]:
    """Bandwidths algbw and busbw of an all-to-all in B/s, as nccl-tests defines them; 0 where nothing is sent.

    ``algbw = size / duration`` with ``size`` the bytes of a rank, its own block included; ``busbw = algbw (n - 1) / n``.
    64 MiB over 4 ranks in 1.006633 ms: 66.67 and 50 GB/s.
    """
    if duration <= 0:
        return 0.0, 0.0
    algbw = size / duration
    return algbw, algbw * (num_ranks - 1) / num_ranks


def relative_error(predicted: float, measured: float) -> float:
    """``(predicted - measured) / measured``."""
    return (predicted - measured) / measured
