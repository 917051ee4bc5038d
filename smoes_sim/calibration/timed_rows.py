"""Fit constants to timed exchanges and phases: rows that name a topology or a scenario."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from smoes_sim.calibration.cases import CaseReader, ExchangeCase, SimulatedCase
from smoes_sim.calibration.fit_result import CalibrationFit, Residual
from smoes_sim.calibration.least_squares import Array, Problem, Solution, log_scatter, median_scatter, solve
from smoes_sim.calibration.priors import prior_of
from smoes_sim.display.progress import Progress, progress
from smoes_sim.errors import CalibrationError, ConfigError
from smoes_sim.measurements import COLUMNS, Measurement, Measurements, measured_time, value_of
from smoes_sim.prediction.constants import INTERVAL, Calibration, FittedRow, Parameter
from smoes_sim.units import parse_size
from smoes_sim.version import __version__
from smoes_sim.yaml_files import nearest

_NUM_DRAWS = 32
_IDENTIFIED = 1.5
"""A constant whose 80% interval lies within this ratio is called identified."""
_TRADED = 0.9
"""Constants whose draws correlate by more than this (in logarithms) trade against each other."""
_CURVE_SIZES, _CURVE_RANGE = 6, 64.0
"""Number of sizes, and ratio of the largest to the smallest, from which a curve over message size is tried."""
_CURVE_GAIN = 0.9
"""The curve is kept if it reduces the error of left-out rows below this share of the error without it."""
_GROUPS = 3
"""Number of topologies from which whole topologies are left out to estimate the model's error; below it, single rows."""


def select_rows(rows: Sequence[Measurement], expressions: Sequence[str]) -> list[Measurement]:
    """Rows that meet any of the expressions, such as ``mode=alltoall,bytes_per_rank=1 MiB``; all rows without expressions.

    Raises:
        ConfigError: If an expression cannot be parsed, or no row meets it.
    """
    chosen: dict[str, Measurement] = {}
    for expression in expressions:
        wanted = [_condition(expression, part) for part in expression.split(",")]
        found = {row.id: row for row in rows if all(_meets(row, column, text) for column, text in wanted)}
        if not found:
            raise ConfigError(f'--fit "{expression}": no row meets it. Rows have for example {_example(rows[0], wanted)}.')
        chosen |= found
    return [row for row in rows if row.id in chosen] if expressions else list(rows)


def _condition(expression: str, part: str) -> tuple[str, str]:
    column, separator, text = (word.strip() for word in part.partition("="))
    if not separator:
        raise ConfigError(f'--fit "{expression}": "{part}" is not COLUMN=VALUE. Write for example mode=sendrecv.')
    if column not in COLUMNS:
        raise ConfigError(f'--fit "{expression}": unknown column "{column}". {nearest(column, COLUMNS)}')
    return column, text


def _meets(row: Measurement, column: str, text: str) -> bool:
    value = value_of(row, column)
    if isinstance(value, str):
        return value == text
    try:
        wanted = float(text) if text.replace(".", "", 1).isdigit() else parse_size(text)
    except ValueError as error:
        raise ConfigError(f"--fit {column} = {error}") from None
    return value is not None and math.isclose(value, wanted, rel_tol=1e-9)


