"""A pass as a sequence of exchanges with the work of each rank around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes
from smoes_sim.network import Flows, Network
from smoes_sim.step.layers import PassLayer
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges, Overlap

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassInputs:
    """One pass of one micro-batch, under S sets of constants.

    Attributes:
        exchanges: Dispatch and combine of each MoE layer.
        group: Exchanges around attention; None without attention groups.
        times: Compute times under each set of constants.
        networks: The network under each set of constants.
        layers: Layers of the pass, in order.
        overlap: What computes meanwhile: ``none``, ``shared_expert`` or ``attention``.
        shares_feed_forward: Whether the group also shares dense layers.
    """

    exchanges: Sequence[LayerExchanges]
    group: GroupExchanges | None
    times: Sequence[ComputeTimes]
    networks: Sequence[Network]
    layers: Sequence[PassLayer]
    overlap: Overlap
    shares_feed_forward: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """An exchange, and the work before and during it; S sets of constants, R ranks.

    Attributes:
        phases: Phases of its messages; none at the end of the pass, which only has work before it.
        before: Seconds of work since the exchange before, (S, R).
        meanwhile: Seconds of work during the exchange, (S, R).
        is_expert: Whether it is a dispatch or a combine, not a gather or a scatter.
        ends_layer: Whether it is the last of an MoE layer.
    """

    phases: Sequence[Flows]
    before: Times
    meanwhile: Times
    is_expert: bool = False
    ends_layer: bool = False


def pass_legs(inputs: PassInputs) -> Iterator[Leg]:
    """The exchanges of a pass in order, and its end."""
    dense, gate, shared, head = (
        np.stack([getattr(one, name) for one in inputs.times]) for name in ("dense", "gate", "shared", "head")
    )
    whole, project, scores, remote, output = (
        np.stack([getattr(one.attention, name) for one in inputs.times], axis=1)  # (K, S, R)
        for name in ("whole", "project", "scores", "remote", "output")
    )
    none = before = np.zeros_like(gate)
    during, own = (shared, gate) if inputs.overlap == "shared_expert" else (none, gate + shared)
    for layer in inputs.layers:
        if inputs.group is not None and inputs.group.is_spread:
            here, away = scores[layer.kind], remote[layer.kind]
            local, between = (here, away) if inputs.overlap == "attention" else (none, here + away)
            yield Leg(phases=inputs.group.gather, before=before + project[layer.kind], meanwhile=local)
            if inputs.group.scatter:
                yield Leg(phases=inputs.group.scatter, before=between, meanwhile=none)
                between = none
            before = between + output[layer.kind]
            parts = []
        else:
            parts = [(whole[layer.kind], inputs.group)]
        if layer.moe is None:
            parts.append((dense, inputs.group if inputs.shares_feed_forward else None))
        for work, around in parts:
            if around is None:
                before = before + work
                continue
            yield Leg(phases=around.gather, before=before, meanwhile=none)
            yield Leg(phases=around.scatter, before=work, meanwhile=none)
            before = none
        if layer.moe is not None:
            experts = np.stack([one.experts[layer.moe] for one in inputs.times])
            pair = inputs.exchanges[layer.moe]
            yield Leg(phases=pair.dispatch, before=before + own, meanwhile=during, is_expert=True)
            yield Leg(phases=pair.combine, before=experts, meanwhile=none, is_expert=True, ends_layer=True)
            before = none
    yield Leg(phases=(), before=before + head, meanwhile=none)
