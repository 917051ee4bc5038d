from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest

from smoes_sim.cli import main
from smoes_sim.errors import ConfigError
from smoes_sim.learning.trained_study import TrainedStudy
from smoes_sim.routing import load_trace


def summary(trained: Any) -> Any:
    return json.loads((trained.out / "summary.json").read_text())


def test_a_study_end_to_end(trained: Any) -> None:
    document = summary(trained)
    assert list(document) == ["seeds", "ranks", "variants", "claims", "other_mixes"]
    assert list(document["variants"]) == ["dense", "standard", "skipping", "smoes"]
    for name, variant in document["variants"].items():
        assert {"accuracy", "language_accuracy", "msi", "transmission_rate", "imbalance", "seeds"} <= variant.keys()
        assert (variant["msi"] is None) == (name == "dense")
        assert [run["seed"] for run in variant["seeds"]] == [0, 1]
    assert document["variants"]["standard"]["transmission_rate"].keys() == {
        "data_parallel",
        "sharded",
        "modality",
        "affinity",
    }
    assert {row["ranks"] for row in document["variants"]["smoes"]["placements"]} == {2, 4}
    assert len(document["claims"]) == 4
    assert {(row["variant"], row["set"]) for row in document["other_mixes"]} == {
        (name, key) for name in ("standard", "skipping", "smoes") for key in ("test", "unseen")
    }
    trace = load_trace(trained.out / "runs" / "skipping-1" / "unseen.npz")
    assert trace.metadata["source"].startswith("tiny-vlm")
    assert trained.said.count("questions right") == 8
    assert (trained.out / "modality-share.png").read_bytes()[:4] == b"\x89PNG"


def test_a_finished_study_is_printed_again_without_training(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {path: path.stat().st_mtime_ns for path in trained.out.rglob("*.safetensors")}
    assert len(weights) == 7  # an encoder and three variants of two seeds
    assert main([*trained.arguments, "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out) == summary(trained)
    assert "questions right" not in again.err  # nothing was done
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


def test_the_tables_hold_the_figures_of_the_document_in_100_columns(trained: Any) -> None:
    document, lines = summary(trained), trained.printed.splitlines()
    titles = (
        "What was learned",
        "What the router does",
        "Traffic of the test set over 4",
        "Bytes between 4 ranks",
        "Claim over",
    )
    for title in (*titles, "Test set test, ", "Test set unseen, ", "plot: "):
        assert any(line.startswith(title) for line in lines), title
    assert max(len(line) for line in lines if not line.startswith("plot: ")) <= 100
    (row,) = [
        row
        for row in document["variants"]["smoes"]["placements"]
        if (row["ranks"], row["experts"], row["tokens"]) == (4, "bins", "data_parallel")
    ]
    rate, size = row["transmission_rate"], row["bytes_remote"]["mean"]

    def below(title: str) -> str:
        start = next(number for number, line in enumerate(lines) if line.startswith(title))
        return next(line for line in lines[start:] if line.startswith("smoes "))

    assert f"{100 * rate['mean']:.1f} ({100 * rate['sd']:.1f})" in below("Traffic of the test set over 4 ranks")
    assert below("Bytes between 4 ranks").split()[1] == f"{size / 1e6:.2f}"
    interval = document["claims"][0]["parts"][0]["interval"]
    assert f"{interval[0]:+.3f} to {interval[1]:+.3f}" in trained.printed


def test_a_finished_folder_is_loaded_as_a_result(trained: Any) -> None:
    loaded = TrainedStudy.load(trained.out)
    assert loaded.to_dict() == summary(trained)
    assert trained.printed.startswith(repr(loaded))
    frame = loaded.to_polars()
    # 3 variants with experts x 2 numbers of ranks x 2 placements of experts x 4 of tokens, and the dense one
    assert len(frame) == 3 * 2 * 2 * 4 + 1
    (row,) = frame.filter(variant="smoes", ranks=2, expert_placement="bins", token_placement="modality").to_dicts()
    assert row["transmission_rate"] == loaded.variants["smoes"].transmission_rate["modality"]
    assert frame.filter(pl.col("ranks").is_null())["variant"].to_list() == ["dense"]
    assert len(loaded.plot().to_dict()["hconcat"]) == 2
    with pytest.raises(ConfigError, match=r"study\.json: does not exist"):
        TrainedStudy.load(trained.out / "runs")


def test_weights_of_other_settings_are_refused_in_one_line(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*trained.arguments, "training.steps=7"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "dense-0/model.safetensors: was trained under other settings. Choose another --out" in error
