"""Variants times seeds in worker processes, one torch thread each. Progress and results survive a kill at any moment."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import torch

from smoes_sim.errors import ConfigError, SimulationError, SmoesError
from smoes_sim.learning.study_file import Study, save_study
from smoes_sim.learning.training import train_encoder
from smoes_sim.learning.unit import read_result, run_unit

_POLL = 0.2
"""Seconds between looks at the workers' progress."""
_FINISHED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What the command and its workers both see.

    Attributes:
        study: What to do.
        out: Folder.
        parent: Process of the command.
        next_unit: First unit that nobody has taken.
        steps: Steps done of each unit, or ``_FINISHED``.
        failures: What went wrong, one line each.
    """

    study: Study
    out: Path
    parent: int
    next_unit: Synchronized[int]
    steps: list[Synchronized[int]]
    failures: SimpleQueue[str]

    def take(self) -> int:
        """The next unit's index; beyond the last when there is none."""
        with self.next_unit.get_lock():
            number = self.next_unit.value
            self.next_unit.value += 1
        return number


def units_of(study: Study) -> list[tuple[str, int]]:
    """Trained variants times seeds, all variants of a seed before the next seed."""
    return [(name, seed) for seed in study.seeds for name in study.trained()]


def total_steps(study: Study) -> int:
    """Steps of the whole study, the encoder's included."""
    return study.training.encoder_steps + len(units_of(study)) * study.training.steps


def run_study(
    study: Study,
    out: Path,
    *,
    jobs: int,
    on_steps: Callable[[int], None] = lambda _: None,
    on_unit: Callable[[str, int, dict[str, Any]], None] = lambda _name, _seed, _result: None,
) -> dict[str, dict[int, dict[str, Any]]]:
    """Train and measure what is not there yet; returns every result by variant and seed.

    Args:
        study: What to do.
        out: Folder; what it holds of this study is used.
        jobs: Worker processes.
        on_steps: Called with the number of steps done.
        on_unit: Called with variant, seed and result when it is there; not at all if everything was there before.

    Raises:
        ConfigError: If a file of the folder belongs to other settings or cannot be read.
        SimulationError: If a worker died.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}). Choose another --out.") from None
    torch.set_num_threads(1)
    train_encoder(study, out / "encoder.safetensors", on_steps)
    every = [(name, seed) for name in study.variants for seed in study.seeds]
    if any(read_result(out, study, name, seed) is None for name, seed in every):
        _run_units(study, out, jobs, on_steps, on_unit)
    save_study(study, out)
    return {name: {seed: _result(out, study, name, seed) for seed in study.seeds} for name in study.variants}


def _run_units(
    study: Study,
    out: Path,
    jobs: int,
    on_steps: Callable[[int], None],
    on_unit: Callable[[str, int, dict[str, Any]], None],
) -> None:
    """Start workers and end them when every unit is finished."""
    context = get_context("spawn")
    shared = _Shared(
        study=study,
        out=out,
        parent=os.getpid(),
        next_unit=context.Value("l", 0),
        steps=[context.Value("l", 0) for _ in units_of(study)],
        failures=context.SimpleQueue(),
    )
    workers = [context.Process(target=_work, args=(shared,), daemon=True) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    try:
        _watch(shared, workers, on_steps, on_unit)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _watch(
    shared: _Shared,
    workers: list[SpawnProcess],
    on_steps: Callable[[int], None],
    on_unit: Callable[[str, int, dict[str, Any]], None],
) -> None:
    """Report progress until every unit is finished."""
    study = shared.study
    open_units = dict(enumerate(units_of(study)))
    while open_units:
        if not shared.failures.empty():
            raise ConfigError(shared.failures.get())
        if all(worker.exitcode is not None for worker in workers):
            raise SimulationError("the workers died. Run the command again; it goes on from their checkpoints.")
        done = [study.training.steps if step.value == _FINISHED else step.value for step in shared.steps]
        on_steps(study.training.encoder_steps + sum(done))
        for number in [number for number in open_units if shared.steps[number].value == _FINISHED]:
            name, seed = open_units.pop(number)
            for one in study.derived(name):
                on_unit(one, seed, _result(shared.out, study, one, seed))
        if open_units:
            time.sleep(_POLL)


def _result(out: Path, study: Study, name: str, seed: int) -> dict[str, Any]:
    result = read_result(out, study, name, seed)
    assert result is not None, "a finished unit has its results"
    return result


def _work(shared: _Shared) -> None:
    """Take units until there is none left; stop at the next step when the command is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends its workers itself
    torch.set_num_threads(1)
    units = units_of(shared.study)
    while (number := shared.take()) < len(units):
        steps = shared.steps[number]

        def on_step(done: int, steps: Synchronized[int] = steps) -> None:
            if os.getppid() != shared.parent:
                os._exit(1)
            steps.value = done

        try:
            run_unit(shared.study, shared.out, *units[number], on_step)
        except SmoesError as error:
            shared.failures.put(str(error))
            return
        steps.value = _FINISHED
