"""Who computes the points: processes on this machine (joblib, loky), or a Dask cluster."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool

from smoes_sim.errors import ConfigError, SimulationError, SmoesError
from smoes_sim.prediction.changes import CHANGES
from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps.store import Outcome, digest_of

_POLL = 1.0
"""Seconds between a worker's looks at whether its command still lives."""


def run_point(digest: str, scenario: Scenario) -> Outcome:
    """Predict a point; whatever goes wrong is its outcome and nobody else's.

    The digest is checked where the point was computed, and afterwards: a worker with other code, and a file that changed
    meanwhile, are found out.
    """
    try:
        prediction = simulate(scenario)
        if digest_of(scenario) != digest:
            raise ConfigError("the code or a file that the scenario names differs from when the sweep began. Run it again.")
    except SmoesError as error:
        return {"error": " ".join(str(error).split())}
    except Exception as error:  # a bug, or no memory left: the other points go on
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    return {
        "values": prediction.values(),
        "draws": {key: prediction.draws[key] for key in CHANGES if key in prediction.draws},
    }


def on_this_machine(tasks: Mapping[str, Scenario], jobs: int) -> Generator[tuple[str, Outcome]]:
    """Compute in worker processes that end with this one; with one job in this process."""
    with Parallel(
        n_jobs=jobs,
        backend="loky",
        batch_size=1,  # a point is kept when it is finished, not when others are finished too
        return_as="generator_unordered",
        initializer=_end_with_command,
        initargs=(os.getpid(),),
    ) as parallel:
        try:
            yield from parallel(delayed(_labelled)(digest, scenario) for digest, scenario in tasks.items())
        except BrokenProcessPool:
            raise SimulationError(
                "a worker was ended from outside (no memory left?). Run the command again, perhaps with fewer --jobs; "
                "it goes on with the points that are missing."
            ) from None


def _labelled(digest: str, scenario: Scenario) -> tuple[str, Outcome]:
    return digest, run_point(digest, scenario)


def _end_with_command(command: int) -> None:
    """Let a worker end when the command that started it is gone."""

    def watch() -> None:
        while os.getppid() == command:
            time.sleep(_POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_dask(tasks: Mapping[str, Scenario], jobs: int, scheduler: str | None) -> Generator[tuple[str, Outcome]]:
    """Compute on the workers of a Dask scheduler, which need the same code and files, or on a Dask cluster of this machine.

    Raises:
        ConfigError: If Dask is not installed, or the scheduler cannot be reached.
    """
    try:
        from distributed import Client, LocalCluster, as_completed  # noqa: PLC0415  an extra, imported when asked for
    except ImportError:
        raise ConfigError("--backend dask needs the dask extra. Install it with: pip install 'smoes-sim[dask]'") from None
    with ExitStack() as stack:
        if scheduler is None:
            cluster = LocalCluster(
                n_workers=jobs, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
            )
            scheduler = stack.enter_context(cluster).scheduler_address
        try:
            client = stack.enter_context(Client(scheduler))
        except (OSError, ValueError) as error:
            raise ConfigError(f"--scheduler {scheduler}: cannot be reached ({error}). Check the address.") from None
        futures = {
            client.submit(run_point, digest, scenario, key=f"smoes-sim-{digest}"): digest
            for digest, scenario in tasks.items()
        }
        for future in as_completed(futures):
            yield futures[future], _result(future)


def _result(future: Any) -> Outcome:
    """What a worker returned; a point on which workers die is a failure of that point."""
    if future.status == "finished":
        outcome: Outcome = future.result()
        return outcome
    return {
        "error": f"{type(future.exception()).__name__}: the worker died or could not run smoes_sim. See the worker's log."
    }
