"""A lab that stands: built from a plan, found again by its name, taken down with all that runs in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from smoes_sim.errors import LabError
from smoes_sim.lab import namespaces
from smoes_sim.lab.graph_file import graph_file
from smoes_sim.lab.iproute import SETTINGS, addresses_and_routes, creation, queues
from smoes_sim.lab.plan import LabPlan, LabRank

STATE = Path("/dev/shm/smoes-sim-labs")  # in memory, so that a restart of the machine forgets labs and their files alike
MASTER_PORT = 29500
"""Where rank 0 listens for the others; no two labs share a network, so it is always free."""
CLOCK_BYTES = 65536
"""Size of the file of zeros that all ranks can map, to agree on instants without a word on the network."""
_MARKER = "lab.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
    """Namespaces that are up.

    Attributes:
        name: What ``lab exec`` and ``lab down`` call it.
        ranks: Where each rank lives; namespaces with their full names.
        namespaces: All of them, switches too.
        scale: Rates built over rates asked for.
        seed: Of the choice among equal routes.
        left_out: What of the topology was not built, in words.
        pid: The process that built it.
        start: When that began, in clock ticks.
        kept: Whether it outlives its builder.
    """

    name: str
    ranks: tuple[LabRank, ...]
    namespaces: tuple[str, ...]
    scale: float
    seed: int
    left_out: tuple[str, ...]
    pid: int
    start: int
    kept: bool

    @classmethod
    def up(cls, plan: LabPlan, *, name: str | None = None, kept: bool = False) -> Self:
        """Build a plan; use it as a context manager, or say ``kept`` and take it down by name.

        Args:
            plan: What to build.
            name: Of the lab; the topology's when left out, with a number where that is taken.
            kept: Whether it stays when this process ends.

        Raises:
            LabError: If this machine cannot; nothing is left behind.
        """
        namespaces.require_root()
        sweep()
        label = _claim(name or plan.topology.name, is_fixed=name is not None)
        prefix = namespaces.prefix_of(label)
        pid, start, _ = namespaces.owner_of(f"{prefix}r0")
        lab = cls(
            name=label,
            ranks=tuple(dataclasses.replace(rank, namespace=prefix + rank.namespace) for rank in plan.ranks),
            namespaces=tuple(prefix + short for short in plan.namespaces.values()),
            scale=plan.scale,
            seed=plan.seed,
            left_out=plan.left_out,
            pid=pid,
            start=start,
            kept=kept,
        )
        try:
            lab._build(plan, prefix)
        except BaseException:
            lab.down()
            raise
        return lab

    def _build(self, plan: LabPlan, prefix: str) -> None:
        namespaces.batch("ip", creation(plan, prefix))
        for vertex, short in plan.namespaces.items():
            namespaces.apply_settings(prefix + short, SETTINGS)
            namespaces.batch("ip", addresses_and_routes(plan, vertex), namespace=prefix + short)
            namespaces.batch("tc", queues(plan, vertex), namespace=prefix + short)
        self.clock.write_bytes(bytes(CLOCK_BYTES))
        self.topology_file.write_bytes(graph_file(plan))
        state = json.dumps(dataclasses.asdict(self), indent=1)
        (self.folder / _MARKER).write_text(state, encoding="ascii")  # last: with it the lab is complete

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def folder(self) -> Path:
        """Where the lab's files are."""
        return STATE / self.name

    @property
    def topology_file(self) -> Path:
        """The topology that was built; what predictions for this lab are made on."""
        return self.folder / f"{self.name}.yaml"

    @property
    def clock(self) -> Path:
        """A file of zeros in memory that every rank can map."""
        return self.folder / "clock"

    def environment(self, rank: int) -> dict[str, str]:
        """The variables that tell a process which rank it is and how to meet the others."""
        place = self.ranks[rank]
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(place.local_rank),
            "WORLD_SIZE": str(len(self.ranks)),
            "MASTER_ADDR": self.ranks[0].address,
            "MASTER_PORT": str(MASTER_PORT),
            "GLOO_SOCKET_IFNAME": place.interface,
            "TP_SOCKET_IFNAME": place.interface,
            "NCCL_SOCKET_IFNAME": place.interface,
            "SMOES_SIM_CLOCK": str(self.clock),
        }

    def popen(
        self, rank: int, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[Any]:
        """Start a program as a rank: inside its namespace, with :meth:`environment` and ``env`` on top of our own.

        The process id is the program's own. Whatever still runs inside ends with the lab.

        Raises:
            LabError: If there is no such rank.
        """
        if not 0 <= rank < len(self.ranks):
            raise LabError(f'rank {rank}: lab "{self.name}" has ranks 0 to {len(self.ranks) - 1}. Choose one of them.')
        command = ["ip", "netns", "exec", self.ranks[rank].namespace, *argv]
        variables = {**os.environ, **self.environment(rank), **(env or {})}
        return subprocess.Popen(command, env=variables, **popen)

    def down(self) -> None:
        """End the processes inside, delete the namespaces and the files; twice is no fault."""
        namespaces.delete(self.namespaces)
        shutil.rmtree(self.folder, ignore_errors=True)


def find_lab(name: str) -> Lab:
    """A lab that is up, by its name.

    Raises:
        LabError: If there is none.
    """
    labs = {lab.name: lab for lab in standing_labs()}
    if name not in labs:
        known = f"Up: {', '.join(labs)}." if labs else "None is up; make one with: smoes-sim lab up TOPOLOGY"
        raise LabError(f'no lab "{name}" is up. {known}')
    return labs[name]


def standing_labs() -> list[Lab]:
    """The labs that are up, by name."""
    found = [_read(folder) for folder in sorted(STATE.iterdir())] if STATE.is_dir() else []
    return [lab for lab in found if lab is not None and (lab.kept or namespaces.is_alive(lab.pid, lab.start))]


def sweep() -> list[str]:
    """Delete what labs left behind whose builder is dead; returns the names of the namespaces.

    Those of a lab that was kept, and of any process that still runs, stay.
    """
    kept = {(lab.pid, lab.start, lab.name) for lab in standing_labs() if lab.kept}
    owners = {name: namespaces.owner_of(name) for name in namespaces.existing()}
    stale = [name for name, owner in owners.items() if owner not in kept and not namespaces.is_alive(owner[0], owner[1])]
    namespaces.delete(stale)
    for folder in STATE.iterdir() if STATE.is_dir() else []:
        lab, builder = _read(folder), _builder(folder)
        if (lab is None or not lab.kept) and builder is not None and not namespaces.is_alive(*builder):
            shutil.rmtree(folder, ignore_errors=True)
    return stale


def _claim(wanted: str, *, is_fixed: bool) -> str:
    """A name that no other lab has, with its folder; making the folder is what claims it."""
    base = re.sub(r"[^A-Za-z0-9_.]+", "-", wanted).strip("-.") or "lab"
    STATE.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        label = base if number == 1 else f"{base}-{number}"
        try:
            (STATE / label).mkdir()
        except FileExistsError:
            if is_fixed:
                raise LabError(f'a lab "{label}" is up already. Take it down, or choose another --name.') from None
            number += 1
            continue
        pid = os.getpid()
        (STATE / label / "builder").write_text(f"{pid} {namespaces.started(pid)}", encoding="ascii")
        return label


def _builder(folder: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError, ValueError):
        pid, start = (folder / "builder").read_text(encoding="ascii").split()
        return int(pid), int(start)
    return None


def _read(folder: Path) -> Lab | None:
    """The lab of a folder, or ``None`` while it is being built or when its file is broken."""
    try:
        state = json.loads((folder / _MARKER).read_text(encoding="ascii"))
        ranks = tuple(LabRank(**rank) for rank in state.pop("ranks"))
        names, left_out = tuple(state.pop("namespaces")), tuple(state.pop("left_out"))
        return Lab(ranks=ranks, namespaces=names, left_out=left_out, **state)
    except (OSError, ValueError, TypeError, KeyError):
        return None
