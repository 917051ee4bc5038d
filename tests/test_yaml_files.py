from __future__ import annotations

import os
import re
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, model_validator

from smoes_sim.errors import ConfigError
from smoes_sim.topology.shipped import TopologyFile
from smoes_sim.units import Bandwidth
from smoes_sim.yaml_files import Document, Spec, load, nearest, read_text, replacing, write_bytes


class Wire(Spec):
    also_called: ClassVar = {"speed": "bandwidth", "label": "name"}

    bandwidth: Bandwidth
    name_: Annotated[str, Field(alias="name")] = ""


class Round(Spec):
    kind: Literal["round"]
    radius: int
    wire: Wire | None = None


class Square(Spec):
    kind: Literal["square"]
    side: int
    wires: list[Wire] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_small(self):
        if self.side > 9:
            raise ValueError(f"side = {self.side} is more than 9. Use a smaller one.")
        return self


class Plan(Spec):
    shape: Annotated[Round | Square, Field(discriminator="kind")]
    colour: Literal["red", "green"] = "red"


ROUND = "shape: {kind: round, radius: 3}\n"
SQUARE = "shape:\n  kind: square\n  side: 2\n  wires:\n    - bandwidth: 1 GB/s\n"


def refusal(text, *overrides, model=Plan):
    """The one line about a file ``plan.yaml``."""
    with pytest.raises(ConfigError) as caught:  # noqa: PT012 - either step may refuse
        document = Document(text, name="plan.yaml")
        for assignment in overrides:
            document.override(assignment)
        document.validate(model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read(text, *overrides):
    document = Document(text, name="plan.yaml")
    for assignment in overrides:
        document.override(assignment)
    return document.validate(Plan)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROUND + "color: red\n", 'plan.yaml:2:1: unknown key "color". Did you mean "colour"?'),
        # "radius" is missing too, because of the slip: the misspelt key is reported
        ("shape: {kind: round, radios: 3}\n", 'plan.yaml:1:22: unknown key "radios". Did you mean "radius"?'),
        (
            "shape:\n  kind: round\n  radius: 3\n  wire: {bandwidht: 1 GB/s}\n",
            'plan.yaml:4:10: unknown key "bandwidht". Did you mean "bandwidth"?',
        ),
        (SQUARE + "      nmae: x\n", 'plan.yaml:6:7: unknown key "nmae". Did you mean "name"?'),
        # no near name: all that are known, those of the chosen kind only, as they are written in files
        ("shape: {kind: round, xyz: 3}\n", 'plan.yaml:1:22: unknown key "xyz". Known: kind, radius, wire.'),
        (SQUARE + "      xyz: 1\n", 'plan.yaml:6:7: unknown key "xyz". Known: bandwidth, name.'),
    ],
)
def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_name(text, expected):
    assert refusal(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: star\nrnks: 4\nlink: {bandwidth: 1 GB/s}\n", '2:1: unknown key "rnks". Did you mean "ranks"?'),
        ("kind: star\nranks: 4\nlink: {bandwith: 1 GB/s}\n", '3:8: unknown key "bandwith". Did you mean "bandwidth"?'),
        (
            "kind: graph\ndevices: [a, b]\nlinks:\n  - {form: a, to: b, bandwidth: 1 GB/s}\n",
            '4:6: unknown key "form". Did you mean "from"?',
        ),
        (
            "kind: pcie_tree\nsockets: 2\nranks_per_socket: 1\npcie: {bandwidth: 1 GB/s}\n",
            "1:1: sockets = 2 have no link between them. Add host: {bandwidth: ...}.",
        ),
        ("ranks: 4\n", '1:1: the key "kind" is missing. Add it.'),
        ("kind: stra\nranks: 4\n", '1:7: kind = "stra" is unknown. Did you mean "star"?'),
    ],
)
def test_a_file_that_is_a_union_at_its_top_is_explained_by_its_kind(text, expected):
    assert refusal(text, model=TopologyFile) == f"plan.yaml:{expected}"


def test_all_unknown_keys_of_a_section_are_listed_at_once_with_their_right_names():
    # in the order of the file, which need not be that of the alphabet; `bandwidth` is missing only because of them
    text = "shape:\n  kind: round\n  radius: 3\n  wire: {speed: 1 GB/s, label: x, nam: y, zzz: 1}\ncolor: red\n"
    assert refusal(text) == (
        'plan.yaml:4:10: unknown keys in shape.wire: "speed" (write bandwidth), "label" (write name), "nam" (write name), '
        '"zzz". Known: bandwidth, name.'
    )
    assert refusal(SQUARE + "      speed: 1\n") == 'plan.yaml:6:7: unknown key "speed". Write bandwidth.'


def test_a_duplicate_key_is_refused_at_its_second_place():
    assert refusal("colour: red\n" + ROUND + "colour: green\n").startswith(
        'plan.yaml:3:1: is not YAML: found duplicate key "colour"'
    )


def test_a_kind_that_does_not_exist_is_refused_with_the_nearest_one():
    assert refusal("shape: {kind: sqare, side: 2}\n") == (
        'plan.yaml:1:15: kind = "sqare" is unknown. Did you mean "square"?'
    )
    assert refusal("shape: {kind: xyz}\n") == 'plan.yaml:1:15: kind = "xyz" is unknown. Known: round, square.'


def test_a_missing_kind_is_named():
    assert refusal("shape: {side: 2}\n") == 'plan.yaml:1:1: the key "kind" is missing in shape. Add it.'


