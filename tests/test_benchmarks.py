"""The harness of the benchmarks works; what it measures is not judged here."""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is in the repository, not in the package")

import benchmarks
from benchmarks.case import Case, topology_spec
from benchmarks.document import outcome_text, write_document
from benchmarks.growth import PANELS
from benchmarks.network import chosen, main, rows
from benchmarks.peers import ASTRA_PROGRAM, astra_row
from benchmarks.processes import Lab, run_process
from benchmarks.rows import Limits, exchange_row
from benchmarks.work import Stopwatch, answer_of, write_flows
from smoes_sim.topology import build
from smoes_sim.topology.shipped import TopologyFile

SMALL = Case(fabric="star", ranks=4, zipf=0)


class OneAnswer(Lab):
    """A laboratory in which every exchange ends in the same way."""

    def __init__(self, **answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def run(self, request: Any) -> dict[str, Any]:
        del request
        return self._answer


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(benchmarks.__path__)])
def test_every_module_can_be_imported(name: str) -> None:
    pytest.importorskip("torch")
    importlib.import_module(f"benchmarks.{name}")


def answer(**changed: Any) -> dict[str, Any]:
    times = {"wall_s": 2.0, "cpu_s": 1.0, "parts_s": {"sharing": 1.5, "routes": 0.5}, "load": 3.0, "peak_MB": 100.0}
    return {"duration_s": 1.0, "bound_s": 1.0, "error_bound": 0.0, "flows": 12, "rate_changes": 9} | times | changed


@pytest.mark.parametrize("fabric", ["star", "two_level", "fat_tree", "rail", "torus", "dragonfly"])
@pytest.mark.parametrize("ranks", [64, 256])
def test_every_fabric_has_the_ranks_it_is_asked_for(fabric: Any, ranks: int) -> None:
    spec = TopologyFile.model_validate(topology_spec(fabric, ranks)).root
    assert build(spec, name=fabric).num_ranks == ranks


def test_a_case_gives_the_time_that_arithmetic_gives() -> None:
    # 3 blocks of 16 MiB through a port of 50 GB/s
    assert answer_of(SMALL, Stopwatch())["duration_s"] == pytest.approx(3 * 2**24 / 50e9)


def test_skipping_destinations_leaves_a_share_of_the_flows() -> None:
    assert answer_of(Case(fabric="star", ranks=8, zipf=0, skip=4), Stopwatch())["flows"] == 16  # distances 1 and 5


def test_peers_read_whole_bytes_and_routes(tmp_path: Path) -> None:
    case = Case(fabric="star", ranks=2, zipf=0, whole_bytes=True)
    write_flows(case, form="astra", path=str(tmp_path / "a"))
    write_flows(case, form="simgrid", path=str(tmp_path / "s"))
    assert (tmp_path / "a").read_text().splitlines() == ["2 50000000000 2", f"0 1 {2**25}", f"1 0 {2**25}"]
    problem = json.loads((tmp_path / "s").read_text())
    assert [flow[:3] for flow in problem["flows"]] == [[0, 1, 2**25], [1, 0, 2**25]]
    assert [len(flow[3]) for flow in problem["flows"]] == [2, 2]


def test_a_process_is_charged_for_its_own_memory_and_says_why_it_failed() -> None:
    large = run_process([sys.executable, "-c", "x = bytearray(300_000_000); print(len(x))"])
    assert (large.output, large.problem) == ("300000000\n", "")
    assert large.peak_MB > 300
    assert run_process([sys.executable, "-c", "raise SystemExit('no luck')"]).problem == "no luck"


def test_a_miss_names_what_was_over_and_where_the_time_went() -> None:
    case = Case(fabric="star", ranks=4096)
    outcome = exchange_row("x", case, Limits(seconds=1, memory=50e6)).measure(OneAnswer(**answer()))
    assert outcome.hit is False
    assert outcome.reason == "2 s > 1 s (sharing 75%, routes 25%; CPU/wall 0.50 at load 3.0); 0.1 GB > 0.05 GB"
    assert exchange_row("x", case, Limits(seconds=3)).measure(OneAnswer(**answer())).hit is True


