from __future__ import annotations

import pytest
from small_scenario import small

from smoes_sim.errors import ConfigError
from smoes_sim.prediction.simulate import simulate

IMAGES = "workload={batch: 8, text_tokens: 32, output_tokens: 2, images: 1, image_width: 336, image_height: 336}"


def values(tmp_path, *overrides):
    return simulate(small(tmp_path, *overrides)).to_dict()


def test_the_range_of_efficiencies_becomes_the_interval(tmp_path):
    stated = "{low: 0.2, value: 0.4, high: 0.5}"
    row = values(tmp_path, f"compute.flops_efficiency={stated}", "compute.memory_efficiency=0.8")
    ends = [
        values(tmp_path, f"compute.flops_efficiency={part}", "compute.memory_efficiency=0.8") for part in (0.2, 0.4, 0.5)
    ]
    assert row["ttft_s"] == ends[1]["ttft_s"]
    assert row["intervals"]["ttft_s"] == [ends[2]["ttft_s"], ends[0]["ttft_s"]]
    assert ends[0]["intervals"] == {}  # a single value is taken at its word
    assert "ep_comm_s" not in row["intervals"]  # the network has no range: no interval that looks like knowledge


def test_left_out_efficiencies_are_the_ranges_of_the_device(tmp_path):
    low, high = values(tmp_path)["intervals"]["ttft_s"]
    slow = values(tmp_path, "compute.flops_efficiency=0.3", "compute.memory_efficiency=0.5")
    fast = values(tmp_path, "compute.flops_efficiency=0.7", "compute.memory_efficiency=0.9")
    assert (low, high) == (fast["ttft_s"], slow["ttft_s"])


def test_chunks_are_added_up_to_the_time_to_first_token(tmp_path):
    whole, cut = values(tmp_path), values(tmp_path, "parallelism.prefill_chunk=64")
    assert cut["bytes_remote"] == whole["bytes_remote"]
    assert cut["ttft_s"] > whole["ttft_s"]  # weights are read four times
    assert "mixed_step_s" not in whole
    # one of four chunks with a decode step in it: longer than either
    assert cut["mixed_step_s"] > max(cut["step_s"] / 4, cut["tpot_s"])
    assert cut["mixed_step_s"] < cut["step_s"] / 4 + cut["tpot_s"]


def test_attention_groups_pay_for_gathers_which_are_not_expert_communication(tmp_path):
    alone, grouped = values(tmp_path), values(tmp_path, "parallelism.tensor=2")
    assert alone["tp_comm_s"] == 0
    # 4 sequences of 64 tokens a rank: each rank sends 256 tokens of 1024 bytes; twice, in 4 layers, and two links of 5 us
    assert grouped["tp_comm_s"] == pytest.approx(4 * 2 * (256 * 1024 / 10e9 + 10e-6), rel=1e-6)
    assert grouped["ep_comm_s"] == pytest.approx(alone["ep_comm_s"], rel=0.05)
    assert grouped["ep_exposed_s"] <= grouped["step_s"] - grouped["tp_comm_s"]


def test_a_dense_model_in_groups_gathers_and_scatters_around_feed_forward_layers_too(tmp_path):
    dense = "model=olmoe-1b-7b-dense-active"
    one, row = (
        values(tmp_path, dense, f"parallelism.tensor={tensor}", "workload.output_tokens=1", "compute.flops_efficiency=0.5")
        for tensor in (1, 2)
    )
    # each rank sends 256 tokens of 4096 bytes, over two links of 5 us; 16 layers, attention and feed-forward, in and out
    assert row["tp_comm_s"] == pytest.approx(16 * 4 * (256 * 4096 / 10e9 + 10e-6), rel=1e-6)
    # ranks are alike and nothing overlaps: a pass is its exchanges and half of the work of twice the tokens
    assert row["step_s"] == pytest.approx(one["step_s"] + row["tp_comm_s"], rel=0.02)
    assert row["ep_comm_s"] == 0


def test_the_vision_tower_is_counted_unless_a_prefill_outside_the_layers_is_given(tmp_path):
    clip = "model.vision={layers: 24, hidden: 1024, ffn: 4096, patch: 14, class_tokens: 1, projector: 512, source: made up}"
    fixed = ("compute.flops_efficiency=0.5", "compute.memory_efficiency=1", "compute.launch=0 us")
    blind, seeing = values(tmp_path, IMAGES, *fixed), values(tmp_path, IMAGES, clip, *fixed)
    assert (blind["outside_s"], blind["not_counted"][0]) == (0, "vision encoder")
    # 2 images a rank, of 4 patches and a class token: bound by weights, 304e6 of 2 B and 5 * 4 * 1024 * 24 activations each
    weights = 588 * 1024 + 24 * 12582912 + 512 * (1024 + 512)
    assert seeing["outside_s"] == pytest.approx(2 * (weights + 2 * 5 * 4 * 1024 * 24) / 3.35e12)
    assert seeing["ttft_s"] == pytest.approx(seeing["step_s"] + seeing["outside_s"])
    assert "vision encoder" not in seeing["not_counted"]
    assert values(tmp_path, IMAGES, clip, "compute.per_prefill=1 s", *fixed)["outside_s"] == 1


def test_what_is_skipped_neither_travels_nor_is_computed_and_the_answer_says_so(tmp_path):
    whole, left = values(tmp_path), values(tmp_path, "routing.skip={text: 0.5}")
    assert (whole["policy"], left["policy"]) == ("standard", "standard+skip")
    # of two slots one stays, so every token has one copy
    assert left["bytes_total"] == 3 * 1024 * 2 * 1024  # 3 MoE layers, 1024 tokens, 1024 bytes there and back
    assert left["bytes_remote"] < 0.6 * whole["bytes_remote"]
    assert left["step_s"] < whole["step_s"]


def test_memory_stands_beside_the_times(tmp_path):
    found = values(tmp_path, "compute.memory_share=1e-4")["memory"]
    assert not found["fits"]
    assert found["bytes_usable"] == pytest.approx(8e6)
    assert found["bytes_needed"] > 8e6


def test_what_does_not_fit_is_answered_and_said(tmp_path):
    too_much = simulate(small(tmp_path, "compute.memory_share=1e-4"))
    assert too_much.ttft_s > 0
    text = repr(too_much)
    assert "does not fit" in text
    assert "no number of ranks is enough" in text
    assert "cache for" in repr(simulate(small(tmp_path)))


def test_a_job_on_some_ranks_of_a_cluster_is_that_of_a_topology_of_so_many(tmp_path):
    star = "topology={{kind: star, ranks: {}, link: {{kind: wire, bandwidth: 10 GB/s, latency: 5 us}}}}"
    part, alone = values(tmp_path, star.format(8), "ranks=4"), values(tmp_path, star.format(4))
    assert part == alone
    assert part["ranks"] == 4


def test_more_ranks_than_the_topology_has_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^ranks = 5: star: has 4 ranks, not 5\. Use 1\.\.4\.$"):
        values(tmp_path, "ranks=5")


def test_prefill_tokens_per_second_are_told_for_each_rank_too(tmp_path):
    row = values(tmp_path)  # 16 sequences of 64 tokens on 4 ranks
    assert row["tokens_per_s_prefill_per_rank"] == pytest.approx(16 * 64 / row["ttft_s"] / 4)
