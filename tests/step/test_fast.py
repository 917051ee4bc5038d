from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_scenario import small
from test_timeline import layer_of, model_of, network_of, times_of

from smoes_sim.prediction.deploy import deploy
from smoes_sim.step.fast import fast_passes
from smoes_sim.step.layers import pass_layers, some_layers
from smoes_sim.step.legs import PassInputs
from smoes_sim.step.timeline import MicroBatch, step_time


def inputs(exchanges, times, network, layers, *, overlap="none"):
    """A pass under one set of constants, without attention groups."""
    return PassInputs(exchanges=exchanges, group=None, times=[times], networks=[network], layers=layers, overlap=overlap)


def both(model, times, exchanges, network, *, overlap="none", layers=None):
    """Duration by the fast and by the exact engine."""
    layers = pass_layers(model) if layers is None else layers
    ((fast,), _) = fast_passes(inputs(exchanges, times, network, layers, overlap=overlap))
    batch = MicroBatch(times=times, exchanges=exchanges)
    exact = step_time(model, [batch], network, overlap=overlap, layers=layers)
    return fast, exact


def random_step(rng, ranks, layers, network):
    """Unequal work of the ranks and unequal messages between them."""
    times = times_of(
        ranks,
        layers,
        attention=rng.uniform(0, 2, ranks),
        gate=rng.uniform(0, 1, ranks),
        shared=rng.uniform(0, 1, ranks),
        dense=rng.uniform(0, 2, ranks),
        head=rng.uniform(0, 2, ranks),
        experts=rng.uniform(0, 4, (layers, ranks)),
    )
    return times, [layer_of(network, rng.integers(0, 9, (ranks, ranks))) for _ in range(layers)]


def test_two_ranks_by_hand():
    # 1 s attention, 5 B at 1 B/s and 2 s latency, 3 s experts, 5 B back and 2 s: 18 s; at no cost 4 s
    network = network_of(2)
    times = times_of(2, attention=[1, 1], experts=[[3, 3]])
    exchanges = [layer_of(network, [[0, 5], [5, 0]])]
    ((real,), (free,)) = fast_passes(inputs(exchanges, times, network, pass_layers(model_of(1))))
    assert (real.duration, real.layer_ends.tolist(), free.duration) == (18.0, [18.0], 4.0)


@pytest.mark.parametrize("overlap", ["none", "shared_expert"])
@pytest.mark.parametrize("constants", [{}, {"per_message": 0.5, "per_exchange": 2.0}, {"jitter": 0.1}])
def test_two_ranks_are_exact_whatever_their_work_and_messages(overlap, constants):
    rng = np.random.default_rng(0)
    network = network_of(2, **constants)
    model = model_of(5, dense_layers=1, moe_every=2)
    times, exchanges = random_step(rng, 2, 2, network)
    fast, exact = both(model, times, exchanges, network, overlap=overlap)
    assert fast.duration == pytest.approx(exact.duration, rel=1e-12)
    assert fast.layer_ends == pytest.approx(exact.layer_ends, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), ranks=st.integers(3, 6))
def test_a_pass_of_several_ranks_is_never_longer_and_at_most_a_tenth_shorter(seed, ranks):
    # messages of neighbouring exchanges meet where a rank is done early, which only the exact engine sees
    rng = np.random.default_rng(seed)
    network = network_of(ranks)
    times = times_of(ranks, 3, attention=rng.uniform(1, 2, ranks), experts=rng.uniform(2, 4, (3, ranks)))
    exchanges = [layer_of(network, rng.integers(1, 9, (ranks, ranks))) for _ in range(3)]
    fast, exact = both(model_of(3), times, exchanges, network)
    assert exact.duration * 0.9 <= fast.duration <= exact.duration * 1.001


def test_dispatch_and_combine_at_no_cost_only_leave_waiting():
    # rank 0 works 1 s, rank 1 works 3 s, then 2 s of experts each, no rank can start its experts before 3 s
    network = network_of(2)
    times = times_of(2, attention=[1, 3], experts=[[2, 2]])
    exchanges = [layer_of(network, [[0, 5], [5, 0]])]
    (_, (free,)) = fast_passes(inputs(exchanges, times, network, pass_layers(model_of(1))))
    assert free.duration == 5.0


def test_a_pass_can_be_cut_to_some_of_its_layers():
    network = network_of(3)
    rng = np.random.default_rng(1)
    model = model_of(4, dense_layers=1)
    times, exchanges = random_step(rng, 3, 3, network)
    layers = some_layers(pass_layers(model), [2])
    fast, exact = both(model, times, exchanges, network, layers=layers)
    assert [layer.number for layer in layers] == [0, 3]
    assert len(fast.layer_ends) == len(exact.layer_ends) == 1
    assert fast.layer_ends == pytest.approx(exact.layer_ends)


def test_copies_forwarded_inside_nodes_are_timed_as_on_simpy(tmp_path):
    # two nodes of two ranks: the second phase of an exchange crosses other links than the first
    two_nodes = (
        "topology={kind: two_level, nodes: 2, ranks_per_node: 2, "
        "scale_up: {kind: nvlink4, bandwidth: 450 GB/s, latency: 1 us}, "
        "nic: {kind: infiniband, per: rank, bandwidth: 50 GB/s, latency: 2 us}, fabric: {oversubscription: 1}}"
    )
    scenario = small(tmp_path, two_nodes, "communication.deduplicate=node", "workload.spread=0.5")
    deployment = deploy(scenario)
    conditions, step = deployment.under({}), deployment.prefill
    (batch,) = conditions.micro_batches(step)
    assert [len(batch.exchanges[0].dispatch), len(batch.exchanges[0].combine)] == [2, 2]
    layers = deployment.layers_simulated
    ((fast,), _) = fast_passes(inputs(batch.exchanges, batch.times, conditions.network, layers))
    assert fast.duration == pytest.approx(conditions.time(step).duration, rel=0.01)
