"""Grids of scenarios, and experts that are placed again over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from smoes_sim.adaptation.adapt import adapt as adapt_scenario
from smoes_sim.adaptation.result import Adaptation
from smoes_sim.api.inputs import ScenarioLike, resolve
from smoes_sim.display.progress import Progress, progress
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.constants import NUM_STATED, load_calibration
from smoes_sim.sweeps import Shard, Sweep, Tally, load_sweep, run_sweep
from smoes_sim.yaml_files import Override, assignments


def sweep(
    study: str | Path | Sweep,
    *overrides: Override,
    out: str | Path = "sweep",
    jobs: int = 1,
    shard: str | None = None,
    backend: Literal["loky", "dask"] = "loky",
    scheduler: str | None = None,
    sources: Sequence[str | Path] = (),
    on_found: Callable[[int, int], None] = lambda found, total: None,
    show_progress: Progress = "auto",
    **settings: object,
) -> Tally:
    """Predict every point of a grid or a list of scenarios; finished points are kept and never computed again.

    Args:
        study: A shipped study (``catalogue("sweeps")``) or the path of a file.
        overrides: Changes of its base scenario.
        out: Folder of points and tables; finished points in it are used.
        jobs: Number of points computed at a time.
        shard: Compute this part only: ``"1/4"`` to ``"4/4"``.
        backend: ``loky`` for processes on this machine, ``dask`` for a cluster.
        scheduler: Address of a running Dask scheduler.
        sources: Folders of other sweeps, whose finished points are copied.
        on_found: Called once with the number of points that were found, and that of all points.
        show_progress: Where to show how far it has come.
        settings: Changes of the base scenario as keywords, two underscores for the dot.

    Returns:
        A :class:`Tally`: how many points were computed, found, failed; ``result`` has the predictions and their tables, None
        while points are missing.

    Raises:
        ConfigError: If the study breaks a rule, or a folder cannot be used.

    Example:
        ``sweep("paper", out="results/paper", jobs=2).result.to_polars()``

        >>> sweep("paper", shard="3/2")
        Traceback (most recent call last):
        smoes_sim.errors.ConfigError: shard = "3/2" is not i/n with 1 <= i <= n. Write for example 1/4, 2/4, 3/4 and 4/4.
    """
    if scheduler is not None and backend != "dask":
        raise ConfigError(f"scheduler = {scheduler} goes with backend dask. Remove it, or write backend dask.")
    loaded = study if isinstance(study, Sweep) else load_sweep(str(study), assignments(overrides, settings))
    with ExitStack() as stack:
        found = 0
        advance: Callable[[int], None] | None = None

        def on_progress(done: int, total: int) -> None:
            """Show the points that are still to do, so that the time left is right."""
            nonlocal found, advance
            if advance is None:
                found = done
                on_found(found, total)
                advance = stack.enter_context(progress("points", total - found, show_progress))
            else:
                advance(done - found)

        return run_sweep(
            loaded,
            Path(out),
            jobs=jobs,
            shard=None if shard is None else Shard.parse(shard),
            backend=backend,
            scheduler=scheduler,
            sources=[Path(source) for source in sources],
            on_progress=on_progress,
        )


def adapt(
    scenario: ScenarioLike,
    *overrides: Override,
    windows: int = 16,
    steps: int = 100,
    every: Sequence[int] = (1, 2, 4, 8),
    images: tuple[float, float] | None = None,
    show_progress: Progress = "auto",
    **settings: object,
) -> Adaptation:
    """Place experts again while the mix of modalities drifts: time saved, weights moved, break-even.

    Args:
        scenario: A shipped name, a path or a :class:`Scenario`.
        overrides: Changes of it.
        windows: Number of windows; each has one mix of modalities.
        steps: Number of prefill steps in a window.
        every: Numbers of windows between two placements, one or more to compare.
        images: Share of sequences with images in the first and in the last window. Default: 1 and 0; with a trace it is that
            of the trace.
        show_progress: Where to show how far it has come.
        settings: Changes as keywords, two underscores for the dot.

    Returns:
        An :class:`Adaptation`: total and moving seconds for each interval, beside never moving and an oracle.

    Raises:
        ConfigError: If the scenario breaks a rule, or a number does not fit.

    Example:
        >>> small = {"workload": {"preset": "mmbench", "batch": 2, "output_tokens": 1}, "calibration": None}
        >>> found = adapt("olmoe-two-orin", small, placement__experts="bins", windows=3, every=[1, 2])
        >>> found.to_polars()["name"].unique(maintain_order=True).to_list()
        ['never', 'every 100', 'every 200', 'oracle']
    """
    numbers = sorted(set(every))
    if not numbers or not 1 <= numbers[0] <= numbers[-1] < windows:
        raise ConfigError(f"every = {list(every)}: each must be from 1 to {windows - 1}, below the {windows} windows.")
    if images is not None and not all(0 <= share <= 1 for share in images):
        raise ConfigError(f"images = {images}: a share is from 0 to 1. Write for example (0.9, 0.1).")
    name, loaded = resolve(scenario, assignments(overrides, settings))
    if loaded.routing.trace is not None and images is not None:
        raise ConfigError(f"images = {images}: the mix is that of routing.trace = {loaded.routing.trace}. Remove one.")
    num_sets = NUM_STATED if loaded.calibration is None else load_calibration(loaded.calibration).num_draws
    with progress("sets of constants", num_sets, show_progress) as advance:
        return adapt_scenario(
            loaded, name=name, windows=windows, steps=steps, every=numbers, images=images or (1.0, 0.0), on_timed=advance
        )
