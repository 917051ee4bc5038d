from __future__ import annotations

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.draws import constant_sets
from smoes_sim.serving.step_cost import StepBatch, StepCosts


def exact(deployment, step):
    return deployment.under({}).time(step).duration


def step_cost(deployment, batch, constants=None):
    return StepCosts(deployment.under(constants or {})).seconds(batch)


def decoded(deployment):
    """Mean of the decode steps that are simulated, as TPOT is."""
    return float(np.mean([exact(deployment, step) for step in deployment.decode]))


PROMPTS = StepBatch(prefill=((64, 0),) * 16)  # the scenario's own prefill: 16 sequences over 4 ranks
DECODED = StepBatch(decode=(69,) * 16)  # after 64 tokens of prompt, in the middle of 8 decode steps


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return deploy(small(tmp_path_factory.mktemp("s")))


@pytest.mark.parametrize("overlap", ["none", "shared_expert", "two_batch"])
@pytest.mark.parametrize("tensor", [1, 2])
def test_the_deployments_own_steps_cost_what_they_take(tmp_path, overlap, tensor):
    # with two batches what hides behind what in the dense layer (one of four here) is not seen
    error = 0.12 if overlap == "two_batch" else 0.02
    deployment = deploy(small(tmp_path, f"overlap={overlap}", f"parallelism.tensor={tensor}"))
    assert step_cost(deployment, PROMPTS) == pytest.approx(exact(deployment, deployment.prefill), rel=error)
    assert step_cost(deployment, DECODED) == pytest.approx(decoded(deployment), rel=error)


RULES = ("data_parallel", "sharded", "modality", "affinity")
VISION = "workload={batch: %d, text_tokens: 28, output_tokens: 9, images: 9, image_width: 8, image_height: 8}"
"""Prompts of 64 tokens, 36 of them of images."""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("number", [1, 2, 4, 8, 16])
def test_a_step_costs_what_simulate_says_for_any_number_of_prompts(tmp_path, rule, number):
    # 5% where ranks wait for each other around the scores, since the sum of the busiest ranks is then too much
    deployment = deploy(small(tmp_path, VISION % number, f"placement.tokens={rule}"))
    prompts = StepBatch(prefill=((64, 0),) * number)
    error = 0.02 if rule == "data_parallel" else 0.05
    assert step_cost(deployment, prompts) == pytest.approx(exact(deployment, deployment.prefill), rel=error)
    if number != 8:
        assert step_cost(deployment, StepBatch(decode=(69,) * number)) == pytest.approx(decoded(deployment), rel=error)


@pytest.mark.parametrize("number", [3, 5, 12])
def test_a_decode_step_costs_what_simulate_says_between_powers_of_two(tmp_path, plain, number):
    deployment = deploy(small(tmp_path, f"workload.batch={number}"))
    assert step_cost(plain, StepBatch(decode=(69,) * number)) == pytest.approx(decoded(deployment), rel=0.02)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_step_of_few_prompts_in_groups_costs_what_simulate_says(tmp_path, number):
    # two groups of two ranks; of three prompts two go to the first group
    deployment = deploy(small(tmp_path, "parallelism.tensor=2", f"workload.batch={number}"))
    prompts = StepBatch(prefill=((64, 0),) * number)
    assert step_cost(deployment, prompts) == pytest.approx(exact(deployment, deployment.prefill), rel=0.02)


@pytest.mark.parametrize(("rule", "error"), [("data_parallel", 0.02), ("sharded", 0.05)])
def test_attention_of_a_long_prompt_is_that_of_its_busiest_rank(tmp_path, rule, error):
    # sharded: the last of 4 ranks has 7/16 of the pairs of a prompt
    long = "workload={batch: 1, text_tokens: 8192, output_tokens: 2}"
    deployment = deploy(small(tmp_path, long, f"placement.tokens={rule}", "topology.link.bandwidth=1000 GB/s"))
    cost = step_cost(deployment, StepBatch(prefill=((8192, 0),)))
    assert cost == pytest.approx(exact(deployment, deployment.prefill), rel=error)


