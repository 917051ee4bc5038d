"""Logs in the forms of nccl-tests 2.18, older ones, rccl-tests, and launchers that prefix lines."""

import json
from pathlib import Path
from typing import Any

import pytest

from smoes_sim.errors import MeasurementError
from smoes_sim.measurements.nccl_tests import read_tests

HEADER = (
    "#       size         count    type   redop  root    time   algbw   busbw  #wrong     time   algbw   busbw  #wrong\n"
    "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)\n"
)
# rows and version lines of a 2 x 8 MI355X log with rccl-tests (github.com, an all-to-all over Pollara NICs)
RCCL = (
    "# rccl-tests version 2.17.9-develop:4a65e8d rccl-headers=22707 rccl-library=22707\n"
    "# Collective test starting: alltoall_perf\n"
    "# nThread 1 nGpus 1 minBytes 16 maxBytes 17179869184 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1\n"
    "#  Rank  0 Group  0 Pid   3625 on    hostA device  0 [0000:05:00] AMD Radeon Graphics\n"
    "#  Rank  1 Group  0 Pid   3554 on    hostB device  0 [0000:05:00] AMD Radeon Graphics\n"
    + HEADER
    + "           0             0   float  none   -1     0.06    0.00    0.00       0     0.04    0.00    0.00    N/A\n"
    "         256             4   float  none   -1    38.61    0.01    0.01       0    37.29    0.01    0.01    N/A\n"
    "  1073741824      16777216   float  none   -1  11253.5   95.41   89.45       0  11254.5   95.41   89.44    N/A\n"
    "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 36.0754\n"
)


def read(folder: Path, text: str) -> list[Any]:
    path = folder / "run.log"
    path.write_text(text)
    return read_tests(path)


def test_operation_library_and_ranks_are_read_from_a_log_of_rccl_tests(tmp_path: Path) -> None:
    (test,) = read(tmp_path, RCCL)
    assert (test.operation, test.library, test.num_ranks, test.num_nodes) == ("alltoall", "rccl 2.27.7", 2, 2)
    assert test.device == "AMD Radeon Graphics"
    assert [(row.size, row.duration) for row in test.rows] == [(256, 38.61e-6), (2**30, pytest.approx(11253.5e-6))]
    assert test.rows[0].place.endswith("run.log:9")
    assert test.num_empty == 1


@pytest.mark.parametrize("prefix", ["[1,0]<stdout>:", " 0: ".lstrip(), "[1,0]<stdout>: "])
def test_rank_prefixes_of_launchers_are_ignored(tmp_path: Path, prefix: str) -> None:
    (test,) = read(tmp_path, "".join(f"{prefix}{line}\n" for line in RCCL.splitlines()))
    assert (test.num_ranks, len(test.rows)) == (2, 2)


def test_old_rows_without_operator_and_root(tmp_path: Path) -> None:
    text = (
        "# nThread 1 nGpus 8 minBytes 1048576\nmpirun alltoall_perf -b 1M\n"
        "#   Rank  0 Pid  12 on  host device  0 [0x07] A100\n"
        "#       size         count    type     time   algbw   busbw  error     time   algbw   busbw  error\n"
        "     1048576         32768   float    87.42   11.99   10.50  0e+00    87.20   12.02   10.52    N/A\n"
    )
    (test,) = read(tmp_path, text)
    assert test.operation == "alltoall"
    assert [(row.size, row.duration) for row in test.rows] == [(2**20, 87.42e-6)]


def test_statistics_over_iterations_and_timestamps_are_ignored(tmp_path: Path) -> None:
    statistics = "time algbw busbw #wrong i_min i_max i_p99 i_cv%"
    header = f"# size count type redop root {statistics} {statistics} timestamp\n"
    row = "1024 8 float none -1 12.5 0.1 0.1 0 11 14 14 2.0 13.5 0.1 0.1 N/A 12 15 15 3.0 2026-01-02 03:04:05\n"
    (test,) = read(tmp_path, "# Collective test starting: sendrecv_perf\n" + header + row)
    assert [(row.size, row.duration) for row in test.rows] == [(1024, pytest.approx(12.5e-6))]


