"""What users of a deployment wait for: requests arrive, wait, are batched, answered.

``requests`` draws or reads them, ``batching`` decides what a step takes (as vLLM does), ``service`` lets steps follow each
other, ``measures`` turns its record into percentiles and goodput, ``forecast`` puts a deployment's step costs and memory
underneath, ``search`` finds the largest rate that keeps a service level objective.
"""

from __future__ import annotations

from smoes_sim.serving.batching import Limits
from smoes_sim.serving.forecast import forecast, forecast_curve, largest_rates, limits_of, runs_of_curve, runs_of_search
from smoes_sim.serving.measures import Objective, measure
from smoes_sim.serving.requests import Request, check_both_phases, poisson_requests, read_requests
from smoes_sim.serving.search import WANTED
from smoes_sim.serving.serve_results import ServedRequests, ServedSystem, ServiceCurve, ServiceResult
from smoes_sim.serving.service import Service, run_service

__all__ = [
    "WANTED",
    "Limits",
    "Objective",
    "Request",
    "ServedRequests",
    "ServedSystem",
    "Service",
    "ServiceCurve",
    "ServiceResult",
    "check_both_phases",
    "forecast",
    "forecast_curve",
    "largest_rates",
    "limits_of",
    "measure",
    "poisson_requests",
    "read_requests",
    "run_service",
    "runs_of_curve",
    "runs_of_search",
]
