"""Which scenarios can be executed, and the scenario as it was executed."""

from __future__ import annotations

from pathlib import Path

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deployment import Deployment
from smoes_sim.prediction.ranks import topology_of
from smoes_sim.prediction.router import synthesize_trace
from smoes_sim.results.write import resolved_yaml
from smoes_sim.routing.trace import save_trace
from smoes_sim.scenario import Scenario
from smoes_sim.yaml_files import write_bytes

PATTERNS = ("direct", "pairwise", "two_hop", "all_to_all_single")
"""Schedules that :mod:`smoes_sim.distributed.patterns` can run."""


SCENARIO = "scenario.resolved.yaml"
"""File name of the scenario as executed, in the folder of the run."""


def check_runnable(scenario: Scenario) -> None:
    """Refuse a scenario that the runner would not execute as written.

    Raises:
        ConfigError: With the value, what can be run, and what to change.
    """
    communication, model = scenario.communication, scenario.model_shape
    if not model.experts:
        raise ConfigError(f'model = "{model.name}": a dense model has no experts to run. Choose a model with experts.')
    if communication.library not in PATTERNS:
        raise ConfigError(
            f"communication.library = {communication.library}: can be predicted, not run. Use {', '.join(PATTERNS)}."
        )
    if communication.order != "shifted":
        raise ConfigError(
            f"communication.order = {communication.order}: messages are posted from the next rank on. Use shifted."
        )
    if scenario.parallelism.prefill_chunk is not None:
        raise ConfigError(
            f"parallelism.prefill_chunk = {scenario.parallelism.prefill_chunk}: prefill runs whole. Leave it out."
        )
    if scenario.parallelism.expert_tensor > 1:
        raise ConfigError(
            f"parallelism.expert_tensor = {scenario.parallelism.expert_tensor}: each rank runs whole experts. Leave it out."
        )
    if scenario.overlap != "none":
        raise ConfigError(f"overlap = {scenario.overlap}: layers run without overlap. Write overlap: none.")


def check_memory(deployment: Deployment, *, num_ranks: int, free: float) -> None:
    """Refuse experts that take more than 80% of the free memory of the ranks that share it; ``free`` in bytes.

    Raises:
        ConfigError: With the bytes needed and those free.
    """
    model, placement = deployment.model, deployment.placement
    assert placement is not None
    slots = int(placement.slots_per_rank.max())
    element = 4 if deployment.scenario.communication.combine == "fp32" else 2
    needed = model.num_moe_layers * (slots * model.expert_bytes(element) + model.shared_parameters * element)
    if needed * num_ranks > 0.8 * free:
        raise ConfigError(
            f"model {model.name}: experts take {needed / 1e9:.1f} GB on each of {num_ranks} ranks that share "
            f"{free / 1e9:.1f} GB of free memory. Write a smaller model in place (fewer layers, a smaller expert_ffn)."
        )


def num_ranks_of(scenario: Scenario) -> int:
    """Number of ranks of the scenario."""
    return topology_of(scenario).num_ranks


def as_executed(scenario: Scenario, *, send_buffer: float | None = None) -> Scenario:
    """The scenario as it is executed, so that its prediction describes the run: messages wait for their receivers.

    ``send_buffer`` is the number of bytes of each message that the kernel buffers, where that is known
    (:func:`~smoes_sim.distributed.facts.fixed_send_buffer`).

    ``two_hop`` under ``node`` deduplication becomes ``direct``: each of its two stages (to the rank of the own index in the
    other node, then inside the node) is an exchange of its own, the second begun when the first is done. The simulator's
    ``two_hop`` would forward in 8 parts while the rest still arrives.
    """
    communication = scenario.communication
    changed: dict[str, object] = {"rendezvous": True, "send_buffer": send_buffer or 0.0}
    if (communication.library, communication.deduplicate) == ("two_hop", "node"):
        changed["library"] = "direct"
    return scenario.model_copy(update={"communication": communication.model_copy(update=changed)})


def with_trace(scenario: Scenario, folder: Path) -> Scenario:
    """The scenario with its synthetic routing written to ``trace.npz``, so that all ranks read the same.

    Raises:
        ConfigError: If the folder cannot be written.
    """
    if scenario.routing.trace is not None:
        return scenario
    path = folder / "trace.npz"
    save_trace(synthesize_trace(scenario), path)
    changed = {"trace": str(path), "skip": None}  # what is skipped is missing in the file already
    return scenario.model_copy(update={"routing": scenario.routing.model_copy(update=changed)})


def write_scenario(scenario: Scenario, folder: Path) -> Path:
    """Write ``scenario.resolved.yaml``, which ``smoes-sim simulate`` predicts and ``smoes-sim run`` repeats."""
    path = folder / SCENARIO
    write_bytes(path, resolved_yaml([("", scenario)]))
    return path
