"""Predict an all-to-all on a topology: the function behind ``smoes-sim alltoall``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from smoes_sim.errors import ConfigError
from smoes_sim.exchanges.demand import Demand, Matrix, choose_matrices
from smoes_sim.exchanges.result import Alltoall, AlltoallSettings
from smoes_sim.exchanges.timing import AlltoallOptions, AlltoallTime, time_alltoall, time_calibrated
from smoes_sim.network import Fidelity, Network, Order, Schedule
from smoes_sim.network.fifo.exchange import TCP_WINDOW, Injection
from smoes_sim.prediction.constants import Calibration, load_calibration
from smoes_sim.topology import Topology, find_topology
from smoes_sim.units import parse_duration, parse_size


def alltoall(
    topology: str | Topology,
    *,
    size: str | float | None = None,
    sweep: str | None = None,
    zipf: float | None = None,
    per_source: bool = False,
    lognormal: float | None = None,
    workload: str | None = None,
    step: int | None = None,
    trace: str | Path | None = None,
    matrix: str | Path | Matrix | None = None,
    schedule: Schedule = "direct",
    message_size: str | None = None,
    order: Order = "shifted",
    calibration: str | Calibration | None = None,
    per_message: str | None = None,
    fidelity: Fidelity = "fluid",
    tolerance: float = 1e-4,
    injection: Injection = "fifo",
    window: str | None = None,
    chunk: str | None = None,
    seed: int = 0,
    links: int | None = None,
    on_size: Callable[[int], None] = lambda _: None,
) -> Alltoall:
    """Predict an all-to-all, in the columns of nccl-tests.

    Args:
        topology: A shipped name, a file, or a topology.
        size: Bytes that each rank sends, its own block included: a number, ``64 MiB``, or ``64M`` as in nccl-tests.
            Default 64 MiB.
        sweep: First and last of sizes that double, such as ``1K:1G``.
        zipf: Exponent of the popularity of destinations. Default: equal blocks.
        per_source: Whether each rank has its own popular destinations, for ``zipf``.
        lognormal: Standard deviation of the logarithm of the popularity of destinations.
        workload: Name of an imbalance workload, ``W0`` to ``W7``.
        step: Step of the workload. Default 0.
        trace: File of a routing trace, for its proportions.
        matrix: Bytes from rank to rank, shape (R, R), or a file of them as for nccl-tests' alltoallv.
        schedule: Which messages the library posts, and when; see ``network.schedules.phases_of``.
        message_size: Bytes of one copy, for ``low_latency``.
        order: Order in which a rank posts its messages.
        calibration: Fitted constants, which give an interval. Default: nominal links, and software that costs nothing.
        per_message: Time of the sender for each message. Default 0 us.
        fidelity: Model of the network.
        tolerance: Relative error to aim at, for ``fluid``; 0 is exact.
        injection: How the messages of a rank share its port, for ``fifo`` and ``packet``.
        window: Bytes of a message before its receiver must answer, or ``inf``, for ``fifo`` and ``packet``. Default 65535 B.
        chunk: Bytes served together, for ``fifo``. Default: by the size of the case.
        seed: Random seed of the skew, the random order and the choice between equal routes.
        links: Number of busiest links to name, and to record over time with ``fluid``. Default none.
        on_size: Called after each size with the number of sizes that are done.

    Returns:
        Times and bandwidths by size; ``print`` shows the table of the command.

    Raises:
        ConfigError: If options contradict each other, or a name, file or value breaks a rule.

    Example:
        4 ranks of 200 Mb/s, 1 MiB each: three blocks of 256 KiB leave a port of 25e6 B/s in 31.457 ms.

        >>> found = alltoall("lab-star-4", size="1M")
        >>> round(found.rows[0].time_s * 1e3, 3)
        31.457
    """
    demand = Demand(
        size=size, sweep=sweep, zipf=zipf, per_source=per_source, lognormal=lognormal, workload=workload, step=step,
        matrix=Path(matrix) if isinstance(matrix, str) else matrix, trace=None if trace is None else Path(trace),
    )  # fmt: skip
    if calibration is not None and per_message is not None:
        raise ConfigError("--calibration already says the sender's time per message. Leave --per-message out.")
    constants = load_calibration(calibration) if isinstance(calibration, str) else calibration
    name = calibration if isinstance(calibration, str) else None if calibration is None else "a given calibration"
    settings = AlltoallSettings(
        schedule=schedule, message_size=message_size, order=order, calibration=name, per_message=per_message or "0 us",
        fidelity=fidelity, tolerance=tolerance, injection=injection, window=window, chunk=chunk, seed=seed,
    )  # fmt: skip
    options = replace(options_of(settings), num_hot=links or 0, record_links=links is not None)
    options.check()
    built = find_topology(topology) if isinstance(topology, str) else topology
    network = Network.on(built, per_message=_parsed("--per-message", settings.per_message, parse_duration), seed=seed)
    times: list[AlltoallTime] = []
    for one in choose_matrices(built.num_ranks, demand, seed=seed):
        if constants is None:
            times.append(time_alltoall(network, one, options))
        else:
            times.append(time_calibrated(network, one, options, constants))
        on_size(len(times))
    return Alltoall(
        topology=topology if isinstance(topology, str) else built.name,
        ranks=built.num_ranks,
        collective="alltoall" if demand.is_uniform else "alltoallv",
        traffic=demand.description,
        settings=settings,
        times=times,
        is_sweep=sweep is not None,
        names_links=bool(links),
    )


def options_of(settings: AlltoallSettings) -> AlltoallOptions:
    """Options in bytes, from settings as they were given.

    Raises:
        ConfigError: If a size has no unit.
    """

    def size(option: str, text: str | None) -> float | None:
        return None if text is None else _parsed(option, text, parse_size)

    window = math.inf if settings.window == "inf" else size("--window", settings.window)
    return AlltoallOptions(
        schedule=settings.schedule,
        order=settings.order,
        message_size=size("--message-size", settings.message_size),
        fidelity=settings.fidelity,
        tolerance=settings.tolerance,
        injection=settings.injection,
        window=TCP_WINDOW if window is None else window,
        chunk=size("--chunk", settings.chunk),
        seed=settings.seed,
    )


def _parsed(option: str, text: str, parse: Callable[[str], float]) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{option} = {error}") from None
