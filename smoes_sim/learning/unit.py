"""The unit of work of a study: one trained variant and seed, and everything that is measured on its weights.

A unit's folder holds its checkpoint while it trains, then ``model.safetensors``; each variant measured on it has a folder
with routing traces (``.npz``) and ``result.json``. What is finished is never done again.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError
from smoes_sim.learning.evaluation import HeldOutData, calibrate_skips, capture_routing, load_held_out_data, score
from smoes_sim.learning.measures import placement_rows, routing_summary
from smoes_sim.learning.study_file import Study, saved_study
from smoes_sim.learning.tiny_vlm import VisionEncoder
from smoes_sim.learning.training import Run, TrainingData, load_encoder, load_training_data, train
from smoes_sim.routing import RoutingTrace, save_trace
from smoes_sim.yaml_files import nearest, write_bytes

_CALIBRATION_SEQUENCES = (28, 12)
"""Sequences of images and of text on which skipping is calibrated."""


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a variant and seed keep their files."""
    return out / "runs" / f"{name}-{seed}"


def read_result(out: Path, study: Study, name: str, seed: int) -> dict[str, Any] | None:
    """The result of a variant and seed, or None if it is not finished or was measured under other settings."""
    path = folder_of(out, name, seed) / "result.json"
    try:
        result = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Delete it; it is measured again.") from None
    return result if result["fingerprint"] == study.measured_fingerprint(name, seed) else None


def run_unit(study: Study, out: Path, name: str, seed: int, on_step: Callable[[int], None]) -> None:
    """Train one variant and seed if need be, and measure what is not measured yet.

    Args:
        study: Settings.
        out: Folder of the study; ``encoder.safetensors`` is there.
        name: A trained variant.
        seed: Of weights and batches.
        on_step: Called with the number of steps done; may raise to stop.
    """
    folder = folder_of(out, name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / "lock"):
        missing = [one for one in study.derived(name) if read_result(out, study, one, seed) is None]
        if missing:
            training, testing = _data(study.model.vocabulary, study.training.questions)
            run = _start(study, name, seed, training, testing)
            encoder = load_encoder(out / "encoder.safetensors").to(torch.device(study.training.device))
            seconds = train(run, training, encoder, folder, on_step) or _known_seconds(folder)
            for one in missing:
                measure(run, one, encoder, (training, testing), out=out, cpu_seconds=seconds)
        on_step(study.training.steps)


def _known_seconds(folder: Path) -> float | None:
    """CPU seconds of a training that was finished before, from a result that was measured in another way."""
    path = folder / "result.json"
    return orjson.loads(path.read_bytes())["train_cpu_seconds"] if path.exists() else None


def _start(study: Study, name: str, seed: int, training: TrainingData, testing: HeldOutData) -> Run:
    """An untrained run with positions for the sequences of training and of testing."""
    return Run.start(study, name, seed, positions=training.maker.layout.length + testing.maker.layout.length)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process works on this unit; the lock ends with its process."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@cache
def _data(vocabulary: int, questions: int) -> tuple[TrainingData, HeldOutData]:
    """Decoded once a process."""
    training = load_training_data(vocabulary=vocabulary, questions=questions)
    return training, load_held_out_data(training.tokenizer)


def measure(
    run: Run,
    name: str,
    encoder: VisionEncoder,
    data: tuple[TrainingData, HeldOutData],
    out: Path,
    *,
    cpu_seconds: float | None,
) -> None:
    """Measure a variant on a trained run; writes its traces and, last, ``result.json``."""
    training, testing = data
    study = run.study
    asked = testing.images.questions("open")[: study.accuracy_questions]
    folder = folder_of(out, name, run.seed)
    with _as_variant(run, name, encoder, training):
        scores = score(run.model, encoder, testing, asked, testing.windows(study.accuracy_windows))
        result = {
            "fingerprint": study.measured_fingerprint(name, run.seed),
            "seed": run.seed,
            "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
            "train_cpu_seconds": cpu_seconds,
            **asdict(scores),
            "sets": _measure_sets(run, name, encoder, testing, folder),
        }
    write_bytes(folder / "result.json", orjson.dumps(result, option=orjson.OPT_INDENT_2))


@contextmanager
def _as_variant(run: Run, name: str, encoder: VisionEncoder, training: TrainingData) -> Iterator[None]:
    """The run's model at inference, skipping experts as the variant does; calibrated on training data, by the run's seed."""
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


def _measure_sets(run: Run, name: str, encoder: VisionEncoder, testing: HeldOutData, folder: Path) -> dict[str, Any]:
    """Accuracy, routing and traffic on every set; dense models have the accuracy alone.

    Which ranks serve text is decided by the mix of training, the set ``test``, for all sets.
    """
    study = run.study
    sets: dict[str, dict[str, Any]] = {
        key: {"accuracy": score(run.model, encoder, testing, testing.questions(spec), testing.windows(0)).accuracy}
        for key, spec in study.sets.items()
    }
    if not run.model.mixtures:
        return sets
    traces = {key: _routing_of_set(run, name, encoder, testing, key) for key in sets}
    for key, trace in traces.items():
        save_trace(trace, folder / f"{key}.npz")
        rows = placement_rows(
            trace, training_counts(run), ranks=study.ranks, hidden=study.model.hidden, decide_by=traces["test"]
        )
        sets[key] |= {**routing_summary(trace), "placements": rows}
    return sets


def _routing_of_set(run: Run, name: str, encoder: VisionEncoder, testing: HeldOutData, key: str) -> RoutingTrace:
    batches = testing.of_set(run.study.sets[key])
    return capture_routing(run.model, encoder, batches, source=f"tiny-vlm {name}, seed {run.seed}, set {key}")


def capture_run(folder: Path, key: str) -> RoutingTrace:
    """The routing of a trained run on a set of its study, equal to the trace that training left on the same machine.

    Args:
        folder: ``runs/<variant>-<seed>`` of a finished study.
        key: Name of the set.

    Raises:
        ConfigError: If the folder is no such run, the study has no such set, or the variant no experts.
    """
    out = folder.resolve().parent.parent
    study = saved_study(out)
    name, _, number = folder.resolve().name.rpartition("-")
    if name not in study.variants or not number.isdecimal():
        known = [f"{variant}-{seed}" for seed in study.seeds for variant in study.variants]
        raise ConfigError(f"{folder}: is no run of {out / 'study.json'}. {nearest(folder.name, known)}")
    if key not in study.sets:
        raise ConfigError(f"--set {key}: {out / 'study.json'} has no such set. {nearest(key, study.sets)}")
    if not study.has_router(name):
        raise ConfigError(f"{folder}: {name} is a dense model, it routes nothing. Choose a variant with experts.")
    trained = study.variants[name].trained_as or name
    weights = folder_of(out, trained, int(number)) / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"{weights}: there is none. `smoes-sim train STUDY --out {out}` trains what is missing.")
    with _one_thread():
        training, testing = _data(study.model.vocabulary, study.training.questions)
        run = _start(study, trained, int(number), training, testing)
        encoder = load_encoder(out / "encoder.safetensors").to(torch.device(study.training.device))
        run.restore(weights)
        with _as_variant(run, name, encoder, training):
            return _routing_of_set(run, name, encoder, testing, key)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One torch thread, as in training: sums in another order would break ties of the router differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def training_counts(run: Run) -> NDArray[np.float64]:
    """Running counts of a run's training, text and vision tokens at each expert, (L, M, E)."""
    return run.objective.counts().cpu().numpy()
