"""MPI and gloo all-to-all by pairwise exchange: R - 1 rounds; in round k a rank sends to the k-th next rank.

    time = launch + sum over rounds of (per_round + busiest link of any class / efficiency)

No measured row of this family is shipped, so its constants are priors and its intervals are those of the priors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from smoes_sim.libraries.family import Constant, Family
from smoes_sim.libraries.stage import ScheduleStage, stage_of
from smoes_sim.libraries.system import Skip, SystemCase, SystemLayout, network_of
from smoes_sim.measurements import measured_time

CONSTANTS = (
    Constant(what="launch", prior=5e-6, spread=0.7, between=0.4, meaning="seconds to enter the exchange"),
    Constant(
        what="per_round",
        prior=2e-6,
        spread=0.7,
        between=0.4,
        priors={"ethernet": 20e-6, "efa": 15e-6},
        meaning="seconds of a round with an empty message (prior: a round trip of MPI over RDMA, of TCP over Ethernet)",
    ),
    Constant(
        what="efficiency",
        prior=0.7,
        spread=0.7,
        between=0.5,
        is_share=True,
        priors={"infiniband": 0.9, "roce": 0.9, "slingshot": 0.85},
        meaning="share of the nominal rate that a long message reaches",
    ),
)


def _stages(case: SystemCase) -> list[ScheduleStage] | Skip:
    if not case.row.size:
        return Skip("bytes_per_rank is empty or 0")
    return [stage.scaled(case.row.size / case.num_ranks) for stage in _rounds(case.layout)]


@lru_cache(maxsize=64)
def _rounds(layout: SystemLayout) -> tuple[ScheduleStage, ...]:
    """Stages of all rounds, with one byte per message; cached by the value of the layout."""
    network = network_of(layout)
    everyone = np.eye(network.topology.num_ranks)
    return tuple(stage_of(network, np.roll(everyone, step, axis=1)) for step in range(1, len(everyone)))


def _names(case: SystemCase) -> list[str]:
    kinds = sorted({kind for stage in _rounds(case.layout) for kind in stage.busy})
    return ["launch", *(f"{what}.{kind}" for kind in kinds for what in ("per_round", "efficiency"))]


def _duration(case: SystemCase, stages: Sequence[ScheduleStage], constants: Mapping[str, float]) -> float:
    rounds = [
        max(
            constants[f"per_round.{kind}"] + seconds / constants[f"efficiency.{kind}"]
            for kind, seconds in stage.busy.items()
        )
        for stage in stages
    ]
    return constants["launch"] + sum(rounds)


def _measured(case: SystemCase) -> float | None:
    return measured_time(case.row)


ALLTOALL = Family(
    name="pairwise_alltoall",
    pool="pairwise",
    constants=CONSTANTS,
    names=_names,
    stages=_stages,
    duration=_duration,
    measured=_measured,
)
