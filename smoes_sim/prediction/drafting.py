"""Seconds per output token where tokens are proposed ahead and verified together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smoes_sim.prediction.deployment import Conditions
from smoes_sim.prediction.phase import layer_and_head_seconds
from smoes_sim.step.build import Step


def seconds_per_token(conditions: Conditions, steps: Sequence[Step], step_s: float) -> float:
    """Seconds per output token of decode steps that take ``step_s`` on average.

    (step + n (layer + head)) / (1 + accepted): a step verifies 1 + n tokens of each sequence; before it n passes of a layer
    of multi-token prediction, each with the head, propose them. Such a layer is taken to be as the mean MoE layer of the
    step. In the first pass it has as many tokens, since it also fills its own cache; later passes have one of each sequence
    and take less, so with n > 1 this is an upper bound. Its projection of 2 hidden**2 parameters is left out, and a model
    without such a layer proposes at no cost.

    Args:
        conditions: The deployment under a set of constants.
        steps: Simulated decode steps.
        step_s: Mean seconds of a step.
    """
    workload = conditions.deployment.workload
    draft = 0.0
    if workload.together > 1 and conditions.deployment.model.mtp_layers:
        draft = float(np.mean([sum(layer_and_head_seconds(conditions, step)) for step in steps]))
    return (step_s + (workload.together - 1) * draft) / workload.yielded
