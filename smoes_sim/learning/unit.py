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
from smoes_sim.files import write_bytes
from smoes_sim.learning.evaluation import HeldOutData, calibrate_skips, capture_routing, load_held_out_data, score
from smoes_sim.learning.measures import placement_rows, routing_summary
from smoes_sim.learning.study_file import Study
from smoes_sim.learning.tiny_vlm import VisionEncoder
from smoes_sim.learning.training import Run, TrainingData, load_encoder, load_training_data, train
from smoes_sim.routing import save_trace

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
            encoder = load_encoder(out / "encoder.safetensors").to(torch.device(study.training.device))
            run = Run.start(study, name, seed, positions=training.maker.layout.length + testing.maker.layout.length)
            seconds = train(run, training, encoder, folder, on_step)
            for one in missing:
                measure(run, one, encoder, (training, testing), out=out, cpu_seconds=seconds)
        on_step(study.training.steps)


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
    study, model = run.study, run.model.eval()
    variant = study.variants[name]
    if variant.skip is not None:
        images, texts = _CALIBRATION_SEQUENCES
        rng = np.random.default_rng(run.seed)
        batch = training.maker.draw(training.stream, images=images, texts=texts, rng=rng)
        skips = calibrate_skips(model, encoder, batch.to(torch.device(study.training.device)), variant)
        for mixture, skip in zip(model.mixtures, skips, strict=True):
            mixture.skip = skip
    asked = testing.images.questions("open")[: study.accuracy_questions]
    scores = score(model, encoder, testing, asked, testing.windows(study.accuracy_windows))
    folder = folder_of(out, name, run.seed)
    result = {
        "fingerprint": study.measured_fingerprint(name, run.seed),
        "seed": run.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "train_cpu_seconds": cpu_seconds,
        **asdict(scores),
        "sets": _measure_sets(run, name, encoder, testing, folder),
    }
    for mixture in model.mixtures:
        mixture.skip = None
    write_bytes(folder / "result.json", orjson.dumps(result, option=orjson.OPT_INDENT_2))


def _measure_sets(run: Run, name: str, encoder: VisionEncoder, testing: HeldOutData, folder: Path) -> dict[str, Any]:
    """Accuracy, routing and traffic on every set; dense models have the accuracy alone."""
    sets: dict[str, dict[str, Any]] = {}
    for key, spec in run.study.sets.items():
        accuracy = score(run.model, encoder, testing, testing.questions(spec), testing.windows(0)).accuracy
        sets[key] = {"accuracy": accuracy}
        if run.model.mixtures:
            source = f"tiny-vlm {name}, seed {run.seed}, set {key}"
            trace = capture_routing(run.model, encoder, testing.of_set(spec), source=source)
            save_trace(trace, folder / f"{key}.npz")
            rows = placement_rows(trace, training_counts(run), ranks=run.study.ranks, hidden=run.study.model.hidden)
            sets[key] |= {**routing_summary(trace), "placements": rows}
    return sets


def training_counts(run: Run) -> NDArray[np.float64]:
    """Running counts of a run's training, text and vision tokens at each expert, (L, M, E)."""
    return run.objective.counts().cpu().numpy()
