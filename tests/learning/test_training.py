from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from learning.small import write_study
from torch import multiprocessing

from smoes_sim.errors import ConfigError
from smoes_sim.learning.evaluation import HeldOutData, capture_routing, load_held_out_data
from smoes_sim.learning.experts import DispatchOverRanks
from smoes_sim.learning.measures import place_by_counts
from smoes_sim.learning.study_file import Study, load_study
from smoes_sim.learning.training import (
    Run,
    TrainingData,
    build_model,
    load_encoder,
    load_training_data,
    train,
)
from smoes_sim.learning.unit import run_unit, training_counts
from smoes_sim.placement import home_tokens
from smoes_sim.placement.tokens import TOKEN_RULES
from smoes_sim.traffic.copies import count_traffic


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(str(write_study(tmp_path_factory.mktemp("study"))))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return load_training_data(vocabulary=512, questions=2)


@pytest.fixture(scope="module")
def encoder_file(trained: Any) -> Path:
    return trained.out / "encoder.safetensors"


def start(study: Study, name: str = "smoes", seed: int = 0) -> Run:
    return Run.start(study, name, seed, positions=300)


@pytest.mark.parametrize("name", load_study("tiny-vlm").trained())
def test_every_variant_of_the_shipped_study_learns(data: TrainingData, encoder_file: Path, name: str) -> None:
    sizes = ["model.vocabulary=512", "model.layers=2", "training.questions=2", "training.images=4", "training.texts=2"]
    shipped = load_study("tiny-vlm", [*sizes, "training.warm_up=1"])
    run, encoder = start(shipped, name), load_encoder(encoder_file)
    losses = [run.advance(data, encoder) for _ in range(4)]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_dense_variants_have_the_size_of_all_or_of_the_active_experts() -> None:
    shipped = load_study("tiny-vlm")
    sizes = {
        name: sum(parameter.numel() for parameter in build_model(shipped, name, positions=10).layers.parameters())
        for name in ("standard", "dense_total", "dense_active")
    }
    experts, router, layers = 32 * 3 * 64 * 32, 32 * 64, 4
    assert sizes["standard"] - sizes["dense_total"] == layers * router
    assert sizes["standard"] - sizes["dense_active"] == layers * (router + experts * 28 // 32)


class StoppedError(Exception):
    pass


def stop_at(step: int) -> Any:
    def on_step(done: int) -> None:
        if done == step:
            raise StoppedError

    return on_step


@pytest.mark.parametrize("name", ["standard", "smoes"])
def test_a_run_stopped_at_any_step_ends_with_the_same_bytes(
    study: Study, data: TrainingData, encoder_file: Path, tmp_path: Path, name: str
) -> None:
    encoder = load_encoder(encoder_file)
    whole = tmp_path / "whole"
    train(start(study, name), data, encoder, whole, lambda _: None)
    broken = tmp_path / "broken"
    for step in (1, 3, 5, 6):  # checkpoints are at 2 and 4: step 1 is lost, then 3, then 5
        with pytest.raises(StoppedError):
            train(start(study, name), data, encoder, broken, stop_at(step))
    train(start(study, name), data, encoder, broken, lambda _: None)
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    assert [path.name for path in broken.iterdir()] == ["model.safetensors"]


def test_a_finished_run_is_not_trained_again(study: Study, data: TrainingData, encoder_file: Path, tmp_path: Path) -> None:
    encoder = load_encoder(encoder_file)
    assert train(start(study), data, encoder, tmp_path, lambda _: None) is not None
    seen: list[int] = []
    assert train(start(study), data, encoder, tmp_path, seen.append) is None
    assert seen == [study.training.steps]


def test_seeds_differ_and_other_settings_are_refused(
    study: Study, data: TrainingData, encoder_file: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(encoder_file)
    first, second = start(study, seed=0), start(study, seed=1)
    assert first.advance(data, encoder) != second.advance(data, encoder)
    first.save(tmp_path / "run.safetensors", with_optimiser=True)
    with pytest.raises(ConfigError, match=r"run\.safetensors: was trained under other settings\. Choose another --out"):
        second.restore(tmp_path / "run.safetensors")
    (tmp_path / "run.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"run\.safetensors: cannot be read as safetensors"):
        first.restore(tmp_path / "run.safetensors")


def _killed_at(study: Study, out: Path, step: int) -> None:
    torch.set_num_threads(1)

    def on_step(done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    run_unit(study, out, "smoes", 0, on_step)


def test_a_killed_unit_resumes_and_writes_the_result_of_an_undisturbed_one(
    study: Study, trained: Any, encoder_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "encoder.safetensors").write_bytes(encoder_file.read_bytes())
    process = multiprocessing.get_context("spawn").Process(target=_killed_at, args=(study, tmp_path / "killed", 3))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = tmp_path / "killed" / "runs" / "smoes-0"
    assert {path.name for path in folder.iterdir()} == {"lock", "checkpoint.safetensors"}
    seen: list[int] = []
    run_unit(study, tmp_path / "killed", "smoes", 0, seen.append)
    assert seen[0] == 2
    for name in ("model.safetensors", "test.npz", "unseen.npz"):
        assert (folder / name).read_bytes() == (trained.out / "runs" / "smoes-0" / name).read_bytes()


def test_a_unit_with_an_outdated_result_is_measured_again_on_the_same_weights(
    study: Study, encoder_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "encoder.safetensors").write_bytes(encoder_file.read_bytes())
    run_unit(study, tmp_path, "smoes", 0, lambda _: None)
    folder = tmp_path / "runs" / "smoes-0"
    weights, first = (folder / "model.safetensors").stat().st_mtime_ns, (folder / "result.json").read_bytes()
    old = orjson.loads(first) | {"fingerprint": "older", "accuracy": 2.0}
    (folder / "result.json").write_bytes(orjson.dumps(old))
    run_unit(study, tmp_path, "smoes", 0, lambda _: None)
    assert (folder / "result.json").read_bytes() == first  # the seconds of the training too
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused_in_one_line(study: Study) -> None:
    training = study.training.model_copy(update={"device": "cuda"})
    with pytest.raises(ConfigError, match=r"training\.device = cuda, but torch finds no GPU here\."):
        start(study.model_copy(update={"training": training}))


@pytest.fixture(scope="module")
def testing(data: TrainingData) -> HeldOutData:
    return load_held_out_data(data.tokenizer)


def test_traffic_from_the_captured_trace_equals_what_the_models_own_dispatch_sent(
    study: Study, data: TrainingData, testing: HeldOutData, encoder_file: Path
) -> None:
    encoder, run = load_encoder(encoder_file), start(study)
    for _ in range(3):
        run.advance(data, encoder)
    spec = study.sets["test"]
    trace = capture_routing(run.model, encoder, testing.of_set(spec), source="test")
    assert int(trace.is_vision.sum()) == 64 * spec.images
    assert trace.sequence_id.max() + 1 == spec.images + spec.texts
    for experts in ("contiguous", "bins"):
        placement = place_by_counts(training_counts(run), experts=experts, num_ranks=4)
        for rule in TOKEN_RULES:
            home = home_tokens(rule, trace, placement)
            meters = [
                DispatchOverRanks(torch.from_numpy(ranks), torch.from_numpy(home), 4) for ranks in placement.expert_rank
            ]
            for mixture, meter in zip(run.model.mixtures, meters, strict=True):
                mixture.dispatch = meter
            again = capture_routing(run.model, encoder, testing.of_set(spec), source="test")
            np.testing.assert_array_equal(again.expert_ids, trace.expert_ids)
            counted = count_traffic(trace, placement, home, deduplicate="rank")
            np.testing.assert_array_equal(counted.stages[0], [meter.copies.numpy() for meter in meters])
