"""Placement that follows a drifting mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smoes_sim.adaptation.adapt import adapt
from smoes_sim.adaptation.result import Adaptation
from smoes_sim.adaptation.windows import drifting_windows, windows_of_trace
from smoes_sim.cli import main
from smoes_sim.errors import ConfigError
from smoes_sim.routing import RoutingTrace, load_trace, save_trace
from smoes_sim.scenario import RoutingSpec, Scenario

# 4 sequences of an image and some text
SCENARIO: dict[str, Any] = {
    "topology": {"kind": "star", "ranks": 2, "link": {"bandwidth": "1 GB/s", "latency": "0 us"}},
    "model": "olmoe-1b-7b",
    "workload": {"batch": 4, "text_tokens": 20, "output_tokens": 1, "images": 1, "image_width": 64, "image_height": 64},
    "routing": {"policy": "smoes"},
    "placement": {"experts": "eplb"},
    "compute": {"device": "jetson-agx-orin-64gb", "flops_efficiency": 0.5, "memory_efficiency": 0.5},
}


def scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate(SCENARIO | changes)


def two_sided(windows: int, *, swap_at: int) -> RoutingTrace:
    """A sequence of 8 tokens a window, one layer, top-1 of 64: experts 0, 1 alone, from ``swap_at`` on 2 and 3."""
    number = np.repeat(np.arange(windows), 8)
    ids = np.tile([0, 1], windows * 4) + np.where(number >= swap_at, 2, 0)
    return RoutingTrace(
        expert_ids=np.tile(ids[:, None, None], (1, 16, 8)).astype(np.int16),
        modality=np.zeros(len(ids), np.uint8),
        sequence_id=number.astype(np.int32),
        phase=np.zeros(len(ids), np.uint8),
        moe_layers=np.arange(16, dtype=np.int32),
        num_experts=64,
    )


def test_the_mix_goes_in_a_straight_line_and_steps_stay_as_long() -> None:
    windows = drifting_windows(scenario(), windows=5, images=(1.0, 0.0))
    images = [(window.workload.sequence_vision_tokens > 0).sum() for window in windows]
    assert images == [4, 4, 3, 2, 1, 0]
    prompts = {tuple(window.workload.sequence_prompt_tokens.tolist()) for window in windows}
    assert len(prompts) == 1
    ids = [window.trace.expert_ids for window in windows]
    assert not np.array_equal(ids[0], ids[1])  # the same mix, but noise of its own
    again = drifting_windows(scenario(), windows=5, images=(1.0, 0.0))
    assert all(np.array_equal(a.trace.expert_ids, b) for a, b in zip(again, ids, strict=True))


def test_a_trace_is_cut_by_sequence(tmp_path: Path) -> None:
    save_trace(two_sided(6, swap_at=3), tmp_path / "t.npz")
    routing = RoutingSpec(trace=str(tmp_path / "t.npz"))
    windows = windows_of_trace(routing, windows=2)
    assert [window.trace.num_tokens for window in windows] == [16, 16, 16]
    assert [int(window.trace.expert_ids.max()) for window in windows] == [1, 3, 3]
    assert [window.workload.num_sequences for window in windows] == [2, 2, 2]
    with pytest.raises(ConfigError, match=r"6 sequences do not fill 6 windows and one before them. Use at most 5"):
        windows_of_trace(routing, windows=6)


def test_drifting_batches_leave_out_what_the_scenario_skips() -> None:
    whole, left = (
        drifting_windows(scenario(routing={"policy": "standard", **changes}), windows=2, images=(1.0, 0.0))
        for changes in ({}, {"skip": {"vision": 0.5, "text": 0.5}})
    )
    used = [sum(int((window.trace.expert_ids >= 0).sum()) for window in windows) for windows in (whole, left)]
    assert used[0] == 2 * used[1]


def of_trace(tmp_path: Path, **changes: Any) -> Adaptation:
    save_trace(two_sided(6, swap_at=3), tmp_path / "t.npz")
    asked = scenario(routing={"trace": str(tmp_path / "t.npz")}, workload={"preset": "trace"}, **changes)
    return adapt(asked, name="drift", windows=5, steps=10, every=[1, 2], images=(1.0, 0.0))


def test_only_the_past_decides(tmp_path: Path) -> None:
    # the window before the start shows experts 0 and 1, windows 0 and 1 too; from window 2 on it is 2 and 3. What was seen
    # in window 2 is used from window 3 on, by `every 10` alone; the oracle is even in all. EPLB separates what it has seen.
    found = of_trace(tmp_path)
    over: dict[str, list[float]] = {row.name: [] for row in found.over_time}
    for row in found.over_time:
        over[row.name].append(row.imbalance)
    assert over["oracle"] == [1.0] * 5
    assert over["every 10"][:2] == [1.0, 1.0]
    assert over["every 10"][3:] == [1.0, 1.0]
    assert over["never"][2:] == [over["never"][2]] * 3
    assert over["every 10"][2] == over["never"][2]


def test_the_sums_are_those_of_the_windows(tmp_path: Path) -> None:
    found = of_trace(tmp_path)
    never, *_ = found.policies
    for row in found.policies:
        mine = [entry for entry in found.over_time if entry.name == row.name]
        work, moving = 10 * sum(entry.step_s for entry in mine), sum(entry.moving_s for entry in mine)
        assert row.total_s == pytest.approx(work + moving)
        assert row.saved == pytest.approx(1 - (work + moving) / never.total_s)
        assert row.saved_if_hidden == pytest.approx(1 - work / never.total_s)
        gain = (never.total_s - work) / 10
        if row.every_steps and gain > 0:
            assert row.break_even_steps == pytest.approx(row.every_steps / 10 * moving / gain)
    assert [row.replacements for row in found.policies] == [0, 4, 2, 0]


def test_weights_take_their_bytes_over_the_link(tmp_path: Path) -> None:
    # an expert of OLMoE in bf16: 3 * 2048 * 1024 * 2 B = 12582912 B; ranks swap as many as they get, so the busier direction
    # counts: between n / 2 and n experts at 1 GB/s
    row = of_trace(tmp_path).policies[1]
    experts = row.moved_bytes / 12582912
    assert experts == int(experts) > 0
    assert row.moved_bytes / 2e9 * (1 - 1e-6) <= row.moving_s <= row.moved_bytes / 1e9


def test_synthetic_drift_is_repeatable_and_never_moves_what_is_not_replaced() -> None:
    asked = scenario(placement={"experts": "bins", "spare": 1, "tokens": "modality"})
    first, again = (adapt(asked, name="drift", windows=2, steps=5, every=[1], images=(1.0, 0.0)) for _ in range(2))
    assert first == again
    assert first.policies[0].moved_bytes == first.policies[-1].moved_bytes == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": {"experts": "contiguous"}}, r"placement.experts = contiguous does not follow"),
        ({"parallelism": {"tensor": 2}}, r"whole prefills with attention on each rank"),
        (
            {"workload": {"batch": 2, "text_tokens": 9, "output_tokens": 1}},
            r"no images, so the mix of modalities cannot drift",
        ),
    ],
)
def test_what_cannot_adapt_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapt(scenario(**changes), name="drift", windows=2, steps=1, every=[1], images=(1.0, 0.0))


def test_decode_alone_is_not_adapted() -> None:
    decode = scenario(workload={"phase": "decode", "context": 8})
    with pytest.raises(ConfigError, match=r"^workload\.phase = decode: adapt simulates whole prefills"):
        adapt(decode, name="drift", windows=2, steps=1, every=[1], images=(1.0, 0.0))


def test_the_json_of_the_command_is_that_of_the_result(tmp_path: Path) -> None:
    found = of_trace(tmp_path)
    document = found.to_dict()
    assert list(document) == [
        *("name", "rule", "spare", "token_placement", "windows", "steps_per_window", "expert_bytes"),
        *("policies", "over_time"),
    ]
    assert [list(row) for row in document["policies"]] == [
        [
            *("name", "every_steps", "total_s", "moving_s", "saved", "saved_if_hidden", "replacements", "moved_bytes"),
            *("imbalance", "bytes_remote_per_step", "break_even_steps", "intervals"),
        ]
    ] * 4
    assert found.to_polars().columns == ["name", "window", "vision_share", "step_s", "moving_s", "imbalance"]
    assert found.plot().to_dict()["title"]["text"] == "drift: eplb, 0 spare slots per rank"


def test_the_command_prints_a_row_per_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_trace(two_sided(4, swap_at=2), Path("t.npz"))
    asked = SCENARIO | {"routing": {"trace": "t.npz"}, "workload": {"preset": "trace"}}
    Path("s.yaml").write_text(json.dumps(asked))
    arguments = ["adapt", "s.yaml", "--windows", "3", "--every", "1,2", "--steps", "5"]
    assert main([*arguments, "--json", "--out", "here"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["policies"]] == ["never", "every 5", "every 10", "oracle"]
    assert json.loads(Path("here/summary.json").read_text()) == found
    assert main(arguments) == 0
    times, moves = (part.splitlines()[-5:] for part in capsys.readouterr().out.split("\n\n"))
    for table, header in ((times, "re-placed"), (moves, "re-placed")):
        assert [line.split("  ")[0] for line in table] == [header, "never", "every 5", "every 10", "oracle"]
        assert max(map(len, table)) <= 100
    for wrong in ("2:0", "1"):
        assert main([*arguments, "routing.trace=null", "workload.preset=mmmu", "--images", wrong]) == 2
        assert "images" in capsys.readouterr().err
    for wrong in (["--every", "3"], ["--every", "x"], ["--images", "1:0"]):
        assert main([*arguments, *wrong]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.removeprefix("smoes-sim: ").removeprefix("--").startswith(wrong[0].removeprefix("--"))


def test_a_placement_of_training_counts_serves_another_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(json.dumps(SCENARIO))
    assert main(["trace", "synthesize", "s.yaml", "-o", "train.npz", "seed=5"]) == 0
    make = ["placement", "make", "train.npz", "--ranks", "2", "-o", "p.json", "--rule"]
    assert main([*make, "bins", "--spare", "2"]) == 0
    rows = json.loads(Path("p.json").read_text())["physical_to_logical_map"]
    assert {len(row) for row in rows} == {68}
    capsys.readouterr()
    assert main(["simulate", "s.yaml", "placement.experts={file: p.json}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["expert_placement"] == "file p.json"
    assert load_trace(Path("train.npz")).num_layers == len(rows)
    for wrong in (["eplbb"], ["bins", "--nodes", "2"], ["eplb", "--nodes", "3"], ["random", "--spare", "1"]):
        assert main([*make, *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["simulate", "s.yaml", "placement.experts={file: p.json}", "placement.spare=1"]) == 2


def test_rules_are_judged_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    trace = RoutingTrace(
        expert_ids=rng.integers(0, 6, (30, 1, 2)).astype(np.int16),
        modality=rng.integers(0, 2, 30).astype(np.uint8),
        sequence_id=np.zeros(30, np.int32),
        phase=np.zeros(30, np.uint8),
        moe_layers=np.arange(1, dtype=np.int32),
        num_experts=6,
    )
    save_trace(trace, tmp_path / "t.npz")
    assert main(["placement", "judge", str(tmp_path / "t.npz"), "--ranks", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("rule", "contiguous", "random", "bins", "coactivation", "eplb", "optimal"),
    ]
    assert lines[-1].split()[2] == "0.00"
