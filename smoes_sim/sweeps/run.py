"""Compute the missing points of a sweep, here or on a cluster; a finished point is never lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from smoes_sim.display.result import Result
from smoes_sim.display.tables import Table
from smoes_sim.errors import ConfigError
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps.result import SweepResult, result_of
from smoes_sim.sweeps.store import Outcome, Store, digest_of_point
from smoes_sim.sweeps.study import Point, Sweep
from smoes_sim.sweeps.workers import on_dask, on_this_machine

if TYPE_CHECKING:
    import altair as alt

Backend = Literal["loky", "dask"]
_COUNTED = ("points", "done", "skipped", "failed", "missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One part of a sweep, numbered from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard of a text ``i/n``.

        Raises:
            ConfigError: If it is not two whole numbers with 1 <= i <= n.

        Example:
            >>> Shard.parse("2/4")
            Shard(number=2, of=4)
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f'shard = "{text}" is not i/n with 1 <= i <= n. Write for example 1/4, 2/4, 3/4 and 4/4.')
        return cls(number=int(match[1]), of=int(match[2]))


@dataclass(frozen=True, kw_only=True, repr=False)
class Tally(Result):
    """What a run of a sweep did; ``points = done + skipped + failed``.

    Attributes:
        points: Number of points of this run: the whole sweep, or its shard.
        done: Number of points computed by this run.
        skipped: Number of points that were already finished.
        failed: Number of points without a prediction; the next run tries them again.
        missing: Number of points of the whole sweep that no run has tried yet.
        failures: The error of each failed point, by its settings.
        result: The whole sweep; None while points are missing.

    Example:
        >>> Tally(points=2, done=2, skipped=0, failed=0, missing=0, failures={}, result=None)
        2 points, 2 done, 0 skipped, 0 failed, 0 missing

    """

    points: int
    done: int
    skipped: int
    failed: int
    missing: int
    failures: Mapping[str, str]
    result: SweepResult | None

    @property
    def counted(self) -> str:
        """The numbers of points in one line."""
        return ", ".join(f"{getattr(self, name)} {name}" for name in _COUNTED)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of ``sweep --json``."""
        return {name: getattr(self, name) for name in _COUNTED} | {"failures": dict(self.failures)}

    def records(self) -> list[dict[str, Any]]:
        """The rows of the result; none while points are missing."""
        return [] if self.result is None else self.result.records()

    def tables(self) -> list[Table]:
        """The numbers of points and the failures, then the tables of the result."""
        lines = [self.counted, *(f"failed: {name}: {error}" for name, error in self.failures.items())]
        return [Table(notes=lines), *([] if self.result is None else self.result.tables())]

    def plot(self) -> alt.TopLevelMixin:
        """The picture that the study asks for.

        Raises:
            ConfigError: If points are missing, or the plotting libraries are not installed.
        """
        if self.result is None:
            raise ConfigError(f"{self.missing} points are missing. Run the other shards with the same folder first.")
        return self.result.plot()


def run_sweep(
    sweep: Sweep,
    out: Path,
    *,
    jobs: int = 1,
    shard: Shard | None = None,
    backend: Backend = "loky",
    scheduler: str | None = None,
    sources: Sequence[Path] = (),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tally:
    """Compute the missing points, store each as it is finished, and write the tables once all are there.

    Args:
        sweep: The points.
        out: Folder of the results; finished points of this sweep that it holds are used.
        jobs: Worker processes; 1 with ``loky`` computes in this process.
        shard: The part to compute; None: everything.
        backend: ``loky`` for this machine, ``dask`` for a cluster.
        scheduler: Address of a Dask scheduler; None: a Dask cluster on this machine.
        sources: Folders of other sweeps, whose finished points are copied.
        on_progress: Called with the number of finished points and that of all points of this run: first with the number
            that was found, then after each point.

    Raises:
        ConfigError: If a folder cannot be used, or the backend is not installed or not reached.
        SimulationError: If the workers died.
        KeyboardInterrupt: If it is interrupted; the text says how many points are kept.
    """
    digests = [digest_of_point(point) for point in sweep.points]
    points = dict(zip(digests, sweep.points, strict=True))
    store, others = Store(out), [_existing(source) for source in sources]
    state: dict[str, str] = {}
    with store.open():
        for digest in _share(list(points), shard or Shard()):
            state[digest] = "skipped" if _is_finished(digest, points[digest], store, others) else "missing"
        todo = {digest: points[digest] for digest in state if state[digest] == "missing"}
        found = len(state) - len(todo)
        on_progress(found, len(state))
        try:
            with closing(_outcomes(todo, jobs=jobs, backend=backend, scheduler=scheduler)) as outcomes:
                for number, (digest, outcome) in enumerate(outcomes, start=found + 1):
                    store.write(digest, points[digest], outcome)
                    state[digest] = "done" if outcome.error is None else "failed"
                    on_progress(number, len(state))
        except KeyboardInterrupt:
            kept = [what for what in state.values() if what in {"done", "skipped"}]
            raise KeyboardInterrupt(
                f"{len(kept)} of {len(state)} points are finished and kept in {out}; the same command computes the others"
            ) from None
        known = [store.read(digest) for digest in digests]
        result = _complete(sweep, known)
        if result is not None:
            result.write(out)
    states = [state.get(digest, "of another shard") for digest in digests]
    failures = {
        point.name: outcome.error
        for point, outcome, what in zip(sweep.points, known, states, strict=True)
        if what == "failed" and outcome is not None and outcome.error is not None
    }
    count = {what: states.count(what) for what in ("done", "skipped", "failed")}
    return Tally(points=sum(count.values()), missing=known.count(None), failures=failures, result=result, **count)


def _complete(sweep: Sweep, known: Sequence[Outcome | None]) -> SweepResult | None:
    """The result of a sweep whose points have all been tried."""
    there = [outcome for outcome in known if outcome is not None]
    return result_of(sweep, there) if len(there) == len(known) else None


def _existing(folder: Path) -> Store:
    """The store of a folder that must exist."""
    if not (folder / "points").is_dir():
        raise ConfigError(f"--from {folder}: holds no points of a sweep. Name the --out folder of another run.")
    return Store(folder)


def _share(digests: Sequence[str], shard: Shard) -> list[str]:
    """The points of a shard in the order of the study; divided by digest, which spreads costly values of a key evenly."""
    mine = set(sorted(digests)[shard.number - 1 :: shard.of])
    return [digest for digest in digests if digest in mine]


def _is_finished(digest: str, point: Point, store: Store, others: Sequence[Store]) -> bool:
    """Whether the store holds a prediction of the point, its own or one copied from another store."""
    mine = store.read(digest)
    if mine is not None and mine.prediction is not None:
        return True
    for other in others:
        outcome = other.read(digest)
        if outcome is not None and outcome.prediction is not None:
            store.write(digest, point, outcome)
            return True
    return False


def _outcomes(
    todo: Mapping[str, Point], *, jobs: int, backend: Backend, scheduler: str | None
) -> Generator[tuple[str, Outcome]]:
    """Outcomes by digest, as soon as each is known."""
    tasks: dict[str, Scenario] = {}
    for digest, point in todo.items():
        if point.scenario is None:
            yield digest, Outcome(error=point.problem)
        else:
            tasks[digest] = point.scenario
    if tasks:
        yield from on_dask(tasks, jobs, scheduler) if backend == "dask" else on_this_machine(tasks, jobs)
