"""What the steps of one deployment have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.models import ModelShape
from smoes_sim.network import Network
from smoes_sim.placement import ExpertPlacement
from smoes_sim.placement.spec import ParallelismSpec
from smoes_sim.routing import RoutingTrace
from smoes_sim.step.timeline import Overlap
from smoes_sim.traffic.attention import KeyPlaces, Scheme
from smoes_sim.traffic.spec import CommunicationSpec
from smoes_sim.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedExperts:
    """Which token goes to which expert, and which rank holds each expert.

    Attributes:
        trace: Experts of each token.
        placement: Ranks of each expert.
    """

    trace: RoutingTrace
    placement: ExpertPlacement


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadAttention:
    """How attention works on sequences that live on several ranks.

    Attributes:
        places: Where keys and values are made.
        prefill: Scheme of prefill.
        decode: Scheme of decode; with ``moved_cache`` each sequence is decoded where its cache is.
        cache_bytes: Bytes of the keys and values of a token in one layer.
    """

    places: KeyPlaces
    prefill: Scheme
    decode: Scheme
    cache_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParts:
    """What the steps of one deployment have in common.

    Attributes:
        model: Shape of the model.
        network: Routes and constants.
        workload: Tokens of all sequences.
        experts: Routing and placement of the experts; None for a dense model.
        home: Home rank of each token, shape (T,).
        communication: How copies are sent.
        parallelism: Attention groups and chunks of prefill.
        overlap: What computes while tokens travel.
        spread: How attention works where sequences live on several ranks; None where nothing is owed.
    """

    model: ModelShape
    network: Network
    workload: Workload
    experts: RoutedExperts | None
    home: NDArray[np.int64]
    communication: CommunicationSpec
    parallelism: ParallelismSpec
    overlap: Overlap
    spread: SpreadAttention | None = None
