"""Measure exchanges between real ranks, as nccl-tests does; every received byte is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from numpy.typing import NDArray
from torch import Tensor

from smoes_sim.distributed.bench_plan import BenchCase
from smoes_sim.distributed.bench_result import (
    BenchFacts,
    BenchResult,
    BenchRow,
    case_row,
    files_folder,
    matrix_file,
    measurement,
)
from smoes_sim.distributed.clock import Clock, clock_of, undisturbed
from smoes_sim.distributed.facts import all_rank_facts, device_name, library_name, system_facts
from smoes_sim.distributed.group import Backend, RankGroup, join
from smoes_sim.distributed.journal import Journal
from smoes_sim.distributed.matrix import write_matrix
from smoes_sim.distributed.patterns import RowExchange, exchange
from smoes_sim.errors import ConfigError, RunError
from smoes_sim.measurements import Measurement, write_measurements
from smoes_sim.topology import Topology
from smoes_sim.yaml_files import write_bytes

_SHIFTS = 4093
"""Number of offsets into the test pattern; each message of an exchange starts at another. Prime, so that all are used."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Settings of a benchmark.

    Attributes:
        schedule: Name of an exchange.
        warmup: Number of exchanges before the first that counts: they open connections and fill caches.
        repeats: Number of exchanges that count.
        seed: Seed of the bytes that are sent.
        timeout: Seconds for the ranks to join, and for each exchange.
        backend: Communication backend.
        topology: Topology of the ranks, if known.
        topology_name: Its name in the measurements table.
        traffic: What is sent, in words.
        out: The measurements table; None writes nothing.
    """

    schedule: str
    warmup: int
    repeats: int
    seed: int
    timeout: float
    backend: Backend
    topology: Topology | None
    topology_name: str | None
    traffic: str
    out: Path | None


def run_bench(
    cases: Sequence[BenchCase],
    options: BenchOptions,
    *,
    on_start: Callable[[BenchFacts], None],
    on_row: Callable[[BenchRow], None],
) -> BenchResult:
    """Measure the cases as one of the ranks that the environment names; every rank calls this.

    Rank 0 calls ``on_start`` with what the measurement is made on, and ``on_row`` as soon as a case is measured. Journals
    of all ranks, matrices, facts and the table are written if ``options.out`` says where; a run that ends early leaves
    the journals.

    Returns:
        The facts and the rows, on every rank.

    Raises:
        ConfigError: If the topology does not fit the run.
    """
    rows: list[BenchRow] = []
    with ExitStack() as stack:
        group = stack.enter_context(join(timeout=options.timeout, backend=options.backend))
        nodes = _node_of_rank(group, options.topology)
        send_all = exchange(options.schedule, node_of_rank=nodes)
        clock = stack.enter_context(clock_of(group))
        folder = None if options.out is None else files_folder(options.out)
        journal = None if folder is None else stack.enter_context(Journal(folder, group.place.rank))
        facts = _facts(group, cases[0], options, clock, num_nodes=len(set(nodes)))
        is_first = group.place.rank == 0
        if is_first:
            on_start(facts)
        for case in cases:
            times = _measure(group, clock, case, send_all=send_all, options=options, journal=journal)
            rows.append(case_row(case, schedule=options.schedule, times=group.gather(times)))
            if is_first:
                on_row(rows[-1])
        result = BenchResult(facts=facts, rows=tuple(rows))
        if is_first and options.out is not None:
            _write(options.out, cases, result, system=device_name(group), topology=options.topology_name)
    return result


def _node_of_rank(group: RankGroup, topology: Topology | None) -> tuple[int, ...]:
    if topology is None:
        return group.node_of_rank
    if topology.num_ranks != group.place.num_ranks:
        raise ConfigError(
            f"topology {topology.name} has {topology.num_ranks} ranks, the run {group.place.num_ranks}: "
            "they must be the same. Name the topology that the ranks stand on."
        )
    return tuple(topology.node_of_rank.tolist())


def _facts(group: RankGroup, case: BenchCase, options: BenchOptions, clock: Clock, *, num_nodes: int) -> BenchFacts:
    """Everything that the rows rest on."""
    return BenchFacts(
        system=system_facts(group),
        nodes=num_nodes,
        library=library_name(group),
        clock=clock.kind,
        topology=options.topology_name,
        schedule=options.schedule,
        warmup=options.warmup,
        repeats=options.repeats,
        seed=options.seed,
        per_rank=all_rank_facts(group),
        collective=case.collective,
        traffic=case.words or options.traffic,
    )


def _measure(
    group: RankGroup, clock: Clock, case: BenchCase, *, send_all: RowExchange, options: BenchOptions, journal: Journal | None
) -> NDArray[np.float64]:
    """Seconds of this rank from the common start, shape (repeats,)."""
    traffic = _Traffic(case, group, seed=options.seed)
    times = []
    with undisturbed():
        for repeat in range(-options.warmup, options.repeats):
            traffic.fill(repeat)
            with group.operation(case.name):
                start = clock.start()
                traffic.travel(send_all)
                seconds = clock.seconds(start, clock.mark())
            traffic.check(repeat)
            if case.operation == "sendrecv":
                seconds /= 2
            if repeat >= 0:
                times.append(seconds)
                if journal is not None:
                    journal.write(_journal_row(case, group.place.rank, repeat, seconds))
    return np.array(times)


def _journal_row(case: BenchCase, rank: int, repeat: int, seconds: float) -> dict[str, Any]:
    away = case.matrix - np.diag(np.diag(case.matrix))
    return {
        "op": case.collective,
        "size_bytes": case.size,
        "rank": rank,
        "repeat": repeat,
        "time_s": seconds,
        "bytes_sent": int(away[rank].sum()),
        "bytes_received": int(away[:, rank].sum()),
    }


class _Traffic:
    """The bytes of a case at one rank: each message is a slice of a random array that all ranks know."""

    def __init__(self, case: BenchCase, group: RankGroup, *, seed: int) -> None:
        self._matrix, self._rank, self._case = case.matrix, group.place.rank, case
        tape = np.random.default_rng(seed).integers(256, size=int(case.matrix.max()) + _SHIFTS, dtype=np.uint8)
        self._tape = torch.from_numpy(tape).to(group.device)[:, None]
        self._send_counts, self._receive_counts = case.matrix[self._rank].tolist(), case.matrix[:, self._rank].tolist()
        self._counts = case.matrix.tolist()
        self._send = self._tape.new_empty((sum(self._send_counts), 1))
        self._receive = self._tape.new_empty((sum(self._receive_counts), 1))
        self._back = self._tape.new_empty((sum(self._send_counts), 1))

    def _message(self, source: int, destination: int, repeat: int) -> Tensor:
        shift = ((source * len(self._matrix) + destination) * 2 + repeat * 1009) % _SHIFTS
        return self._tape[shift : shift + int(self._matrix[source, destination])]

    def fill(self, repeat: int) -> None:
        """Fill the send buffer with other bytes for every repeat, so that bytes of an earlier one count as wrong."""
        messages = [self._message(self._rank, peer, repeat) for peer in range(len(self._matrix))]
        torch.cat(messages, out=self._send)

    def travel(self, send_all: RowExchange) -> None:
        """Do the exchange; for ``sendrecv`` also send back what has arrived."""
        send_all(self._send, self._send_counts, self._receive_counts, out=self._receive, counts=self._counts)
        if self._case.operation == "sendrecv":
            back = self._case.matrix.T.tolist()
            send_all(self._receive, self._receive_counts, self._send_counts, out=self._back, counts=back)

    def check(self, repeat: int) -> None:
        """Compare every byte.

        Raises:
            RunError: With the first rank whose bytes arrived wrong.
        """
        for source, arrived in enumerate(self._receive.split(self._receive_counts)):
            if not torch.equal(arrived, self._message(source, self._rank, repeat)):
                raise RunError(f"{self._case.name}: what arrived from rank {source} is not what it sent (repeat {repeat})")
        if self._case.operation == "sendrecv" and not torch.equal(self._back, self._send):
            raise RunError(f"{self._case.name}: what came back is not what was sent (repeat {repeat})")


def _write(out: Path, cases: Sequence[BenchCase], result: BenchResult, *, system: str, topology: str | None) -> None:
    """The matrices and facts, then the table."""
    table: list[Measurement] = []
    for index, (case, row) in enumerate(zip(cases, result.rows, strict=True)):
        if not case.is_even:
            write_matrix(matrix_file(out, index), case.matrix)
        table.append(measurement(case, row, result.facts, out=out, index=index, system=system, topology=topology))
    facts = {key: value for key, value in result.facts.to_dict().items() if key not in {"collective", "traffic"}}
    write_bytes(files_folder(out) / "facts.json", orjson.dumps(facts, option=orjson.OPT_INDENT_2))
    write_measurements(out, table)
