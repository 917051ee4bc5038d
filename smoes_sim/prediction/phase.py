"""Times of the passes of a phase, prefill or decode, from those of its layers and steps that are simulated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.compute import ComputeTimes
from smoes_sim.prediction.alone import ExchangesAlone
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.engine import Engine, EngineChoice, EnginePasses, pass_time
from smoes_sim.prediction.estimate import Estimate, ratio_total, spaced_error
from smoes_sim.step.build import Step
from smoes_sim.step.fast import PassTime
from smoes_sim.step.layers import PassLayer
from smoes_sim.step.timeline import MicroBatch

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Times of a forward pass, or of all chunks of a prefill, in seconds; see the page on metrics.

    Attributes:
        step_s: Duration of the pass.
        ep_comm_s: Sum of its dispatch and combine exchanges, each timed alone on the network.
        ep_exposed_s: Time that the pass would save if dispatch and combine took no time.
        tp_comm_s: Sum of the gathers and scatters of attention groups, each timed alone on the network.
        attention_exchange_s: Sum of what sequences on several ranks exchange around attention, each exchange timed alone.
        bound_s: Lower bound of ``ep_comm_s``.
        network_error: Largest relative error of an exchange alone (``ExchangeTime.error_bound``); 0 is exact.
        lateness_s: Longest wait of a message for the next window of the network (see ``Engine``); 0 is exact.
        engine: What timed the passes.
        engine_error: Relative difference of the engine to the exact one on a few layers, corrected in these times; 0 where
            nothing is left out, None where it was too large to be measured.
        sampling: Standard errors of ``step_s``, ``ep_comm_s`` and ``ep_exposed_s`` because not all layers and steps were
            simulated, seconds; 0 if all were.
    """

    step_s: float
    ep_comm_s: float
    ep_exposed_s: float
    tp_comm_s: float
    attention_exchange_s: float
    bound_s: float
    network_error: float
    lateness_s: float
    engine: Engine
    engine_error: float | None
    sampling: Mapping[str, float]

    @property
    def ep_overhead(self) -> float:
        """Share of the pass that EP communication adds."""
        return self.ep_exposed_s / self.step_s

    def flat(self) -> dict[str, float]:
        """The times by JSON key."""
        return {
            "step_s": self.step_s,
            "ep_comm_s": self.ep_comm_s,
            "ep_exposed_s": self.ep_exposed_s,
            "tp_comm_s": self.tp_comm_s,
            "attention_exchange_s": self.attention_exchange_s,
            "exchanges_s": self.ep_comm_s + self.attention_exchange_s,
            "bound_s": self.bound_s,
            "network_error": self.network_error,
            "lateness_s": self.lateness_s,
            "ep_overhead": self.ep_overhead,
        }

    def relative_errors(self) -> dict[str, float]:
        """Relative standard errors from the sample, by JSON key."""
        found = {name: error / getattr(self, name) if error else 0.0 for name, error in self.sampling.items()}
        return found | {"ep_overhead": found["ep_exposed_s"]}

    def times(self, number: float) -> PhaseTimes:
        """Times of ``number`` passes run back to back; the errors of the network are unchanged."""
        return PhaseTimes(
            step_s=number * self.step_s,
            ep_comm_s=number * self.ep_comm_s,
            ep_exposed_s=number * self.ep_exposed_s,
            tp_comm_s=number * self.tp_comm_s,
            attention_exchange_s=number * self.attention_exchange_s,
            bound_s=number * self.bound_s,
            network_error=self.network_error,
            lateness_s=self.lateness_s,
            engine=self.engine,
            engine_error=self.engine_error,
            sampling={name: number * error for name, error in self.sampling.items()},
        )


def phase_times(
    sets: Sequence[Conditions], steps: Sequence[Step], *, number: int, on_pass: Callable[[], None] = lambda: None
) -> list[PhaseTimes]:
    """Mean times of the passes of a phase, under each set of constants.

    Args:
        sets: The deployment under each set of constants.
        steps: The passes that are simulated.
        number: Number of all passes of the phase.
        on_pass: Called after each simulated pass.
    """
    deployment = sets[0].deployment
    choice = EngineChoice(deployment, sets, steps[0])
    passed: list[list[_Pass]] = [[] for _ in sets]
    alone = ExchangesAlone(choice.engine, deployment)
    for step in steps:
        timed = choice.passes(sets, step)
        for known, one in zip(passed, _passes(sets, step, timed, alone), strict=True):
            known.append(one)
        on_pass()
    return [_mean(known, deployment, number=number, network_error=alone.error, timed=timed) for known in passed]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """One simulated pass under one set of constants; L routed MoE layers, S simulated ones.

    Attributes:
        rest: Seconds of the pass outside its simulated MoE layers.
        exposed_rest: Seconds of that which EP communication adds.
        layers: Seconds that each simulated layer adds, (S,).
        exposed: Seconds of that which EP communication adds, (S,).
        comm: Seconds of its dispatch and combine, each alone on the network, (S,).
        bound: Lower bound of that in every routed layer, (L,).
        control: Lower bound of every routed layer with its work, (L,).
        around: Seconds of all exchanges around attention, each alone on the network.
        lateness: Longest wait of a message for the next window.
    """

    rest: float
    exposed_rest: float
    layers: Reals
    exposed: Reals
    comm: Reals
    bound: Reals
    control: Reals
    around: float
    lateness: float