def test_in_place_times_count_where_there_are_no_others(tmp_path: Path) -> None:
    text = "# alltoall_perf\n" + HEADER + "1024 8 float none -1 N/A N/A N/A N/A 13.5 0.1 0.1 0\n"
    assert read(tmp_path, text)[0].rows[0].duration == 13.5e-6


def test_several_tests_in_one_log_are_separate(tmp_path: Path) -> None:
    other = RCCL.replace("alltoall_perf", "all_reduce_perf")
    assert [test.operation for test in read(tmp_path, other + RCCL)] == ["all_reduce", "alltoall"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "has no timed row"),
        (RCCL.replace("N/A", "3").replace("38.61", "38.6"), r"run\.log:8: #wrong = 3: the results were wrong"),
        (RCCL.replace("38.61", "#####").replace("37.29", "#####"), r'run\.log:9: time = "#####" is not a number'),
        (RCCL.replace("Rank  1", "Rank  0"), r"run\.log:5: rank 0 occurs twice.*without MPI"),
        (RCCL.replace(" time ", " cputime "), r"run\.log:6: the test timed the CPU"),
        (RCCL.replace(HEADER, ""), r"run\.log:6: has no header above it"),
        (RCCL.replace("   -1    38.61    0.01    0.01", ""), r"run\.log:9: has .* of the 8 columns"),
    ],
)
def test_broken_logs_name_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        read(tmp_path, text)


def as_json(**changes: Any) -> dict[str, Any]:
    """What nccl-tests -J writes (JSON_FILE_VERSION 3) for two processes of two devices each."""
    device = {"group": 0, "pid": 9, "device": 0, "device_hex": "0000:05:00", "device_info": " NVIDIA H100"}
    devices = [device | {"rank": 0, "hostname": "a"}, device | {"rank": 2, "hostname": "b"}]
    result = {"size": 1048576, "count": 8, "type": "float", "redop": "none", "root": "    -1",
              "out_of_place": {"time": 87.5, "alg_bw": 12.0, "bus_bw": 9.0, "nwrong": 0.0},
              "in_place": {"time": 88.0, "alg_bw": 12.0, "bus_bw": 9.0, "nwrong": None}}  # fmt: skip
    document = {"version": 3, "args": ["/opt/alltoall_perf", "-J", "x"], "env": [], "nccl_version": 22807,
                "config": {"nthreads": 1, "ngpus": 2, "devices": devices}, "results": [result]}  # fmt: skip
    return document | changes


def test_json_of_nccl_tests(tmp_path: Path) -> None:
    document = as_json()
    document["results"][0]["out_of_place_per_iter"] = {"skipped_iterations": 1, "times_us": [500.0, *range(80, 91)]}
    (test,) = read(tmp_path, json.dumps(document))
    assert (test.operation, test.library, test.device, test.num_ranks, test.num_nodes) == (
        "alltoall",
        "nccl 2.28.7",
        "NVIDIA H100",
        4,
        2,
    )
    (row,) = test.rows
    assert (row.size, row.duration) == (2**20, 87.5e-6)
    assert (row.duration_p10, row.duration_p90) == pytest.approx((81e-6, 89e-6))


def test_json_of_another_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"run\.log: is not the JSON of nccl-tests -J: KeyError at 'config'"):
        read(tmp_path, '{"a": 1}')
    with pytest.raises(MeasurementError, match=r"run\.log:1:\d+: is not JSON"):
        read(tmp_path, '{"a": ')
    wrong = as_json()
    wrong["results"][0]["out_of_place"]["nwrong"] = 4.0
    with pytest.raises(MeasurementError, match=r"results\[0\]: nwrong = 4\.0"):
        read(tmp_path, json.dumps(wrong))
