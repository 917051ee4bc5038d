from __future__ import annotations

import numpy as np
import pytest
from build_from import NODES, PODS, RACKS, SOCKETS, TREE, mesh, topology
from hypothesis import given, settings
from hypothesis import strategies as st
from test_timeline import model_of, network_of, times_of

from smoes_sim.network import Network, phases_of
from smoes_sim.step.compiled_pass import can_be_compiled, compiled_passes
from smoes_sim.step.layers import PassLayer, pass_layers, some_layers
from smoes_sim.step.legs import PassInputs
from smoes_sim.step.timeline import GroupExchanges, LayerExchanges, MicroBatch, step_time

pytest.importorskip("numba")


def inputs(exchanges, times, networks, layers, *, overlap="none", group=None):
    """A pass under some sets of constants."""
    return PassInputs(exchanges=exchanges, group=group, times=times, networks=networks, layers=layers, overlap=overlap)


def check_equal(model, times, exchanges, network, *, overlap="none", layers=None, group=None):
    """Compare a pass, real and at no cost, with the event loop of SimPy."""
    layers = pass_layers(model) if layers is None else layers
    ((real,), (free,)) = compiled_passes(inputs(exchanges, [times], [network], layers, overlap=overlap, group=group))
    batch = MicroBatch(times=times, exchanges=exchanges, group=group)
    at_no_cost = MicroBatch(times=times, exchanges=[layer.at_no_cost() for layer in exchanges], group=group)
    exact = step_time(model, [batch], network, overlap=overlap, layers=layers)
    ideal = step_time(model, [at_no_cost], network, overlap=overlap, layers=layers, expert_network=network.at_no_cost())
    for found, expected in ((real, exact), (free, ideal)):
        assert found.duration == pytest.approx(expected.duration, rel=1e-9)
        assert found.layer_ends == pytest.approx(expected.layer_ends, rel=1e-9)
    return real


def random_times(rng, ranks, layers, *, idle, scale=1.0):
    """Unequal work of the ranks; a part of it is zero."""

    def work(*shape):
        return scale * rng.uniform(0, 3, shape) * (rng.random(shape) >= idle)

    parts = ("attention", "gate", "shared", "dense", "head")
    return times_of(ranks, layers, **{part: work(ranks) for part in parts}, experts=work(layers, ranks))


def random_layers(rng, network, layers, *, density, rendezvous, scale=1.0):
    """Exchanges of unequal messages between some of the pairs of ranks."""
    ranks = network.topology.num_ranks

    def phases():
        matrix = scale * rng.uniform(0.5, 9, (ranks, ranks)) * (rng.random((ranks, ranks)) < density)
        return phases_of(network, [matrix], rendezvous=rendezvous)

    return [LayerExchanges(dispatch=phases(), combine=phases()) for _ in range(layers)]


def test_two_ranks_by_hand():
    # 1 s attention, 5 B at 1 B/s and 2 s latency, 3 s experts, 5 B back and 2 s: 18 s; at no cost 4 s
    network = network_of(2)
    times = times_of(2, attention=[1, 1], experts=[[3, 3]])
    flows = phases_of(network, [np.array([[0.0, 5.0], [5.0, 0.0]])])
    exchanges = [LayerExchanges(dispatch=flows, combine=flows)]
    ((real,), (free,)) = compiled_passes(inputs(exchanges, [times], [network], pass_layers(model_of(1))))
    assert (real.duration, real.layer_ends.tolist(), free.duration) == (18.0, [18.0], 4.0)


CONSTANTS = [
    {},
    {"latency": 0},
    {"per_message": 0.3, "per_exchange": 1.1},
    {"jitter": 0.1, "half_size": {"ethernet": 2.0}},
]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    ranks=st.integers(2, 8),
    density=st.sampled_from([0.2, 0.6, 1.0]),
    constants=st.sampled_from(CONSTANTS),
    more=st.sampled_from([("none", False), ("none", True), ("shared_expert", False)]),
)
def test_a_pass_takes_as_long_as_on_the_clock_of_simpy(seed, ranks, density, constants, more):
    rng = np.random.default_rng(seed)
    network = network_of(ranks, **constants)
    overlap, rendezvous = more
    exchanges = random_layers(rng, network, 3, density=density, rendezvous=rendezvous)
    times = random_times(rng, ranks, 3, idle=rng.choice([0.0, 0.5, 1.0]))
    check_equal(model_of(5, dense_layers=2), times, exchanges, network, overlap=overlap)


