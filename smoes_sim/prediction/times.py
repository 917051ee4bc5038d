"""The times of a deployment under one set of constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from smoes_sim.network import ExchangeTime, Flows, Network, exchange_time
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.step.build import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """Times of a forward pass, or of all chunks of a prefill, in seconds; see the page on metrics.

    Attributes:
        step_s: Duration of the pass.
        ep_comm_s: Sum of its dispatch and combine exchanges, each timed alone on the network.
        ep_exposed_s: Time that the pass would save if dispatch and combine took no time.
        tp_comm_s: Sum of the gathers and scatters of attention groups, each timed alone on the network.
        bound_s: Lower bound of ``ep_comm_s``.
        network_error: Largest relative error of an exchange alone (``ExchangeTime.error_bound``); 0 is exact.
        lateness_s: Longest wait of a message for the next window of the network (see ``Engine``); 0 is exact.
    """

    step_s: float
    ep_comm_s: float
    ep_exposed_s: float
    tp_comm_s: float
    bound_s: float
    network_error: float
    lateness_s: float

    @property
    def ep_overhead(self) -> float:
        """Share of the pass that EP communication adds."""
        return self.ep_exposed_s / self.step_s

    def times(self, number: int) -> PhaseTimes:
        """Times of ``number`` passes run back to back; the error fields are unchanged."""
        return PhaseTimes(
            step_s=number * self.step_s,
            ep_comm_s=number * self.ep_comm_s,
            ep_exposed_s=number * self.ep_exposed_s,
            tp_comm_s=number * self.tp_comm_s,
            bound_s=number * self.bound_s,
            network_error=self.network_error,
            lateness_s=self.lateness_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """All times of a deployment under one set of constants.

    Attributes:
        prefill: The whole prefill.
        decode: The mean of the sampled decode steps; None where every answer has one token.
        outside_s: Seconds of the prefill outside the layers.
        mixed_step_s: Seconds of a step with a chunk of prefill and a decode step; None where prefill is not in chunks.
        tokens_per_s_prefill: Prompt tokens per second of all ranks.
        tokens_per_s_prefill_per_rank: The same divided by the number of ranks.
        tokens_per_s: Output tokens per second of the batch.
    """

    prefill: PhaseTimes
    decode: PhaseTimes | None
    outside_s: float
    mixed_step_s: float | None
    tokens_per_s_prefill: float
    tokens_per_s_prefill_per_rank: float
    tokens_per_s: float

    @property
    def ttft_s(self) -> float:
        """Seconds until the first token of the batch."""
        return self.prefill.step_s + self.outside_s

    @property
    def tpot_s(self) -> float | None:
        """Seconds of a decode step; None where there is none."""
        return None if self.decode is None else self.decode.step_s

    def flat(self) -> dict[str, float]:
        """The times by JSON key; keys of what does not exist are left out."""
        flat = asdict(self.prefill) | {
            "ttft_s": self.ttft_s,
            "outside_s": self.outside_s,
            "ep_overhead": self.prefill.ep_overhead,
            "tokens_per_s_prefill": self.tokens_per_s_prefill,
            "tokens_per_s_prefill_per_rank": self.tokens_per_s_prefill_per_rank,
        }
        if self.mixed_step_s is not None:
            flat["mixed_step_s"] = self.mixed_step_s
        if self.decode is not None:
            flat |= {f"decode_{name}": value for name, value in asdict(self.decode).items()}
            flat |= {"decode_ep_overhead": self.decode.ep_overhead, "tpot_s": self.decode.step_s}
        return flat | {"tokens_per_s": self.tokens_per_s}


class ExchangeTimes:
    """Times of single exchanges, each alone on a network; equal exchanges on equal networks are simulated once.

    One object serves all sets of constants of a prediction, since many of them differ in compute constants only.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._known: dict[tuple[object, ...], ExchangeTime] = {}

    def time(self, network: Network, phases: Sequence[Flows]) -> ExchangeTime:
        """The time of one exchange alone on ``network``."""
        sent = tuple(part.tobytes() for flows in phases for part in (flows.source, flows.destination, flows.size))
        key = (_constants_of(network), *sent)
        if key not in self._known:
            self._known[key] = exchange_time(network, phases, tolerance=self._tolerance)
        return self._known[key]