def _example(row: Measurement, wanted: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{column}={value_of(row, column)}" for column, _ in wanted)


def fit_rows(
    measurements: Measurements, *, fit: Sequence[str] = (), seed: int = 0, show_progress: Progress = "none"
) -> CalibrationFit:
    """Fit the constants on which the measured times depend.

    Args:
        measurements: The table. Rows without a time, a topology or a scenario are not used.
        fit: Expressions that choose the fitted rows (see :func:`select_rows`); the other rows are held out.
        seed: Random seed of the bootstrap draws.
        show_progress: Where to show the number of finished draws, which take most of the time.

    Raises:
        CalibrationError: If no row can be used.
        ConfigError: If an expression chooses no row, or the files of a row are missing or broken.
    """
    chosen = select_rows(measurements, fit)
    usable = [row for row in chosen if (row.topology or row.scenario) and measured_time(row)]
    if not usable:
        raise CalibrationError(
            f"{measurements.name}: no row to fit has a time and a topology or scenario. Name what was measured."
        )
    reader = CaseReader()
    cases = [reader.read(row) for row in usable]
    names = list(dict.fromkeys(name for case in cases for name in case.constants))
    if _may_have_curve(cases):
        curved = [*names, *(_half_size(name) for name in names if name.startswith("efficiency.")), "curve"]
        errors = [_solution(cases, tried, seed, num_draws=0).spread for tried in (names, curved)]
        names = curved if errors[1] < _CURVE_GAIN * errors[0] else names
    with progress("bootstrap draws", _NUM_DRAWS, show_progress) as advance:
        solution = _solution(cases, names, seed, on_draw=advance)
    table = "TABLE.csv" if measurements.path is None else shlex.quote(measurements.path.name)
    options = "".join(f" --fit {shlex.quote(expression)}" for expression in fit)
    return CalibrationFit(
        calibration=_calibration(
            cases,
            names,
            solution,
            data_hash=measurements.data_hash,
            command=f"smoes-sim calibrate {table}{options} --seed {seed}",
        ),
        residuals=tuple(
            Residual(id=case.row.id, residual=float(inside), left_out=float(outside))
            for case, inside, outside in zip(cases, solution.residuals, solution.left_out, strict=True)
        ),
        held_out=len(measurements) - len(cases),
    )


def _half_size(efficiency: str) -> str:
    return efficiency.replace("efficiency.", "half_size.")


def _may_have_curve(cases: Sequence[SimulatedCase]) -> bool:
    """Whether the sizes are numerous and far enough apart to separate a curve from a fixed cost."""
    sizes = {case.row.size for case in cases if isinstance(case, ExchangeCase) and case.row.size}
    return len(sizes) >= _CURVE_SIZES and max(sizes) >= _CURVE_RANGE * min(sizes)


def _solution(
    cases: Sequence[SimulatedCase],
    names: Sequence[str],
    seed: int,
    *,
    num_draws: int = _NUM_DRAWS,
    on_draw: Callable[[int], None] = lambda _: None,
) -> Solution:
    def log_times(x: Array) -> Array:
        constants = dict(zip(names, np.exp(x).tolist(), strict=True))
        return np.log([case.duration(constants) for case in cases])

    priors = [prior_of(name) for name in names]
    rows = [case.row for case in cases]
    scatter = [log_scatter(row.duration_p10, row.duration_p90, row.repeats) for row in rows]
    problem = Problem(
        log_times=log_times,
        measured=np.log([measured_time(row) or np.nan for row in rows]),
        scatter=median_scatter(scatter, [row.repeats or 1 for row in rows]),
        middle=np.log([prior.value for prior in priors]),
        spread=np.array([prior.spread for prior in priors]),
        most=np.log([prior.most for prior in priors]),
        powers=np.array([-1.0 if prior.is_share else 1.0 for prior in priors]),
        groups=_groups(cases),
        kinds=np.unique([case.kind for case in cases], return_inverse=True)[1].astype(np.int64),
    )
    return solve(problem, num_draws=num_draws, rng=np.random.default_rng(seed), on_draw=on_draw)


def _groups(cases: Sequence[SimulatedCase]) -> NDArray[np.int64]:
    """Group of each row, (N,), left out together: a topology if the others determine its constants, else one row."""
    constants: dict[str, set[str]] = {}
    for case in cases:
        constants.setdefault(_system(case), set()).update(case.constants)
    names = []
    for index, case in enumerate(cases):
        others = set().union(*(known for name, known in constants.items() if name != _system(case)))
        is_known = len(constants) >= _GROUPS and constants[_system(case)] <= others
        names.append(_system(case) if is_known else f"row {index}")
    groups: NDArray[np.int64] = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return groups


def _system(case: SimulatedCase) -> str:
    return case.row.topology or case.row.scenario


def _calibration(
    cases: Sequence[SimulatedCase], names: Sequence[str], solution: Solution, *, data_hash: str, command: str
) -> Calibration:
    values = np.exp(solution.draws)
    rows = [case.row for case in cases]
    scatter = [log_scatter(row.duration_p10, row.duration_p90, row.repeats) for row in rows]
    sizes = [row.size for row in rows if row.size]
    return Calibration(
        parameters=_parameters(names, solution),
        draws={name: [float(value) for value in values[:, index]] for index, name in enumerate(names)},
        fitted_on=[FittedRow(id=row.id, quantity=row.op, seconds=measured_time(row) or 0.0) for row in rows],
        spread=solution.spread,
        spreads={case.kind: float(spread) for case, spread in zip(cases, solution.spreads, strict=True)},
        repeat_spread=float(np.median([value for value in scatter if value] or [0.0])),
        sizes=[min(sizes), max(sizes)] if sizes else None,
        data_hash=data_hash,
        command=command,
        version=__version__,
    )


def _parameters(names: Sequence[str], solution: Solution) -> dict[str, Parameter]:
    """Value of each constant, the 80% interval of its draws, and the constants that it trades against."""
    correlation = _correlation(solution.draws)
    result = {}
    for index, name in enumerate(names):
        prior = prior_of(name)
        levels = (INTERVAL[0], 50, INTERVAL[1])
        low, middle, high = (float(value) for value in np.exp(np.percentile(solution.draws[:, index], levels)))
        identified = high / low < _IDENTIFIED
        traded = [other for at, other in enumerate(names) if at != index and abs(correlation[index, at]) > _TRADED]
        result[name] = Parameter(
            value=middle,
            low=low,
            high=high,
            identified=identified,
            prior=prior.value,
            traded_with=[] if identified else traded,
            meaning=prior.meaning,
        )
    return result


def _correlation(draws: Array) -> Array:
    """Correlation of the constants over the draws, (P, P); 0 for a constant that is the same in all draws."""
    centred = draws - draws.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    scaled = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 1e-12)
    result: Array = scaled.T @ scaled
    return result
