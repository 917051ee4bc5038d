"""Compute points in processes of this machine (joblib, loky) or on a Dask cluster."""

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
from smoes_sim.prediction.simulate import simulate
from smoes_sim.scenario import Scenario
from smoes_sim.sweeps.identity import digest_of
from smoes_sim.sweeps.store import Outcome

_POLL = 1.0
"""Seconds between two checks of a worker that its command is still running."""


def run_point(digest: str, scenario: Scenario) -> Outcome:
    """The outcome of a point; any error is that of this point alone.

    The digest is checked in the worker and after the prediction, so that a worker with another version of the model, or a
    file that changed meanwhile, is an error.
    """
    try:
        prediction = simulate(scenario)
        if digest_of(scenario) != digest:
            raise ConfigError(
                "the model's version or a file that the scenario names differs from when the sweep began. Run it again."
            )
    except SmoesError as error:
        return Outcome(error=" ".join(str(error).split()))
    except Exception as error:  # a bug, or no memory left: the other points go on
        return Outcome(error=" ".join(f"{type(error).__name__}: {error}".split()))
    return Outcome(prediction=prediction)


def on_this_machine(tasks: Mapping[str, Scenario], jobs: int) -> Generator[tuple[str, Outcome]]:
    """Outcomes by digest, computed in worker processes that end with this one, or in this process if there is one job."""
    with Parallel(
        n_jobs=jobs,
        backend="loky",
        batch_size=1,  # each point is stored as soon as it is finished
        return_as="generator_unordered",
        initializer=_end_with_command,
        initargs=(os.getpid(),),
    ) as parallel:
        try:
            yield from parallel(delayed(_labelled)(digest, scenario) for digest, scenario in tasks.items())
        except BrokenProcessPool:
            raise SimulationError(
                "a worker was killed from outside (out of memory?). Run the command again, perhaps with fewer --jobs; "
                "it continues with the points that are missing."
            ) from None


def _labelled(digest: str, scenario: Scenario) -> tuple[str, Outcome]:
    return digest, run_point(digest, scenario)


def _end_with_command(command: int) -> None:
    """End this worker when the command that started it has ended."""

    def watch() -> None:
        while os.getppid() == command:
            time.sleep(_POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def on_dask(tasks: Mapping[str, Scenario], jobs: int, scheduler: str | None) -> Generator[tuple[str, Outcome]]:
    """Outcomes by digest, from workers of a Dask scheduler with the same code and files, or of a Dask cluster started here.

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
    """What a worker returned; if the worker died, an error of this point."""
    if future.status == "finished":
        outcome: Outcome = future.result()
        return outcome
    name = type(future.exception()).__name__
    return Outcome(error=f"{name}: the worker died or could not run smoes_sim. See the worker's log.")
