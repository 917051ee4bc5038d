from __future__ import annotations

import numpy as np
import pytest

from smoes_sim.learning.batches import BatchMaker, make_layout, text_stream
from smoes_sim.learning.data import ANSWER, COLOURS, END, SHAPES, Images, load_images, load_topics, make_tokenizer
from smoes_sim.learning.tiny_vlm import NUM_VISION_TOKENS


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("test")


def test_the_official_split_is_complete(images: Images) -> None:
    assert images.pixels.shape == (1000, 64, 64, 3)
    assert (len(images.questions("open")), len(images.questions("yes_no"))) == (2537, 7136)
    assert {question.answer for question in images.questions("open")} == {*COLOURS, *SHAPES}


def test_labels_of_images_agree_with_every_answer(images: Images) -> None:
    colour, shape = images.colour_and_shape()
    for question in images.questions("open"):
        if question.text.startswith("what shape"):
            assert SHAPES[shape[question.image]] == question.answer
        elif "color" in question.text:
            assert COLOURS[colour[question.image]] == question.answer


def test_topics_are_split_without_overlap() -> None:
    train, test = load_topics("train"), load_topics("test")
    assert len(train) > 5 * len(test) > 0
    assert not {*train} & {*test}


def test_the_tokenizer_loses_nothing_and_knows_every_answer() -> None:
    tokenizer = make_tokenizer(600)
    for text in (*load_topics("test"), "\u00e9t\u00e9  \t\n"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.num_bytes(np.array(ids)) == len(text.encode())
        assert max(ids) < 600
    for answer in (*COLOURS, *SHAPES, "yes", "no"):
        assert len(tokenizer.encode(f" {answer}")) == 1


def test_a_batch_asks_answers_and_hides_slots_from_each_other(images: Images) -> None:
    tokenizer = make_tokenizer(600)
    asked = [question for question in images.questions("open") if question.image == images.questions("open")[0].image][:2]
    layout = make_layout(tokenizer, asked, slots=2)
    maker = BatchMaker(tokenizer, images, layout)
    stream = text_stream(tokenizer, load_topics("test"))
    windows = stream[: layout.length + 1][None]
    batch = maker.make([asked], windows)
    assert int(batch.modality[0].sum()) == NUM_VISION_TOKENS
    assert int(batch.modality[1].sum()) == 0
    ends = [int(place) for place in (batch.tokens[0] == ANSWER).nonzero()]
    assert [tokenizer.decode([int(batch.targets[0, end])]) for end in ends] == [f" {one.answer}" for one in asked]
    for slot, end in enumerate(ends):
        start = layout.head + slot * layout.slot_length
        assert tokenizer.decode(batch.tokens[0, start:end].tolist()) == asked[slot].text
        assert int(batch.positions[0, start]) == layout.head
        seen = batch.mask[0, end].nonzero().flatten().tolist()
        assert seen == [*range(layout.head), *range(start, end + 1)]
    assert batch.targets[1].tolist() == windows[0, 1:].tolist()
    assert batch.is_token[1].all()


def test_topics_end_with_a_mark_and_batches_are_a_function_of_the_generator(images: Images) -> None:
    tokenizer = make_tokenizer(600)
    assert text_stream(tokenizer, ["a", "b"]).tolist() == [*tokenizer.encode("a"), END, *tokenizer.encode("b"), END]
    maker = BatchMaker(tokenizer, images, make_layout(tokenizer, images.questions("open"), slots=3))
    stream = text_stream(tokenizer, load_topics("test"))
    first, again, other = (maker.draw(stream, images=2, texts=1, rng=np.random.default_rng([0, step])) for step in (5, 5, 6))
    assert first.tokens.equal(again.tokens)
    assert not first.tokens.equal(other.tokens)
