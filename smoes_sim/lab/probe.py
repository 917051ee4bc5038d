"""TCP flows between ranks of a lab at full speed: the rate of each while several are active."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smoes_sim.lab.lab import Lab
from smoes_sim.lab.namespaces import run_inside

_CHUNK = 2**18
_GREETING = 10.0
"""Timeout of a connection, seconds."""
_PATIENCE = 0.05
"""Seconds after which a blocked sender checks whether to stop."""
_ABORT = struct.pack("ii", 1, 0)
"""Linger of zero: data still in the send buffer is dropped at the end."""


class _Stream:
    """A connection from one rank to another with a thread at each end."""

    def __init__(self, lab: Lab, source: int, destination: int) -> None:
        here, there = lab.ranks[source], lab.ranks[destination]
        with run_inside(there.namespace, lambda: socket.create_server((there.address, 0))) as server:
            server.settimeout(_GREETING)
            goal = (there.address, server.getsockname()[1])
            self._out = run_inside(here.namespace, lambda: socket.create_connection(goal, timeout=_GREETING))
            self._into = server.accept()[0]
        self._out.settimeout(_PATIENCE)
        self._into.settimeout(None)
        self._out.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._is_over = False
        self.seen = (time.perf_counter(), 0)
        self._threads = [threading.Thread(target=body, daemon=True) for body in (self._send, self._receive)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        data = bytes(_CHUNK)
        while not self._is_over:
            with contextlib.suppress(TimeoutError):
                self._out.send(data)

    def _receive(self) -> None:
        buffer, total = bytearray(_CHUNK), 0
        with contextlib.suppress(OSError):
            while count := self._into.recv_into(buffer):
                total += count
                self.seen = (time.perf_counter(), total)  # one assignment, so that readers never see half of it

    def stop(self) -> None:
        """Stop sending; the reset at the end queues behind the data in flight."""
        self._is_over = True
        self._join(self._threads[0])
        self._out.close()

    def drain(self) -> None:
        """Wait until all data in flight has arrived, so that the links are free again."""
        self._join(self._threads[1])
        self._into.close()

    @staticmethod
    def _join(thread: threading.Thread) -> None:
        if thread.ident is not None:
            thread.join()


class Meter:
    """Measures the received bytes of active flows."""

    def __init__(self, streams: list[_Stream]) -> None:
        self._streams = streams

    def measure(self, duration: float) -> tuple[NDArray[np.float64], float]:
        """Rate of received payload over ``duration`` seconds, B/s, shape (F,), and the busy share of processor time."""
        before, ticks = [stream.seen for stream in self._streams], _processor_ticks()
        time.sleep(duration)
        after, (busy, total) = [stream.seen for stream in self._streams], _processor_ticks() - ticks
        rates = [
            (size - earlier_size) / (now - earlier) if now > earlier else 0.0
            for (earlier, earlier_size), (now, size) in zip(before, after, strict=True)
        ]
        return np.array(rates), float(busy / total) if total else 1.0


@contextlib.contextmanager
def flows_under_way(lab: Lab, pairs: Sequence[tuple[int, int]], *, warm_up: float) -> Iterator[Meter]:
    """Context in which F pairs of ranks (source, destination) send at full speed; at its end all data has arrived."""
    streams: list[_Stream] = []
    try:
        for source, destination in pairs:
            streams.append(_Stream(lab, source, destination))
        for stream in streams:
            stream.start()
        time.sleep(warm_up)
        yield Meter(streams)
    finally:
        for stream in streams:
            stream.stop()
        for stream in streams:
            stream.drain()


def _processor_ticks() -> NDArray[np.float64]:
    """Busy clock ticks of the processors and all clock ticks, since boot."""
    line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    ticks = [float(value) for value in line]
    idle = ticks[3] + ticks[4]
    return np.array([sum(ticks) - idle, sum(ticks)])
