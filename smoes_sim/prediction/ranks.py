"""The ranks of a scenario, which must be known before its tokens."""

from __future__ import annotations

from smoes_sim.errors import TopologyError
from smoes_sim.scenario import Scenario
from smoes_sim.topology import Topology, build, find_topology
from smoes_sim.workload import WorkloadSpec


def topology_of(scenario: Scenario) -> Topology:
    """The ranks that take part, and what they are wired to.

    Raises:
        ConfigError: If the topology has fewer ranks than are asked for.
    """
    asked = scenario.topology
    topology = find_topology(asked) if isinstance(asked, str) else build(asked, name=asked.name or asked.kind)
    if scenario.ranks is None:
        return topology
    try:
        return topology.first(scenario.ranks)
    except TopologyError as error:
        raise error.at(f"ranks = {scenario.ranks}") from None


def workload_of(scenario: Scenario) -> WorkloadSpec:
    """The workload of a scenario with its number of sequences in ``batch``.

    Raises:
        ConfigError: If it is given for each rank and their number is not known.
    """
    workload = scenario.workload
    return workload if workload.sequences_per_rank is None else workload.for_ranks(topology_of(scenario).num_ranks)