def test_a_missing_key_is_named_with_the_section_that_lacks_it():
    assert refusal("colour: red\n") == 'plan.yaml:1:1: the key "shape" is missing. Add it.'
    assert refusal("colour: red\nshape: {kind: round}\n") == 'plan.yaml:2:1: the key "radius" is missing in shape. Add it.'
    assert refusal(ROUND[:-2] + ", wire: {}}\n") == ('plan.yaml:1:33: the key "bandwidth" is missing in shape.wire. Add it.')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            ROUND + "colour: gren\n",
            'plan.yaml:2:9: colour = "gren" is unknown. Did you mean "green"?',
        ),
        ("shape: {kind: round, radius: x}\n", r"plan.yaml:1:30: shape.radius = 'x': input should be a valid integer."),
        ("shape: {kind: round, radius: 3.5}\n", "plan.yaml:1:30: shape.radius = 3.5: input should be a valid integer."),
        (
            SQUARE.replace("1 GB/s", "400G"),
            'plan.yaml:5:18: shape.wires.0.bandwidth = "400G" has no unit of bandwidth. Write "400 Gb/s" or "50 GB/s".',
        ),
        ("shape: {kind: square, side: 12}\n", "plan.yaml:1:1: shape: side = 12 is more than 9. Use a smaller one."),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_the_rule(text, expected):
    assert refusal(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "plan.yaml:1:1: is not a mapping of keys to values."),
        ("- 1\n- 2\n", "plan.yaml:1:1: is not a mapping of keys to values."),
        ("shape: [\n", "plan.yaml:2:1: is not YAML: "),
        ("shape: \tx: 1\n", "plan.yaml:1:8: is not YAML: "),
    ],
)
def test_what_is_no_mapping_is_refused(text, expected):
    assert refusal(text).startswith(expected)


def test_an_override_replaces_a_value_and_is_read_as_yaml():
    assert read(ROUND, "shape.radius=5").shape.radius == 5
    assert read(ROUND, "shape={kind: square, side: 4}").shape == Square(kind="square", side=4)
    assert read(ROUND, "shape.radius=5", "shape.radius=6").shape.radius == 6


def test_an_override_makes_the_sections_it_needs():
    assert read(ROUND, "shape.wire.bandwidth=2 GB/s").shape.wire.bandwidth == 2e9


def test_a_wrong_override_is_quoted_instead_of_a_line():
    assert refusal(ROUND, "shape.radius=x").startswith("\"shape.radius=x\": shape.radius = 'x'")
    assert refusal(ROUND, "color=red") == '"color=red": unknown key "color". Did you mean "colour"?'
    assert refusal(ROUND, "shape.wire={bw: 1 GB/s}").startswith('"shape.wire={bw: 1 GB/s}": unknown key "bw".')


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("radius", '"radius": is not key=value. Write for example workload.batch=8.'),
        ("=3", '"=3": is not key=value.'),
        (
            "shape.radius.x=3",
            '"shape.radius.x=3": shape.radius is the value 3, not a mapping. Override shape.radius as a whole.',
        ),
        ("colour=[", '"colour=[":1:2: is not YAML: '),
    ],
)
def test_an_override_that_is_no_assignment_is_refused(assignment, expected):
    assert expected in refusal(ROUND, assignment)


def test_an_error_after_an_override_still_knows_the_line_of_other_keys():
    assert refusal("shape: {kind: round, radius: x}\n", "colour=green").startswith("plan.yaml:1:30: shape.radius")


def test_load_reads_a_file_with_overrides_and_names_it_in_errors(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(ROUND)
    assert load(path, Plan, overrides=["colour=green"]) == read(ROUND, "colour=green")
    path.write_text("shape: {kind: round}\n")
    with pytest.raises(ConfigError, match=rf'^{re.escape(str(path))}:1:1: the key "radius" is missing in shape'):
        load(path, Plan)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no.yaml: cannot be read \(No such file or directory\)"):
        read_text(tmp_path / "no.yaml")


def test_a_file_that_is_not_text_is_refused_with_the_byte(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"abc\xff")
    with pytest.raises(ConfigError, match=r"x.yaml: is not UTF-8 text \(byte 3\)"):
        read_text(tmp_path / "x.yaml")


def test_nearest_offers_one_name_or_lists_all():
    assert nearest("ranks_per_nod", ["nodes", "ranks_per_node"]) == 'Did you mean "ranks_per_node"?'
    assert nearest("xyz", ["nodes", "links"]) == "Known: links, nodes."


@pytest.mark.parametrize("failure", [RuntimeError, OSError, KeyboardInterrupt])
def test_replacing_leaves_nothing_behind_when_the_block_fails(tmp_path, failure):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises((failure, ConfigError)), replacing(path) as temporary:  # noqa: PT012 - the block is the subject
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_replacing_shows_the_new_content_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "folder" / "out.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["out.txt"]


def test_a_written_file_has_the_rights_that_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "out.bin", b"\x00\x01")
    finally:
        os.umask(old)
    assert (tmp_path / "out.bin").read_bytes() == b"\x00\x01"
    assert (tmp_path / "out.bin").stat().st_mode & 0o777 == 0o640  # 666 without 027


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out.txt: cannot be written \(.+\). Choose another place"):
        write_bytes(tmp_path / "file" / "out.txt", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=r"folder: cannot be written \(Is a directory\)"):
        write_bytes(tmp_path / "folder", b"")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
