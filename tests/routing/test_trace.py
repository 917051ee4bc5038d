from __future__ import annotations

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smoes_sim.errors import TraceError
from smoes_sim.routing import RoutingTrace, load_trace, save_trace


def small_trace(**changes):
    """Three tokens (text, image, decoded text), two layers, two slots, four experts."""
    arrays = {
        "expert_ids": np.array([[[0, 1], [2, 3]], [[3, -1], [1, 0]], [[2, 0], [-1, -1]]], dtype=np.int16),
        "modality": np.array([0, 1, 0], dtype=np.uint8),
        "sequence_id": np.array([0, 0, 0], dtype=np.int32),
        "phase": np.array([0, 0, 1], dtype=np.uint8),
        "moe_layers": np.array([1, 3], dtype=np.int32),
        "num_experts": 4,
    }
    return RoutingTrace(**(arrays | changes))


FULL = small_trace(
    expert_weights=np.linspace(0, 1, 12).reshape(3, 2, 2).astype(np.float16),
    modality_score=np.linspace(0, 1, 6).reshape(3, 2).astype(np.float16),
    metadata={"model": "toy", "seed": 3},
)
ARRAYS = ("expert_ids", "modality", "sequence_id", "phase", "moe_layers", "expert_weights", "modality_score")


def arrays_of_file(**changes):
    """The arrays of a good file, some replaced, or left out with None."""
    names = ("expert_ids", "modality", "sequence_id", "phase", "moe_layers")
    arrays = {name: getattr(FULL, name) for name in names} | {"num_experts": np.int32(4)}
    return {name: value for name, value in (arrays | changes).items() if value is not None}


def write(path, **changes):
    np.savez(path, **arrays_of_file(**changes))
    return path


def test_a_written_trace_reads_back_equal(tmp_path):
    save_trace(FULL, tmp_path / "t.npz")
    read = load_trace(tmp_path / "t.npz")
    for name in ARRAYS:
        assert getattr(read, name).dtype == getattr(FULL, name).dtype
        assert np.array_equal(getattr(read, name), getattr(FULL, name))
    assert (read.num_experts, read.metadata) == (4, {"model": "toy", "seed": 3})


def test_optional_arrays_stay_none(tmp_path):
    save_trace(small_trace(), tmp_path / "t.npz")
    read = load_trace(tmp_path / "t.npz")
    assert read.expert_weights is None
    assert read.modality_score is None
    assert read.metadata == {}


def test_the_same_trace_makes_the_same_bytes_at_any_time_and_key_order(tmp_path):
    save_trace(FULL, tmp_path / "a.npz")
    save_trace(replace(FULL, metadata={"seed": 3, "model": "toy"}), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:  # no clock in the file
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_wider_integers_that_fit_are_read(tmp_path):
    read = load_trace(write(tmp_path / "t.npz", expert_ids=FULL.expert_ids.astype(np.int64)))
    assert read.expert_ids.dtype == np.int16
    assert np.array_equal(read.expert_ids, FULL.expert_ids)


def test_counts_and_vision_follow_from_the_arrays():
    trace = small_trace(modality=np.array([2, 3, 1], dtype=np.uint8))
    assert (trace.num_tokens, trace.num_layers, trace.top_k) == (3, 2, 2)
    assert trace.is_vision.tolist() == [True, False, True]  # video, audio, image


@pytest.mark.parametrize("chosen", [np.array([2, 0]), np.array([True, False, True])])
def test_select_keeps_the_chosen_tokens_of_every_array(chosen):
    part = FULL.select(chosen)
    assert part.expert_ids.tolist() == FULL.expert_ids[chosen].tolist()
    assert part.phase.tolist() == FULL.phase[chosen].tolist()
    assert part.expert_weights.tolist() == FULL.expert_weights[chosen].tolist()
    assert part.modality_score.tolist() == FULL.modality_score[chosen].tolist()
    assert part.moe_layers.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_ids": np.zeros((0, 2, 2), np.int16)}, r"expert_ids has the shape \(0, 2, 2\): the trace is empty"),
        ({"expert_ids": np.zeros((3, 0, 2), np.int16)}, r"expert_ids has the shape \(3, 0, 2\): the trace is empty"),
        ({"expert_ids": np.zeros((3, 4), np.int16)}, r"expert_ids has the shape \(3, 4\); it must be \(tokens, layers"),
        ({"modality": np.zeros(2, np.uint8)}, r"modality has the shape \(2,\); expert_ids \(3, 2, 2\) needs \(3,\)"),
        ({"phase": np.zeros((3, 1), np.uint8)}, r"phase has the shape \(3, 1\); .* needs \(3,\)"),
        ({"moe_layers": np.zeros(3, np.int32)}, r"moe_layers has the shape \(3,\); .* needs \(2,\)"),
        ({"expert_weights": np.zeros((3, 2), np.float16)}, r"expert_weights has the shape \(3, 2\); .* \(3, 2, 2\)"),
        ({"modality_score": np.zeros(3, np.float16)}, r"modality_score has the shape \(3,\); .* needs \(3, 2\)"),
        ({"expert_ids": np.full((3, 2, 2), 4, np.int16)}, "expert_ids holds 4; with num_experts = 4 ids go from 0 to 3"),
        ({"expert_ids": np.full((3, 2, 2), -2, np.int16)}, "expert_ids holds -2; with num_experts = 4"),
        ({"expert_ids": np.zeros((3, 2, 5), np.int16)}, "top_k = 5 is more than num_experts = 4"),
        ({"modality": np.array([0, 4, 0], np.uint8)}, "modality holds 4; known codes go from 0 to 3"),
        ({"phase": np.array([0, 2, 0], np.uint8)}, "phase holds 2; known codes go from 0 to 1"),
    ],
)
def test_arrays_that_break_a_rule_are_refused_with_name_and_value(tmp_path, changes, message):
    with pytest.raises(TraceError, match=f"^{message}"):
        small_trace(**changes)
    with pytest.raises(TraceError, match=rf"t\.npz: {message}[^\n]*$"):
        load_trace(write(tmp_path / "t.npz", **changes))


