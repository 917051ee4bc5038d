from __future__ import annotations

from importlib import resources

import numpy as np
import pytest

from smoes_sim.errors import ConfigError
from smoes_sim.models import find_model
from smoes_sim.workload import WorkloadSpec, build_workload, preset_names
from smoes_sim.workload.spec import Preset
from smoes_sim.yaml_files import Document

OLMOE = find_model("olmoe-1b-7b")


def build(model=OLMOE, seed=0, **fields):
    return build_workload(WorkloadSpec(**fields), model, rng=np.random.default_rng(seed))


def presets():
    text = (resources.files("smoes_sim") / "data" / "workloads.yaml").read_text(encoding="utf-8")
    return Document(text, name="workloads.yaml").data["presets"]


def test_tokens_come_prefill_first_image_before_text_then_decode():
    # two sequences of 1 image (Qwen3-VL: 64 tokens at least, 256 x 256 px = 8 * 8), 2 text tokens, 3 output tokens
    work = build(
        find_model("qwen3-vl-30b-a3b"),
        batch=2,
        images=1,
        image_width=256,
        image_height=256,
        text_tokens=2,
        output_tokens=3,
    )
    assert work.modality.tolist() == ([1] * 64 + [0] * 2) * 2 + [0] * 4
    assert work.sequence_id.tolist() == [0] * 66 + [1] * 66 + [0, 0, 1, 1]
    assert work.phase.tolist() == [0] * 132 + [1] * 4
    assert work.context_lengths.tolist() == [*range(1, 67), *range(1, 67), 67, 68, 67, 68]
    assert (work.num_sequences, work.num_tokens, work.num_prefill_tokens, work.num_decode_tokens) == (2, 136, 132, 4)
    assert (work.modality.dtype, work.sequence_id.dtype, work.phase.dtype) == (np.uint8, np.int32, np.uint8)
    assert work.sequence_vision_tokens.tolist() == [64, 64]
    assert work.sequence_text_tokens.tolist() == [2, 2]
    assert work.sequence_output_tokens.tolist() == [3, 3]


def test_prefill_makes_the_first_output_token():
    work = build(text_tokens=5, output_tokens=1)
    assert work.num_decode_tokens == 0
    assert work.num_tokens == work.num_prefill_tokens == 5


def test_mmmu_on_olmoe_is_576_image_and_150_text_tokens_a_sequence():
    work = build(preset="mmmu", batch=8, spread=0.0)
    assert work.num_prefill_tokens == 8 * 726
    assert np.count_nonzero(work.modality) == 8 * 576
    assert work.num_decode_tokens == 8 * 15


def test_mmmu_keeps_the_published_transmission_rates_consistent():
    # rates of SMoES: vision 15.0%, all prefill 31.1%; the text rate that follows must be a rate
    text = (0.311 * 726 - 0.150 * 576) / 150
    assert text == pytest.approx(0.93, abs=0.005)
    assert WorkloadSpec(preset="mmmu").filled().text_tokens == 150


def test_the_document_preset_has_many_tiles_and_a_short_answer():
    # a page is 3 x 3 tiles of DeepSeek-VL2: 2017 image tokens, 82 of text, 7 decode steps
    work = build(find_model("deepseek-vl2"), preset="document", spread=0.0)
    assert work.sequence_vision_tokens.tolist() == [2017]
    assert work.num_prefill_tokens == 2099
    assert work.num_decode_tokens == 7


def test_gsm8k_is_text_only():
    assert not build(preset="gsm8k").modality.any()


def test_explicit_fields_override_the_preset():
    work = build(preset="mmmu", images=2, text_tokens=10, output_tokens=4, spread=0.0)
    assert work.sequence_vision_tokens.tolist() == [2 * 576]
    assert work.sequence_text_tokens.tolist() == [10]
    assert work.num_decode_tokens == 3


def test_decode_batch_is_the_batch_unless_given():
    assert build(preset="mmmu", batch=8).decode_batch == 8
    assert build(preset="mmmu", batch=8, decode_batch=1).decode_batch == 1


def test_spread_is_the_relative_deviation_and_keeps_the_mean():
    lengths = build(text_tokens=1000, output_tokens=1, batch=4000, spread=0.3).sequence_text_tokens
    # standard errors: 300 / sqrt(4000) = 5 for the mean, about 5 for the deviation
    assert lengths.mean() == pytest.approx(1000, abs=20)
    assert lengths.std() == pytest.approx(300, abs=25)


def test_no_sequence_becomes_empty_by_spread():
    assert build(text_tokens=1, output_tokens=1, batch=500, spread=3.0).sequence_text_tokens.min() == 1


def test_the_same_seed_makes_the_same_tokens():
    first, again, other = (build(preset="mmmu", batch=16, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.sequence_text_tokens, again.sequence_text_tokens)
    assert not np.array_equal(first.sequence_text_tokens, other.sequence_text_tokens)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output_tokens": 4}, "text_tokens is missing, and no preset gives it"),
        ({"text_tokens": 4}, "output_tokens is missing, and no preset gives it"),
        ({"preset": "mmmo"}, r'preset = "mmmo" is unknown. Did you mean "mmmu"\?'),
        ({"preset": "gsm8k", "images": 1}, "images = 1 need image_width and image_height"),
        ({"text_tokens": 0, "output_tokens": 1}, "text_tokens = 0 and images = 0"),
        ({"preset": "mmmu", "batch": 2, "decode_batch": 3}, "decode_batch = 3 is more than batch = 2"),
        ({"preset": "mmmu", "batch": 0}, "greater than or equal to 1"),
        ({"preset": "mmmu", "spread": -0.1}, "greater than or equal to 0"),
    ],
)
def test_workloads_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        WorkloadSpec(**fields)


def test_a_broken_rule_becomes_one_line_with_its_place():
    document = Document("preset: mmmu\nbatch: 2\ndecode_batch: 3\n", name="run.yaml")
    with pytest.raises(ConfigError, match=r"^run\.yaml:1:1: decode_batch = 3 is more than batch = 2[^\n]*$"):
        document.validate(WorkloadSpec)


def test_the_benchmarks_of_the_paper_are_presets():
    assert {"mmmu", "mme", "gsm8k", "document"} <= set(preset_names()) == set(presets())


@pytest.mark.parametrize("name", preset_names())
def test_every_number_of_a_preset_has_a_source(name):
    preset = presets()[name]
    assert set(preset) - {"sources"} == set(preset["sources"])
    for source in preset["sources"].values():
        assert source.startswith(("evalscope ", "hf ", "assumed: "))


def test_a_number_without_a_source_is_refused():
    preset = presets()["pope"]
    sources = {name: source for name, source in preset["sources"].items() if name != "spread"}
    with pytest.raises(ValueError, match=r"needs an entry for each number, no other: \['spread'\]"):
        Preset.model_validate(preset | {"sources": sources})


def test_the_tokens_of_a_trace_are_not_drawn():
    with pytest.raises(ConfigError, match=r"^workload\.preset = trace: the tokens are those of the routing trace\. Use"):
        build(preset="trace")
