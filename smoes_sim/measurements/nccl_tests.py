"""Parse the output of nccl-tests, rccl-tests and ``smoes-sim alltoall``: text tables, and the JSON of nccl-tests (``-J``).

Formats as of nccl-tests 2.18 (``src/util.cu``): a text row is size, count, type, then perhaps redop and root, then twice
(out-of-place, in-place) time, algbw, busbw, #wrong and perhaps statistics over iterations; times in microseconds. The
header names the columns. Lines may carry the rank prefix of ``srun -l`` or ``mpirun --tag-output``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import orjson

from smoes_sim.errors import MeasurementError
from smoes_sim.yaml_files import read_text

OPERATIONS = ("alltoall", "alltoallv", "sendrecv")
"""Tests that can be predicted; rows of other tests are left out."""
_PREFIX = re.compile(r"^(?:\[\d+,\d+\]<std\w+>:\s?|\d+:\s)")
_STARTING = re.compile(r"#\s*Collective test starting:\s*(\S+)")
_OURS = re.compile(r"#\s*(alltoallv?) on .*?: (\d+) ranks")
_COMMAND = re.compile(r"(\w+)_perf\b")
_RANK = re.compile(r"#\s+Rank\s+(\d+)\s+(?:Group\s+\d+\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*)")
_LIBRARY = re.compile(r"(nccl|rccl)-library=(\d+)|(N|R)CCL version ?: ?(\d+\.\d+\.\d+)|(N|R)CCL version (\d+\.\d+\.\d+)")
_HEADER = re.compile(r"#?\s*size(?:\(B\))?\s+count")
_ROW = re.compile(r"\s*\d+\s+\d+\s+[a-z]\w*\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRow:
    """One timed size: ``size`` in bytes as the test counts it, times in seconds, ``place`` is ``file:line``."""

    place: str
    size: float
    duration: float
    duration_p10: float | None = None
    duration_p90: float | None = None


@dataclass(slots=True, kw_only=True)
class LoggedTest:
    """One run of a test program.

    Attributes:
        operation: ``alltoall``, ``all_reduce``, ...; "" if the log does not name it.
        library: Communication library and version; "" if the log does not name it.
        device: Name of the first device.
        hosts: Host of each rank; empty if the log lists no ranks.
        num_ranks: Number of ranks; 0 if the log lists none.
        rows: The timed sizes.
        num_empty: Number of rows of size 0, which are left out.
    """

    operation: str = ""
    library: str = ""
    device: str = ""
    hosts: dict[int, str] = field(default_factory=dict)
    num_ranks: int = 0
    rows: list[LoggedRow] = field(default_factory=list)
    num_empty: int = 0

    @property
    def num_nodes(self) -> int:
        """Number of distinct hosts; 0 if the log lists none."""
        return len(set(self.hosts.values()))


def read_tests(path: Path) -> list[LoggedTest]:
    """The tests in a log that have timed rows.

    Raises:
        MeasurementError: If the file has no timed row, or a row is broken or has wrong results, with file and line.
    """
    text = read_text(path)
    tests = [_from_json(path, text)] if text.lstrip().startswith("{") else list(_from_text(path, text))
    found = [test for test in tests if test.rows]
    if not found:
        raise MeasurementError(
            f"{path}: has no timed row of nccl-tests, rccl-tests or `smoes-sim alltoall`. Give its complete output."
        )
    return found


def _from_text(path: Path, text: str) -> Iterator[LoggedTest]:
    test, columns = LoggedTest(), list[str]()
    for number, raw in enumerate(text.splitlines(), start=1):
        line = _PREFIX.sub("", raw)
        place = f"{path}:{number}"
        if test.rows and (_STARTING.match(line) or _OURS.match(line) or line.lstrip().startswith("# nThread")):
            yield test
            test = LoggedTest()
        if _HEADER.match(line):
            columns = [name.partition("(")[0].lower() for name in line.lstrip("# ").split()]
            _check_columns(place, columns)
        elif _ROW.match(line):
            _add_row(test, place, line, columns)
        else:
            _note_facts(test, place, line)
    yield test


def _check_columns(place: str, columns: list[str]) -> None:
    if "cputime" in columns:
        raise MeasurementError(f"{place}: the test timed the CPU (-C), not the exchange. Run it without -C.")
    if "time" not in columns:
        raise MeasurementError(f"{place}: the header has no column time. Give the complete output of the program.")


def _note_facts(test: LoggedTest, place: str, line: str) -> None:
    """Add the facts about the run that a line without times states."""
    if ours := _OURS.match(line):
        test.operation, test.num_ranks, test.library = ours[1], int(ours[2]), "smoes_sim"
    elif rank := _RANK.match(line):
        if int(rank[1]) in test.hosts:
            raise MeasurementError(
                f"{place}: rank {rank[1]} occurs twice: these are several runs of one process each (nccl-tests "
                "without MPI). Build it with MPI=1 and run it again."
            )
        test.hosts[int(rank[1])] = rank[2]
        test.num_ranks = len(test.hosts)
        test.device = test.device or rank[3].strip()
    elif starting := _STARTING.match(line):
        test.operation = starting[1].removesuffix("_perf")
    elif not test.operation and (command := _COMMAND.search(line)):
        test.operation = command[1]
    if library := _LIBRARY.search(line):
        test.library = _library(*library.groups())


def _library(*found: str | None) -> str:
    name, code, *named = found
    if name and code:
        return f"{name} {_version(int(code))}"
    letter, version = named[0] or named[2], named[1] or named[3]
    return f"{'nccl' if letter == 'N' else 'rccl'} {version}"


def _version(code: int) -> str:
    """``2.28.7`` of 22807 (NCCL_VERSION_CODE from 2.9 on); 2708 is 2.7.8."""
    scale = 10000 if code >= 10000 else 1000
    return f"{code // scale}.{code % scale // 100}.{code % 100}"


def _add_row(test: LoggedTest, place: str, line: str, columns: list[str]) -> None:
    """Add a row of the table; the header names its columns after size, count, type, and possibly redop and root."""
    if not columns:
        raise MeasurementError(f"{place}: has no header above it. Give the complete output of the program.")
    names = columns[columns.index("time") :]
    cells = line.split()
    if names[-1] == "timestamp":
        names, cells = names[:-1], cells[:-2]
    values = cells[3:][-len(names) :]
    if len(values) < len(names):
        raise MeasurementError(f"{place}: has {len(values)} of the {len(names)} columns from time on. Fix this line.")
    half = len(names) // 2 if names.count("time") == 2 else len(names)
    duration = _number(values[0]) or _number(values[half] if half < len(values) else "")
    for name, value in zip(names, values, strict=True):
        if name in {"#wrong", "wrong"} and (_number(value) or 0) > 0:
            raise MeasurementError(f"{place}: #wrong = {value}: the results were wrong, so is the time. Remove the row.")
    _append(test, place, float(cells[0]), duration, shown=values[0])


def _append(test: LoggedTest, place: str, size: float, duration: float | None, *, shown: object, **spread: float) -> None:
    if size == 0:
        test.num_empty += 1
        return
    if duration is None or duration <= 0:
        raise MeasurementError(f'{place}: time = "{shown}" is not a number of microseconds > 0. Remove the row.')
    test.rows.append(LoggedRow(place=place, size=size, duration=duration * 1e-6, **spread))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _from_json(path: Path, text: str) -> LoggedTest:
    """Parse the JSON of nccl-tests: one entry of ``devices`` is a process with ``nthreads * ngpus`` ranks."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MeasurementError(f"{path}:{error.lineno}:{error.colno}: is not JSON ({error.msg}). Fix the file.") from None
    try:
        config, results = document["config"], document["results"]
        devices, of_process = config["devices"], config["nthreads"] * config["ngpus"]
        test = LoggedTest(
            operation=PurePath(document["args"][0]).name.removesuffix("_perf"),
            library=f"nccl {_version(document['nccl_version'])}",
            device=devices[0]["device_info"].strip(),
            hosts=dict(enumerate(device["hostname"] for device in devices for _ in range(of_process))),
            num_ranks=len(devices) * of_process,
        )
        for index, result in enumerate(results):
            _add_result(test, f"{path}: results[{index}]", result)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise MeasurementError(
            f"{path}: is not the JSON of nccl-tests -J: {type(error).__name__} at {error}. Give the file that -J wrote."
        ) from None
    return test


def _add_result(test: LoggedTest, place: str, result: dict[str, Any]) -> None:
    """Add the out-of-place time, else the in-place time; with percentiles where iterations were timed."""
    which = "out_of_place" if result.get("out_of_place") else "in_place"
    timed, iterations = result[which], result.get(f"{which}_per_iter")
    if "cpu_time" in timed:
        raise MeasurementError(f"{place}: the test timed the CPU (-C), not the exchange. Run it without -C.")
    if (timed["nwrong"] or 0) > 0:
        raise MeasurementError(f"{place}: nwrong = {timed['nwrong']}: the results were wrong. Remove the entry.")
    spread = {}
    if iterations:
        times = iterations["times_us"][iterations["skipped_iterations"] :]
        low, high = np.percentile(times, [10, 90]) * 1e-6
        spread = {"duration_p10": float(low), "duration_p90": float(high)}
    _append(test, place, float(result["size"]), _number(str(timed["time"])), shown=timed["time"], **spread)