def test_a_makespan_that_is_off_is_a_miss() -> None:
    class Lying(OneAnswer):
        def exchange(self, case: Case) -> dict[str, Any]:
            return answer(rate_changes=12) if case.tolerance == 0 else answer(duration_s=1.001)

    outcome = exchange_row("x", Case(fabric="star", ranks=256), Limits(seconds=3, error=1e-4), judge=0.0).measure(Lying())
    assert outcome.hit is False
    assert outcome.reason == "makespan off by 1.0e-03 > 0.0001"


def test_a_tighter_tolerance_that_finds_the_same_windows_proves_nothing_new() -> None:
    case = Case(fabric="star", ranks=1024)
    outcome = exchange_row("x", case, Limits(seconds=3), judge=1e-6).measure(OneAnswer(**answer(error_bound=2e-15)))
    assert outcome.error == "2.0e-15 vs wider windows; 1e-06 needs no finer ones"


def test_an_error_becomes_a_line_of_the_table() -> None:
    outcome = exchange_row("x", SMALL, Limits(seconds=3)).measure(OneAnswer(error="128 experts do not divide"))
    assert (outcome.hit, outcome.reason) == (False, "128 experts do not divide")
    assert "128 experts do not divide" in " ".join(outcome_text([outcome]).split())


def test_without_a_program_the_recorded_figure_is_marked_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASTRA_PROGRAM, raising=False)
    outcome = astra_row("zipf", 128).measure(OneAnswer(**answer()))
    assert outcome.hit is None
    assert "not installed" in outcome.ratio
    assert "recorded 2026-11 in other runs" in outcome.ratio


def test_names_of_rows_are_distinct_and_selectable() -> None:
    every = rows(quick=False, full=True)
    names = [row.name for row in every]
    assert len(set(names)) == len(names)
    assert {row.name for row in chosen(every, ["astra-128"])} == {"astra-128-zipf"}
    with pytest.raises(SystemExit, match="no row starts so"):
        chosen(every, ["nothing"])


def test_the_command_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "performance.md"
    document.write_text("# P\n<!-- targets -->\nold\n<!-- end -->\nafter\n")
    arguments = ["--quick", "--only", "4096-star-uniform", "--docs", str(tmp_path), "--json", str(tmp_path / "all.json")]
    main(arguments)
    assert "fluid: 64 ranks, star, uniform, 4,032 flows" in " ".join(capsys.readouterr().out.split())
    (row,) = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert row["facts"]["duration_s"] == pytest.approx(63 * 2**20 / 50e9)
    text = document.read_text()
    assert "old" not in text
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| fluid: 64 ranks, star, uniform, 4,032 flows |" in text


def test_a_document_without_its_marker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text("nothing here")
    machine = {"date": "d", "cpu": "c", "cores": 2, "memory_GB": 1, "load_average": [0], "python": "3", "versions": {}}
    with pytest.raises(SystemExit, match="has no <!-- targets -->"):
        write_document(tmp_path, {"machine": machine, "rows": []})


def test_growth_is_written_as_a_table_and_a_picture(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text("<!-- growth -->\n<!-- end -->\n")
    machine = {"date": "d", "cpu": "c", "cores": 2, "memory_GB": 1, "load_average": [0], "python": "3", "versions": {}}
    point = {"panel": "zipf", "series": "star", "ranks": 64, "flows": 4032, "links": 128, "peak_MB": 90.0, "wall_s": 1.0}
    points = [point | {"panel": panel, "x": x, "cpu_s": x} for panel in PANELS for x in (1.0, 2.0)]
    failed = {"panel": "ranks", "series": "star", "ranks": 128, "x": None, "error": "stopped after 600 s"}
    write_document(tmp_path, {"machine": machine, "growth": [*points, failed]})
    assert (tmp_path / "performance.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "performance.md").read_text()
    assert "| zipf | star | 2 | 64 | 4,032 | 128 | 2 | 1 | 0.09 GB |" in text
    assert "stopped after 600 s" in text