def test_a_short_prompt_beside_a_long_one_does_not_count_as_half_of_the_work(plain):
    long, both = (step_cost(plain, StepBatch(prefill=prompts)) for prompts in (((2048, 0),), ((2048, 0), (64, 0))))
    assert both == pytest.approx(long, rel=0.05)


def test_layers_of_a_deep_model_stand_for_all(tmp_path):
    # 32 MoE layers, of which 8 are simulated once and twice over
    deployment = deploy(small(tmp_path, "model.layers=33", "workload.batch=4"))
    prompts = StepBatch(prefill=((64, 0),) * 4)
    assert step_cost(deployment, prompts) == pytest.approx(exact(deployment, deployment.prefill), rel=0.02)


def test_steps_of_a_dense_model_in_groups_cost_what_they_take(tmp_path):
    deployment = deploy(small(tmp_path, "model=olmoe-1b-7b-dense-active", "parallelism.tensor=2"))
    assert step_cost(deployment, PROMPTS) == pytest.approx(exact(deployment, deployment.prefill), rel=0.02)
    assert step_cost(deployment, DECODED) == pytest.approx(decoded(deployment), rel=0.02)


def test_a_mixed_step_costs_what_it_takes(tmp_path):
    deployment = deploy(small(tmp_path, "parallelism.prefill_chunk=64"))
    # the third of 4 chunks: a whole sequence a rank, and the fifth of 8 decode steps: 64 + 5 tokens
    batch = StepBatch(prefill=((64, 0),) * 4, decode=(69,) * 16)
    assert step_cost(deployment, batch) == pytest.approx(exact(deployment, deployment.mixed), rel=0.05)


def test_between_powers_of_two_the_error_of_interpolation_is_small(tmp_path, plain):
    # 24 sequences of 64 tokens lie between 1024 and 2048 tokens
    deployment = deploy(small(tmp_path, "workload.batch=24"))
    batch = StepBatch(prefill=((64, 0),) * 24)
    assert step_cost(plain, batch) == pytest.approx(exact(deployment, deployment.prefill), rel=0.05)


def test_attention_is_counted_for_the_very_batch(plain):
    # 16 more sequences' worth of cache: 4 a rank of 1000 tokens, 2048 bytes a token and layer, at 3.35e12 * 0.8 B/s
    near, far = (step_cost(plain, StepBatch(decode=(context,) * 16)) for context in (1000, 2000))
    assert far - near == pytest.approx(4 * 4 * 1000 * 1024 / (3.35e12 * 0.8), rel=1e-6)


def test_a_prompt_on_one_rank_costs_more_than_the_same_tokens_spread(plain):
    assert step_cost(plain, StepBatch(prefill=((4096, 0),))) > step_cost(plain, StepBatch(prefill=((1024, 0),) * 4))
    earlier = step_cost(plain, StepBatch(prefill=((1024, 8192),)))
    assert earlier > step_cost(plain, StepBatch(prefill=((1024, 0),)))


def test_constants_of_a_draw_change_the_cost(plain):
    slow, middle, fast = (step_cost(plain, PROMPTS, constants=constants) for constants in constant_sets(plain))
    assert slow > middle > fast
    assert middle == step_cost(plain, PROMPTS)


def test_images_are_encoded_before_the_step(tmp_path):
    workload = "workload={batch: 4, text_tokens: 64, output_tokens: 2, images: 1, image_width: 336, image_height: 336}"
    measured = deploy(small(tmp_path, workload, "compute.per_prefill=8 ms"))
    with_images = step_cost(measured, StepBatch(prefill=((64, 0),), images=2))
    # 8 ms of the 4 images of the batch, so 2 ms each
    assert with_images - step_cost(measured, StepBatch(prefill=((64, 0),))) == pytest.approx(4e-3)
    assert step_cost(measured, StepBatch(images=1)) == pytest.approx(2e-3)


@pytest.mark.parametrize("batch", [StepBatch(), StepBatch(prefill=((-1, 0),)), StepBatch(decode=(5, -5))])
def test_an_impossible_batch_is_refused(plain, batch):
    with pytest.raises(ConfigError, match="needs at least one token or image, and no negative count"):
        step_cost(plain, batch)
