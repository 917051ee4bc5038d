"""Many exchanges at once have the bounds and the exact times that each has alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from build_from import PODS, topology
from numpy.typing import NDArray

from smoes_sim.network import Flows, Network, SeparateExchanges, exchange_time, lower_bound, phases_of
from smoes_sim.topology import find_topology

TOPOLOGIES = ["two-orin-10gbe", "lab-star-4", "8x-h100", "2x8-h100-ndr400"]


def network_on(name: str, **constants: float) -> Network:
    return Network.on(find_topology(name), efficiency={"ethernet": 0.7}, per_exchange=3e-6, **constants)


def sparse(network: Network, *, seed: int, number: int = 3) -> list[NDArray[np.float64]]:
    """Random matrices in which about half of the pairs send nothing; the last one is empty."""
    rng, ranks = np.random.default_rng(seed), network.topology.num_ranks
    found = [rng.exponential(1e5, (ranks, ranks)) * (rng.random((ranks, ranks)) < 0.5) for _ in range(number)]
    return [*found, np.zeros((ranks, ranks))]


def exchanges_of(network: Network, *, seed: int) -> list[Sequence[Flows]]:
    return [phases_of(network, [matrix]) for matrix in sparse(network, seed=seed)]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_each_time_is_that_of_the_exchange_alone(name: str) -> None:
    network = network_on(name, per_message=1e-6)
    exchanges = exchanges_of(network, seed=1)
    alone = [exchange_time(network, phases).duration for phases in exchanges]
    np.testing.assert_allclose(SeparateExchanges.of(exchanges, network).durations(network), alone, rtol=1e-12)


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("schedule", ["direct", "pairwise"])
def test_each_bound_is_that_of_the_exchange_alone(name: str, schedule: str) -> None:
    network = network_on(name, per_message=1e-6)
    exchanges = [phases_of(network, [matrix], schedule=schedule) for matrix in sparse(network, seed=2)]  # type: ignore[arg-type]
    alone = [lower_bound(network, phases) for phases in exchanges]
    np.testing.assert_allclose(SeparateExchanges.of(exchanges, network).bounds(network), alone, rtol=1e-12)


def test_other_constants_on_the_same_links_need_no_preparation() -> None:
    network = network_on("2x8-h100-ndr400")
    exchanges = exchanges_of(network, seed=3)
    prepared = SeparateExchanges.of(exchanges, network)
    other = network.with_constants(efficiency={"infiniband": 0.5}, per_message=2e-6, per_exchange=1e-6)
    np.testing.assert_allclose(
        prepared.durations(other), [exchange_time(other, phases).duration for phases in exchanges], rtol=1e-12
    )


@pytest.mark.parametrize("constants", [{"half_size": {"infiniband": 4096.0}}, {"jitter": 1e-4}])
def test_small_messages_and_stragglers_count_in_each_exchange(constants: dict[str, float]) -> None:
    network = network_on("2x8-h100-ndr400").with_constants(**constants)  # type: ignore[arg-type]
    exchanges = exchanges_of(network, seed=4)
    alone = [exchange_time(network, phases).duration for phases in exchanges]
    np.testing.assert_allclose(SeparateExchanges.of(exchanges, network).durations(network), alone, rtol=1e-12)


def test_two_ranks_on_their_own_links_need_bytes_over_rate() -> None:
    # 2 ranks on 10 Gb/s = 1.25e9 B/s, two hops of 10 us; 1.25 MB and 2.5 MB: 1 ms and 2 ms, and 20 us on the way
    network = Network.on(find_topology("two-orin-10gbe"))
    exchanges = [phases_of(network, [np.array([[0.0, 1.25e6 * factor], [1.0, 0.0]])]) for factor in (1, 2)]
    found = SeparateExchanges.of(exchanges, network).durations(network)
    np.testing.assert_allclose(found, [1.02e-3, 2.02e-3], rtol=1e-12)


def test_routes_that_are_split_keep_their_shares() -> None:
    network = Network.on(topology(PODS + "routing: split"), per_message=1e-6)
    assert network.messages(np.array([0]), np.array([7]), np.ones(1)).routes.share is not None
    exchanges = exchanges_of(network, seed=5)
    alone = [exchange_time(network, phases).duration for phases in exchanges]
    np.testing.assert_allclose(SeparateExchanges.of(exchanges, network).durations(network), alone, rtol=1e-9)
