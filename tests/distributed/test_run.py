"""A scenario executed end to end on three ranks; what it measured is not asserted, only that it is what was asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from smoes_sim.cli import main
from smoes_sim.distributed.prediction import LAYER_PHASES, predict_layers
from smoes_sim.distributed.runnable import as_executed
from smoes_sim.lab.namespaces import why_not
from smoes_sim.measurements import read_measurements
from smoes_sim.prediction.deploy import deploy
from smoes_sim.scenario import load_scenario
from smoes_sim.yaml_files import write_bytes

RUNNER = Path(__file__).parent.parent.parent / "runners" / "ep.py"
SCENARIO = b"""
topology: {kind: star, ranks: 3, link: {bandwidth: 1 Gb/s, latency: 0 us}}
model: {name: tiny, layers: 2, hidden: 32, experts: 6, top_k: 2, shared_experts: 1, expert_ffn: 16, vocab: 100, heads: 2,
        kv_heads: 2, head_dim: 16, image_tokens: {kind: fixed, tokens: 9}, source: chosen, image_source: chosen}
workload: {batch: 4, images: 1, image_width: 32, image_height: 32, text_tokens: 4, output_tokens: 2}
routing: {policy: smoes}
placement: {tokens: modality}
attention: {exchange: queries}
communication: {dispatch: fp8}
compute: {device: h100-sxm}
"""
REPEATS = 2
PATIENT = ("--timeout", "600 s")
"""A busy machine may need minutes to start the ranks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def ran(folder: Path) -> dict[str, Any]:
    """The document that the launched run prints."""
    write_bytes(folder / "s.yaml", SCENARIO)
    command = [
        sys.executable,
        "-m",
        "smoes_sim",
        "run",
        str(folder / "s.yaml"),
        "--repeats",
        str(REPEATS),
        "--json",
        *PATIENT,
    ]
    done = subprocess.run([*command, "--out", str(folder / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_rank_has_a_row_for_every_phase_layer_step_and_repeat(ran: dict[str, Any]) -> None:
    keys = [(row["step"], row["layer"], row["phase"], row["rank"], row["repeat"]) for row in ran["rows"]]
    assert [step["phase"] for step in ran["steps"]] == ["prefill", "decode"]
    around = ("attention_gather", "attention_scatter")  # of the prefill and of the decode step
    assert {key[2] for key in keys} == {*around, *LAYER_PHASES}
    assert len(keys) == len(set(keys)) == 2 * 2 * (2 + 5) * 3 * REPEATS
    assert all(row["time_s"] > 0 for row in ran["rows"])


def test_rows_carry_the_bytes_and_the_work_of_the_deployment(ran: dict[str, Any], folder: Path) -> None:
    deployment = deploy(load_scenario(str(folder / "s.yaml")))
    for row in ran["rows"]:
        step = (deployment.prefill, *deployment.decode)[row["step"]]
        assert step.traffic is not None
        layer, rank = row["layer"], row["rank"]
        (copies,) = step.traffic.stages
        away = copies[layer] - (copies[layer].diagonal() * [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        out, back = away[rank].sum(), away[:, rank].sum()
        sent = {"dispatch": out * 36, "combine": back * 64, "layer": out * 36 + back * 64}  # 32 + 4 and 2 * 32 bytes
        received = {"dispatch": back * 36, "combine": out * 64, "layer": back * 36 + out * 64}
        around = step.batches[0].attention
        assert around is not None
        for phase, matrix in (("attention_gather", around.outward), ("attention_scatter", around.homeward)):
            sent[phase], received[phase] = matrix[rank].sum(), matrix[:, rank].sum()
        assert row["bytes_sent"] == sent.get(row["phase"], 0)
        assert row["bytes_received"] == received.get(row["phase"], 0)
        assert row["routed_tokens"] == step.traffic.slots[layer, rank]
        assert row["active_experts"] == step.batches[0].load.active_experts[layer, rank]
    assert sum(row["bytes_sent"] for row in ran["rows"]) > 0


def test_predictions_stand_beside_the_medians(ran: dict[str, Any], folder: Path) -> None:
    predicted = predict_layers(deploy(as_executed(load_scenario(str(folder / "s.yaml")))))
    found = {(row["step"], row["layer"], row["phase"]): row["predicted_s"] for row in ran["medians"]}
    assert found == {key: value.value for key, value in predicted.items()}


def test_the_folder_holds_the_rows_the_scenario_and_what_each_rank_wrote(ran: dict[str, Any], folder: Path) -> None:
    out = folder / "out"
    assert pl.read_parquet(out / "rows.parquet").to_dicts() == ran["rows"]
    assert json.loads((out / "summary.json").read_bytes()) == {key: ran[key] for key in ran if key != "rows"}
    executed = deploy(load_scenario(str(out / "scenario.resolved.yaml")))
    assert executed.prefill.bytes_remote == deploy(load_scenario(str(folder / "s.yaml"))).prefill.bytes_remote
    table = read_measurements(out / "measurements.csv")
    medians = {(row["layer"], row["phase"]): row["measured_s"] for row in ran["medians"] if row["step"] == 0}
    assert {(row.layer, row.phase): row.duration for row in table} == pytest.approx(medians)
    assert {row.folder / row.scenario for row in table} == {out / "scenario.resolved.yaml"}
    journals = [json.loads(line) for path in sorted(out.glob("rank-*.jsonl")) for line in path.read_text().splitlines()]
    assert journals == ran["rows"]
    assert len(ran["facts"]["per_rank"]) == 3


def test_torchrun_with_another_number_of_ranks_says_both(folder: Path) -> None:
    write_bytes(folder / "s.yaml", SCENARIO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", str(RUNNER)]
    done = subprocess.run([*command, str(folder / "s.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "topology star has 3 ranks, but 1 were started. Start 3" in done.stderr


def test_another_number_of_ranks_here_is_refused_before_any_starts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bytes(folder / "s.yaml", SCENARIO)
    assert main(["run", str(folder / "s.yaml"), "--ranks", "2"]) == 2
    assert "--ranks = 2: the scenario's topology has 3 ranks. Give as many" in capsys.readouterr().err


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_in_a_lab_the_scenario_stands_on_what_was_built(folder: Path) -> None:
    write_bytes(folder / "s.yaml", SCENARIO)
    write_bytes(folder / "lab.yaml", b"{kind: star, ranks: 2, link: {bandwidth: 100 Mb/s, latency: 0 us}}\n")
    command = [sys.executable, "-m", "smoes_sim", "run", str(folder / "s.yaml"), "--lab", str(folder / "lab.yaml")]
    out = folder / "in-lab"
    done = subprocess.run(
        [*command, "--repeats", "1", "--out", str(out), *PATIENT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    executed = deploy(load_scenario(str(out / "scenario.resolved.yaml")))
    assert set(executed.topology.link_bandwidth.tolist()) == {12.5e6}
    rows = json.loads((out / "summary.json").read_bytes())["medians"]
    predicted = predict_layers(executed)
    assert {row["predicted_s"] for row in rows} == {value.value for value in predicted.values()}
    assert all(row["measured_s"] > 0 for row in rows)
    assert done.stdout.splitlines()[0].split(None, 1)[1].startswith("2 ranks in lab lab; gloo")
    assert "error (%)" in done.stdout


def test_without_torch_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("smoes_sim.cli.run_command.find_spec", lambda name: None)
    assert main(["run", "olmoe-two-orin"]) == 2
    assert capsys.readouterr().err == "smoes-sim: run needs torch. Install it with: pip install 'smoes-sim[torch]'\n"
