"""Requests and when they arrive: a Poisson process over a scenario's workload, or a trace file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.scenario import Scenario
from smoes_sim.workload import build_workload
from smoes_sim.yaml_files import nearest, read_text

_BLOCK = 1000
"""Requests drawn at a time."""
_NEEDED = ("arrival_s", "prompt_tokens", "output_tokens")
_COLUMNS = (*_NEEDED, "images")
_LEAST = {"arrival_s": 0, "prompt_tokens": 1, "output_tokens": 1, "images": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        arrival: Seconds on the clock of the service.
        prompt_tokens: Tokens of the prompt, those of its images included.
        output_tokens: Tokens of the answer, the first included.
        images: Images that the vision tower encodes before the prompt's first step.
    """

    arrival: float
    prompt_tokens: int
    output_tokens: int
    images: int = 0


def check_both_phases(scenario: Scenario) -> None:
    """Refuse a scenario whose workload is one phase alone, since requests are prefilled and then decoded, or speculates.

    Raises:
        ConfigError: If it asks for decode or prefill alone, or proposes tokens ahead.
    """
    if scenario.workload.speculation is not None:
        raise ConfigError(
            "workload.speculation: requests that arrive one by one are decoded token by token. Leave it out; simulate and "
            "compare answer with it."
        )
    phase = scenario.workload.phase
    if phase != "both":
        raise ConfigError(
            f"workload.phase = {phase}: requests are prefilled and then decoded. Write phase: both; simulate and compare "
            f"answer for {phase} alone."
        )


def poisson_requests(
    deployment: Deployment, rate: float, *, number: int | None = None, duration: float | None = None
) -> list[Request]:
    """Requests of the scenario's workload that arrive independently of each other.

    Gaps are exponential with mean 1 / rate. Request i and its gap times the rate are the same at every rate (the scenario's
    seed), so that rates are compared on the same requests. Lengths vary as the workload says; the sequences of a routing
    trace are drawn with replacement, without images, as their size is not known.

    Args:
        deployment: The system; its workload says what a request is.
        rate: Requests per second.
        number: Number of requests; or
        duration: seconds in which requests arrive; all of them count.

    Raises:
        ConfigError: If none arrives.
    """
    assert (number is None) != (duration is None)
    gaps = np.random.default_rng([deployment.scenario.seed, 5])
    bodies = _bodies(deployment)
    requests: list[Request] = []
    moment = 0.0
    while number is None or len(requests) < number:
        moment += gaps.standard_exponential() / rate
        if duration is not None and moment > duration:
            break
        prompt, output, images = next(bodies)
        requests.append(Request(arrival=moment, prompt_tokens=prompt, output_tokens=output, images=images))
    if not requests:
        raise ConfigError(f"no request arrives in {duration:g} s at {rate:g}/s. Give a longer duration, or a number.")
    return requests


def _bodies(deployment: Deployment) -> Iterator[tuple[int, int, int]]:
    """Prompt tokens, output tokens and images of one request after the other."""
    rng = np.random.default_rng([deployment.scenario.seed, 6])
    spec = deployment.scenario.workload
    images = 0 if spec.is_from_trace else spec.filled().images or 0
    while True:
        if spec.is_from_trace:
            workload = deployment.workload
            chosen = rng.integers(workload.num_sequences, size=_BLOCK)
        else:
            block = spec.model_copy(update={"batch": _BLOCK, "sequences_per_rank": None, "decode_batch": None})
            workload = build_workload(block, deployment.model, rng=rng)
            chosen = np.arange(_BLOCK)
        prompts, outputs = workload.sequence_prompt_tokens[chosen], workload.sequence_output_tokens[chosen]
        for prompt, output in zip(prompts.tolist(), outputs.tolist(), strict=True):
            yield prompt, output, images


def read_requests(path: Path) -> list[Request]:
    """Requests of a file, in the order of their arrival.

    CSV with a header, or JSON lines (.jsonl, .ndjson, .json): ``arrival_s``, ``prompt_tokens``, ``output_tokens`` and, where
    the vision tower counts, ``images``. Image tokens are part of ``prompt_tokens``.

    Raises:
        ConfigError: If a column is missing or a value breaks its rule, with file and line.
    """
    rows = _json_rows(path) if path.suffix in {".json", ".jsonl", ".ndjson"} else _csv_rows(path)
    requests = [_request(f"{path}:{line}", row) for line, row in rows]
    if not requests:
        raise ConfigError(f"{path}: has no request. Add at least one.")
    return sorted(requests, key=lambda request: request.arrival)


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: is not CSV: {error}. Fix the row that ends here.") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{path}:{line}: is not JSON: {error}. Write one object a line.") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{line}: is not an object. Write one a line, with {', '.join(_NEEDED)}.")
        yield line, row


def _request(place: str, row: Mapping[str, Any]) -> Request:
    if None in row or None in row.values():
        raise ConfigError(f"{place}: has another number of cells than the header. Fix the row.")
    for name in _NEEDED:
        if name not in row:
            raise ConfigError(f"{place}: {name} is missing. Needed: {', '.join(_NEEDED)}; images may follow.")
    for name in row:
        if name not in _COLUMNS:
            raise ConfigError(f'{place}: unknown name "{name}". {nearest(name, _COLUMNS)}')
    return Request(
        arrival=_number(place, row, "arrival_s"),
        prompt_tokens=int(_number(place, row, "prompt_tokens")),
        output_tokens=int(_number(place, row, "output_tokens")),
        images=int(_number(place, {"images": 0} | dict(row), "images")),
    )


def _number(place: str, row: Mapping[str, Any], name: str) -> float:
    """A value that is finite, not too small and, except for the arrival, whole."""
    least, is_whole = _LEAST[name], name != "arrival_s"
    try:
        value = math.nan if isinstance(row[name], bool) else float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= least) or (is_whole and value != int(value)):
        kind = "a whole number" if is_whole else "a number of seconds"
        raise ConfigError(f"{place}: {name} = {row[name]!r}: must be {kind} of at least {least}. Fix the value.")
    return value
