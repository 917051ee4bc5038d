"""A lab that is up: built from a plan, found again by name, taken down together with everything that runs in it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from smoes_sim.errors import LabError
from smoes_sim.lab import namespaces, state
from smoes_sim.lab.graph_file import graph_file
from smoes_sim.lab.iproute import SETTINGS, addresses_and_routes, creation, queues
from smoes_sim.lab.plan import LabPlan, LabRank

MASTER_PORT = 29500
"""Port on which rank 0 listens for the others; labs share no network, so it is always free."""
CLOCK_BYTES = 65536
"""Size of the file of zeros that all ranks map, to agree on start times without using the network."""
_MARKER = "lab.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
    """Network namespaces that are up.

    Attributes:
        name: Name for ``lab exec`` and ``lab down``.
        ranks: Place of each rank; namespaces with their full names.
        namespaces: Names of all namespaces, those of switches included.
        scale: Rates as built divided by the rates of the topology.
        seed: Seed of the choice among equal routes.
        left_out: Parts of the topology that were not built, in words.
        pid: Process that built the lab.
        start: Start time of that process, clock ticks since boot.
        kept: Whether the lab stays up when that process ends.
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
        """Build a plan; use the lab as a context manager, or pass ``kept=True`` and take it down by name.

        Args:
            plan: What to build.
            name: Name of the lab; default: the topology's, with a number if that is taken.
            kept: Whether it stays up when this process ends.

        Raises:
            LabError: If this machine cannot build it; nothing is left behind.
        """
        namespaces.require_root()
        sweep()
        label = _claim(name or plan.topology.name, is_fixed=name is not None)
        pid = os.getpid()
        start = namespaces.start_of(pid)
        prefix = namespaces.prefix_of(label, pid=pid, start=start)
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
        document = json.dumps(dataclasses.asdict(self), indent=1)
        (self.folder / _MARKER).write_text(document, encoding="ascii")  # last: with it the lab is complete

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def folder(self) -> Path:
        """Directory of the lab's files."""
        return state.path_of(self.name)

    @property
    def topology_file(self) -> Path:
        """Topology file with the rates as built; predictions for this lab use it."""
        return self.folder / f"{self.name}.yaml"

    @property
    def clock(self) -> Path:
        """File of zeros, in memory, that every rank can map."""
        return self.folder / "clock"

    def environment(self, rank: int) -> dict[str, str]:
        """Environment variables that tell a process its rank and where the rendezvous is."""
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
            "SMOES_SIM_LAB": self.name,
        }

    def popen(
        self, rank: int, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[Any]:
        """Start a program as a rank: in its namespace, with :meth:`environment` and then ``env`` added to our environment.

        The process id is that of the program. Programs that still run inside end with the lab.

        Raises:
            LabError: If there is no such rank.
        """
        if not 0 <= rank < len(self.ranks):
            raise LabError(f'rank {rank}: lab "{self.name}" has ranks 0 to {len(self.ranks) - 1}. Choose one of them.')
        command = ["ip", "netns", "exec", self.ranks[rank].namespace, *argv]
        variables = {**os.environ, **self.environment(rank), **(env or {})}
        return subprocess.Popen(command, env=variables, **popen)

    def down(self) -> None:
        """End the processes inside, delete the namespaces and the files; a second call does nothing."""
        namespaces.delete(self.namespaces)
        with state.locked():
            state.remove(self.name)


_LAB = TypeAdapter(Lab)


def find_lab(name: str) -> Lab:
    """The lab of this name that is up.

    Raises:
        LabError: If there is none.
    """
    labs = {lab.name: lab for lab in standing_labs()}
    if name not in labs:
        known = f"Up: {', '.join(labs)}." if labs else "None is up; make one with: smoes-sim lab up TOPOLOGY"
        raise LabError(f'no lab "{name}" is up. {known}')
    return labs[name]


def standing_labs() -> list[Lab]:
    """The labs that are up, sorted by name.

    Raises:
        LabError: If the files of labs cannot be trusted, or this process is not root.
    """
    found = [_read(name) for name in state.names()]
    return [lab for lab in found if lab is not None and (lab.kept or namespaces.is_alive(lab.pid, lab.start))]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What dead builders had left behind.

    Attributes:
        labs: Names of labs whose files were deleted, half-made ones included.
        namespaces: Names of the namespaces that were deleted.
    """

    labs: tuple[str, ...]
    namespaces: tuple[str, ...]


def sweep() -> Swept:
    """Delete the namespaces and files of labs whose builder has died.

    Labs that were kept, and those of processes that still run, stay up.

    Raises:
        LabError: If the files of labs cannot be trusted.
    """
    with state.locked():
        owners = {name: namespaces.owner_of(name) for name in namespaces.existing()}
        dead = {name: owner for name, owner in owners.items() if not namespaces.is_alive(owner[0], owner[1])}
        found = {name: _read(name) for name in state.names()}  # after who is dead: a lab is kept before its builder ends
        kept = {(lab.pid, lab.start, lab.name) for lab in found.values() if lab is not None and lab.kept}
        stale = tuple(name for name, owner in dead.items() if owner not in kept)
        namespaces.delete(stale)
        left = tuple(name for name, lab in found.items() if (lab is None or not lab.kept) and not state.is_being_built(name))
        for name in left:
            state.remove(name)
    return Swept(labs=left, namespaces=stale)


def _claim(wanted: str, *, is_fixed: bool) -> str:
    """A name that no other lab has, with its directory."""
    base = state.name_from(wanted)
    number, label = 1, base
    with state.locked():
        while not state.claim(label):
            if is_fixed:
                raise LabError(f'a lab "{label}" is up already. Take it down, or choose another --name.')
            number += 1
            label = f"{base[:56]}-{number}"
    return label


def _read(name: str) -> Lab | None:
    """The lab with files under this name; None while it is being built, or where its file is not what a lab writes."""
    try:
        lab = _LAB.validate_json(state.read(name, _MARKER) or b"", strict=True)
    except ValidationError:
        return None
    return lab if lab.name == name and _has_own_places(lab) else None


def _has_own_places(lab: Lab) -> bool:
    """Whether all namespaces are this lab's own, and each rank is where this lab would put it."""
    prefix = namespaces.prefix_of(lab.name, pid=lab.pid, start=lab.start)
    place = re.compile(re.escape(prefix) + r"[rs]\d{1,9}")
    return (
        all(place.fullmatch(name) for name in lab.namespaces)
        and {rank.namespace for rank in lab.ranks} <= set(lab.namespaces)
        and [(rank.rank, rank.namespace) for rank in lab.ranks] == [(n, f"{prefix}r{n}") for n in range(len(lab.ranks))]
        and all(re.fullmatch(r"w\d{1,9}", rank.interface) for rank in lab.ranks)
    )
