"""Decode alone, prefill alone, and the number of sequences of each rank."""

from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.api.inputs import changed
from smoes_sim.errors import ConfigError
from smoes_sim.models import find_model
from smoes_sim.scenario import Scenario, load_scenario
from smoes_sim.workload import WorkloadSpec, build_workload, workload_of_tokens

OLMOE = find_model("olmoe-1b-7b")  # 576 tokens an image
IMAGE = {"images": 1, "image_width": 336, "image_height": 336}


def build(**fields):
    return build_workload(WorkloadSpec(**fields), OLMOE, rng=np.random.default_rng(0))


def test_decode_alone_has_decode_tokens_only_and_counts_the_context():
    # two sequences of 5 tokens, three decode steps each: the fed tokens attend to 5, 6, 7 others and themselves
    work = build(phase="decode", batch=2, context=5, output_tokens=4)
    assert work.phase.tolist() == [1] * 6
    assert work.sequence_id.tolist() == [0, 0, 0, 1, 1, 1]
    assert work.context_lengths.tolist() == [6, 7, 8, 6, 7, 8]
    assert (work.num_prefill_tokens, work.num_decode_tokens, work.decode_batch) == (0, 6, 2)
    assert work.sequence_prompt_tokens.tolist() == [5, 5]


def test_decode_alone_is_one_step_unless_output_tokens_are_given():
    assert build(phase="decode", batch=3, context=7).num_tokens == 3
    assert build(phase="decode", batch=3, preset="mmmu").num_tokens == 3 * 15  # 16 output tokens


def test_a_long_context_makes_no_array_of_its_length():
    work = build(phase="decode", batch=4096, context=10**9)
    assert work.num_tokens == 4096
    assert work.context_lengths.tolist() == [10**9 + 1] * 4096


def test_prefill_alone_has_one_output_token_whatever_the_preset_says():
    work = build(phase="prefill", batch=2, preset="mmmu", spread=0.0)
    assert (work.num_prefill_tokens, work.num_decode_tokens) == (2 * 726, 0)
    assert work.sequence_output_tokens.tolist() == [1, 1]
    assert build(phase="prefill", context=9).num_tokens == 9


def test_the_context_includes_the_images_of_a_prompt():
    work = build(context=600, output_tokens=2, **IMAGE)
    assert (work.sequence_vision_tokens.tolist(), work.sequence_text_tokens.tolist()) == ([576], [24])
    assert build(context=576, output_tokens=2, **IMAGE).sequence_text_tokens.tolist() == [0]


def test_the_context_replaces_length_and_spread_of_a_preset():
    work = build(phase="decode", preset="mmmu", context=700, batch=3)  # mmmu has a spread of its own
    assert work.sequence_prompt_tokens.tolist() == [700] * 3
    assert work.sequence_vision_tokens.tolist() == [576] * 3


def test_a_context_without_room_for_the_images_is_refused_with_both_numbers():
    with pytest.raises(ConfigError, match=r"^workload\.context = 575 has no room for the 576 image tokens .*at least 576"):
        build(context=575, output_tokens=2, **IMAGE)


def test_sequences_per_rank_are_a_batch_of_as_many_on_every_rank():
    spec = WorkloadSpec(phase="decode", sequences_per_rank=3, context=10)
    assert (spec.batch, spec.for_ranks(4).batch, spec.for_ranks(4).sequences_per_rank) == (None, 12, None)
    by_rank, in_all = spec.for_ranks(4), WorkloadSpec(phase="decode", batch=12, context=10)
    assert by_rank == in_all
    assert in_all.for_ranks(7) == in_all


def test_without_a_number_of_sequences_there_is_one():
    assert WorkloadSpec(phase="decode", context=3).batch == 1
    assert WorkloadSpec(phase="decode", context=3, batch=None).batch == 1


