"""Join the ranks of a run, and end all of them: together on success, soon after one fails.

The rendezvous is a TCPStore, as with ``torchrun``. Its key ``end`` holds how the run ends; a thread of every rank waits
for that key, which sends nothing while exchanges are measured. A rank that meets a failure writes it there. Then every
rank answers a roll call: those that do not answer within ``ROLL_CALL`` seconds have died or hang, and the others print
which ones and exit with code 1. A failure without an exception (a peer that hangs, NCCL that waits) ends by the timeout of
the operation, so a surviving rank exits at most ``timeout + ROLL_CALL + 1`` seconds after the last success.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, RunError, SmoesError

Backend = Literal["auto", "gloo", "nccl"]
ROLL_CALL = 3.0
"""Seconds in which a running rank answers; it needs only processor time for its watcher thread."""
_YEAR = timedelta(days=365)
_RETRY = 0.1
"""Seconds between attempts to reach the rendezvous."""
_JOINING = "joining"
"""State of a rank before all have joined: the waiting ranks name the missing ones, without a roll call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Rank of a process and address of the rendezvous, as ``torchrun`` gives them.

    Attributes:
        rank: Rank of this process.
        num_ranks: Number of ranks, R.
        local_rank: Index of the process on its node, which picks its GPU.
        node: Unique name of the node.
        address: Host of the rendezvous store.
        port: Port of the rendezvous store.
        hosts_store: Whether this rank hosts the store (under ``torchrun`` its agent does).
    """

    rank: int
    num_ranks: int
    local_rank: int
    node: str
    address: str
    port: int
    hosts_store: bool


def place_in(environment: Mapping[str, str]) -> Place:
    """Read RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and, where given, LOCAL_RANK and GROUP_RANK.

    Raises:
        ConfigError: If one is missing or is no number, or the rank is not below the number of ranks.
    """

    def number(name: str, default: str | None = None) -> int:
        text = environment.get(name) or default
        if text is None or not text.isdecimal():
            problem = "is not set" if text is None else f'= "{text}" is not a whole number >= 0'
            raise ConfigError(f"environment: {name} {problem}. Start the ranks with torchrun or with --ranks N.")
        return int(text)

    rank, num_ranks = number("RANK"), number("WORLD_SIZE")
    if rank >= num_ranks:
        raise ConfigError(f"environment: RANK = {rank} is not below WORLD_SIZE = {num_ranks}. Number the ranks from 0.")
    address = environment.get("MASTER_ADDR")
    if not address:
        raise ConfigError("environment: MASTER_ADDR is not set. Start the ranks with torchrun or with --ranks N.")
    agent_hosts = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(
        rank=rank,
        num_ranks=num_ranks,
        local_rank=number("LOCAL_RANK", "0"),
        node=f"{socket.gethostname()}/{environment.get('GROUP_RANK', '')}".rstrip("/"),
        address=address,
        port=number("MASTER_PORT"),
        hosts_store=rank == 0 and not agent_hosts,
    )


class RankGroup:
    """The ranks of a run, seen from one of them; made by :func:`join`.

    Attributes:
        place: Rank and rendezvous of this process.
        timeout: Seconds after which an unfinished operation counts as failed.
        backend: ``gloo`` or ``nccl``.
        device: Device of the tensors.
        node_of_rank: Node of each rank, numbered as they appear, shape (R,).
    """

    def __init__(self, place: Place, *, timeout: float, backend: Backend) -> None:
        self.place, self.timeout = place, timeout
        self.backend: Literal["gloo", "nccl"] = _chosen(backend)
        self.device = _device_of(place, self.backend)
        self.node_of_rank: tuple[int, ...] = (0,) * place.num_ranks
        self._doing, self._num_meetings = _JOINING, 0
        self._store = self._open_store(is_master=place.hosts_store)
        self._watcher = threading.Thread(target=self._watch, args=(self._open_store(),), daemon=True)
        self._watcher.start()

    def connect(self) -> None:
        """Wait for all ranks, then set up the process group."""
        nodes = self.meet("begin", self.place.node)
        self.node_of_rank = tuple(list(dict.fromkeys(nodes)).index(node) for node in nodes)
        with self.operation("connecting"):
            dist.init_process_group(
                self.backend,
                store=dist.PrefixStore("group", self._open_store()),
                rank=self.place.rank,
                world_size=self.place.num_ranks,
                timeout=timedelta(seconds=self.timeout + 2 * ROLL_CALL),  # ours comes first and says more
                device_id=self.device if self.backend == "nccl" else None,
            )
        self._doing = "between exchanges"

    def meet(self, what: str, word: str) -> list[str]:
        """Texts of all ranks, (R,), exchanged through the rendezvous store; waits for every rank."""
        self._num_meetings += 1
        keys = [f"meeting {self._num_meetings}/{rank}" for rank in range(self.place.num_ranks)]
        self._store.set(keys[self.place.rank], word)
        try:
            self._store.wait(keys, timedelta(seconds=self.timeout))
        except RuntimeError:
            missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
            self.fail(
                f"{_ranks(missing)} did not join within {self.timeout:g} s: {len(keys) - len(missing)} of {len(keys)} ranks "
                f"joined at {self.place.address}:{self.place.port} to {what}. Start all ranks, or give a longer --timeout."
            )
        return [self._store.get(key).decode() for key in keys]

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Context of an operation that needs the other ranks; if it fails or times out, the run ends on every rank."""
        before, self._doing = self._doing, name
        words = f"did not end within {self.timeout:g} s"
        overdue = threading.Timer(self.timeout, self.fail, [words], {"is_overdue": True})
        overdue.daemon = True
        overdue.start()
        try:
            yield
        except RuntimeError as error:
            self.fail(str(error) if isinstance(error, SmoesError) else _first_sentence(error))
        finally:
            overdue.cancel()
        self._doing = before

    def gather(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values of every rank, shape (R, n)."""
        own = torch.as_tensor(values, dtype=torch.float64, device=self.device)
        rows = [torch.empty_like(own) for _ in range(self.place.num_ranks)]
        with self.operation("gathering results"):
            dist.all_gather(rows, own)
            return torch.stack(rows).cpu().numpy()

    def fail(self, reason: str, *, code: int = 1, is_overdue: bool = False) -> NoReturn:
        """End the run on every rank; never returns."""
        end = {
            "rank": self.place.rank,
            "doing": self._doing,
            "reason": reason,
            "code": code,
            "is_overdue": is_overdue,
        }
        with suppress(RuntimeError):
            self._store.compare_set("end", "", json.dumps(end))
        self._watcher.join(3 * ROLL_CALL)
        _exit(f"rank {self.place.rank}: {self._doing}: {reason}", code)

    def leave(self) -> None:
        """Wait until all ranks are done, then close the group; rank 0 ends last, as it may host the store."""
        self.meet("end", "")
        with suppress(RuntimeError):
            self._store.compare_set("end", "", json.dumps({"reason": None}))
        self._watcher.join()
        dist.destroy_process_group()
        self._let_go(range(self.place.num_ranks), timeout=self.timeout)

    def _let_go(self, ranks: Sequence[int], *, timeout: float) -> None:
        """Release the rendezvous store; the rank that hosts it waits until all ``ranks`` have released it."""
        with suppress(RuntimeError):
            self._store.set(f"left/{self.place.rank}", "")
            if self.place.hosts_store:
                self._store.wait([f"left/{rank}" for rank in ranks], timedelta(seconds=timeout))

    def _open_store(self, *, is_master: bool = False) -> dist.TCPStore:
        place = self.place
        if not is_master:
            _await_listener(place.address, place.port, timeout=self.timeout)
        try:
            return dist.TCPStore(
                place.address,
                place.port,
                world_size=place.num_ranks,
                is_master=is_master,
                timeout=timedelta(seconds=self.timeout),
                wait_for_workers=False,
            )
        except (RuntimeError, ValueError) as error:
            rule = "Choose another MASTER_PORT." if is_master else "Check MASTER_ADDR and MASTER_PORT."
            raise RunError(f"no rendezvous at {place.address}:{place.port}: {_first_sentence(error)}. {rule}") from None

    def _watch(self, store: dist.TCPStore) -> None:
        """Wait for the end of the run; on failure exit the process, whatever the main thread is doing."""
        try:
            store.wait(["end"], _YEAR)
            end = json.loads(store.get("end"))
            if end["reason"] is not None:
                self._end_together(store, end)
        except RuntimeError:
            at = f"{self.place.address}:{self.place.port}"
            _exit(f"the rendezvous at {at} is gone: rank 0 or its torchrun died. Look at what it printed last.", 1)

    def _end_together(self, store: dist.TCPStore, end: dict[str, Any]) -> None:
        """Run the roll call, print which ranks are lost (on one rank per node), and exit."""
        keys = [f"roll/{rank}" for rank in range(self.place.num_ranks)]
        store.set(keys[self.place.rank], json.dumps({"node": self.place.node, "doing": self._doing}))
        with suppress(RuntimeError):
            store.wait(keys, timedelta(seconds=ROLL_CALL))
        answers = {rank: json.loads(store.get(key)) for rank, key in enumerate(keys) if store.check([key])}
        is_first = self.place.rank == min(rank for rank, said in answers.items() if said["node"] == self.place.node)
        text = _end_message(end, answers, self.place.num_ranks) if is_first else None
        self._let_go(list(answers), timeout=1.0)
        _exit(text, end["code"])


def _end_message(end: dict[str, Any], answers: Mapping[int, dict[str, str]], num_ranks: int) -> str:
    """The reason of the end, one line."""
    if end["doing"] == _JOINING or end["code"] == 2:
        return str(end["reason"])
    noticed = f"rank {end['rank']}: {end['doing']}: {end['reason']}"
    lost = [rank for rank in range(num_ranks) if rank not in answers]
    if lost:
        return f"{_ranks(lost)} died or hangs: no answer within {ROLL_CALL:g} s. Noticed by {noticed}"
    late = [rank for rank, said in answers.items() if said["doing"] != end["doing"]] if end["is_overdue"] else []
    return noticed + "".join(f"; rank {rank} is still at: {answers[rank]['doing']}" for rank in late)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


def _first_sentence(error: BaseException) -> str:
    """First sentence of an error message of a library, without its source location."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    return re.sub(r"^\[\S+:\d+\] ", "", line).partition(". ")[0].rstrip(".")


def _await_listener(address: str, port: int, *, timeout: float) -> None:
    """Wait until the port accepts connections: a TCPStore that cannot connect prints a page of internals."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    f"rank 0 did not join within {timeout:g} s: nothing listens at {address}:{port} "
                    f"({error.strerror or error}). Start rank 0, and check MASTER_ADDR and the network to it."
                ) from None
        time.sleep(_RETRY)


def _exit(text: str | None, code: int) -> NoReturn:
    """Exit at once: destructors of a broken process group may block for ever."""
    if text is not None:
        sys.stderr.write(f"smoes-sim: {text}\n")
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _chosen(backend: Backend) -> Literal["gloo", "nccl"]:
    if backend != "auto":
        return backend
    return "nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def _device_of(place: Place, backend: str) -> torch.device:
    if backend == "gloo":
        return torch.device("cpu")
    if place.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"rank {place.rank} is the {place.local_rank + 1}th of its node, which has {torch.cuda.device_count()} GPUs: "
            "NCCL needs one for each rank. Start fewer ranks, or use --backend gloo."
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


@contextmanager
def join(*, timeout: float, backend: Backend = "auto") -> Iterator[RankGroup]:
    """Join the run that the environment names; at the end of the block wait for all ranks and leave.

    An exception in the block ends the run on every rank, with exit code 2 for bad input and 1 for all else.

    Args:
        timeout: Seconds for the ranks to join, and for each operation.
        backend: NCCL where there are GPUs and gloo elsewhere, if ``auto``.

    Raises:
        ConfigError: If the environment does not say which rank this is.
    """
    place = place_in(os.environ)
    try:
        group = RankGroup(place, timeout=timeout, backend=backend)
    except RunError as error:
        _exit(str(error), 1)
    try:
        group.connect()
        yield group
    except SmoesError as error:
        group.fail(str(error), code=2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        group.fail("interrupted")
    except BaseException as error:
        traceback.print_exc()
        group.fail(f"{type(error).__name__}: {_first_sentence(error)}")
    group.leave()