@pytest.mark.parametrize(("value", "printed"), [(np.nan, "nan"), (np.inf, "inf")])
@pytest.mark.parametrize(("name", "place"), [("expert_weights", (1, 0, 1)), ("modality_score", (2, 1))])
def test_a_number_that_is_not_finite_is_refused_with_its_place(name, place, value, printed):
    broken = getattr(FULL, name).copy()
    broken[place] = value
    at = ", ".join(map(str, place))
    with pytest.raises(TraceError, match=rf"{name}\[{at}\] is {printed}; every value must be finite"):
        replace(FULL, **{name: broken})


@pytest.mark.parametrize("name", ["expert_ids", "modality", "sequence_id", "phase", "moe_layers", "num_experts"])
def test_a_missing_array_is_named(tmp_path, name):
    with pytest.raises(TraceError, match=rf"t\.npz: has no array {name}\. It needs expert_ids, modality"):
        load_trace(write(tmp_path / "t.npz", **{name: None}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # these would become 0, 0, 5 and 0 by wrapping around
        ({"expert_ids": np.full((3, 2, 2), -65536)}, "expert_ids holds -65536; it must fit int16, -32768 to 32767"),
        ({"modality": np.full(3, 256)}, "modality holds 256; it must fit uint8, 0 to 255"),
        ({"sequence_id": np.full(3, 2**32 + 5)}, "sequence_id holds 4294967301; it must fit int32"),
        ({"phase": np.full(3, 256)}, "phase holds 256; it must fit uint8"),
        ({"expert_ids": np.full((3, 2, 2), 40000)}, "expert_ids holds 40000; it must fit int16"),
        ({"modality": np.full(3, -1)}, "modality holds -1; it must fit uint8"),
        ({"expert_ids": np.zeros((3, 2, 2))}, "expert_ids is float64; it must hold integers"),
        ({"num_experts": np.array([4, 4])}, r"num_experts has the shape \(2,\); it must be one number"),
        ({"expert_weights": np.full((3, 2, 2), "a")}, "expert_weights is <U1; it must hold real numbers"),
        ({"expert_weights": np.full((3, 2, 2), 1e9)}, r"expert_weights\[0, 0, 0\] is inf"),  # beyond float16
        ({"metadata": np.array("{")}, r"metadata is not JSON \("),
        ({"metadata": np.array("[1]")}, r"metadata is the JSON value \[1\]; it must be an object"),
    ],
)
def test_a_file_of_values_that_do_not_fit_is_refused_not_wrapped(tmp_path, changes, message):
    with pytest.raises(TraceError, match=rf"t\.npz: {message}[^\n]*$"):
        load_trace(write(tmp_path / "t.npz", **changes))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, data):
    path = tmp_path / "t.npz"
    save_trace(FULL, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(TraceError, match=r"t\.npz: cannot be read as a trace \([^\n]+\)\. Is it a whole \.npz file\?$"):
        load_trace(path)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_byte_gives_the_same_trace_or_one_line_of_error(tmp_path, data):
    path = tmp_path / "t.npz"
    save_trace(FULL, path)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        read, problem = load_trace(path), None
    except TraceError as error:
        read, problem = None, str(error)
    if read is not None:
        assert np.array_equal(read.expert_ids, FULL.expert_ids)  # the damage hit nothing that is read
    else:
        assert problem.startswith(f"{path}: ")
        assert "\n" not in problem


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickled_object_is_refused_and_never_run(tmp_path):
    fuse = tmp_path / "fuse"
    write(tmp_path / "t.npz", modality=np.array([Bomb(fuse)] * 3, dtype=object))
    with pytest.raises(TraceError, match=r"t\.npz: cannot be read as a trace \(Object arrays cannot be loaded"):
        load_trace(tmp_path / "t.npz")
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Bomb(fuse)))
    with pytest.raises(TraceError, match=r"p\.npz: cannot be read as a trace \("):
        load_trace(tmp_path / "p.npz")
    assert not fuse.exists()
    pickle.loads(pickle.dumps(Bomb(fuse)))
    assert fuse.exists()  # it would have gone off


def test_a_file_of_another_kind_is_refused(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros(3))
    with pytest.raises(TraceError, match=r"t\.npy: is not an \.npz archive"):
        load_trace(tmp_path / "t.npy")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("expert_ids", "not an array")
    with pytest.raises(TraceError, match=r"z\.npz: has no array expert_ids"):
        load_trace(tmp_path / "z.npz")
    with pytest.raises(TraceError, match=r"none\.npz: cannot be read as a trace \(No such file or directory\)"):
        load_trace(tmp_path / "none.npz")
