from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from smoes_sim.cli import main
from smoes_sim.distributed.bench import _Traffic
from smoes_sim.distributed.bench_plan import BenchCase, choose_cases
from smoes_sim.distributed.bench_result import case_row
from smoes_sim.distributed.group import RankGroup
from smoes_sim.distributed.journal import read_journals
from smoes_sim.distributed.matrix import one_way
from smoes_sim.errors import ConfigError, RunError
from smoes_sim.exchanges.demand import Demand
from smoes_sim.measurements import read_measurements
from smoes_sim.traffic.skewed import read_matrix

REPEATS = 3


def cases(operation: Any = "alltoall", num_ranks: int = 4, pair: tuple[int, int] = (0, 3), **demand: Any) -> list[BenchCase]:
    return choose_cases(operation, num_ranks, Demand(**demand), pair=pair, seed=0)


def test_a_bench_leaves_a_table_that_its_journals_prove(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.csv"
    arguments = (
        f"bench --ranks 2 --zipf 1 --bytes 64KiB --warmup 1 --repeats {REPEATS} --schedule two_hop --timeout 600s -o {out}"
    )
    assert main(arguments.split()) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines()[0].startswith("# alltoallv: 2 ranks on this machine, loopback, nodes 1, gloo")
    (row,) = read_measurements(out)
    assert (row.mode, row.op, row.schedule, row.repeats, row.num_ranks) == ("alltoall", "alltoallv", "two_hop", REPEATS, 2)
    sent = read_matrix(tmp_path / row.matrix, 2)
    assert row.size == max(sent.sum(axis=0).max(), sent.sum(axis=1).max())
    assert (sent % 16 == 0).all()  # nccl-tests takes it
    entries = read_journals(tmp_path / "rows.files")
    times = np.array([entry["time_s"] for entry in entries]).reshape(2, REPEATS)
    assert row.duration == pytest.approx(np.median(times.max(axis=0)), rel=1e-9)
    assert [entry["bytes_sent"] for entry in entries[::REPEATS]] == [sent[0, 1], sent[1, 0]]
    facts = json.loads((tmp_path / "rows.files" / "facts.json").read_bytes())
    assert facts["torch"] == torch.__version__
    assert [fact["interface"] for fact in facts["per_rank"]] == ["lo", "lo"]
    assert facts["per_rank"][0]["mtu"] > 1000


def exchange_that(spoils: Any) -> Any:
    """An exchange of rank 1 of 2 with itself alone, whatever comes from rank 0 being made up."""

    def send_all(send: Tensor, send_counts: Any, receive_counts: Any, *, out: Tensor, counts: Any) -> Tensor:
        del send, send_counts, receive_counts, counts
        spoils(out)
        return out

    return send_all


@pytest.mark.parametrize("spoils", [lambda out: None, lambda out: out.add_(1), lambda out: out.zero_()])
def test_wrong_bytes_give_no_time(spoils: Any) -> None:
    (case,) = cases(num_ranks=2, size="1 KiB")
    group = cast("RankGroup", SimpleNamespace(place=SimpleNamespace(rank=1), device=torch.device("cpu")))
    traffic = _Traffic(case, group, seed=0)
    for source, rows in enumerate(traffic._receive.split(traffic._receive_counts)):
        rows.copy_(traffic._message(source, 1, repeat=0))
    traffic.check(0)
    traffic.fill(1)
    traffic.travel(exchange_that(spoils))
    with pytest.raises(RunError, match=r"alltoall of 1024 B: what arrived from rank 0 is not what it sent \(repeat 1\)"):
        traffic.check(1)


def test_a_row_is_the_median_of_the_slowest_rank() -> None:
    (case,) = cases(num_ranks=2, size="1 MB")
    # slowest of the two ranks: 3, 2, 10 ms; median 3 ms; 1 MB in 3 ms is 1/3 GB/s, half of it to others
    row = case_row(case, schedule="direct", times=np.array([[1e-3, 2e-3, 1e-2], [3e-3, 1e-3, 1e-3]]))
    assert (row.time_s, row.size_bytes, row.op) == (3e-3, 1_000_000, "alltoall")
    assert row.algbw_GBps == pytest.approx(1 / 3)
    assert row.busbw_GBps == pytest.approx(1 / 6)
    (there,) = cases("sendrecv", num_ranks=2, pair=(0, 1), size="1 MB")
    row = case_row(there, schedule="direct", times=np.array([[1e-3], [5e-4]]))
    assert (row.time_s, row.busbw_GBps) == (1e-3, row.algbw_GBps)


def test_cases_are_whole_bytes() -> None:
    assert cases(num_ranks=3, size="100 B")[0].matrix.tolist() == [[33] * 3] * 3
    assert [case.size for case in cases(sweep="1 KiB:4 KiB")] == [1024, 2048, 4096]
    (case,) = cases("sendrecv", pair=(2, 1), size="1 KB")
    assert (case.matrix == one_way(4, 2, 1, 1000)).all()


def test_same_seed_same_bytes() -> None:
    group = cast("RankGroup", SimpleNamespace(place=SimpleNamespace(rank=1), device=torch.device("cpu")))
    (case,) = cases(zipf=1.0)
    first, again, other = (_Traffic(case, group, seed=seed) for seed in (1, 1, 2))
    for traffic in (first, again, other):
        traffic.fill(0)
    assert torch.equal(first._send, again._send)
    assert not torch.equal(first._send, other._send)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"size": "1 B"}, "alltoall of 0 B: no rank sends anything to another. Give a larger size."),
        ({"operation": "sendrecv", "zipf": 1.0}, "sendrecv sends one message there and back. Give only --bytes or --sweep."),
        ({"operation": "sendrecv", "pair": (0, 4)}, "--pair = 0:4: must be two of the ranks 0 to 3. Write 0:1."),
        ({"operation": "sendrecv", "pair": (1, 1)}, "--pair = 1:1: must be two of the ranks 0 to 3. Write 0:1."),
    ],
)
def test_what_cannot_be_measured_is_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cases(**how)
    assert str(refused.value) == words


