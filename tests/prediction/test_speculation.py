from __future__ import annotations

import numpy as np
import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.drafting import seconds_per_token
from smoes_sim.prediction.phase import layer_and_head_seconds
from smoes_sim.prediction.simulate import simulate
from smoes_sim.serving.requests import check_both_phases
from smoes_sim.step.build import num_decode_steps

WORK = "workload={batch: 8, text_tokens: 500, output_tokens: 9}"
SOME = "workload.speculation={tokens: 3, accepted: 1.5}"


def test_a_step_takes_the_tokens_that_follow_and_reads_each_cache_once(tmp_path):
    deployment = deploy(small(tmp_path, WORK, SOME))
    # 8 tokens after the first: steps begin at 0 .. 4; 2 sequences a rank of 4 tokens each
    assert len(deployment.decode) == 5
    load = deployment.decode[0].batches[0].load
    assert load.decode.tolist() == [8] * 4
    assert load.context.tolist() == [2 * (501 + 502 + 503 + 504)] * 4
    assert load.outputs.tolist() == [8] * 4
    assert load.together == 4
    assert num_decode_steps(deployment.workload) == 4  # 8 / 2.5, rounded up


def test_attention_reads_the_cache_of_the_last_token_alone(tmp_path):
    from smoes_sim.compute import attention_times

    deployment = deploy(small(tmp_path, WORK, SOME, "compute.memory_efficiency=1.0", "compute.flops_efficiency=1.0"))
    conditions = deployment.under({})
    load = deployment.decode[0].batches[0].load
    scores = attention_times(deployment.model, load, conditions.rates).scores[0]
    # two sequences of 504 cached tokens, keys and values of 4 heads of 64 in bf16, over 3.35 TB/s
    assert scores == pytest.approx(np.full(4, 2 * 504 * 2 * 4 * 64 * 2 / 3.35e12))


def test_nothing_accepted_makes_tokens_dearer_and_everything_cheaper(tmp_path):
    plain = simulate(small(tmp_path, WORK))
    none, all_of_them = (
        simulate(small(tmp_path, WORK, f"workload.speculation={{tokens: 3, accepted: {accepted}}}")) for accepted in (0, 3)
    )
    assert none.tpot_s > plain.tpot_s > all_of_them.tpot_s
    assert none.tpot_s == pytest.approx(4 * all_of_them.tpot_s)
    assert none.decode_step_s == pytest.approx(none.tpot_s)  # no layer that proposes
    assert none.ttft_s == pytest.approx(plain.ttft_s)
    assert "what proposes tokens" in none.not_counted
    # 8 sequences of 9 tokens: prefill, then 8 tokens one after the other
    assert all_of_them.tokens_per_s == pytest.approx(72 / (all_of_them.ttft_s + 8 * all_of_them.tpot_s), rel=1e-3)


def test_layers_of_multi_token_prediction_add_a_layer_and_the_head_for_each_token(tmp_path):
    deployment = deploy(small(tmp_path, WORK, SOME, "model.mtp_layers=1"))
    conditions = deployment.under({})
    each = [sum(layer_and_head_seconds(conditions, step)) for step in deployment.decode]
    found = seconds_per_token(conditions, deployment.decode, 1e-3)
    assert found == pytest.approx((1e-3 + 3 * np.mean(each)) / 2.5)
    layer, head = layer_and_head_seconds(conditions, deployment.decode[0])
    assert layer > 0
    assert head > 0
    drafted, free = (simulate(small(tmp_path, WORK, SOME, f"model.mtp_layers={layers}")) for layers in (1, 0))
    assert drafted.tpot_s > free.tpot_s
    assert "what proposes tokens" not in drafted.not_counted


def test_memory_holds_the_proposing_layer_and_its_cache_only_where_it_proposes(tmp_path):
    one = "model.mtp_layers=1"
    idle, busy = (simulate(small(tmp_path, WORK, one, *more)).memory.need for more in ((), (SOME,)))
    assert "mtp" not in idle.weights
    # attention 2 * 512 * 64 * (8 + 4), shared and 2 of 8 experts of 3 * 512 * 256, router 512 * 8, projection 2 * 512**2
    assert busy.weights["mtp"] == 2 * (2 * 512 * 64 * 12 + 3 * 3 * 512 * 256 + 512 * 8 + 2 * 512**2)
    assert busy.cache_per_token == idle.cache_per_token * 5 / 4


def test_decode_alone_has_one_step_unless_more_is_asked_for(tmp_path):
    decode = "workload={phase: decode, sequences_per_rank: 4, context: 500}"
    deployment = deploy(small(tmp_path, decode, SOME))
    assert len(deployment.decode) == 1
    assert deployment.decode[0].batches[0].load.decode.tolist() == [16] * 4
    found = simulate(small(tmp_path, decode, SOME))
    assert found.tokens_per_s == pytest.approx(16 / found.tpot_s, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("workload.speculation={tokens: 2, accepted: 3}",), r"accepted = 3.0 of 2 proposed tokens. Use 0..2"),
        (("workload.output_tokens=4", SOME), r"output_tokens = 4 with 3 proposed tokens: .* Use 5 or more"),
        (("workload.output_tokens=1", SOME), r"speculation: nothing is decoded"),
        (("workload={phase: prefill, batch: 4, text_tokens: 9}", SOME), r"speculation: nothing is decoded"),
    ],
)
def test_speculation_that_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        small(tmp_path, WORK, *changes)


def test_requests_that_arrive_do_not_speculate(tmp_path):
    with pytest.raises(ConfigError, match=r"workload.speculation: requests that arrive"):
        check_both_phases(small(tmp_path, WORK, SOME))
