"""What the commands print, for people and for scripts."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import polars as pl
import pytest
from ruamel.yaml import YAML
from shared_predictions import predictions_made_once

from smoes_sim.api.warm_up import COMPILED
from smoes_sim.cli import main
from smoes_sim.cli.schemas import KINDS
from smoes_sim.topology import topology_names
from smoes_sim.version import __version__

ROOT = Path(__file__).parent.parent.parent
QUICK = ["calibration=null", "model.layers=2", "workload.batch=2", "workload.text_tokens=8", "workload.output_tokens=3"]
PREDICTED = {
    "ttft_s",
    "tpot_s",
    "tokens_per_s",
    "step_s",
    "ep_overhead",
    "ep_comm_s",
    "ep_exposed_s",
    "bytes_total",
    "bytes_remote",
    "transmission_rate",
    "imbalance",
    "bound_s",
    "intervals",
    "policy",
    "token_placement",
    "expert_placement",
}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    return out


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(run(capsys, *arguments, "--json"))


def test_simulate_prints_the_keys_that_scripts_rely_on(capsys: pytest.CaptureFixture[str]) -> None:
    row = document(capsys, "simulate", "olmoe-two-orin", *QUICK)
    assert set(row) >= PREDICTED
    assert set(row["transmission_rate"]) == {"prefill_vision", "prefill_text", "prefill", "decode"}
    assert row["bound_s"] <= row["ep_comm_s"] * (1 + 1e-9)


def test_compare_prints_rows_and_changes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "olmoe-two-orin", "placement.tokens=data_parallel,modality", "routing.policy=smoes", *QUICK]
    rows = document(capsys, *arguments)["rows"]
    assert [row["token_placement"] for row in rows] == ["data_parallel", "modality"]
    assert all(set(row) >= PREDICTED for row in rows)
    assert rows[0]["change"]["bytes_remote"] == 0
    expected = rows[1]["bytes_remote"] / rows[0]["bytes_remote"] - 1
    assert rows[1]["change"]["bytes_remote"] == pytest.approx(expected)


def test_validate_reports_families_predictions_and_reasons(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(
        "id,system,nodes,ranks_per_node,intra_link,intra_GBps,library,mode,op,bytes_per_rank,time_us\n"
        "a,8x New,1,8,NVLink4,450,NCCL 9,alltoall,alltoall,67108864,200\n"
        "b,8x New,1,8,NVLink4,450,NCCL 9,alltoall,alltoall,67108864,\n"
        "c,8x New,1,8,NVLink4,450,NCCL 9,gather,gather,1024,20\n"
    )
    found = document(capsys, "validate", str(table))
    (row,) = found["rows"]
    (without_time,) = found["unmeasured"]
    assert row["low_s"] < row["predicted_s"] == without_time["predicted_s"] < row["high_s"]
    assert row["predicted_s"] > 58720256 / 450e9  # 7/8 of 64 MiB at the nominal rate
    assert row["relative_error"] == pytest.approx(row["predicted_s"] / 200e-6 - 1)
    assert found["families"]["nccl_alltoall"]["n"] == 1
    assert [entry["id"] for entry in found["skipped"]] == ["c"]
    assert not row["in_sample"]


def test_topology_show_answers_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = document(capsys, "topology", "show", "2x8-h100-ndr400", "--svg", str(tmp_path / "a.svg"))
    # 8 NICs of 50 GB/s between the nodes; rank, NIC, fabric, NIC, rank: 4 links
    assert (found["devices"], found["diameter"], found["bisection_Bps"]) == (16, 4, 400e9)
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


def test_topology_picture_escapes_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "kind: graph\ndevices: ['<script>', b]\nlinks: [{from: '<script>', to: b, bandwidth: 1 GB/s}]\n"
    (tmp_path / "evil.yaml").write_text(text)
    run(capsys, "topology", "show", str(tmp_path / "evil.yaml"), "--svg", str(tmp_path / "a.svg"))
    drawn = (tmp_path / "a.svg").read_text()
    assert "<script>" not in drawn
    assert "&lt;script&gt;" in drawn


@pytest.mark.parametrize("command", [["topology", "list"], ["topology", "check", "8x-b200"]])
def test_topology_commands_name_what_is_shipped(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "8x-b200" in run(capsys, *command)


def test_a_synthesized_trace_runs_as_the_scenarios_routing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.npz"
    made = document(capsys, "trace", "synthesize", "olmoe-two-orin", *QUICK, "-o", str(trace))
    assert {"tokens", "layers", "top_k", "msi", "msi_per_layer", "expert_load_gini"} <= set(made)
    assert made == document(capsys, "trace", "info", str(trace))
    synthetic = document(capsys, "simulate", "olmoe-two-orin", *QUICK)
    captured = document(capsys, "simulate", "olmoe-two-orin", *QUICK, f"routing.trace={trace}")
    assert captured["transmission_rate"] == synthetic["transmission_rate"]
    assert captured["ttft_s"] == synthetic["ttft_s"]


def test_same_scenario_and_seed_give_identical_bytes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for folder in ("one", "two"):
        out = tmp_path / folder
        run(capsys, "compare", "olmoe-two-orin", *QUICK, "routing.policy=standard,smoes", "--out", str(out))
        timeline = str(out / "step.json.gz")
        run(capsys, "simulate", "olmoe-two-orin", *QUICK, "--timeline", timeline)
        run(capsys, "trace", "synthesize", "olmoe-two-orin", *QUICK, "-o", str(out / "trace.npz"))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        "comparison.png",
        "comparison.svg",
        "runs.parquet",
        "scenario.resolved.yaml",
        "step.json.gz",
        "summary.json",
        "trace.npz",
    ]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_results_hold_what_was_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    row = document(capsys, "simulate", "olmoe-two-orin", *QUICK, "--out", str(tmp_path))
    assert json.loads((tmp_path / "summary.json").read_text())["rows"] == [row]
    table = pl.read_parquet(tmp_path / "runs.parquet")
    assert table["ttft_s"].to_list() == [row["ttft_s"]]
    again = document(capsys, "simulate", str(tmp_path / "scenario.resolved.yaml"))
    assert again["ttft_s"] == row["ttft_s"]


def test_a_timeline_opens_as_a_chrome_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "step.json.gz"
    row = document(capsys, "simulate", "olmoe-two-orin", *QUICK, "--timeline", str(path))
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["name"] for event in slices} >= {"attention", "dispatch", "experts", "combine", "head"}
    end = max(event["ts"] + event["dur"] for event in slices)
    assert end == pytest.approx(row["step_s"] * 1e6)
    for lane in {event["tid"] for event in slices}:  # slices of a lane follow each other: Perfetto refuses overlaps
        mine = sorted((event["ts"], event["ts"] + event["dur"]) for event in slices if event["tid"] == lane)
        assert all(first[1] <= second[0] * (1 + 1e-12) for first, second in itertools.pairwise(mine))
    counters = [event for event in events if event["ph"] == "C"]
    assert {event["name"] for event in counters} == {
        *("node0.device0 -> switch", "node1.device0 -> switch", "switch -> node0.device0", "switch -> node1.device0")
    }
    assert all(0 <= event["args"]["%"] <= 100 and 0 <= event["ts"] <= end * (1 + 1e-9) for event in counters)
    assert max(event["args"]["%"] for event in counters) > 50


def test_the_shipped_calibration_explains_both_baseline_latencies(capsys: pytest.CaptureFixture[str]) -> None:
    with predictions_made_once():
        row = document(capsys, "simulate", "olmoe-two-orin")
    # every draw of the constants was fitted on both: the ends are the published latencies
    assert row["intervals"]["ttft_s"] == pytest.approx([7.949, 7.949], rel=1e-6)
    # one token is decoded in a step, and its experts decide how long it takes: 8 of 120 steps are known to about 2%
    low, high = row["intervals"]["tpot_s"]
    assert low <= 0.786 <= high
    assert [low, high] == pytest.approx([0.786, 0.786], rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_published_schemas_are_those_of_the_code(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (ROOT / "docs" / "schemas" / f"{kind}.json").read_text() == run(capsys, "schema", kind)


def test_shipped_files_satisfy_their_schemas(capsys: pytest.CaptureFixture[str]) -> None:
    yaml = YAML(typ="safe", pure=True)
    topology = jsonschema.Draft202012Validator(json.loads(run(capsys, "schema", "topology")))
    for name in topology_names():
        topology.validate(yaml.load(ROOT / "topologies" / f"{name}.yaml"))
    scenario = jsonschema.Draft202012Validator(json.loads(run(capsys, "schema", "scenario")))
    for path in (ROOT / "smoes_sim" / "data" / "scenarios").glob("*.yaml"):
        scenario.validate(yaml.load(path))


def test_stdout_is_data_and_stderr_at_most_tells_progress_in_a_pipe() -> None:
    command = [sys.executable, "-c", "from smoes_sim.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "compare", "olmoe-two-orin", *QUICK, "seed=0,1", "--json"], capture_output=True, check=True
    )
    assert len(json.loads(done.stdout)["rows"]) == 2
    assert all(b" deployments" in line for line in done.stderr.splitlines())


def test_the_newest_release_in_the_changelog_is_the_version_of_the_package() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    released = headings[1:] if headings[0] == "## Unreleased" else headings
    assert __version__ in released[0]


def test_planning_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from smoes_sim.cli import main; main(['topology', 'check', '8x-b200'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_warming_up_says_where_compiled_code_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    folders = [Path(line.removeprefix("compiled code is in ")) for line in run(capsys, "--warm-up").splitlines()]
    assert folders
    assert all(list(folder.glob("*.nbi")) for folder in folders)


def test_warming_up_covers_every_module_that_compiles_when_imported() -> None:
    package = ROOT / "smoes_sim"
    compiling = {path for path in package.rglob("*.py") if re.search(r"^@jit\(", path.read_text(), flags=re.MULTILINE)}
    assert compiling == {package / f"{name.replace('.', '/')}.py" for name in COMPILED}


def test_warming_up_says_if_nothing_can_be_kept(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smoes_sim.api.warm_up.compile_all", list)
    assert re.search("not kept: .* NUMBA_CACHE_DIR", run(capsys, "--warm-up"))


NOT_FOR_EVERYBODY = ("altair", "joblib", "networkx", "numba", "pandas", "polars", "scipy", "torch")


@pytest.mark.parametrize(
    ("command", "unused"),
    [
        (["--help"], ("numpy", "pydantic", "ruamel", *NOT_FOR_EVERYBODY)),
        (["topology", "list"], NOT_FOR_EVERYBODY),
        (["simulate", "olmoe-two-orn"], NOT_FOR_EVERYBODY),
        (["simulate", "olmoe-two-orin", *QUICK, "--json"], NOT_FOR_EVERYBODY),
    ],
)
def test_a_command_imports_no_library_that_it_does_not_use(command: list[str], unused: tuple[str, ...]) -> None:
    code = f"""import sys; from smoes_sim.cli import main
try: main({command})
finally: print([name for name in {unused} if name in sys.modules], file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_commands_stand_in_panels_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    panels = [line.strip("╭─╮ ") for line in text.splitlines() if line.startswith("╭")]
    assert panels == ["Options", "Predict", "Measure", "Learn and place", "Plan and report", "Look up"]
    assert text.index(" simulate ") < text.index(" compare ") < text.index(" calibrate ") < text.index(" train ")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"smoes-sim {__version__}\n"


def test_what_is_shipped_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "devices", "--json"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)["devices"]]
    assert "h100-sxm" in names
    assert main(["list", "topologies"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 100
    assert main(["list", "device"]) == 2
    assert 'Did you mean "devices"?' in capsys.readouterr().err
