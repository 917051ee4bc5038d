"""Unit of work of a study: train one variant and seed, and measure everything on its weights.

A unit's folder holds its checkpoint while it trains, then ``model.safetensors``; each variant measured on it has a folder
with routing traces (``.npz``) and ``result.json``. Finished work is not repeated.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.learning.evaluation import HeldOutData, calibrate_skips, capture_routing, load_held_out_data, score
from smoes_sim.learning.measures import placement_traffic, routed_set_result
from smoes_sim.learning.study_file import Study, saved_study
from smoes_sim.learning.tiny_vlm import VisionEncoder
from smoes_sim.learning.training import Run, TrainingData, load_encoder, load_training_data, train
from smoes_sim.learning.unit_result import (
    RoutedSetResult,
    SetResult,
    UnitResult,
    folder_of,
    known_training_seconds,
    read_result,
    write_result,
)
from smoes_sim.routing import RoutingTrace, save_trace
from smoes_sim.yaml_files import nearest

_CALIBRATION_SEQUENCES = (28, 12)
"""Number of image and of text sequences on which skipping is calibrated."""


def run_unit(study: Study, out: Path, name: str, seed: int, on_step: Callable[[int], None]) -> None:
    """Train one variant and seed unless that is done, then measure what is not measured yet.

    Args:
        study: Settings of the study.
        out: Folder of the study, with its ``encoder.safetensors``.
        name: Name of a trained variant.
        seed: Seed of weights and batches.
        on_step: Called with the number of finished steps; may raise to stop.
    """
    folder = folder_of(out, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / "lock"):
        missing = [one for one in study.derived(name) if read_result(out, study, one, seed) is None]
        if missing:
            training, testing = _data(study.model.vocabulary, study.training.questions)
            run = _start(study, name, seed, training, testing)
            encoder = load_encoder(out / "encoder.safetensors").to(torch.device(study.training.device))
            seconds = train(run, training, encoder, folder, on_step) or known_training_seconds(folder)
            for one in missing:
                measure_variant(run, one, encoder, (training, testing), out=out, cpu_seconds=seconds)
        on_step(study.training.steps)


def _start(study: Study, name: str, seed: int, training: TrainingData, testing: HeldOutData) -> Run:
    """An untrained run with positions for the sequences of training and of testing."""
    return Run.start(study, name, seed, positions=training.maker.layout.length + testing.maker.layout.length)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of a unit, waiting for other processes; the lock ends with its process."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@cache
def _data(vocabulary: int, questions: int) -> tuple[TrainingData, HeldOutData]:
    """Training and test data, decoded once per process; they belong to installed packages and do not change."""
    training = load_training_data(vocabulary=vocabulary, questions=questions)
    return training, load_held_out_data(training.tokenizer)


def measure_variant(
    run: Run,
    name: str,
    encoder: VisionEncoder,
    data: tuple[TrainingData, HeldOutData],
    out: Path,
    *,
    cpu_seconds: float | None,
) -> None:
    """Measure a variant on a trained run; write its traces and, last, ``result.json``."""
    training, testing = data
    study = run.study
    asked = testing.images.questions("open")[: study.accuracy_questions]
    folder = folder_of(out, name, run.seed)
    with _as_variant(run, name, encoder, training):
        scores = score(run.model, encoder, testing, asked, testing.windows(study.accuracy_windows))
        result = UnitResult(
            fingerprint=study.measured_fingerprint(name, run.seed),
            seed=run.seed,
            parameters=sum(parameter.numel() for parameter in run.model.parameters()),
            train_cpu_seconds=cpu_seconds,
            accuracy=scores.accuracy,
            language_accuracy=scores.language_accuracy,
            bits_per_byte=scores.bits_per_byte,
            sets=_measure_sets(run, name, encoder, testing, folder),
        )
    write_result(result, folder)


@contextmanager
def _as_variant(run: Run, name: str, encoder: VisionEncoder, training: TrainingData) -> Iterator[None]:
    """Set the run's model to inference, skipping experts as the variant does (calibrated on training data)."""
    model, variant = run.model.eval(), run.study.variants[name]
    if variant.skip is not None:
        images, texts = _CALIBRATION_SEQUENCES
        rng = np.random.default_rng(run.seed)
        batch = training.maker.draw(training.stream, images=images, texts=texts, rng=rng)
        skips = calibrate_skips(model, encoder, batch.to(torch.device(run.study.training.device)), variant)
        for mixture, skip in zip(model.mixtures, skips, strict=True):
            mixture.skip = skip
    yield
    for mixture in model.mixtures:
        mixture.skip = None


