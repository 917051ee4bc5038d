"""The times of a deployment under one set of constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smoes_sim.network import exchange_duration
from smoes_sim.prediction.deployment import Conditions, Deployment
from smoes_sim.prediction.drafting import seconds_per_token
from smoes_sim.prediction.phase import PhaseTimes, phase_times
from smoes_sim.step.build import decode_lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """All times of a deployment under one set of constants.

    Attributes:
        prefill: The whole prefill; None where only decode steps are asked for.
        decode: The mean of the sampled decode steps; None where there is none (one output token, phase prefill).
        tpot_s: Seconds per output token after the first; None where there is none.
        outside_s: Seconds of the prefill outside the layers; 0 without prefill.
        cache_move_s: Seconds in which the cache moves to the ranks that decode, between prefill and the first decode step;
            0 where it is there.
        mixed_step_s: Seconds of a step with a chunk of prefill and a decode step; None where prefill is not in chunks.
        tokens_per_s_prefill: Prompt tokens per second of all ranks; None without prefill.
        tokens_per_s_prefill_per_rank: The same divided by the number of ranks; None without prefill.
        tokens_per_s: Output tokens per second of the batch.
    """

    prefill: PhaseTimes | None
    decode: PhaseTimes | None
    tpot_s: float | None
    outside_s: float
    cache_move_s: float
    mixed_step_s: float | None
    tokens_per_s_prefill: float | None
    tokens_per_s_prefill_per_rank: float | None
    tokens_per_s: float

    @property
    def asked(self) -> PhaseTimes:
        """The pass that keys without the name of a phase describe: the prefill, or decode where there is no prefill."""
        found = self.decode if self.prefill is None else self.prefill
        assert found is not None, "every workload has a token of some phase"
        return found

    @property
    def ttft_s(self) -> float | None:
        """Seconds until the first token of the batch; None without prefill."""
        return None if self.prefill is None else self.prefill.step_s + self.outside_s

    def flat(self) -> dict[str, float]:
        """The times by JSON key; keys of what does not exist are left out."""
        flat = self.asked.flat()
        of_prefill = {
            "ttft_s": self.ttft_s,
            "tokens_per_s_prefill": self.tokens_per_s_prefill,
            "tokens_per_s_prefill_per_rank": self.tokens_per_s_prefill_per_rank,
        }
        flat |= {key: value for key, value in of_prefill.items() if value is not None}
        if self.prefill is not None:
            flat["outside_s"] = self.outside_s
        if self.cache_move_s:
            flat["cache_move_s"] = self.cache_move_s
        if self.mixed_step_s is not None:
            flat["mixed_step_s"] = self.mixed_step_s
        if self.decode is not None:
            flat |= {f"decode_{name}": value for name, value in self.decode.flat().items()}
        if self.tpot_s is not None:
            flat["tpot_s"] = self.tpot_s
        return flat | {"tokens_per_s": self.tokens_per_s}

    def sampling(self) -> dict[str, float]:
        """Relative standard errors of the times by JSON key, from the layers and steps that were not simulated."""
        found = self.asked.relative_errors()
        if self.prefill is not None:
            found["ttft_s"] = self.prefill.sampling["step_s"] / (self.prefill.step_s + self.outside_s)
            found["tokens_per_s_prefill"] = found["tokens_per_s_prefill_per_rank"] = found["ttft_s"]
        if self.decode is not None:
            of_decode = self.decode.relative_errors()
            found |= {f"decode_{name}": error for name, error in of_decode.items()}
            found["tpot_s"] = of_decode["step_s"]
        found["tokens_per_s"] = max(found.get(key, 0.0) for key in ("ttft_s", "tpot_s"))
        return found


def all_times(
    deployment: Deployment, sets: Sequence[Conditions], *, on_pass: Callable[[], None] = lambda: None
) -> list[Times]:
    """All times of a deployment under each set of constants.

    Args:
        deployment: The deployment.
        sets: The same under each set of constants.
        on_pass: Called after each simulated forward pass.
    """
    prefill: Sequence[PhaseTimes | None] = [None] * len(sets)
    if number := deployment.num_chunks:
        whole = max(round(number), len(deployment.chunks))
        chunks = phase_times(sets, deployment.chunks, number=whole, on_pass=on_pass)
        prefill = [one.times(number) for one in chunks]
    decode: Sequence[PhaseTimes | None] = [None] * len(sets)
    if deployment.decode:
        decode = phase_times(sets, deployment.decode, number=deployment.num_decode_steps, on_pass=on_pass)
    mixed: Sequence[float | None] = [None] * len(sets)
    if deployment.mixed is not None:
        mixed = [found.step_s for found in phase_times(sets, [deployment.mixed], number=1, on_pass=on_pass)]
    return [_times(*parts) for parts in zip(sets, prefill, decode, mixed, strict=True)]


def _times(conditions: Conditions, prefill: PhaseTimes | None, decode: PhaseTimes | None, mixed: float | None) -> Times:
    deployment, outside = conditions.deployment, conditions.outside
    ttft = prefill.step_s + outside if prefill else 0.0
    rate = deployment.workload.num_prefill_tokens / ttft if prefill else None
    move = deployment.cache_move
    move_s = 0.0 if move is None else exchange_duration(conditions.network, move.phases).duration
    tpot = None if decode is None else seconds_per_token(conditions, deployment.decode, decode.step_s)
    return Times(
        prefill=prefill,
        decode=decode,
        tpot_s=tpot,
        outside_s=outside,
        cache_move_s=move_s,
        mixed_step_s=mixed,
        tokens_per_s_prefill=rate,
        tokens_per_s_prefill_per_rank=None if rate is None else rate / deployment.topology.num_ranks,
        tokens_per_s=throughput(deployment, ttft + move_s, tpot or 0.0),
    )


def throughput(deployment: Deployment, ttft: float, tpot: float) -> float:
    """Output tokens per second of the batch: prefilled together, then decoded ``decode_batch`` sequences at a time.

    Where only decode steps are asked for, these are in a steady state, and the first token of each sequence, which comes
    from prefill, does not count: batch / TPOT.

    Args:
        deployment: Says how many tokens each sequence gets.
        ttft: Seconds of the prefill, and in which its cache moves; 0 without.
        tpot: Seconds per output token after the first.
    """
    workload = deployment.workload
    tokens = workload.num_decode_tokens if deployment.prefill is None else int(workload.sequence_output_tokens.sum())
    return float(tokens) / (ttft + float(decode_lengths(workload).sum()) * tpot)
