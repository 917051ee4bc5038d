"""A trained run is captured again by command, and its trace simulated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from smoes_sim.cli import main
from smoes_sim.learning.study_file import load_study
from smoes_sim.scenario import load_scenario

SCENARIO = """
topology: {kind: star, ranks: 2, link: {bandwidth: 1 GB/s, latency: 1 us}}
model: {name: tiny-vlm, layers: 2, hidden: 16, experts: 8, top_k: 2, expert_ffn: 8, vocab: 512, heads: 2, kv_heads: 2, \
head_dim: 8, image_tokens: {kind: fixed, tokens: 64}, source: tests, image_source: tests}
workload: {preset: trace}
routing: {trace: t.npz}
compute: {device: h100-sxm}
"""


@pytest.fixture(scope="module")
def out(trained: Any) -> Path:
    """A finished study."""
    return trained.out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("name", "key"), [("smoes", "test"), ("smoes", "unseen"), ("standard", "test"), ("skipping", "test")]
)
def test_a_run_captured_again_gives_the_bytes_that_training_left(
    out: Path, here: Path, capsys: pytest.CaptureFixture[str], name: str, key: str
) -> None:
    run = out / "runs" / f"{name}-0"
    found = document(capsys, "trace", "capture", "--checkpoint", str(run), "--set", key, "-o", "t.npz")
    assert (here / "t.npz").read_bytes() == (run / f"{key}.npz").read_bytes()
    assert found["metadata"]["source"] == f"tiny-vlm {name}, seed 0, set {key}"
    assert (found["empty_slots"] > 0) == (name == "skipping")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "trace capture: needs weights from one place. Give either --hf FOLDER or --checkpoint FOLDER."),
        (["--hf", "x", "--checkpoint", "y"], "needs weights from one place. Give either --hf"),
        (["--hf", "x"], "--hf x: needs prompts to run. Give --prompts FILE."),
        (["--hf", "x", "--prompts", "p", "--set", "test"], "--set test: is for --checkpoint"),
        (["--checkpoint", "RUNS/smoes-0", "--prompts", "p", "--batch", "1"], "--prompts, --batch: only for --hf"),
        (["--checkpoint", "RUNS/smos-0"], 'runs/smos-0: is not a run of OUT/study.json. Did you mean "smoes-0"?'),
        (["--checkpoint", "RUNS"], "study.json: does not exist. `smoes-sim train STUDY --out"),
        (["--checkpoint", "RUNS/smoes-5"], "smoes-5/model.safetensors: does not exist. `smoes-sim train STUDY --out OUT`"),
        (["--checkpoint", "RUNS/dense-0"], "runs/dense-0: dense is a dense model, which routes nothing."),
        (
            ["--checkpoint", "RUNS/smoes-0", "--set", "tests"],
            '--set tests: OUT/study.json has no such test set. Did you mean "test"?',
        ),
    ],
)
def test_what_cannot_be_captured_is_refused_in_one_line(
    out: Path, here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    capsys.readouterr()
    named = [argument.replace("RUNS", str(out / "runs")) for argument in arguments]
    assert main(["trace", "capture", *named, "-o", "t.npz"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message.replace("OUT", str(out)) in line
    assert not (here / "t.npz").exists()


def test_weights_of_other_settings_are_not_captured(out: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("encoder.safetensors", "runs/smoes-0/model.safetensors"):
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_bytes((out / path).read_bytes())
    (here / "study.json").write_text((out / "study.json").read_text().replace('"steps": 6', '"steps": 7'))
    capsys.readouterr()
    assert main(["trace", "capture", "--checkpoint", "runs/smoes-0", "-o", "t.npz"]) == 2
    assert "runs/smoes-0/model.safetensors: was trained under other settings" in capsys.readouterr().err


def test_a_captured_run_is_simulated_and_compared(out: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = out / "runs" / "smoes-0"
    assert main(["trace", "capture", "--checkpoint", str(run), "-o", "t.npz"]) == 0
    (here / "s.yaml").write_text(SCENARIO)
    measured = json.loads((run / "result.json").read_text())["sets"]["test"]
    tokens = ("data_parallel", "sharded", "modality", "affinity")
    arguments = ["compare", "s.yaml", "placement.experts=contiguous", f"placement.tokens={','.join(tokens)}"]
    rows = document(capsys, *arguments)["rows"]
    wanted = {row["tokens"]: row for row in measured["placements"] if (row["ranks"], row["experts"]) == (2, "contiguous")}
    for rule, row in zip(tokens, rows, strict=True):
        assert row["bytes_remote"] == wanted[rule]["bytes_remote"]
        assert row["transmission_rate"]["prefill"] == wanted[rule]["transmission_rate"]
        assert row["policy"] == "captured"
    eight = document(capsys, "simulate", "s.yaml", "topology=8x-a100")
    assert (eight["ranks"], eight["msi"]) == (8, measured["msi"])
    assert main(["simulate", "s.yaml"]) == 0
    assert re.search(r"tiny-vlm on star \(2 ranks\), routing captured", capsys.readouterr().out)


def test_the_scenario_of_the_documentation_has_the_shape_of_the_shipped_study(here: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "smoes.md").read_text()
    found = re.search(r"<!-- tiny.yaml -->\n```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (here / "tiny.yaml").write_text(found[1])
    shape, trained = load_scenario("tiny.yaml").model_shape, load_study("tiny-vlm").model
    names = {"expert_ffn": "inner", "vocab": "vocabulary"}
    for key in ("layers", "hidden", "experts", "top_k", "expert_ffn", "vocab", "heads"):
        assert getattr(shape, key) == getattr(trained, names.get(key, key))
    assert (shape.head_dim * shape.heads, shape.kv_heads) == (trained.hidden, trained.heads)
