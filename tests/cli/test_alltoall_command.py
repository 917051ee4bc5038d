"""``smoes-sim alltoall``: what it prints, plots and warns of."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numba
import pytest
import typer

from smoes_sim.cli import main
from smoes_sim.cli.app import app
from smoes_sim.cli.first_use import compilation_told


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    out, _ = capsys.readouterr()
    return out


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(run(capsys, *arguments, "--json"))


def test_alltoall_on_a_star_is_right_to_six_digits(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # 64 MiB over 4 ranks: 3 blocks of 16 MiB leave each port of 50 GB/s, then two links of 1 us
    star = tmp_path / "star.yaml"
    star.write_text("kind: star\nranks: 4\nlink: {bandwidth: 50 GB/s, latency: 1 us}\n")
    found = document(capsys, "alltoall", str(star), "--bytes", "64 MiB")
    (row,) = found["rows"]
    assert row["time_s"] == pytest.approx(3 * 16 * 2**20 / 50e9 + 2e-6, rel=1e-9)
    star.write_text("kind: star\nranks: 4\nlink: {bandwidth: 50 GB/s, latency: 0 us}\n")
    (row,) = document(capsys, "alltoall", str(star), "--bytes", "64 MiB")["rows"]
    assert row["busbw_GBps"] == pytest.approx(50, rel=1e-9)
    assert row["algbw_GBps"] == pytest.approx(200 / 3, rel=1e-9)
    assert (found["ranks"], row["flows"], row["links"], row["error_bound"]) == (4, 12, 8, 0.0)


def test_alltoall_of_a_matrix_file_shares_links_max_min(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # 10 B/s ports. 0->1 60 B, 0->2 20 B, 3->1 40 B. Port 0 gives 5 to each of its two flows, port 1 takes 5 from 0 and 5
    # from 3. At 4 s 0->2 (20 B) ends; 0->1 has 40 B left and may now leave at 10, but port 1 still gives it 5: until 3->1
    # ends at 8 s, when 20 B are left, which then go at 10: 10 s.
    (tmp_path / "star.yaml").write_text("kind: star\nranks: 4\nlink: {bandwidth: 10 B/s, latency: 0 us}\n")
    (tmp_path / "matrix.txt").write_text("0 60 20 0\n0 0 0 0\n0 0 0 0\n0 40 0 0\n")
    arguments = ["alltoall", str(tmp_path / "star.yaml"), "--matrix", str(tmp_path / "matrix.txt")]
    (row,) = document(capsys, *arguments)["rows"]
    assert row["time_s"] == pytest.approx(10, rel=1e-9)
    assert row["bound_s"] == pytest.approx(10, rel=1e-9)  # port 1 takes 100 B at 10 B/s
    assert row["size_bytes"] == 100


def test_alltoall_prints_the_columns_of_nccl_tests(capsys: pytest.CaptureFixture[str]) -> None:
    lines = run(capsys, "alltoall", "8x-b200", "--sweep", "1 MiB:4 MiB").splitlines()
    wanted = ["size(B)", "count", "type", "redop", "root", "time(us)", "algbw(GB/s)", "busbw(GB/s)"]
    header, *rows = [line for line in lines if not line.startswith("#")]
    assert header.split()[: len(wanted)] == wanted
    assert [row.split()[0] for row in rows] == ["1048576", "2097152", "4194304"]


ROW = {"size_bytes", "time_s", "algbw_GBps", "busbw_GBps", "bound_s", "flows", "links", "error_bound", "error_kind"}
HOT = {"link", "kind", "count", "bytes", "capacity_Bps", "busy_s", "utilisation", "first_s", "last_s", "full_s"}


@pytest.mark.parametrize(
    ("options", "collective", "traffic"),
    [
        ("", "alltoall", "equal blocks"),
        ("--zipf 1", "alltoallv", "Zipf 1, the same for all sources"),
        ("--zipf 1 --per-source", "alltoallv", "Zipf 1, drawn for each source"),
        ("--lognormal 0.5", "alltoallv", "log-normal, sigma 0.5, the same for all sources"),
        ("--workload W6 --step 2", "alltoallv", "workload W6_rotating_hotspot, step 2"),
        ("--schedule pairwise --per-message 1us", "alltoall", "equal blocks"),
        ("--schedule low_latency --message-size 14KiB", "alltoall", "equal blocks"),
        ("--fidelity fifo --order rail --injection round_robin --window 64KiB --chunk 16KiB", "alltoall", "equal blocks"),
        ("--fidelity bound", "alltoall", "equal blocks"),
        ("--tolerance 0.0 --seed 3", "alltoall", "equal blocks"),
    ],
)
@pytest.mark.parametrize("size", ["--bytes 1MiB", "--sweep 1MiB:2MiB"])
def test_alltoall_prints_the_keys_that_scripts_rely_on(
    options: str, size: str, collective: str, traffic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "alltoall", "2x8-h100-ndr400", *size.split(), *options.split())
    assert (found["ranks"], found["collective"], found["traffic"]) == (16, collective, traffic)
    assert found["wall_s"] > 0
    for row in found["rows"]:
        assert set(row) >= ROW
        assert "hot_links" not in row
        assert row["time_s"] >= row["bound_s"] * (1 - 1e-9)
    sizes = [2**20] if "--bytes" in size else [2**20, 2**21]
    assert [row["mean_bytes"] for row in found["rows"]] == pytest.approx(sizes)
    for option, value in itertools.pairwise(options.split()):
        name = option.removeprefix("--").replace("-", "_")
        if option.startswith("--") and name in found:
            assert str(found[name]) == value


def test_alltoall_of_a_trace_has_its_proportions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.npz"
    run(capsys, "trace", "synthesize", "olmoe-two-orin", "workload.batch=2", "workload.text_tokens=8", "-o", str(trace))
    found = document(capsys, "alltoall", "two-orin-10gbe", "--trace", str(trace), "--bytes", "1 MiB")
    (row,) = found["rows"]
    assert found["traffic"] == f"in the proportions of {trace}"
    assert row["mean_bytes"] == pytest.approx(2**20)
    assert row["size_bytes"] > 2**20


def test_alltoall_names_the_busiest_links(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["alltoall", "2x8-h100-ndr400", "--workload", "W2", "--sweep", "1MiB:2MiB", "--links", "3"]
    for row in document(capsys, *arguments)["rows"]:
        assert len(row["hot_links"]) == 3
        assert all(set(hot) == HOT for hot in row["hot_links"])
        first = row["hot_links"][0]
        # 8 ranks of the other node send 4 / 19 of their bytes each to the hot rank, through its NIC of 50 GB/s
        assert first["link"].startswith("fabric -> node")
        assert first["bytes"] == pytest.approx(8 * row["mean_bytes"] * 4 / 19)
        assert first["busy_s"] == pytest.approx(first["bytes"] / 50e9)
        assert first["utilisation"] == pytest.approx(first["busy_s"] / row["time_s"])
        assert (first["first_s"], first["last_s"], first["full_s"]) == (0, *[pytest.approx(first["busy_s"])] * 2)
    lines = run(capsys, *arguments).splitlines()
    table = lines[lines.index("") + 1 :]
    assert table[0].startswith("# busiest links at size ")
    assert "--tolerance 0 is exact" in table[2]
    assert table[3].split()[:4] == ["link", "kind", "bytes", "capacity"]
    assert [line.split("  ")[0] for line in table[4:]] == [hot["link"] for hot in row["hot_links"]]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--tolerance 0", "# schedule direct; solution exact for the model"),
        ("", "# model fluid: links shared max-min fairly, no packets, no queues"),
        ("", "# no calibration: links at nominal bandwidth, software costs nothing"),
        ("--per-message 2us", "# no calibration: links at nominal bandwidth, software costs 2us per message"),
        ("--fidelity bound", "# model bound: no order or timing of these messages is faster"),
        ("--fidelity fifo --order naive --window 64KiB", "naive order, fifo injection, window 64KiB"),
        ("--fidelity fifo", "shifted order, fifo injection, window 65535 B (TCP)"),
        ("--fidelity fifo --window inf", "shifted order, fifo injection, no window"),
        ("--schedule pairwise", "schedule pairwise"),
    ],
)
def test_alltoall_says_what_its_answer_rests_on(options: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "alltoall", "2x8-h100-ndr400", "--bytes", "1MiB", *options.split())
    assert text.startswith("# alltoall on 2x8-h100-ndr400: 16 ranks, 96 directed links; equal blocks\n")
    assert words in text


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ("--window 1MiB", "--window is for --fidelity fifo and packet; fluid leaves it out"),
        ("--chunk 1MiB --fidelity bound", "--chunk is for --fidelity fifo; bound leaves it out"),
        ("--injection fifo", "--injection is for --fidelity fifo and packet; fluid leaves it out"),
        ("--tolerance 0 --fidelity fifo", "--tolerance is for --fidelity fluid; fifo leaves it out"),
        ("--order naive", "--order does not count with --fidelity fluid while --per-message is 0"),
        ("--message-size 1KiB", "--message-size is for --schedule low_latency; it is left out"),
        ("--order naive --per-message 1us", None),
        ("--order naive --fidelity fifo --window 1MiB", None),
    ],
)
def test_alltoall_warns_of_options_that_do_not_count(
    options: str, warning: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["alltoall", "two-orin-10gbe", "--bytes", "1MiB", *options.split()]) == 0
    err = capsys.readouterr().err
    assert (err == "") if warning is None else err.startswith(f"warning: {warning}")


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
@pytest.mark.parametrize("options", ["--bytes 1MiB --zipf 1", "--sweep 1KiB:1MiB", "--sweep 1KiB:4KiB --fidelity fifo"])
def test_alltoall_plots_the_same_bytes_each_time(
    name: str, options: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pictures = []
    for folder in ("one", "two"):
        path = tmp_path / folder / name
        run(capsys, "alltoall", "2x8-h100-ndr400", *options.split(), "--plot", str(path))
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]
    if name == "a.svg":
        wanted = "busbw (GB/s)" if "--sweep" in options else "fabric -&gt; node"
        assert wanted in pictures[0].decode()
    else:
        assert pictures[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options",
    ["--zipf 1", "--lognormal 1", "--workload W4 --links 4", "--zipf 1 --per-source --fidelity fifo", "--order random"],
)
def test_alltoall_gives_the_same_answer_for_the_same_seed(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("5", "5", "6"):
        arguments = ["alltoall", "2x8-h100-ndr400", "--bytes", "1MiB", *options.split(), "--seed", seed]
        found = document(capsys, *arguments)
        del found["wall_s"], found["seed"]
        texts.append(json.dumps(found))
    assert texts[0] == texts[1]
    assert (texts[0] == texts[2]) == (options == "--order random")  # fluid does not see the order


def test_the_help_of_alltoall_groups_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "alltoall", "--help")
    headings = [line.strip("╭─╮ ") for line in text.splitlines() if line.startswith("╭")]
    assert headings[:2] == ["Arguments", "Options"]
    assert headings[2:4] == ["How much", "Who sends what (one of them; equal blocks when left out)"]
    assert max(len(line) for line in text.splitlines()) <= 80
    names = [param.name for param in typer.main.get_command(app).commands["alltoall"].params if param.name != "topology"]
    assert all(f"--{name.replace('_', '-')}" in text for name in names if name not in {"size", "as_json"})


def compile_something() -> int:
    return numba.njit(lambda number: number + 1)(1)


@pytest.mark.parametrize(("is_terminal", "may_compile", "times"), [(True, True, 1), (False, True, 0), (True, False, 0)])
def test_compiling_is_told_once_and_on_a_terminal_only(
    is_terminal: bool, may_compile: bool, times: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    with compilation_told(may_compile=may_compile):
        assert compile_something() == compile_something() == 2
    compile_something()
    assert capsys.readouterr().err.count("once per installation") == times