@pytest.mark.parametrize("text", [NODES, PODS, TREE, SOCKETS, RACKS, mesh(4)], ids=lambda text: text.split(",")[0][:20])
def test_links_inside_and_between_nodes_are_shared_as_on_the_clock_of_simpy(text):
    rng = np.random.default_rng(0)
    network = Network.on(topology(text))  # bytes of a microsecond on a link of 50 GB/s
    exchanges = random_layers(rng, network, 3, density=0.8, rendezvous=False, scale=50e3)
    times = random_times(rng, network.topology.num_ranks, 3, idle=0.2, scale=1e-5)
    check_equal(model_of(3), times, exchanges, network)


def test_gathers_and_scatters_of_attention_groups_meet_the_other_exchanges():
    rng = np.random.default_rng(2)
    network = network_of(4)
    same = np.kron(np.eye(2), np.ones((2, 2))) * rng.uniform(1, 5, (4, 1))
    group = GroupExchanges(gather=phases_of(network, [same]), scatter=phases_of(network, [same.T]))
    exchanges = random_layers(rng, network, 3, density=1.0, rendezvous=False)
    times = random_times(rng, 4, 3, idle=0.2)
    check_equal(model_of(4, dense_layers=1), times, exchanges, network, group=group)


def test_messages_of_neighbouring_exchanges_meet():
    # Star of 1 B/s, no latency. Dispatch: rank 0 sends 4 B to 1, rank 2 sends 1 B to 3. Combine: rank 2 sends 3 B to 1
    # after 1 s of experts, at 2 s. Rank 1's port has carried 2 B of the 4 until then; both messages share it, 2 B each until
    # 6 s, and the last byte of rank 2 takes until 7 s. Alone, combine would end at 5 s at rank 2.
    network = network_of(4, latency=0)
    dispatch, combine = np.zeros((4, 4)), np.zeros((4, 4))
    dispatch[0, 1], dispatch[2, 3], combine[2, 1] = 4, 1, 3
    exchanges = [LayerExchanges(dispatch=phases_of(network, [dispatch]), combine=phases_of(network, [combine]))]
    times = times_of(4, experts=[[0, 0, 1, 0]])
    assert check_equal(model_of(1), times, exchanges, network).duration == 7.0


def test_a_dense_model_only_computes():
    times = [times_of(2, 0, attention=[1, 2], dense=[1, 1], head=[3, 1])] * 2
    layers = [PassLayer(0, None), PassLayer(1, None)]
    network = network_of(2)
    (real, _), (free, _) = compiled_passes(inputs([], times, [network] * 2, layers))
    assert (real.duration, free.duration, len(real.layer_ends)) == (7.0, 7.0, 0)  # rank 0: 1 + 1 twice, 3


def test_a_pass_without_messages_only_computes():
    network = network_of(3)
    nothing = phases_of(network, [np.zeros((3, 3))])
    exchanges = [LayerExchanges(dispatch=nothing, combine=nothing)]
    times = times_of(3, attention=[1, 2, 3], experts=[[4, 4, 1]])
    assert check_equal(model_of(1), times, exchanges, network).duration == 6.0


def test_all_sets_of_constants_share_a_pass():
    rng = np.random.default_rng(3)
    slow = network_of(3)
    fast = slow.with_constants(efficiency=dict.fromkeys(slow.topology.link_kinds, 0.5))
    exchanges = random_layers(rng, slow, 2, density=1.0, rendezvous=False)
    times = [random_times(rng, 3, 2, idle=0.0) for _ in range(2)]
    layers = pass_layers(model_of(2))
    both, _ = compiled_passes(inputs(exchanges, times, [slow, fast], layers))
    for found, one, network in zip(both, times, [slow, fast], strict=True):
        check = check_equal(model_of(2), one, exchanges, network)
        assert (found.duration, found.layer_ends.tolist()) == (check.duration, check.layer_ends.tolist())


def test_a_pass_can_be_cut_to_some_of_its_layers():
    network = network_of(3)
    rng = np.random.default_rng(1)
    exchanges = random_layers(rng, network, 3, density=1.0, rendezvous=False)
    layers = some_layers(pass_layers(model_of(4, dense_layers=1)), [2])
    check_equal(model_of(4, dense_layers=1), random_times(rng, 3, 3, idle=0.0), exchanges, network, layers=layers)


def test_links_that_incast_slows_down_need_the_clock_of_simpy():
    wide = network_of(3).topology
    link = "{bandwidth: 1 B/s, incast: {flows: 1, efficiency: 0.5, source: made up}}"
    limited = Network.on(topology(f"{{kind: star, ranks: 3, link: {link}}}"))
    assert not can_be_compiled([[]], limited, shared_cores=None)
    assert can_be_compiled([[]], Network.on(wide), shared_cores=None)