@pytest.mark.parametrize("number", [{"batch": 4}, {"sequences_per_rank": 4}])
def test_a_resolved_section_is_read_again(number):
    spec = WorkloadSpec(phase="decode", context=3, **number)
    assert WorkloadSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_section_from_a_trace_is_read_again():
    spec = WorkloadSpec(preset="trace", phase="prefill")
    assert WorkloadSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 2, "sequences_per_rank": 3}, r"batch = 2 and sequences_per_rank = 3 both say .* Leave out one"),
        ({"text_tokens": 4}, r"context = 8 is the length .* text_tokens = 4 says .* Leave out one"),
        ({"spread": 0.2}, r"context = 8 is the length .* spread = 0\.2 says"),
        (
            {"decode_batch": 2, "batch": 4},
            r"decode_batch = 2 says .* phase = decode nothing .* Leave it out and give batch",
        ),
        ({"output_tokens": 1}, r"output_tokens = 1 with phase = decode: the first output token comes from prefill"),
        ({"phase": "decoding"}, r"Input should be 'both', 'prefill' or 'decode'"),
        ({"phase": "both"}, r"output_tokens is missing, and no preset gives it"),
        ({"context": None}, r"text_tokens is missing, and no preset gives it\. Add it, context, or a preset"),
        ({"preset": "trace", "sequences_per_rank": 2}, r"preset = trace takes .* Leave out context, sequences_per_rank"),
    ],
)
def test_what_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WorkloadSpec(**{"phase": "decode", "context": 8} | fields)


def test_the_wall_of_decode_batch_names_the_way_around_it():
    with pytest.raises(ValueError, match=r"decode_batch = 9 is more than batch = 8: .* workload\.phase=decode"):
        WorkloadSpec(preset="mmmu", batch=8, decode_batch=9)
    with pytest.raises(ConfigError, match=r"^workload: decode_batch = 9 is more than batch = 8: .* workload\.phase=decode"):
        WorkloadSpec(preset="mmmu", sequences_per_rank=4, decode_batch=9).for_ranks(2)


def test_the_tokens_of_one_phase_keep_the_prompts_of_their_sequences():
    whole = build(batch=2, context=3, output_tokens=3)
    decode, prefill = whole.only("decode"), whole.only("prefill")
    assert decode.context_lengths.tolist() == [4, 5, 4, 5]
    assert prefill.context_lengths.tolist() == [1, 2, 3, 1, 2, 3]
    assert (prefill.num_decode_tokens, prefill.sequence_output_tokens.tolist()) == (0, [1, 1])
    assert whole.only("both") is whole


def test_decoded_tokens_without_their_prompts_are_not_a_workload():
    zeros = np.zeros(2, dtype=np.int32)
    with pytest.raises(ConfigError, match=r"decoded tokens without their prompts.*Say context"):
        workload_of_tokens(zeros.astype(np.uint8), zeros, np.ones(2, dtype=np.uint8), decode_batch=None)


def test_overrides_replace_what_the_file_says_about_the_same_thing():
    # the file has preset: mmmu, batch: 8, decode_batch: 1
    asked = ("workload.phase=decode", "workload.sequences_per_rank=128", "workload.context=2048")
    workload = load_scenario("olmoe-two-orin", asked).workload
    assert (workload.batch, workload.decode_batch, workload.for_ranks(2).batch) == (None, None, 256)
    again = Scenario.model_validate(load_scenario("olmoe-two-orin", asked).model_dump(mode="json", by_alias=True))
    assert again.workload == workload
    back = changed(again, ["workload.batch=4", "workload.text_tokens=10", "workload.phase=both"]).workload
    assert (back.batch, back.sequences_per_rank, back.context, back.text_tokens) == (4, None, None, 10)


def test_overrides_that_contradict_each_other_are_refused():
    for pair in (("batch=4", "sequences_per_rank=2"), ("sequences_per_rank=2", "batch=4")):
        with pytest.raises(ConfigError, match=r"batch = 4 and sequences_per_rank = 2 both say how many"):
            load_scenario("olmoe-two-orin", [f"workload.{part}" for part in pair])
    with pytest.raises(ConfigError, match=r"decode_batch = 2 says how many of the prefilled .* phase = decode"):
        load_scenario("olmoe-two-orin", ["workload.decode_batch=2", "workload.phase=decode"])
