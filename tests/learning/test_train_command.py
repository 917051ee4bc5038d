from __future__ import annotations

import json
from pathlib import Path

import pytest
from learning.small import write_study

from smoes_sim.cli import main
from smoes_sim.routing import load_trace


def test_a_study_end_to_end_and_again_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(write_study(tmp_path)), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--jobs", "2", "--json"]) == 0
    first = capsys.readouterr()
    document = json.loads(first.out)
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
    assert load_trace(tmp_path / "out" / "runs" / "skipping-1" / "unseen.npz").metadata["source"].startswith("tiny-vlm")
    assert first.err.count("questions right") == 8
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert len(weights) == 7  # an encoder and three variants of two seeds

    assert main([*arguments, "--json"]) == 0
    again = capsys.readouterr()
    assert again.out == first.out
    assert "questions right" not in again.err  # nothing was done
    assert {path: path.stat().st_mtime_ns for path in weights} == weights

    assert main(arguments) == 0
    text = capsys.readouterr().out
    for heading in ("What was learned", "Traffic of the test set", "Claims", "Other task mixes", "plot: "):
        assert heading in text
    printed = text.splitlines()
    assert max(map(len, printed)) <= 120
    smoes = document["variants"]["smoes"]
    (row,) = [
        row for row in smoes["placements"] if (row["ranks"], row["experts"], row["tokens"]) == (4, "bins", "data_parallel")
    ]
    rate = row["transmission_rate"]
    shown = f"{100 * rate['mean']:.1f} ({100 * rate['sd']:.1f})  {row['bytes_remote']['mean'] / 1e6:.1f}"
    (line,) = [line for line in printed[printed.index("4 ranks") :][:4] if line.startswith("  smoes ")]
    assert shown in line
    interval = document["claims"][0]["parts"][0]["interval"]
    assert f"{interval[0]:+.3f} to {interval[1]:+.3f}" in text
    assert (tmp_path / "out" / "modality-share.png").read_bytes()[:4] == b"\x89PNG"


def test_weights_of_other_settings_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = "variants={standard: {}}"
    arguments = ["train", str(write_study(tmp_path)), "seeds=[0]", small, "claims=[]", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "training.steps=7"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "standard-0/model.safetensors: was trained under other settings. Choose another --out" in error
