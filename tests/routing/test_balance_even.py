"""Routing with ``balance: even``."""

from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.routing import RouterParameters, SyntheticRouter, Tokens
from tests.small_scenario import small

EVEN = RouterParameters(popularity=0.0, even=True)


def batch(*, prompts, prompt_tokens, steps):
    """Tokens in the order of a workload: prompts by sequence, then the decoded tokens by sequence."""
    sequence = np.arange(prompts, dtype=np.int32)
    return Tokens(
        modality=np.zeros(prompts * (prompt_tokens + steps), np.uint8),
        sequence_id=np.concatenate([np.repeat(sequence, prompt_tokens), np.repeat(sequence, steps)]),
        phase=np.repeat(np.array([0, 1], np.uint8), [prompts * prompt_tokens, prompts * steps]),
    )


def routed(tokens, *, experts, top_k, seed=0, **options):
    router = SyntheticRouter(policy="standard", num_experts=experts, top_k=top_k, num_layers=4, seed=seed)
    return router.route(tokens, EVEN, **options)


def tokens_per_expert(ids, experts):
    """Routed tokens of each expert in each layer, shape (L, E)."""
    return np.stack([np.bincount(ids[:, layer].ravel(), minlength=experts) for layer in range(ids.shape[1])])


@pytest.mark.parametrize(("experts", "top_k"), [(16, 4), (16, 3), (10, 4), (12, 8), (6, 6), (8, 1)])
@pytest.mark.parametrize("prompt_tokens", [1, 7, 16])
def test_counts_of_experts_differ_by_at_most_one_in_prefill_and_in_every_decode_step(experts, top_k, prompt_tokens):
    prompts, steps = 5, 3
    ids = routed(batch(prompts=prompts, prompt_tokens=prompt_tokens, steps=steps), experts=experts, top_k=top_k).expert_ids
    together = prompts * prompt_tokens
    decoded = ids[together:].reshape(prompts, steps, 4, top_k)
    for tokens in (ids[:together], *(decoded[:, step] for step in range(steps))):
        counts, slots = tokens_per_expert(tokens, experts), len(tokens) * top_k
        assert counts.min() == slots // experts
        assert counts.max() == -(-slots // experts)


@pytest.mark.parametrize(("experts", "top_k"), [(16, 3), (10, 4), (12, 8), (6, 6)])
def test_a_token_has_distinct_experts_and_falling_weights_that_sum_to_one(experts, top_k):
    trace = routed(batch(prompts=4, prompt_tokens=9, steps=2), experts=experts, top_k=top_k)
    ordered = np.sort(trace.expert_ids, axis=2)
    assert (np.diff(ordered, axis=2) > 0).all()
    weights = trace.expert_weights.astype(np.float64)
    assert (np.diff(weights, axis=2) <= 0).all()
    assert weights.sum(axis=2) == pytest.approx(1, abs=3e-3)  # float16 has 11 bits


def test_some_layers_alone_are_those_of_all_layers_and_other_seeds_differ():
    tokens = batch(prompts=4, prompt_tokens=9, steps=2)
    whole = routed(tokens, experts=10, top_k=4, with_weights=False).expert_ids
    assert np.array_equal(
        routed(tokens, experts=10, top_k=4, layers=[3, 1], with_weights=False).expert_ids, whole[:, [3, 1]]
    )
    assert not np.array_equal(routed(tokens, experts=10, top_k=4, seed=1).expert_ids, whole)
    assert not np.array_equal(whole[:, 0], whole[:, 1])


def test_pairs_of_experts_meet_as_often_as_in_uniform_routing():
    # 8 of 12: a page of 3 tokens uses one order twice. Of its 3 * 28 pairs 66 are different ones, so over many pages every
    # pair has a share of 1/66; 4000 pages of 84 pairs give each 5091 on average.
    ids = routed(batch(prompts=12, prompt_tokens=1000, steps=0), experts=12, top_k=8, layers=[0]).expert_ids[:, 0]
    uses = np.zeros((len(ids), 12))
    np.put_along_axis(uses, ids.astype(np.int64), 1.0, axis=1)
    together = (uses.T @ uses)[np.triu_indices(12, 1)]
    assert together.sum() == 12000 * 28
    assert together == pytest.approx(np.full(66, 12000 * 28 / 66), rel=0.05)


def test_every_rank_computes_the_same_number_of_routed_tokens(tmp_path):
    # 16 prompts of 64 tokens, 2 of 8 experts: 256 per expert; 4 ranks hold two each.
    deployment = deploy(small(tmp_path, "routing.balance=even"))
    prefill = deployment.trace.expert_ids[: 16 * 64]
    assert (tokens_per_expert(prefill, 8) == 256).all()


@pytest.mark.parametrize(
    "other",
    [
        "policy=smoes",
        "policy=device_limited",
        "policy=dense",
        "rates=published",
        "msi=0.2",
        "popularity=0",
        "skip={text: 0.5}",
        "trace=trace.npz",
    ],
)
def test_what_an_even_router_cannot_show_is_refused(other, tmp_path):
    with pytest.raises(ConfigError, match=r"balance = even .*Leave out one\."):
        small(tmp_path, "routing.balance=even", f"routing.{other}")
