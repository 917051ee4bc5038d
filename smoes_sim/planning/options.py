"""The options of a plan: every offer predicted once, then counted in every number of replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smoes_sim.errors import ConfigError, SimulationError
from smoes_sim.planning.binding import resource_label, sensitivity
from smoes_sim.planning.plan_answer import PlanOption
from smoes_sim.planning.plan_file import Offer, Plan, PlanFile, Serving, Slo
from smoes_sim.prediction.constants import interval
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.memory_fit import memory
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.prediction.simulate import middle_conditions, num_passes, predict
from smoes_sim.serving import Objective, largest_rates, limits_of, runs_of_search

Row = dict[str, Any]
Series = NDArray[np.float64]
_TIMES = ("ttft_s", "tpot_s", "tokens_per_s")
_RATES = ("tokens_per_s", "max_rate_per_s")
"""What grows with the number of replicas."""
_COUNTS = ("imbalance", "transmission_rate", "policy", "token_placement", "expert_placement", "not_counted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One offer in one number of replicas.

    Attributes:
        row: What is printed and handed on.
        margin: How far it is inside what is asked, per draw of the constants, shape (D,): the smallest of limit / time and
            rate / limit, so that it meets everything where it is 1 or more; empty where nothing was predicted.
    """

    row: PlanOption
    margin: Series

    @property
    def cost(self) -> float:
        """Price per hour of all replicas."""
        return self.row.cost_per_hour


def all_options(
    plan: Plan, *, on_progress: Callable[[float], None] = lambda done: None, keeps_finished: bool = False
) -> tuple[list[Option], int]:
    """Every offer, predicted once, in every number of replicas; and how many offers were not predicted.

    Args:
        plan: What to predict.
        on_progress: Called with the number of offers predicted, parts of one included.
        keeps_finished: Whether an interrupt (Ctrl-C) ends the work and leaves the offers before it; otherwise it is raised.

    Raises:
        KeyboardInterrupt: If it is interrupted and no offer is finished, or finished ones are not kept.
    """
    options: list[Option] = []
    for number, offer in enumerate(plan.offers):
        try:
            options += _options_of(offer, plan, scenario=number, parts=_Parts(number, on_progress))
        except KeyboardInterrupt:
            if not (keeps_finished and number):
                raise
            return options, len(plan.offers) - number
        on_progress(number + 1)
    return options, 0


class _Parts:
    """Counts the parts of an offer: forward passes, services, and what binds it.

    Attributes:
        total: About how many there are; set before the first one ends.
    """

    def __init__(self, before: int, on_progress: Callable[[float], None]) -> None:
        self._before, self._on_progress = before, on_progress
        self.total, self._done = 0, 0

    def advance(self) -> None:
        """Another part is done."""
        self._done += 1
        self._on_progress(self._before + min(self._done / self.total, 0.99))


def _options_of(offer: Offer, plan: Plan, *, scenario: int, parts: _Parts) -> list[Option]:
    shared: Row = {"tried_name": plan.try_names[offer.tried], "tried": offer.tried, "scenario": scenario}
    draws: Mapping[str, Series] = {}
    weigh: Callable[[str], Row] = _nothing
    try:
        shared, draws, weigh = _predicted(offer, shared, plan.file, parts)
    except (ConfigError, SimulationError) as error:
        shared |= {"problem": str(error)}
    binding: dict[str, Row] = {}
    options = []
    for replicas in offer.candidate.replicas:
        row = _row(offer, replicas) | shared
        ranks = row.get("ranks_per_replica")
        row["ranks"] = ranks and replicas * ranks
        margin = np.empty(0)
        if draws:
            margins = margins_of(plan.file.slo, draws, replicas, serving=plan.file.serving)
            margin = np.min(list(margins.values()), axis=0)
            tightest = min(margins, key=lambda key: float(np.median(margins[key])))
            if tightest not in binding:
                binding[tightest] = weigh(tightest)
            row |= _timed(draws, margin, replicas) | {"tightest": tightest} | binding[tightest]
        options.append(Option(row=PlanOption(**row), margin=margin))
    return options


def _nothing(_: str) -> Row:
    """What binds an offer that was not predicted."""
    return {}


def _row(offer: Offer, replicas: int) -> Row:
    """What is known without predicting."""
    candidate = offer.candidate
    scenario = offer.point.scenario
    return {
        "name": f"{replicas} x {candidate.name}",
        "topology": candidate.name,
        "replicas": replicas,
        "cost_per_hour": replicas * candidate.cost_per_hour,
        "cost_source": candidate.source,
        "settings": dict(offer.point.settings),
        "calibration": None if scenario is None else scenario.calibration,
    }


