"""From a log to a prediction on the command line: import, calibrate, validate, alltoall."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from smoes_sim.cli import main

STAR = "kind: star\nranks: 4\nlink: {kind: nvlink, bandwidth: 100 GB/s, latency: 0 us}\n"
HEADER = "#  size  count  type  redop  root  time  algbw  busbw  #wrong  time  algbw  busbw  #wrong\n"


def log(sizes: list[int]) -> str:
    """nccl-tests text of a machine with 80% of the rate and 20 us of start-up: 3/4 of the size at 80 GB/s."""
    rows = (f"{size} 1 float none -1 {20 + size * 0.75 / 80e3:.3f} 0 0 0 {30} 0 0 N/A\n" for size in sizes)
    return "# Collective test starting: alltoall_perf\n" + HEADER + "".join(rows)


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(STAR)
    (tmp_path / "run.log").write_text(log([4**power for power in range(7, 15)]))
    return tmp_path


def test_a_log_is_imported_fitted_and_predicted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported = document(capsys, "measurements", "import", "run.log", "-o", "rows.csv", "--topology", "net.yaml")
    assert (imported["rows"], imported["nodes"], imported["ranks_per_node"]) == (8, 4, 1)
    fit = [f"--fit=bytes_per_rank={size}" for size in ("64 KiB", "1 MiB", "4 MiB", "64 MiB", "16384")]
    fitted = document(capsys, "calibrate", "rows.csv", "-o", "c.json", *fit)
    assert fitted["parameters"]["efficiency.nvlink"]["value"] == pytest.approx(0.8, rel=0.01)
    assert (len(fitted["residuals"]), fitted["held_out"]) == (5, 3)
    assert "--fit 'bytes_per_rank=64 KiB'" in fitted["command"]
    validated = document(capsys, "validate", "rows.csv", "--calibration", "c.json", "--report", "r.html")
    assert validated["families"]["alltoall, direct"]["n"] == 3
    assert validated["families"]["alltoall, direct"]["max_ape"] < 0.02
    assert validated["in_sample"]["alltoall, direct"]["n"] == 5
    assert (folder / "r.html").read_text().startswith("<!doctype html>")
    # 256 MiB was never timed
    (row,) = document(capsys, "alltoall", "net.yaml", "--calibration", "c.json", "--bytes", "256 MiB")["rows"]
    assert row["time_s"] == pytest.approx(20e-6 + 2**28 * 0.75 / 80e9, rel=0.02)
    assert row["low_s"] < row["time_s"] < row["high_s"]
    assert row["algbw_GBps"] == pytest.approx(2**28 / row["time_s"] / 1e9)


def test_our_own_table_is_imported_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alltoall", "net.yaml", "--sweep", "1 MiB:4 MiB"]) == 0
    (folder / "own.txt").write_text(capsys.readouterr().out)
    document(capsys, "measurements", "import", "own.txt", "-o", "own.csv", "--topology", "net.yaml")
    validated = document(capsys, "validate", "own.csv")
    # printed to 0.01 us of 7.86 us
    assert validated["families"]["alltoall, direct"] | {"n": 3} == validated["families"]["alltoall, direct"]
    assert validated["families"]["alltoall, direct"]["max_ape"] < 1e-3


def test_printed_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["measurements", "import", "run.log", "-o", "rows.csv", "--topology", "net.yaml", "--library", "nccl 9"])
    assert "library         nccl 9" in capsys.readouterr().out
    main(["calibrate", "rows.csv", "-o", "c.json", "--fit", "bytes_per_rank=64 MiB"])
    text = capsys.readouterr().out
    assert "per_message" in text
    assert re.search(r"^per_message .* NO +software seconds per message$", text, re.MULTILINE)
    assert "per_message: prior 2e-05" in text
    assert "7 rows are held out" in text
    (folder / "rows.csv").write_text((folder / "rows.csv").read_text() + "\n")
    main(["validate", "rows.csv", "--calibration", "c.json"])
    text = capsys.readouterr().out
    assert "note: this is not the file that was fitted" in text
    assert "note: not pinned down by the fit: per_exchange, per_message" in text
    assert "In-sample: rows that were fitted" in text
    main(["alltoall", "net.yaml", "--calibration", "c.json"])
    assert "constants of c.json; 10% and 90% are the ends of the 80% interval" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("measurements import run.log -o r.csv --topology net.yaml --nodes 2", "--topology already defines what --nodes"),
        ("measurements import run.log -o r.csv --nodes 2", "does not give the number of nodes and ranks"),
        ("measurements import run.log -o r.csv --intra-rate 5", '--intra-rate = "5" has no unit'),
        ("calibrate rows.csv -o c.json --fit mode=x --scenario olmoe-two-orin", "Give one of them"),
        ("calibrate rows.csv -o c.json --fit mode=x", "no row meets it"),
        ("validate rows.csv --report r.pdf", "a report is one HTML file"),
        ("validate rows.csv --calibration gone", 'calibration "gone" is neither shipped nor a file'),
        (
            "alltoall net.yaml --calibration published",
            "calibration published: these are constants of communication lib",
        ),
        ("alltoall net.yaml --calibration libraries.json", "libraries.json: these are constants of communication lib"),
        ("alltoall net.yaml --calibration gone.json", "gone.json: cannot be read"),
    ],
)
def test_broken_input_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str) -> None:
    (folder / "rows.csv").write_text("id,nodes,ranks_per_node,mode,op,time_us\na,2,1,alltoall,alltoall,5\n")
    (folder / "libraries.json").write_text('{"kind": "libraries"}')
    before = sorted(path.name for path in folder.iterdir())
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
