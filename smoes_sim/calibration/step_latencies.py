"""Fit the constants of a machine to the measured TTFT and TPOT of one scenario.

Two latencies cannot tell apart what a step is made of, so the fit does not pretend to. Constants of the network and of the
software are drawn from stated ranges; for each draw two others are solved so that both latencies are met exactly:

* software time per layer from TPOT (a decode step of one token is nearly all software),
* the share of peak that the layers reach in prefill from TTFT.

The draws that can be met are the calibration: each explains the data equally well, and predictions carry all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smoes_sim.calibration.fit_result import CalibrationFit
from smoes_sim.errors import CalibrationError, MeasurementError
from smoes_sim.measurements import Measurements
from smoes_sim.prediction.constants import Calibration, FittedRow, Parameter
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.phase import pass_seconds
from smoes_sim.scenario import Scenario
from smoes_sim.version import __version__

_NUM_DRAWS = 16
_TRIES = 64
"""Number of points that are tried; a power of two, as Sobol sequences require."""
_RATE = (0.01, 0.94)
"""Share of line rate that TCP reaches, drawn log-uniformly: up to the payload share of 1,500-byte packets, 1448/1538, and
down to where no time is left for computation (such draws meet no latency and are dropped)."""
_OUTSIDE = 0.8
"""Largest share of TTFT that is spent outside the layers (vision encoder, preprocessing), drawn uniformly from 0."""
_IDENTIFIED = 1.5
"""A constant whose draws lie within this ratio is called identified."""
_LEAST_EFFICIENCY = 1e-3
_ITERATIONS = 60


def fit_step_latencies(measurements: Measurements, scenario: Scenario, *, name: str, seed: int = 0) -> CalibrationFit:
    """Fit the constants of the scenario's machine to the rows ``ttft`` and ``tpot`` of a measurements table.

    Args:
        measurements: The table.
        scenario: The deployment that was measured.
        name: Name or path of the scenario, for the calibration file.
        seed: Random seed of the draws.

    Raises:
        MeasurementError: If the table lacks one of the two rows.
        CalibrationError: If no draw can meet both, or the scenario lacks prefill or decode.
    """
    from scipy.stats import qmc  # noqa: PLC0415  # takes 0.4 s to import; needed only here

    ttft, tpot = _measured(measurements, "ttft"), _measured(measurements, "tpot")
    deployment = deploy(scenario.model_copy(update={"calibration": None}), whole=True)
    if not deployment.chunks or not deployment.decode:
        raise CalibrationError(
            f"{name}: TTFT and TPOT are fitted together, but workload.phase = {scenario.workload.phase} with "
            f"{deployment.workload.num_decode_tokens} decode tokens has not both. Write phase: both and output_tokens: 2 or "
            "more."
        )
    if scenario.workload.speculation is not None:
        raise CalibrationError(f"{name}: workload.speculation: a TPOT of one token a step is fitted. Leave it out.")
    kinds = sorted(set(deployment.topology.link_kinds) - {"host-bus"})
    sampler = qmc.Sobol(d=4, rng=np.random.default_rng(seed))
    solved: list[dict[str, float]] = []
    for rate, share, per_message_share, outside in sampler.random(_TRIES):
        if len(solved) == _NUM_DRAWS:
            break
        drawn = {f"efficiency.{kind}": float(_RATE[0] * (_RATE[1] / _RATE[0]) ** rate) for kind in kinds}
        drawn["per_prefill"] = float(outside) * _OUTSIDE * ttft
        constants = _solve(deployment, drawn, float(share), float(per_message_share), ttft=ttft, tpot=tpot)
        if constants is not None:
            solved.append(constants)
    if len(solved) < _NUM_DRAWS:
        raise CalibrationError(
            f"{measurements.name}: only {len(solved)} of {_TRIES} draws can meet TTFT {ttft} s and TPOT {tpot} s; at least "
            f"{_NUM_DRAWS} are needed. Check the scenario: device, batch, output length."
        )
    draws = {key: [constants[key] for constants in solved] for key in solved[0]}
    table = "TABLE.csv" if measurements.path is None else measurements.path.name
    calibration = Calibration(
        scenario=name,
        parameters={key: _summary(key, values) for key, values in draws.items()},
        draws=draws,
        fitted_on=[
            FittedRow(id=row.id, quantity=row.op, seconds=row.duration)
            for row in measurements
            if row.op in {"ttft", "tpot"} and row.duration is not None
        ],
        data_hash=measurements.data_hash,
        command=f"smoes-sim calibrate {table} --scenario {name} --seed {seed}",
        version=__version__,
    )
    return CalibrationFit(calibration=calibration, residuals=(), held_out=0)


def _measured(measurements: Measurements, op: str) -> float:
    for row in measurements:
        if row.mode == "step" and row.op == op and row.duration is not None:
            return row.duration
    raise MeasurementError(f"{measurements.name}: has no row with mode step, op {op} and a time. Add the measured latency.")


def _solve(
    deployment: Deployment, drawn: dict[str, float], share: float, per_message_share: float, *, ttft: float, tpot: float
) -> dict[str, float] | None:
    """Software time and compute efficiency that meet both latencies; None where no value in range does.

    Args:
        deployment: The measured deployment.
        drawn: Constants of the network, and the time of a prefill outside the layers.
        share: Share of the software time per layer that is spent on its two exchanges.
        per_message_share: Part of that which is paid per message rather than per exchange.
        ttft: Seconds.
        tpot: Seconds.
    """

    def constants(software: float, efficiency: float) -> dict[str, float]:
        exchange = software * share / 2
        return drawn | {
            "per_message": exchange * per_message_share,
            "per_exchange": exchange * (1 - per_message_share),
            "per_layer": software * (1 - share),
            "flops_efficiency": efficiency,
        }

    def decode(software: float) -> float:
        return _mean_time(deployment, constants(software, 0.5), decode=True)

    software = _root(decode, tpot, low=0.0, high=2 * tpot / deployment.model.layers)
    if software is None:
        return None

    def prefill(log_efficiency: float) -> float:
        layers = _mean_time(deployment, constants(software, float(np.exp(log_efficiency))), decode=False)
        return -layers - drawn["per_prefill"]

    log_efficiency = _root(prefill, -ttft, low=float(np.log(_LEAST_EFFICIENCY)), high=0.0)
    return None if log_efficiency is None else constants(software, float(np.exp(log_efficiency)))


def _mean_time(deployment: Deployment, constants: dict[str, float], *, decode: bool) -> float:
    conditions = deployment.under(constants)
    steps = deployment.decode if decode else deployment.chunks
    times = [pass_seconds(conditions, step) for step in steps]
    return float(np.mean(times) if decode else np.sum(times))


def _root(function: Callable[[float], float], wanted: float, *, low: float, high: float) -> float | None:
    """Argument at which a rising function equals ``wanted`` to 1e-9, by bracketed secants; None outside the bracket."""
    at_low, at_high = function(low) - wanted, function(high) - wanted
    if at_low > 0 or at_high < 0:
        return None
    for _ in range(_ITERATIONS):
        middle = low - at_low * (high - low) / (at_high - at_low)
        value = function(middle) - wanted
        if abs(value) <= 1e-9 * abs(wanted):
            return middle
        if value < 0:
            low, at_low, at_high = middle, value, at_high / 2  # Illinois: a stale end loses weight
        else:
            high, at_high, at_low = middle, value, at_low / 2
    return middle


_MEANING = {
    "per_message": "software seconds per message",
    "per_exchange": "software seconds per exchange",
    "per_layer": "software seconds per layer outside exchanges",
    "per_prefill": "seconds of a prefill outside the layers (vision encoder)",
    "flops_efficiency": "share of peak that the layers reach in prefill",
}


def _summary(name: str, values: Sequence[float]) -> Parameter:
    low, middle, high = (float(value) for value in np.percentile(values, [10, 50, 90]))
    return Parameter(
        value=middle,
        low=low,
        high=high,
        identified=low > 0 and high / low < _IDENTIFIED,
        meaning=_MEANING.get(name, "share of the nominal link rate that is reached"),
    )