def _predicted(
    offer: Offer, shared: Row, file: PlanFile, parts: _Parts
) -> tuple[Row, Mapping[str, Series], Callable[[str], Row]]:
    """What all numbers of replicas share, the draws of one replica, and a function that tells what binds a quantity.

    Raises:
        ConfigError: If the offer's parts do not fit together.
    """
    if offer.point.scenario is None:
        raise ConfigError(offer.point.problem)
    deployment = deploy(offer.point.scenario, whole=file.serving is not None)
    fit = memory(deployment)
    row = shared | {"ranks_per_replica": deployment.topology.num_ranks, "fits": fit.fits, "ranks_needed": fit.ranks_needed}
    if not fit.fits:
        needs = f"needs {fit.ranks_needed} ranks" if fit.ranks_needed else "no number of ranks helps"
        gigabytes = f"{fit.need.total / 1e9:.3g} GB a rank, {fit.usable / 1e9:.3g} usable"
        return row | {"problem": f"does not fit ({gigabytes}), {needs}", "binds": "memory size"}, {}, _nothing
    parts.total = 1 + num_passes(deployment) + (runs_of_search(deployment) if file.serving else 0)
    prediction = predict(deployment, on_pass=parts.advance)

    def weigh(quantity: str) -> Row:
        quantity = "tokens_per_s" if quantity == "max_rate_per_s" else quantity  # of the batch: what is nearest to it
        found = sensitivity(middle_conditions(deployment, prediction), quantity=quantity)
        largest = max(found, key=lambda name: found[name])
        return {"binds": resource_label(largest, deployment.topology), "sensitivity": found}

    draws = _series(prediction)
    if file.serving is not None:
        draws["max_rate_per_s"] = np.array(_largest_rates(deployment, file.slo, file.serving, on_run=parts.advance))
    counted = prediction.to_dict()
    return row | {key: counted[key] for key in _COUNTS}, draws, weigh


def _largest_rates(deployment: Deployment, slo: Slo, serving: Serving, *, on_run: Callable[[], None]) -> list[float]:
    """Requests per second of one replica of which 90% meet the times, for every set of constants."""
    limits = limits_of(deployment, max_batch_tokens=serving.max_batch_tokens, max_sequences=serving.max_sequences)
    objective = Objective(ttft=slo.ttft, tpot=slo.tpot)
    return largest_rates(deployment, limits, objective, number=serving.requests, on_run=on_run)


def _series(prediction: Prediction) -> dict[str, Series]:
    return {key: np.array(prediction.draws[key]) for key in _TIMES if key in prediction.draws}


def margins_of(slo: Slo, draws: Mapping[str, Series], replicas: int, *, serving: Serving | None = None) -> dict[str, Series]:
    """How far each thing that is asked is exceeded, per draw, shape (D,) each: 1 is just met, 2 is twice as good.

    A batch without a token after the first has no TPOT and meets any. Where requests arrive one by one there is one margin,
    the largest rate that keeps the times over the rate that is asked.

    Example:
        TTFT 0.5 s with at most 1 s: 2. Two replicas of 30 tokens per second with at least 80: 0.75. Two replicas that can
        serve 3 requests/s each where 4 arrive: 1.5.
    """
    if serving is not None:
        return {"max_rate_per_s": replicas * draws["max_rate_per_s"] / serving.rate}
    margins: dict[str, Series] = {}
    for key, limit in (("ttft_s", slo.ttft), ("tpot_s", slo.tpot)):
        if limit is not None:
            margins[key] = limit / draws[key] if key in draws else np.full(len(draws["ttft_s"]), np.inf)
    if slo.tokens_per_s is not None:
        margins["tokens_per_s"] = replicas * draws["tokens_per_s"] / slo.tokens_per_s
    return margins


def _timed(draws: Mapping[str, Series], margin: Series, replicas: int) -> Row:
    """Times, rates and margin of all replicas: the median over the draws, and an interval."""
    all_of = {key: replicas * values if key in _RATES else values for key, values in draws.items()}
    all_of["margin"] = margin
    many = len(margin) > 1
    return {key: float(np.median(values)) for key, values in all_of.items()} | {
        "intervals": {key: list(interval(values.tolist())) for key, values in all_of.items()} if many else {},
        "meets_slo": bool(np.median(margin) >= 1),
        "meets_share": float(np.mean(margin >= 1)),
    }


def wins(options: Sequence[Option]) -> list[float] | None:
    """Share of the draws in which each option is the cheapest that meets everything; None where draws do not pair.

    Draws pair where every prediction has equally many: those of one calibration, or of the devices' stated ranges, which are
    low, in the middle or high for all devices together. Of options at one price the one with the larger margin wins.
    """
    lengths = {len(option.margin) for option in options if len(option.margin)}
    if len(lengths) != 1:
        return None
    number = lengths.pop()
    shares = np.zeros(len(options))
    for draw in range(number):
        able = [index for index, option in enumerate(options) if len(option.margin) and option.margin[draw] >= 1]
        if able:
            shares[min(able, key=lambda index: (options[index].cost, -options[index].margin[draw], index))] += 1 / number
    return [float(share) for share in shares]
