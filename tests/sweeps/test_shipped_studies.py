"""Every shipped study has a page that says what the command printed, and no more."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from smoes_sim.display.result import flat
from smoes_sim.errors import ConfigError
from smoes_sim.prediction.changes import changes, changes_as_dict
from smoes_sim.prediction.simulate import simulate
from smoes_sim.sweeps import Sweep, load_sweep, sweep_names
from smoes_sim.sweeps.study import text_at

FOLDER = Path(__file__).parents[2] / "docs" / "studies"
NUMBER = r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.]*\d)"
INTERVAL = rf"\[{NUMBER}, {NUMBER}\]"
TINY = [
    "model={name: tiny, layers: 1, hidden: 64, experts: 64, top_k: 8, expert_ffn: 64, vocab: 128, heads: 2, kv_heads: 2, "
    "head_dim: 32, image_tokens: {kind: fixed, tokens: 576}, source: made up, image_source: made up}",
    "workload.output_tokens=2",
]
"""One small layer that routes as the published model does, and prompts of its length."""


@cache
def page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@cache
def study(name: str) -> Sweep:
    return load_sweep(name)


def first_sentence(name: str) -> str:
    """What stands between the title and the first full stop."""
    _, _, text = page(name).partition("\n\n")
    return re.split(r"\.\s", text, maxsplit=1)[0]


def table_block(name: str) -> str:
    """The block of the page that begins with the swept keys."""
    blocks = re.findall(r"^```\n(.*?)^```$", page(name), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if block.startswith(study(name).swept()[0])]
    return found


def figures(text: str) -> set[str]:
    """Numbers as they are written, without sign; digits of names such as H100 are none."""
    return {number.lstrip("+-") for number in re.findall(NUMBER, text)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("-7.9% [-18.0, -0.8] on 8 H100.", {"7.9", "18.0", "0.8", "8"}),
        ("at 10 Gb/s, NVLink 4", {"10", "4"}),
        ("2x8-h100 and v0.1.0", set()),
    ],
)
def test_figures_are_found(text, found):
    assert figures(text) == found


@pytest.mark.parametrize("name", sweep_names())
def test_the_tables_of_the_page_have_the_points_in_order(name):
    sweep, (first, *second) = study(name), table_block(name).split("\nChange from ")
    keys = sweep.swept()
    wanted = [keys] + [[text_at(point.settings, key) for key in keys] for point in sweep.points]
    assert bool(second) == (sweep.file.against is not None)
    for lines in (first.splitlines(), *(part.splitlines()[1:] for part in second)):
        assert [re.split(r" {2,}", line)[: len(keys)] for line in lines] == wanted


@pytest.mark.parametrize("name", sweep_names())
def test_the_page_begins_with_the_answer_and_its_interval(name):
    sentence = first_sentence(name)
    assert re.search(INTERVAL, sentence)
    assert figures(sentence) <= figures(table_block(name))


@pytest.mark.parametrize("name", sweep_names())
def test_the_page_has_command_picture_and_a_line_in_the_index(name):
    assert f"\nsmoes-sim sweep {name} --jobs 2 --out results/{name}\n" in page(name)
    assert f"]({name}.png)" in page(name)
    assert (FOLDER / f"{name}.png").is_file()
    assert f"]({name}.md)" in (FOLDER / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sweep_names())
def test_the_study_says_where_it_should_not_be_trusted(name):
    assert study(name).file.caution


@pytest.mark.parametrize("name", sweep_names())
def test_what_the_picture_shows_is_a_number_of_a_tiny_version(name):
    try:
        tiny = load_sweep(name, TINY)
    except ConfigError as error:
        pytest.skip(str(error))
    mine, base = tiny.points[1], tiny.points[(tiny.file.bases() or [0, 1])[1]]
    predictions = [simulate(point.scenario) for point in (mine, base)]
    row = flat({**predictions[0].to_dict(), "change": changes_as_dict(changes(*predictions))})
    assert isinstance(row[tiny.file.plot.metric], float)
