"""Common start and duration of an exchange, on one clock where the ranks share one.

An exchange lasts from the common start until its last rank finishes. Ranks of one host share the kernel's monotonic clock
and agree on a start time through shared memory, without using the network under test. Between hosts a barrier comes first:
ranks leave it up to about one message latency per doubling of the ranks apart, and each measures from its own start, so an
exchange may look longer or shorter by that much. On GPUs, device events are recorded after the barrier.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist

from smoes_sim.distributed.group import RankGroup
from smoes_sim.errors import ConfigError, RunError

VARIABLE = "SMOES_SIM_CLOCK"
"""Environment variable with the shared file of the ranks of one host; a lab sets it."""
_LEAD, _LEAD_OF_RANK = 1_000_000, 200_000
"""Nanoseconds from the agreement to the start, and in addition for each rank: time to wake up and read it."""
_NAP = 50e-6
"""Seconds between reads of the slots of the other ranks."""
_LIFE_CHECK = 0.5
"""Seconds between checks that the processes of the other ranks still exist."""
_PR_SET_TIMERSLACK = 29


class Clock(Protocol):
    """Common start times and the time since.

    A mark is a point in time in a form that only the clock knows.
    """

    kind: str

    def start(self) -> Any:
        """Wait for all ranks; returns the mark of the common start."""

    def mark(self) -> Any:
        """The mark of now (on a GPU: of when the work posted so far is done)."""

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; on a GPU waits for the second."""


@contextmanager
def clock_of(group: RankGroup, environment: Mapping[str, str] = os.environ) -> Iterator[Clock]:
    """The most accurate clock that all ranks of a run share.

    Device events on GPUs; shared memory where ``SMOES_SIM_CLOCK`` names a file or all ranks are on one node; a barrier
    otherwise.

    Raises:
        ConfigError: If the file cannot be written.
    """
    if group.backend == "nccl":
        yield DeviceClock(group)
        return
    named = environment.get(VARIABLE)
    if named is None and len(set(group.node_of_rank)) > 1:
        yield BarrierClock(group)
        return
    path = Path(named) if named is not None else None
    made = _make_file(group, path)
    clock = SharedClock(group, Path(group.meet("agree on a clock", str(made or ""))[0]))
    group.meet("open the clock", "")
    if made is not None and path is None:
        made.unlink()
    yield clock


def _make_file(group: RankGroup, path: Path | None) -> Path | None:
    """Rank 0 makes the file, or clears the one that is named."""
    if group.place.rank != 0:
        return None
    size = 8 * (2 * group.place.num_ranks + 1)
    try:
        if path is None:
            folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
            handle, name = tempfile.mkstemp(prefix="smoes-sim-clock-", dir=folder)
            os.close(handle)
            path = Path(name)
        with path.open("r+b") as file:
            file.write(bytes(size))
    except OSError as error:
        raise ConfigError(f"{VARIABLE} = {path}: cannot be written ({error.strerror or error}). Name a file.") from None
    return path


class SharedClock:
    """Ranks of one host share a file of integers: the number of arrivals of each rank, its process, and the start time.

    An arriving rank increments its slot. When all have arrived, rank 0 writes a start time a little ahead; the others read
    it and sleep until then. Each aligned word has one writer, so no lock is needed.
    """

    kind = "shared memory"

    def __init__(self, group: RankGroup, path: Path) -> None:
        self._rank, num_ranks = group.place.rank, group.place.num_ranks
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8 * (2 * num_ranks + 1))
        words = np.frombuffer(self._memory, dtype=np.int64)
        self._visits, self._process, self._start = words[:num_ranks], words[num_ranks:-1], words[-1:]
        self._lead = _LEAD + num_ranks * _LEAD_OF_RANK
        self._process[self._rank] = os.getpid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000)  # wake up within 1 us instead of 50

    def start(self) -> int:
        """Wait for all ranks and sleep until the start; returns it in nanoseconds of the monotonic clock."""
        last, visit = int(self._start[0]), int(self._visits[self._rank]) + 1
        self._visits[self._rank] = visit
        looked = time.monotonic()
        while int(self._visits.min()) < visit if self._rank == 0 else int(self._start[0]) == last:
            time.sleep(_NAP)
            if time.monotonic() - looked > _LIFE_CHECK:
                looked = time.monotonic()
                self._check_alive(visit)
        if self._rank == 0:
            self._start[0] = time.monotonic_ns() + self._lead
        start = int(self._start[0])
        time.sleep(max(0, start - time.monotonic_ns()) / 1e9)
        return start

    def _check_alive(self, visit: int) -> None:
        for rank in np.flatnonzero(self._visits < visit).tolist():
            try:
                os.kill(int(self._process[rank]), 0)
            except ProcessLookupError:
                raise RunError(f"rank {rank} (process {self._process[rank]}) died") from None
            except PermissionError:
                pass  # it runs, under another user

    def mark(self) -> int:
        """Now."""
        return time.monotonic_ns()

    def seconds(self, start: int, end: int) -> float:
        """Seconds between two marks."""
        return (end - start) / 1e9


class BarrierClock:
    """Ranks of several hosts leave a barrier at about the same time, and each starts its own clock there."""

    kind = "barrier"

    def __init__(self, group: RankGroup) -> None:
        del group

    def start(self) -> int:
        """Wait for all ranks in a barrier of the process group."""
        dist.barrier()
        return time.monotonic_ns()

    def mark(self) -> int:
        """Now."""
        return time.monotonic_ns()

    def seconds(self, start: int, end: int) -> float:
        """Seconds between two marks."""
        return (end - start) / 1e9


class DeviceClock:
    """Events on the current stream of a GPU, after a barrier."""

    kind = "device events"

    def __init__(self, group: RankGroup) -> None:
        self._device = group.device

    def start(self) -> torch.cuda.Event:
        """Wait for the device, then for all ranks, and record an event."""
        torch.cuda.synchronize(self._device)
        dist.barrier(device_ids=[self._device.index])
        return self.mark()

    def mark(self) -> torch.cuda.Event:
        """An event after all work posted so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Seconds between two events; waits for the second."""
        end.synchronize()
        return start.elapsed_time(end) / 1e3


@contextmanager
def undisturbed() -> Iterator[None]:
    """Context without garbage collection and with one compute thread, for measurements."""
    num_threads, was_enabled = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        if was_enabled:
            gc.enable()