def test_a_matrix_of_fractions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half.txt").write_text("0 1.5\n1 0\n")
    with pytest.raises(ConfigError, match=r"half.txt: row 1, column 2 = 1.5: only whole bytes can be sent. Round it."):
        cases(num_ranks=2, matrix=tmp_path / "half.txt")


def test_an_exported_matrix_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.txt"
    assert main(["bench", "--ranks", "4", "--zipf", "1", "--bytes", "1 MiB", "--export", str(path)]) == 0
    assert (read_matrix(path, 4) == cases(zipf=1.0, size="1 MiB")[0].matrix).all()
    assert "NCCL_TESTS_ALLTOALLV_MATRIX_FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "no ranks: give --ranks N or --lab TOPOLOGY, or start runners/bench.py with torchrun."),
        ("--ranks 2 --lab lab-star-4", "--ranks and --lab both say which ranks to start. Give one of them."),
        ("--ranks 2 -o rows.parquet", "--out = rows.parquet: a measurements table ends in .csv. Write rows.csv."),
        ("--ranks 2 --topology lab-star-4", "--ranks = 2: topology lab-star-4 has 4 ranks. Give as many."),
        ("--ranks 2 --pair a:b sendrecv", '--pair = "a:b" is not A:B. Write 0:1.'),
        ("--ranks 2 --timeout 0s", "--timeout = 0 s: must be more than 0. Write 60 s."),
        ("--ranks 2 --export m.txt", "--export writes one matrix, not one for each of 11 sizes. Give --bytes."),
        ("--zipf 1 --export m.txt", "--export needs the number of ranks. Give --ranks or --topology."),
    ],
)
def test_bad_arguments_are_one_line(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert main(["bench", *arguments.split()]) == 2
    assert capsys.readouterr().err == f"smoes-sim: {words}\n"
