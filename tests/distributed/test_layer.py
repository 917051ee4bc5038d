from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from four_ranks import RANKS, on_four_ranks
from layer_cases import CASES, HIDDEN, INNER, LEVELS, Built, Case, build, experts_of_rank, run_case

from smoes_sim.distributed.codec import TOLERANCE
from smoes_sim.distributed.experts import seeded_experts
from smoes_sim.distributed.reference import reference_layer
from smoes_sim.traffic.copies import copy_bytes, count_traffic

Ranks = list[dict[str, torch.Tensor]]


def _all_cases(rank: int) -> list[dict[str, Any]]:
    return [run_case(case, rank) for case in CASES]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Ranks]:
    by_rank = on_four_ranks(_all_cases, tmp_path_factory.mktemp("layers"))
    return {case: [results[index] for results in by_rank] for index, case in enumerate(CASES)}


def _reference(case: Case, built: Built) -> dict[str, torch.Tensor]:
    """Outputs and gradients of all tokens and all experts in one process, float64."""
    model = built.deployment.model
    sizes: Any = {"seed": 7, "layer": 0, "hidden": HIDDEN, "inner": INNER, "dtype": torch.float32}
    leaves = {"x": built.x.double().requires_grad_()}
    for name, ids in (("experts", np.arange(model.experts)), ("shared", np.array([model.experts]))):
        rise, fall = seeded_experts(ids, **sizes)
        leaves |= {f"{name}.rise": rise.double().requires_grad_(), f"{name}.fall": fall.double().requires_grad_()}
    ids = torch.as_tensor(built.trace.expert_ids[:, 0])
    weights = (ids >= 0) / (ids >= 0).sum(dim=1, keepdim=True).clamp(min=1)
    if built.trace.expert_weights is not None:
        weights = torch.as_tensor(built.trace.expert_weights[:, 0])
    shared = (leaves["shared.rise"], leaves["shared.fall"]) if model.shared_experts else None
    y = reference_layer(leaves["x"], ids, weights.double(), (leaves["experts.rise"], leaves["experts.fall"]), shared)
    (y * built.probe.double()).sum().backward()
    gradients = {f"{name}.grad": torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return gradients | {"y": y.detach()}


def _gathered(case: Case, built: Built, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The ranks' results put together: rows of tokens by home, gradients of an expert summed over the ranks that hold it."""
    found = {name: torch.empty(len(built.x), HIDDEN) for name in ("y", "x.grad")}
    shapes = {"rise.grad": (HIDDEN, 2 * INNER), "fall.grad": (INNER, HIDDEN)}
    found |= {f"experts.{name}": torch.zeros(case.experts, *shape) for name, shape in shapes.items()}
    if built.deployment.model.shared_experts:
        found |= {f"shared.{name}": torch.stack([rank[f"shared.{name}"] for rank in ranks]).sum(0) for name in shapes}
    for rank, results in enumerate(ranks):
        for name in ("y", "x.grad"):
            found[name][built.home == rank] = results[name]
        for name in shapes:
            found[f"experts.{name}"][experts_of_rank(case, rank)] += results[f"experts.{name}"]
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outputs_and_gradients_equal_the_reference(case: Case, ran: dict[Case, Ranks]) -> None:
    built = build(case)
    wanted, found = _reference(case, built), _gathered(case, built, ran[case])
    tolerance = max(TOLERANCE[element] for element in case.elements.split())  # type: ignore[index]
    for name, value in found.items():
        largest = float(wanted[name].abs().max())
        assert float((value.double() - wanted[name]).abs().max()) <= tolerance * largest, name
    assert found["y"].abs().max() > 0 or case.odd == "nothing is routed"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counted_bytes_are_those_of_the_traffic_matrix(case: Case, ran: dict[Case, Ranks]) -> None:
    """Dispatch goes through the stages with its element type, combine back, and the gradients of both once more."""
    built = build(case)
    deployment = built.deployment
    assert deployment.placement is not None
    traffic = count_traffic(
        built.trace,
        deployment.placement,
        built.home,
        deduplicate=deployment.scenario.communication.deduplicate,
        topology=deployment.topology,
    )
    outward, homeward = (copy_bytes(HIDDEN, element) for element in case.elements.split())  # type: ignore[arg-type]
    stages = [stage[0] for stage in traffic.stages]
    there = [stage * outward for stage in stages]
    back = [stage.T * homeward for stage in reversed(stages)]
    for rank, results in enumerate(ran[case]):
        wanted = [[matrix[rank], matrix[:, rank]] for matrix in (*there, *back, *there, *back)]
        np.testing.assert_array_equal(results["bytes"].numpy(), np.array(wanted))


def test_every_pair_of_levels_is_run() -> None:
    for first, second in itertools.combinations(LEVELS, 2):
        met = {(getattr(case, first), getattr(case, second)) for case in CASES}
        assert met >= set(itertools.product(LEVELS[first], LEVELS[second]))


def test_cases_have_ranks_without_tokens_without_experts_and_uneven_splits() -> None:
    built = {case: build(case) for case in CASES}
    sizes = {case: np.bincount(made.home, minlength=RANKS) for case, made in built.items()}
    assert any((count == 0).any() for count in sizes.values())
    assert any(len(set(count)) == RANKS for count in sizes.values())
    assert any((made.trace.expert_ids < 0).all(axis=(1, 2)).any() for made in built.values())
