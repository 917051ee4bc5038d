"""One measured piece of work in a process of its own: ``python -m benchmarks.work '{"work": "exchange", "case": {...}}'``.

The answer is JSON on standard output. Who asks (``benchmarks.processes``) imports none of this: its memory would count here.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import Case, topology_spec
from smoes_sim.errors import SmoesError
from smoes_sim.network import Flows, Network, exchange_time, phases_of
from smoes_sim.network.fifo.exchange import fifo_exchange_time
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.simulate import predict
from smoes_sim.scenario import Scenario
from smoes_sim.topology import build
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.traffic.skewed import uniform_matrix, zipf_matrix

_RANK_BYTES = 64 * 2**20
"""What each rank sends in every exchange here, its own block included."""
_WARM_UP_RANKS = 64
"""Enough for every compiled path: 4,032 flows are more than any size below which the library does not compile."""
_SHORT_S, _REPEATS = 2.0, 3
"""Work shorter than this is done this many times, and the fastest counts."""


class Stopwatch:
    """Wall seconds by part."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside under a name."""
        began = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - began


def exchange(case: Case) -> dict[str, Any]:
    """Time an exchange from the topology's specification to the answer, after the same at 64 ranks.

    What takes less than 2 s is done three times, and the fastest counts.
    """
    answer_of(replace(case, ranks=min(case.ranks, _WARM_UP_RANKS)), Stopwatch())
    answers = [_timed(case)]
    while answers[0]["wall_s"] < _SHORT_S and len(answers) < _REPEATS:
        answers.append(_timed(case))
    return min(answers, key=lambda answer: answer["wall_s"])


def _timed(case: Case) -> dict[str, Any]:
    watch, cpu, wall = Stopwatch(), time.process_time(), time.perf_counter()
    answer = answer_of(case, watch)
    return answer | {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "parts_s": watch.parts}


def answer_of(case: Case, watch: Stopwatch) -> dict[str, Any]:
    """What an exchange takes, its bound, and how large the problem was."""
    network, phases = problem_of(case, watch)
    with watch.part("sharing" if case.chunk is None else "ports"):
        if case.chunk is None:
            result = exchange_time(network, phases, tolerance=case.tolerance)
        elif case.store:
            result = fifo_exchange_time(network, phases, chunk=case.chunk, packet=case.chunk, window=math.inf)
        else:
            result = fifo_exchange_time(network, phases, chunk=case.chunk)
    return {
        "duration_s": result.duration,
        "bound_s": result.bound,
        "error_bound": result.error_bound,
        "flows": result.num_flows,
        "links": network.topology.num_links,
        "crossings": sum(len(flows.routes.links) for flows in phases),
        "rate_changes": result.rate_changes,
    }


def problem_of(case: Case, watch: Stopwatch) -> tuple[Network, list[Flows]]:
    """The network and messages of a case."""
    with watch.part("topology"):
        spec = TopologyFile.model_validate(
            topology_spec(case.fabric, case.ranks) | {"routing": "split" if case.split else "hash"}
        ).root
        network = Network.on(build(spec, name=case.fabric))
    with watch.part("matrix"):
        matrix = _matrix(case)
    with watch.part("routes"):
        phases = phases_of(network, [matrix], order="shifted")
    return network, phases


def _matrix(case: Case) -> NDArray[np.float64]:
    if case.zipf == 0:
        matrix = uniform_matrix(case.ranks, _RANK_BYTES)
    else:
        matrix = zipf_matrix(case.ranks, _RANK_BYTES, exponent=case.zipf, seed=0, per_source=case.per_source)
    if case.whole_bytes:
        matrix = np.rint(matrix)
    if case.skip > 1:
        distance = np.arange(case.ranks)[None, :] - np.arange(case.ranks)[:, None]
        matrix = np.where(distance % case.skip == 1, matrix, 0.0)
    return matrix


def write_flows(case: Case, *, form: str, path: str) -> dict[str, Any]:
    """Write the messages of a case as ``simgrid_driver.py`` or ``astra`` read them (docs/accuracy/performance.md)."""
    network, (phase,) = problem_of(case, Stopwatch())
    capacity, offsets, links = network.capacity.tolist(), phase.routes.offsets.tolist(), phase.routes.links.tolist()
    ends = zip(phase.source.tolist(), phase.destination.tolist(), phase.size.astype(int).tolist(), strict=True)
    with open(path, "w", encoding="utf-8") as file:
        if form == "simgrid":
            flows = [[*end, links[offsets[flow] : offsets[flow + 1]]] for flow, end in enumerate(ends)]
            json.dump({"ranks": case.ranks, "capacity": capacity, "flows": flows}, file)
        else:
            file.write(f"{case.ranks} {capacity[0]:.17g} {len(phase)}\n")
            file.writelines(f"{source} {destination} {size}\n" for source, destination, size in ends)
    return {"flows": len(phase)}


def forward_pass(scenario: dict[str, Any]) -> dict[str, Any]:
    """Predict a scenario whose requests end with their first token: one forward pass."""
    cpu, wall, watch = time.process_time(), time.perf_counter(), Stopwatch()
    with watch.part("routing and traffic"):
        deployment = deploy(Scenario.model_validate(scenario))
    with watch.part("pass"):
        prediction = predict(deployment)
    return {
        "duration_s": prediction.step_s,
        "communication_s": prediction.ep_comm_s,
        "bound_s": prediction.bound_s,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "parts_s": watch.parts,
    }


def pass_error(scenario: dict[str, Any], tolerances: list[float]) -> dict[str, Any]:
    """Time the network of one forward pass with windows and with every rate change followed."""
    deployment = deploy(Scenario.model_validate(scenario))
    found = []
    for tolerance in (0.0, *tolerances):
        began = time.process_time()
        other = replace(deployment, scenario=_with_tolerance(deployment.scenario, tolerance))
        step = other.under({}).time(deployment.steps[0])
        found.append({"tolerance": tolerance, "cpu_s": time.process_time() - began, "finish_s": step.finish.tolist()})
    return {"passes": found}


def _with_tolerance(scenario: Scenario, tolerance: float) -> Scenario:
    return scenario.model_copy(update={"communication": scenario.communication.model_copy(update={"tolerance": tolerance})})


def main() -> None:
    """Run the case that the argument describes; an error in the user's terms goes out as JSON too."""
    request = json.loads(sys.argv[1])
    work = request["work"]
    try:
        if work == "forward_pass":
            answer = forward_pass(request["scenario"])
        elif work == "pass_error":
            answer = pass_error(request["scenario"], request["tolerances"])
        elif work == "write_flows":
            answer = write_flows(Case.from_json(request["case"]), form=request["form"], path=request["path"])
        else:
            answer = exchange(Case.from_json(request["case"]))
    except SmoesError as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