def _passes(sets: Sequence[Conditions], step: Step, timed: EnginePasses, alone: ExchangesAlone) -> list[_Pass]:
    """One step under each set of constants."""
    deployment = sets[0].deployment
    found = []
    for conditions, batches, time, ideal in zip(sets, timed.batches, timed.real, timed.free, strict=True):
        comm, bound, around = alone.times(conditions.network, step)
        layers, at_no_cost = (_increments(one, deployment.layers_simulated, batches) for one in (time, ideal))
        rest, free_rest = time.duration - layers.sum(), ideal.duration - at_no_cost.sum()
        kinds = np.array(deployment.model.attention_kinds)[deployment.moe_layers]
        work = sum((_work(batch.times, kinds) for batch in batches), np.zeros(len(bound)))
        found.append(
            _Pass(
                rest=float(rest),
                exposed_rest=float(rest - free_rest),
                layers=layers,
                exposed=layers - at_no_cost,
                comm=comm,
                bound=bound,
                control=work + bound,
                around=deployment.num_around * around,
                lateness=timed.lateness,
            )
        )
    return found


def pass_seconds(conditions: Conditions, step: Step) -> float:
    """Seconds of one pass over all layers of the model, from those that are simulated; the fast engine is not corrected."""
    deployment = conditions.deployment
    time = pass_time(conditions, step, deployment.layers_simulated)
    layers = _increments(time, deployment.layers_simulated, conditions.micro_batches(step))
    left_out = deployment.model.num_moe_layers - len(layers)
    return time.duration + (left_out * float(layers.mean()) if left_out else 0.0)


def layer_and_head_seconds(conditions: Conditions, step: Step) -> tuple[float, float]:
    """Mean seconds of an MoE layer in one pass (of any layer of a dense model), and those of the head.

    Like :func:`pass_seconds` from the layers that are simulated; the fast engine is not corrected.
    """
    deployment = conditions.deployment
    time, batches = pass_time(conditions, step, deployment.layers_simulated), conditions.micro_batches(step)
    head = float(sum(batch.times.head.max() for batch in batches))
    layers = _increments(time, deployment.layers_simulated, batches)
    return float(layers.mean()) if len(layers) else (time.duration - head) / deployment.model.layers, head


def _increments(time: PassTime, layers: Sequence[PassLayer], batches: Sequence[MicroBatch]) -> Reals:
    """Seconds that each simulated MoE layer adds to a pass, without those of the dense layers before it.

    A dense layer takes what it takes on its busiest rank.
    """
    dense = sum((batch.times.attention.whole + batch.times.dense).max(axis=1) for batch in batches)  # of each kind
    spent = np.cumsum([dense[layer.kind] if layer.moe is None else 0.0 for layer in layers])
    before = spent[[layer.moe is not None for layer in layers]]
    added: Reals = np.diff(time.layer_ends, prepend=0.0) - np.diff(before, prepend=0.0)
    return added


def _work(times: ComputeTimes, kinds: NDArray[np.int64]) -> Reals:
    """Seconds of each MoE layer on its busiest ranks, without communication, (L,).

    Args:
        times: Compute times.
        kinds: Kind of the attention of each layer, (L,).
    """
    own = (times.attention.whole + times.gate + times.shared).max(axis=1)
    work: Reals = own[kinds] + times.experts.max(axis=1, initial=0.0)
    return work


def _mean(
    passed: Sequence[_Pass], deployment: Deployment, *, number: int, network_error: float, timed: EnginePasses
) -> PhaseTimes:
    """Mean times over all passes and MoE layers, from those that were simulated."""
    rows, of_model = deployment.simulated, deployment.model.num_moe_layers
    routed = len(deployment.moe_layers)
    deeper = of_model / routed if routed else 1.0

    def mean(sample: Sequence[Reals], controls: Sequence[Reals], rest: Sequence[float]) -> Estimate:
        """Over the layers by the ratio to their controls, then over the steps."""
        steps = len(sample)
        every = float(sum(control.sum() for control in controls)) * deeper
        sampled = [control[rows] for control in controls]
        total = ratio_total(sample, sampled, all_controls=every, number=steps * of_model)
        whole = [one.sum() * of_model / max(len(rows), 1) + other for one, other in zip(sample, rest, strict=True)]
        of_steps = Estimate(float(np.mean(rest)), spaced_error(whole, number=number))
        return total.scaled(1 / steps) + of_steps

    bounds, controls = [one.bound for one in passed], [one.control for one in passed]
    around, is_spread = float(np.mean([one.around for one in passed])), deployment.scenario.parallelism.tensor == 1
    step = mean([one.layers for one in passed], controls, [one.rest for one in passed])
    exposed = mean([one.exposed for one in passed], bounds, [one.exposed_rest for one in passed])
    comm = mean([one.comm for one in passed], bounds, [0.0] * len(passed))
    return PhaseTimes(
        step_s=step.value,
        ep_comm_s=comm.value,
        ep_exposed_s=exposed.value,
        tp_comm_s=0.0 if is_spread else around,
        attention_exchange_s=around if is_spread else 0.0,
        bound_s=float(np.mean([bound.sum() for bound in bounds])) * deeper,
        network_error=network_error,
        lateness_s=max(one.lateness for one in passed),
        engine=timed.engine,
        engine_error=timed.difference,
        sampling={"step_s": step.error, "ep_comm_s": comm.error, "ep_exposed_s": exposed.error},
    )
