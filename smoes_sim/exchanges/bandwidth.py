"""Formulas over named times and sizes; docs/explanation/metrics.md states each."""

from __future__ import annotations


def alltoall_bandwidth(size: float, duration: float, num_ranks: int) -> tuple[float, float]:
    """Bandwidths algbw and busbw of an all-to-all in B/s, as nccl-tests defines them; 0 where nothing is sent.

    ``algbw = size / duration`` with ``size`` the bytes of a rank, its own block included; ``busbw = algbw (n - 1) / n``.

    Example:
        64 MiB over 4 ranks in 1.00663296 ms:

        >>> algbw, busbw = alltoall_bandwidth(64 * 2**20, 1.00663296e-3, 4)
        >>> round(algbw / 1e9, 2), round(busbw / 1e9, 2)
        (66.67, 50.0)
    """
    if duration <= 0:
        return 0.0, 0.0
    algbw = size / duration
    return algbw, algbw * (num_ranks - 1) / num_ranks


def relative_error(predicted: float, measured: float) -> float:
    """``(predicted - measured) / measured``.

    Example:
        >>> relative_error(1.5, 1.0)
        0.5
    """
    return (predicted - measured) / measured
