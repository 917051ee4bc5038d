"""When an exchange starts and how long it takes, on one clock where there is one.

An exchange takes from the common start to the finish of its last rank. Ranks of one host share the kernel's monotonic
clock, so they agree on an instant in shared memory, which sends nothing over the network under test. Elsewhere a barrier
comes first: ranks leave it up to about one message latency per doubling of ranks apart, and each times itself from its own
start, so an exchange may look longer or shorter by that much. On GPUs events of the device are recorded after the barrier.
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
"""Names the file that ranks of one host agree in; a lab sets it."""
_LEAD, _LEAD_OF_RANK = 1_000_000, 200_000
"""Nanoseconds from the agreement to the start, and more of them for each rank: time to wake up and read it."""
_NAP = 50e-6
"""Seconds between looks at the others' slots."""
_LIFE_CHECK = 0.5
"""Seconds between looks at whether the others' processes still exist."""
_PR_SET_TIMERSLACK = 29


class Clock(Protocol):
    """Common starts, and time since.

    A mark is an instant as the clock notes it; what it is does not matter to the caller.
    """

    kind: str

    def start(self) -> Any:
        """Wait for all ranks; the mark of the common start."""

    def mark(self) -> Any:
        """The mark of now (on a GPU: of when the work posted so far is done)."""

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds between two marks; on a GPU waits for the second."""


@contextmanager
def clock_of(group: RankGroup, environment: Mapping[str, str] = os.environ) -> Iterator[Clock]:
    """The best clock that the ranks of a run have in common.

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
    """Rank 0 makes the file, or empties the one that is named."""
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
    """Ranks of one host agree in a file of whole numbers: how often each has come, its process, and the start.

    A rank that comes says so in its slot. When all have, rank 0 writes the start, a little ahead; the others see a new
    number and sleep until then. One aligned word is written by one process only, so no lock is needed.
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
        """Wait for all ranks and sleep until the start; it in nanoseconds of the monotonic clock."""
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
                pass  # it lives, under another user

    def mark(self) -> int:
        """Now."""
        return time.monotonic_ns()

    def seconds(self, start: int, end: int) -> float:
        """Seconds between two marks."""
        return (end - start) / 1e9


class BarrierClock:
    """Ranks of several hosts leave a barrier at about the same time, and each takes its own for the start."""

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
        """An event behind all work posted so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Seconds between two events, once the second has happened."""
        end.synchronize()
        return start.elapsed_time(end) / 1e3


@contextmanager
def undisturbed() -> Iterator[None]:
    """Nothing collects garbage and no thread of ours computes beside the measurement."""
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