def _constants_of(network: Network) -> tuple[object, ...]:
    """Everything of a network that a set of constants can change, to tell two networks of one deployment apart."""
    of_links = [tuple(sorted(values.items())) for values in (network.efficiency, network.half_size)]
    return (*of_links, network.per_message, network.per_receive, network.per_exchange, network.curve, network.jitter)


def times_under(conditions: Conditions, alone: ExchangeTimes, *, on_pass: Callable[[], None] = lambda: None) -> Times:
    """All times of a deployment under one set of constants.

    Args:
        conditions: The deployment under the constants.
        alone: Remembers the times of single exchanges from one set of constants to the next.
        on_pass: Called after each simulated forward pass.
    """
    deployment = conditions.deployment
    chunks = deployment.chunks
    prefill = _phase_times(conditions, chunks, alone, on_pass=on_pass).times(len(chunks))
    outside = conditions.outside
    mixed = None
    if deployment.mixed is not None:
        mixed = conditions.time(deployment.mixed).duration
        on_pass()
    decode = _phase_times(conditions, deployment.decode, alone, on_pass=on_pass) if deployment.decode else None
    ttft = prefill.step_s + outside
    rate = deployment.workload.num_prefill_tokens / ttft
    return Times(
        prefill=prefill,
        decode=decode,
        outside_s=outside,
        mixed_step_s=mixed,
        tokens_per_s_prefill=rate,
        tokens_per_s_prefill_per_rank=rate / deployment.topology.num_ranks,
        tokens_per_s=throughput(deployment, ttft, decode.step_s if decode else 0.0),
    )


def throughput(deployment: Deployment, ttft: float, tpot: float) -> float:
    """Output tokens per second of the batch: prefilled together, then decoded ``decode_batch`` sequences at a time.

    Args:
        deployment: Says how many tokens each sequence gets.
        ttft: Seconds of the prefill.
        tpot: Seconds of a decode step.
    """
    workload = deployment.workload
    groups = range(0, workload.num_sequences, workload.decode_batch)
    steps = sum(int(workload.sequence_output_tokens[first : first + workload.decode_batch].max()) - 1 for first in groups)
    return float(workload.sequence_output_tokens.sum()) / (ttft + steps * tpot)


def _phase_times(
    conditions: Conditions, steps: Sequence[Step], alone: ExchangeTimes, *, on_pass: Callable[[], None]
) -> PhaseTimes:
    """Mean times of some forward passes."""
    deployment, network = conditions.deployment, conditions.network
    gathers = deployment.model.gathers(deployment.scenario.parallelism.tensor)
    rows, errors, waits = [], [], []
    for step in steps:
        real = conditions.time(step)
        free = conditions.time(_at_no_cost(step), expert_network=network.at_no_cost())
        layers = [layer for batch in step.batches for layer in batch.exchanges]
        groups = [batch.group for batch in step.batches if batch.group is not None]
        exchanges = [alone.time(network, phases) for layer in layers for phases in (layer.dispatch, layer.combine)]
        around = [alone.time(network, phases) for group in groups for phases in (group.gather, group.scatter)]
        communication = sum(exchange.duration for exchange in exchanges)
        bound = sum(exchange.bound for exchange in exchanges)
        shared = gathers * sum(exchange.duration for exchange in around)
        rows.append((real.duration, communication, real.duration - free.duration, shared, bound))
        errors += [exchange.error_bound for exchange in exchanges + around]
        waits.append(real.lateness)
        on_pass()
    step_s, ep_comm_s, ep_exposed_s, tp_comm_s, bound_s = (float(value) for value in np.mean(rows, axis=0))
    return PhaseTimes(
        step_s=step_s,
        ep_comm_s=ep_comm_s,
        ep_exposed_s=ep_exposed_s,
        tp_comm_s=tp_comm_s,
        bound_s=bound_s,
        network_error=max(errors, default=0.0),
        lateness_s=max(waits, default=0.0),
    )


def _at_no_cost(step: Step) -> Step:
    """The same step with dispatch and combine that take no time."""
    batches = [replace(batch, exchanges=[layer.at_no_cost() for layer in batch.exchanges]) for batch in step.batches]
    return replace(step, batches=batches)
