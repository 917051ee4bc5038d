"""Batches whose modality mix changes over time: synthetic ones, or a trace cut into windows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.ranks import workload_of
from smoes_sim.prediction.router import make_workload, route, skipped
from smoes_sim.routing import RoutingTrace, Tokens, load_trace
from smoes_sim.routing.trace import IMAGE, PREFILL, TEXT
from smoes_sim.scenario import RoutingSpec, Scenario
from smoes_sim.workload import Workload, workload_of_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One prefill that represents all steps of a window of time."""

    workload: Workload
    trace: RoutingTrace

    @property
    def vision_share(self) -> float:
        """Share of vision tokens."""
        return float(self.trace.is_vision.mean())


def drifting_windows(scenario: Scenario, *, windows: int, images: tuple[float, float]) -> list[Window]:
    """A window before the start, followed by ``windows`` more.

    Every window has the sequences of the scenario's workload; in some of them the image tokens become text, so that all
    steps have the same length. The share of sequences with images changes linearly from the first number of ``images`` to
    the second over the windows; the window before the start has the first. One seeded router routes all tokens at once, so
    no two windows have the same noise.

    Raises:
        ConfigError: If the workload has no images.
    """
    model = scenario.model_shape
    base = make_workload(workload_of(scenario), model, scenario.seed)
    prompt = base.phase == PREFILL
    if not (base.modality[prompt] != TEXT).any():
        raise ConfigError(
            "workload: no images, so the mix of modalities cannot drift. Use a preset with images, such as mmmu."
        )
    shares = [images[0], *np.linspace(images[0], images[1], windows).tolist()]
    sequence, modality = base.sequence_id[prompt], base.modality[prompt]
    mixed = [np.where(_has_images(base.num_sequences, share)[sequence], modality, TEXT).astype(np.uint8) for share in shares]
    number = np.arange(len(shares), dtype=np.int32)
    tokens = Tokens(
        modality=np.concatenate(mixed),
        sequence_id=(sequence + base.num_sequences * number[:, None]).astype(np.int32).ravel(),
        phase=np.full(len(shares) * len(sequence), PREFILL, dtype=np.uint8),
    )
    return _cut(route(scenario.routing, tokens, model, scenario.seed), num_windows=len(shares))


def _has_images(count: int, share: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which of ``count`` sequences have images, evenly spaced. 4 and 0.5: the first and the third."""
    return np.diff(np.floor(np.arange(count + 1) * share + 0.5)) > 0


def windows_of_trace(routing: RoutingSpec, *, windows: int) -> list[Window]:
    """The prompts of a scenario's trace, cut by sequence, in the order of their ids, into ``windows`` + 1 equal runs.

    Raises:
        ConfigError: If it has fewer sequences than windows.
    """
    path = Path(routing.trace or "")
    trace = skipped(load_trace(path), routing, name=str(path))
    prompt = np.flatnonzero(trace.phase == PREFILL)
    number = len(np.unique(trace.sequence_id[prompt]))
    if number < windows + 1:
        raise ConfigError(
            f"{path}: {number} sequences do not fill {windows} windows and one before them. Use at most {number - 1}."
        )
    return _cut(trace.select(prompt[np.argsort(trace.sequence_id[prompt], kind="stable")]), num_windows=windows + 1)


def _cut(trace: RoutingTrace, *, num_windows: int) -> list[Window]:
    """Windows of equal runs of sequences; ids start at 0 in each."""
    _, sequence = np.unique(trace.sequence_id, return_inverse=True)
    window = sequence * num_windows // (int(sequence.max()) + 1)
    result = []
    for number in range(num_windows):
        part = trace.select(window == number)
        _, own = np.unique(part.sequence_id, return_inverse=True)
        # every kind of vision counts as images in a workload
        modality = np.where(part.modality == TEXT, TEXT, IMAGE).astype(np.uint8)
        workload = workload_of_tokens(modality, own.astype(np.int32), part.phase, decode_batch=None)
        result.append(Window(workload=workload, trace=part))
    return result