def _measure_sets(
    run: Run, name: str, encoder: VisionEncoder, testing: HeldOutData, folder: Path
) -> dict[str, RoutedSetResult | SetResult]:
    """Accuracy, routing and traffic on every test set; only the accuracy for a dense model.

    The set ``test``, which has the mix of training, decides for all sets which ranks serve text.
    """
    study = run.study
    accuracy = {
        key: score(run.model, encoder, testing, testing.questions(spec), testing.windows(0)).accuracy
        for key, spec in study.sets.items()
    }
    if not run.model.mixtures:
        return {key: SetResult(accuracy=value) for key, value in accuracy.items()}
    traces = {key: _routing_of_set(run, name, encoder, testing, key) for key in accuracy}
    sets: dict[str, RoutedSetResult | SetResult] = {}
    for key, trace in traces.items():
        save_trace(trace, folder / f"{key}.npz")
        rows = placement_traffic(
            trace, training_counts(run), ranks=study.ranks, hidden=study.model.hidden, decide_by=traces["test"]
        )
        sets[key] = routed_set_result(trace, accuracy=accuracy[key], placements=rows)
    return sets


def _routing_of_set(run: Run, name: str, encoder: VisionEncoder, testing: HeldOutData, key: str) -> RoutingTrace:
    batches = testing.of_set(run.study.sets[key])
    return capture_routing(run.model, encoder, batches, source=f"tiny-vlm {name}, seed {run.seed}, set {key}")


def capture_run(folder: Path, key: str) -> RoutingTrace:
    """Routing trace of a trained run on a test set of its study: on the same machine, the trace that training wrote.

    Args:
        folder: Folder ``runs/<variant>-<seed>`` of a finished study.
        key: Name of the test set.

    Raises:
        ConfigError: If the folder is not such a run, the study has no such test set, or the variant is dense.
    """
    out = folder.resolve().parent.parent
    study = saved_study(out)
    name, _, number = folder.resolve().name.rpartition("-")
    if name not in study.variants or not number.isdecimal():
        known = [f"{variant}-{seed}" for seed in study.seeds for variant in study.variants]
        raise ConfigError(f"{folder}: is not a run of {out / 'study.json'}. {nearest(folder.name, known)}")
    if key not in study.sets:
        raise ConfigError(f"--set {key}: {out / 'study.json'} has no such test set. {nearest(key, study.sets)}")
    if not study.has_router(name):
        raise ConfigError(f"{folder}: {name} is a dense model, which routes nothing. Choose a variant with experts.")
    trained = study.variants[name].trained_as or name
    weights = folder_of(out, trained, int(number)) / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{weights}: does not exist. `smoes-sim train STUDY --out {out}` trains what is missing.")
    with _one_thread():
        training, testing = _data(study.model.vocabulary, study.training.questions)
        run = _start(study, trained, int(number), training, testing)
        encoder = load_encoder(out / "encoder.safetensors").to(torch.device(study.training.device))
        run.restore(weights)
        with _as_variant(run, name, encoder, training):
            return _routing_of_set(run, name, encoder, testing, key)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one torch thread, as in training: another order of summation could break ties of the router differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_counts(run: Run) -> NDArray[np.float64]:
    """Running counts of text and vision tokens at each expert in training, shape (L, M, E)."""
    return run.objective.counts().cpu().numpy()
