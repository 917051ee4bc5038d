"""Train the variants and seeds of a study in worker processes, one torch thread each; resumable after a kill."""

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

import torch

from smoes_sim.errors import ConfigError, SimulationError, SmoesError
from smoes_sim.learning.study_file import Study, save_study
from smoes_sim.learning.trained_study import TrainedStudy
from smoes_sim.learning.training import load_tensors, train_encoder
from smoes_sim.learning.unit import run_unit
from smoes_sim.learning.unit_result import UnitResult, folder_of, read_result
from smoes_sim.results.write import to_json
from smoes_sim.yaml_files import write_bytes

_POLL = 0.2
"""Seconds between two polls of the workers' progress."""
_FINISHED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _SharedState:
    """State that the parent process and its workers share.

    Attributes:
        study: Settings of the study.
        out: Folder of the study.
        parent: Process id of the parent.
        next_unit: First unit that no worker has taken.
        steps: Finished steps of each unit, or ``_FINISHED``.
        failures: Error messages, one line each.
    """

    study: Study
    out: Path
    parent: int
    next_unit: Synchronized[int]
    steps: list[Synchronized[int]]
    failures: SimpleQueue[str]

    def take(self) -> int:
        """Index of the next unit; beyond the last one when all are taken."""
        with self.next_unit.get_lock():
            number = self.next_unit.value
            self.next_unit.value += 1
        return number


def units_of(study: Study) -> list[tuple[str, int]]:
    """Trained variants times seeds, all variants of a seed before the next seed."""
    return [(name, seed) for seed in study.seeds for name in study.trained()]


def total_steps(study: Study) -> int:
    """Number of training steps of the whole study, those of the encoder included."""
    return study.training.encoder_steps + len(units_of(study)) * study.training.steps


def run_study(
    study: Study,
    out: Path,
    *,
    jobs: int,
    on_steps: Callable[[int], None] = lambda _: None,
    on_unit: Callable[[str, int, UnitResult], None] = lambda _name, _seed, _result: None,
) -> TrainedStudy:
    """Train and measure what the folder does not hold yet; the result is also written as ``summary.json``.

    Args:
        study: Settings of the study.
        out: Folder of the study; finished parts of this study in it are reused.
        jobs: Number of worker processes.
        on_steps: Called with the number of finished steps.
        on_unit: Called with variant, seed and result of each unit; not called if all units were finished before.

    Raises:
        ConfigError: If a file in the folder belongs to other settings or cannot be read.
        SimulationError: If all workers ended early.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be created ({error.strerror}). Choose another --out.") from None
    torch.set_num_threads(1)
    train_encoder(study, out / "encoder.safetensors", on_steps)
    every = [(name, seed) for name in study.variants for seed in study.seeds]
    if any(read_result(out, study, name, seed) is None for name, seed in every):
        _refuse_other_weights(study, out)
        _run_units(study, out, jobs, on_steps, on_unit)
    save_study(study, out)
    trained = TrainedStudy.load(out)
    write_bytes(out / "summary.json", to_json(trained.to_dict()))
    return trained


def _refuse_other_weights(study: Study, out: Path) -> None:
    """Refuse a folder whose weights belong to other settings, before workers start."""
    for name, seed in units_of(study):
        weights = folder_of(out, name, seed) / "model.safetensors"
        if weights.exists():
            load_tensors(weights, study.fingerprint(name, seed))


def _run_units(
    study: Study,
    out: Path,
    jobs: int,
    on_steps: Callable[[int], None],
    on_unit: Callable[[str, int, UnitResult], None],
) -> None:
    """Start the workers, and end them when every unit is finished."""
    context = get_context("spawn")
    shared = _SharedState(
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
    shared: _SharedState,
    workers: list[SpawnProcess],
    on_steps: Callable[[int], None],
    on_unit: Callable[[str, int, UnitResult], None],
) -> None:
    """Report progress until every unit is finished."""
    study = shared.study
    open_units = dict(enumerate(units_of(study)))
    while open_units:
        if not shared.failures.empty():
            raise ConfigError(shared.failures.get())
        if all(worker.exitcode is not None for worker in workers):
            raise SimulationError("the workers ended early. Run the command again; it resumes from their checkpoints.")
        done = [study.training.steps if step.value == _FINISHED else step.value for step in shared.steps]
        on_steps(study.training.encoder_steps + sum(done))
        for number in [number for number in open_units if shared.steps[number].value == _FINISHED]:
            name, seed = open_units.pop(number)
            for one in study.derived(name):
                on_unit(one, seed, _finished(shared.out, study, one, seed))
        if open_units:
            time.sleep(_POLL)


def _finished(out: Path, study: Study, name: str, seed: int) -> UnitResult:
    result = read_result(out, study, name, seed)
    if result is None:
        raise SimulationError(
            f"{folder_of(out, name, seed)}: a finished unit left no result. This is a bug; please report it."
        )
    return result


def _work(shared: _SharedState) -> None:
    """Run units until none is left; stop at the next step when the parent process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
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
