"""A service in numbers: percentiles of what users wait for, throughput, and goodput under an objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.serving.batching import Sequence as Going
from smoes_sim.serving.service import Service
from smoes_sim.units import parse_duration, print_duration
from smoes_sim.yaml_files import nearest

PERCENTILES = (50, 90, 99)
_NAMES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A service level objective: a request meets it if none of these times is exceeded.

    Attributes:
        ttft: Seconds from arrival to the first token; None: any.
        tpot: Seconds per output token after the first, the mean of a request; None: any.
        e2e: Seconds from arrival to the last token; None: any.
    """

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read ``ttft=2s,tpot=50ms``.

        Raises:
            ConfigError: If a name is unknown or is given twice, or a time is none or zero.
        """
        times: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = (piece.strip() for piece in part.partition("="))
            if name not in _NAMES:
                raise ConfigError(
                    f'--slo: unknown name "{name}". {nearest(name, _NAMES)} Write for example ttft=2s,tpot=50ms.'
                )
            if name in times:
                raise ConfigError(f"--slo: {name} is given twice. Leave one out.")
            try:
                times[name] = parse_duration(value)
            except ValueError as error:
                raise ConfigError(f"--slo: {name} = {error}") from None
            if times[name] == 0:
                raise ConfigError(f"--slo: {name} = {value}: no request can meet it. Give a time above zero.")
        return cls(**times)

    def __str__(self) -> str:
        """As it is written."""
        known = ((name, getattr(self, name)) for name in _NAMES)
        return ",".join(f"{name}={print_duration(value)}" for name, value in known if value is not None)

    def met(self, service: Service) -> NDArray[np.bool_]:
        """Which requests meet it; one output token has no TPOT to miss."""
        result = np.ones(len(service.arrival), dtype=np.bool_)
        for name, times in request_times(service).items():
            limit = getattr(self, name)
            if limit is not None:
                result &= ~(times > limit)
        return result

    def missed(self, sequences: Sequence[Going], now: float) -> int:
        """How many requests cannot meet it any more; of those that are not answered only the time until now counts.

        Args:
            sequences: The requests on their way.
            now: Seconds on the clock.
        """
        return sum(self._is_missed(one, now) for one in sequences if one.request.arrival < now)

    def _is_missed(self, one: Going, now: float) -> bool:
        first, last = (now if math.isnan(moment) else moment for moment in (one.first_token, one.finish))
        arrival, after = one.request.arrival, one.request.output_tokens - 1
        return (
            (self.ttft is not None and first - arrival > self.ttft)
            or (self.tpot is not None and after > 0 and (last - first) / after > self.tpot)
            or (self.e2e is not None and last - arrival > self.e2e)
        )


def request_times(service: Service) -> dict[str, NDArray[np.float64]]:
    """Seconds that each request waited, by name; TPOT is nan for answers of one token."""
    after = service.output_tokens - 1
    decoding = service.finish - service.first_token
    return {
        "ttft": service.first_token - service.arrival,
        "tpot": np.divide(decoding, after, out=np.full(len(after), np.nan), where=after > 0),
        "e2e": service.finish - service.arrival,
    }


def measure(service: Service, objective: Objective | None = None, *, settled: float = 0.0) -> dict[str, float]:
    """All figures of a service, by JSON key; docs/how-to/serving.md states each.

    TPOT is left out where every answer has one token, goodput and attainment where there is no objective. Times and
    attainment are those of the requests after the first ``settled`` (a share) of all.
    """
    makespan, number = service.makespan, len(service.arrival)
    first = int(settled * number)
    values: dict[str, float] = {}
    for name, times in request_times(service).items():
        known = times[first:][~np.isnan(times[first:])]
        if len(known):
            values[f"{name}_mean_s"] = float(known.mean())
            values |= {f"{name}_p{part}_s": float(np.percentile(known, part)) for part in PERCENTILES}
    output = int(service.output_tokens.sum())
    values |= {
        "makespan_s": makespan,
        "requests_per_s": number / makespan,
        "output_tokens_per_s": output / makespan,
        "tokens_per_s": (output + int(service.prompt_tokens.sum())) / makespan,
        "busy": min(1.0, service.busy / makespan),
        "waiting_mean": service.waiting,
        "waiting_max": float(service.most_waiting),
        "running_mean": service.running,
        "kv_use_mean": service.cache_use,
        "kv_use_max": service.most_cache_use,
        "preemptions": float(service.preemptions),
        "steps": float(service.steps),
    }
    if objective is not None:
        attainment = float(objective.met(service)[first:].mean())
        values |= {"attainment": attainment, "goodput_per_s": attainment * number / makespan}
    return values
