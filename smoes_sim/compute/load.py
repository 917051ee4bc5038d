"""The rates that a device reaches, and the work of each rank in a step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute.devices import Device
from smoes_sim.compute.formats import CacheFormat, WeightFormat, Weights
from smoes_sim.compute.roofline import roofline_time

Floats = NDArray[np.float64]
ACTIVATION = 2
"""Bytes of an activation: bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeRates:
    """A device and the shares of its peaks that are reached.

    Attributes:
        device: Peaks and bandwidth.
        flops_efficiency: Share of the peak.
        memory_efficiency: Share of the memory bandwidth.
        launch: Seconds per part of a layer.
        per_layer: Seconds of software per layer, outside the roofline.
        weights: Format in which projections and experts are stored and multiplied, or one by part; the router is bf16.
        cache: Format of the KV cache; scores are computed in bf16.
    """

    device: Device
    flops_efficiency: float
    memory_efficiency: float
    launch: float
    per_layer: float
    weights: Weights = "bf16"
    cache: CacheFormat = "bf16"

    def time(self, flops: Floats, bytes_moved: Floats, *, precision: WeightFormat = "bf16") -> Floats:
        """Seconds of each piece of work, launch included, in the broadcast shape of ``flops`` and ``bytes_moved``.

        Args:
            flops: Operations of each piece.
            bytes_moved: Bytes of each piece.
            precision: Format of the weights that are multiplied; :meth:`Device.peak` says at which rate.
        """
        return roofline_time(
            flops=flops,
            bytes_moved=bytes_moved,
            device=self.device,
            flops_efficiency=self.flops_efficiency,
            memory_efficiency=self.memory_efficiency,
            launch=self.launch,
            precision=precision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLoad:
    """Work of each rank in one step, prefill and decode together; R ranks, L MoE layers.

    Attributes:
        prefill: Number of prompt tokens at home on each rank, shape (R,).
        pairs: Number of (prompt token, token that it attends to) pairs, shape (R,).
        earlier: Number of tokens of the same sequences that earlier steps have prefilled, shape (R,).
        decode: Number of tokens that are decoded, shape (R,).
        context: Number of (decoded token, token that it attends to) pairs, all read from the cache, shape (R,).
        outputs: Number of sequences whose next token each rank produces, shape (R,).
        slots: Number of routed tokens of each rank, shape (L, R).
        active_experts: Number of experts of each rank that process at least one token, shape (L, R).
        away_pairs: Number of those of ``pairs`` for which another rank must send a query, or keys and values, first, (R,).
        away_context: The same of ``context``, (R,).
        together: Number of decoded tokens of a sequence that are computed together and read its cache once.
        near_pairs: ``pairs`` of a sliding layer, sum of min(number of tokens that it attends to, window) over prompt tokens,
            (R,); None, as the next two, for models without such layers.
        near_earlier: ``earlier`` of a sliding layer, min(earlier, window - 1) of each sequence, (R,).
        near_context: ``context`` of a sliding layer, min(number of tokens that it attends to, window) of each, (R,).
    """

    prefill: NDArray[np.int64]
    pairs: NDArray[np.int64]
    earlier: NDArray[np.int64]
    decode: NDArray[np.int64]
    context: NDArray[np.int64]
    outputs: NDArray[np.int64]
    slots: NDArray[np.int64]
    active_experts: NDArray[np.int64]
    away_pairs: NDArray[np.int64] | None = None
    away_context: NDArray[np.int64] | None = None
    together: int = 1
    near_pairs: NDArray[np.int64] | None = None
    near_earlier: NDArray[np.int64] | None = None
    near_context: NDArray[np.int64] | None = None

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Number of tokens at home on each rank, shape (R,)."""
        return self.prefill + self.decode

    @property
    def near(self) -> RankLoad:
        """The same work where every token attends to the last ``window`` tokens alone."""
        assert self.near_pairs is not None, "the load of a model with sliding layers"
        assert self.near_earlier is not None
        assert self.near_context is not None
        return replace(self, pairs=self.near_pairs, earlier=self.near_earlier, context=self.near_context)

    @property
    def away(self) -> tuple[Floats, Floats]:
        """Shares of the pairs in prefill and in decode that wait for another rank, (R,) each."""

        def share(away: NDArray[np.int64] | None, pairs: NDArray[np.int64]) -> Floats:
            return np.zeros(len(pairs)) if away is None else away / np.maximum(pairs, 1)

        return share(self.away_pairs, self.pairs), share(self.away_context, self.context)


def of_group(values: NDArray[np.integer], tensor: int) -> Floats:
    """Sums over groups of ``tensor`` neighbouring ranks, given to each rank of the group, shape (R,).

    Example:
        >>> of_group(np.array([1, 2, 3, 4]), 2).tolist()
        [3.0, 3.0, 7.0, 7.0]
    """
    return np.repeat(values.reshape(-1, tensor).sum(axis=1), tensor).astype(np.float64)
