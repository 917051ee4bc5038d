"""Decode alone and prefill alone: the figures of the pass that was asked for, and nothing of the other."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from small_plan import TEXT as PLAN
from small_scenario import small

from smoes_sim.api.predict import compare, simulate
from smoes_sim.api.service import serve
from smoes_sim.calibration.step_latencies import fit_step_latencies
from smoes_sim.cli import main
from smoes_sim.errors import CalibrationError, ConfigError
from smoes_sim.measurements import read_measurements
from smoes_sim.planning import load_plan
from smoes_sim.prediction.deploy import deploy
from smoes_sim.prediction.prediction import Prediction
from smoes_sim.prediction.router import synthesize_trace
from smoes_sim.routing.trace import save_trace

DENSE = "model=olmoe-1b-7b-dense-active"
DECODE = "workload={phase: decode, batch: 8, context: 64}"
BOTH = "workload={batch: 8, context: 64, output_tokens: 2}"
IMAGES = "images: 1, image_width: 336, image_height: 336"
CLIP = "model.vision={layers: 24, hidden: 1024, ffn: 4096, patch: 14, class_tokens: 1, projector: 512, source: made up}"
NULL = {"ttft_s", "outside_s", "tokens_per_s_prefill", "tokens_per_s_prefill_per_rank"}


def test_a_decode_step_holds_one_token_of_each_sequence_and_its_context(tmp_path):
    # sequences 0 and 2 on rank 0, 1 on rank 1; the second of two steps attends to 5 + 1 others and itself
    workload = "workload={phase: decode, batch: 3, context: 5, output_tokens: 3}"
    deployment = deploy(small(tmp_path, DENSE, workload, "topology.ranks=2"))
    assert (deployment.prefill, list(deployment.chunks), deployment.mixed) == (None, [], None)
    first, second = (step.batches[0].load for step in deployment.decode)
    assert [load.decode.tolist() for load in (first, second)] == [[2, 1], [2, 1]]
    assert [load.context.tolist() for load in (first, second)] == [[12, 6], [14, 7]]
    assert [load.outputs.tolist() for load in (first, second)] == [[2, 1], [2, 1]]
    for part in (first.prefill, first.pairs, first.earlier):
        assert part.tolist() == [0, 0]


@pytest.mark.parametrize("layout", ["parallelism.tensor=1", "parallelism.tensor=2", "parallelism.prefill_chunk=16"])
def test_decode_alone_takes_what_decode_after_a_prefill_takes(tmp_path, layout):
    both, alone = (simulate(small(tmp_path, DENSE, workload, layout)) for workload in (BOTH, DECODE))
    assert alone.tpot_s == both.tpot_s
    assert alone.interval("tpot_s") == both.interval("tpot_s")
    assert alone.decode_tp_comm_s == both.decode_tp_comm_s


@pytest.mark.parametrize("placed", [(), ("routing.policy=smoes", "placement.tokens=modality"), ("placement.experts=eplb",)])
def test_the_phases_of_a_trace_are_predicted_alone_as_they_are_together(tmp_path, placed):
    trace = tmp_path / "trace.npz"
    workload = f"workload={{batch: 8, text_tokens: 8, output_tokens: 3, {IMAGES}}}"
    save_trace(synthesize_trace(small(tmp_path, workload, *placed)), trace)
    preset = ("workload={preset: trace}", f"routing.trace={trace}", *placed)
    both, prefill, decode = (
        simulate(small(tmp_path, *preset, f"workload.phase={of}")) for of in ("both", "prefill", "decode")
    )
    assert (prefill.ttft_s, prefill.bytes_remote, prefill.imbalance) == (both.ttft_s, both.bytes_remote, both.imbalance)
    assert (decode.tpot_s, decode.decode_bytes_remote) == (both.tpot_s, both.decode_bytes_remote)
    assert decode.decode_ep_comm_s == both.decode_ep_comm_s
    assert decode.transmission_rate.decode == both.transmission_rate.decode
    assert (prefill.tpot_s, prefill.transmission_rate.decode, prefill.decode_bytes_remote) == (None, None, 0)


def test_keys_without_the_name_of_a_phase_describe_the_pass_that_was_asked_for(tmp_path):
    row = simulate(small(tmp_path, DECODE)).to_dict()
    of_pass = ("step_s", "ep_comm_s", "ep_exposed_s", "ep_overhead", "bound_s", "tp_comm_s", "bytes_remote", "imbalance")
    assert {key: row[key] for key in of_pass} == {key: row[f"decode_{key}"] for key in of_pass}
    assert row["bytes_total"] >= row["bytes_remote"] > 0
    assert row["step_s"] == row["tpot_s"]
    assert {key for key in NULL if row[key] is None} == NULL
    assert [row["transmission_rate"][key] for key in ("prefill", "prefill_text", "prefill_vision")] == [None] * 3
    assert row["transmission_rate"]["decode"] > 0
    assert (row["phase"], row["sequences"], row["context"]) == ("decode", 8, 64)
    assert Prediction.of_dict(json.loads(json.dumps(row))).to_dict() == row


def test_decode_alone_answers_a_token_for_each_sequence_in_a_step(tmp_path):
    row = simulate(small(tmp_path, DECODE, "workload.output_tokens=5"))
    assert row.tokens_per_s == pytest.approx(8 / row.tpot_s)
    first = simulate(small(tmp_path, "workload={phase: prefill, batch: 8, context: 64}"))
    assert first.tokens_per_s == pytest.approx(8 / first.ttft_s)


def test_sequences_of_each_rank_are_the_same_question_as_those_of_all(tmp_path):
    of_all, of_each = (
        simulate(small(tmp_path, f"workload={{phase: decode, {number}, context: 64}}"))
        for number in ("batch: 8", "sequences_per_rank: 2")
    )
    assert of_each.to_dict() == of_all.to_dict()
    assert of_each.draws == of_all.draws


def test_the_answer_shows_the_phase_that_was_asked_for(tmp_path):
    decode = repr(simulate(small(tmp_path, "workload={phase: decode, sequences_per_rank: 2, context: 64}")))
    assert "decode only: 8 sequences, 2 per rank, context 64" in decode
    assert "prefill" not in decode
    assert "TTFT" not in decode
    prefill = repr(simulate(small(tmp_path, "workload={phase: prefill, sequences_per_rank: 2, context: 64}")))
    assert "prefill only: 8 sequences, 2 per rank, prompt 64" in prefill
    assert "decode" not in prefill
    assert "TPOT" not in prefill


def test_the_cache_of_decode_alone_holds_the_prompts(tmp_path):
    # two sequences a rank of 64 tokens and one decode token
    both, alone = (simulate(small(tmp_path, workload)).memory for workload in (BOTH, DECODE))
    assert alone.need.cached == both.need.cached == 2 * 65
    assert alone.need.buffers["activations"] < both.need.buffers["activations"]


def test_more_ranks_have_as_many_sequences_each_where_the_question_says_so(tmp_path):
    # 4 GB hold one sequence of 900,000 tokens of 4,096 bytes, not two: 4 sequences fit on 4 ranks, 2 a rank on no number
    long = "workload={{phase: decode, {}, context: 900000}}"
    tight = ("compute.memory_share=0.05", "ranks=2")
    of_all = simulate(small(tmp_path, long.format("batch: 4"), *tight)).memory
    of_each = simulate(small(tmp_path, long.format("sequences_per_rank: 2"), *tight)).memory
    assert (of_all.fits, of_each.fits) == (False, False)
    assert of_all.need == of_each.need
    assert of_each.ranks_needed is None
    assert of_all.ranks_needed == 4


def test_the_vision_tower_counts_in_prefill_only(tmp_path):
    workload = f"workload={{phase: decode, batch: 8, context: 64, {IMAGES}}}"
    decode = simulate(small(tmp_path, workload, CLIP, "compute.per_prefill=1 s"))
    assert (decode.outside_s, decode.not_counted[0]) == (None, "choice of the next token")
    assert decode.step_s < 0.1


def test_images_place_experts_and_tokens_of_decode_alone(tmp_path):
    # decoded tokens are text; without the reference prompts, text would be at home on all ranks
    policy = ("routing.policy=smoes", "placement.tokens=modality")
    deployment = deploy(small(tmp_path, DECODE, *policy))
    assert set(deployment.home.tolist()) < {0, 1, 2, 3}


def test_a_chunk_size_without_prefill_is_a_warning(tmp_path):
    found = simulate(small(tmp_path, DECODE, "parallelism.prefill_chunk=16"))
    assert found.warnings == ["parallelism.prefill_chunk = 16 has no effect: workload.phase = decode has no prefill."]


def test_decode_alone_is_compared_with_decode_and_not_with_a_prefill(tmp_path):
    alone = small(tmp_path, DECODE)
    found = compare(alone, {"communication.dispatch": ["bf16", "fp8"]})
    assert set(found.changes[1]) == {
        "tpot_s",
        "tokens_per_s",
        "ep_comm_s",
        "decode_ep_comm_s",
        "bytes_remote",
        "exchanges_s",
        "exchanges_bytes",
    }
    assert "TTFT" not in repr(found)
    assert "bytes between ranks in a decode step" in repr(found)
    mixed = compare(alone, {"workload.phase": ["decode", "both"]}, "workload.output_tokens=2")
    assert set(mixed.changes[1]) == {"tpot_s", "decode_ep_comm_s"}
    assert "in prefill, or decode alone" in repr(mixed)


def test_a_timeline_of_decode_alone_is_that_of_a_step(tmp_path):
    simulate(small(tmp_path, DECODE), timeline=tmp_path / "step.json")
    assert (tmp_path / "step.json").stat().st_size > 1000


def test_requests_that_arrive_have_prompts(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^workload\.phase = decode: requests are prefilled and then decoded.* phase: both"
    ):
        serve(small(tmp_path, DECODE), rate="1/s", requests=4)


def test_a_plan_for_decode_alone_is_refused(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace("{batch: 4, text_tokens: 16, output_tokens: 3,", "{phase: decode, batch: 4, context: 16,"))
    with pytest.raises(ConfigError, match=r"plan\.yaml: workload\.phase = decode: requests are prefilled and then decoded"):
        load_plan(str(path))


def test_latencies_of_two_phases_are_not_fitted_to_one(tmp_path):
    rows = read_measurements(Path(find_spec("smoes_sim").origin).parent / "data" / "measurements" / "two-orin-baseline.csv")
    with pytest.raises(CalibrationError, match=r"^here: TTFT and TPOT are fitted together, but workload\.phase = decode"):
        fit_step_latencies(rows, small(tmp_path, DECODE), name="here")


@pytest.mark.parametrize("command", ["simulate", "compare", "sweep"])
def test_a_page_of_decode_alone_speaks_of_decode_steps(tmp_path, capsys, command):
    scenario = tmp_path / "small.yaml"
    small(tmp_path)
    scenario.write_text(scenario.read_text().replace("{batch: 16, text_tokens: 64, output_tokens: 9}", DECODE[9:]))
    (tmp_path / "study.yaml").write_text(f"scenario: {scenario}\ngrid: {{workload.sequences_per_rank: [1, 2]}}\n")
    asked = {
        "simulate": ["simulate", str(scenario)],
        "compare": ["compare", str(scenario), "communication.dispatch=bf16,fp8"],
        "sweep": ["sweep", str(tmp_path / "study.yaml")],
    }
    assert main([*asked[command], "--out", str(tmp_path / "out")]) == 0
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Busiest links in decode" in page
    assert "TPOT" in page
    assert "TTFT" not in page


def test_a_trace_without_the_phase_is_refused(tmp_path):
    trace = tmp_path / "trace.npz"
    save_trace(synthesize_trace(small(tmp_path, "workload={batch: 4, text_tokens: 8, output_tokens: 1}")), trace)
    with pytest.raises(ConfigError, match=r"trace\.npz: holds no tokens of workload\.phase = decode"):
        simulate(small(tmp_path, "workload={preset: trace, phase: decode}", f"routing.trace={trace}"))
