from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch_archive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smoes_sim.errors import TraceError
from smoes_sim.routing.torch_file import load_torch_file

VALUE = {
    "records": [{"pass": 3, "big": 2**30, "negative": -5, "rate": 0.5, "none": None, "yes": True, "pair": (1, 2)}],
    "ids": np.arange(12, dtype=np.int32).reshape(2, 3, 2),
    "map": np.array([[3, 1], [0, 2]]),
    "empty": np.zeros((0, 4), dtype=np.int64),
}


def assert_equal(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        assert np.array_equal(found, wanted)
    else:
        assert found == wanted


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    torch_archive.write(tmp_path / "dump.pt", VALUE)
    assert_equal(load_torch_file(tmp_path / "dump.pt"), VALUE)


def test_what_torch_writes_reads_back_equal(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch missing: pip install 'smoes-sim[learning]'")
    wanted = VALUE | {"transposed": np.arange(6).reshape(2, 3).T, "half": np.array([0.5], dtype=np.float16)}

    def to_torch(value):
        if isinstance(value, dict):
            return {key: to_torch(item) for key, item in value.items()}
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    content = to_torch(wanted)
    content["window"] = content["map"][1:]  # a view that starts inside its storage
    content["huge"] = 2**40
    torch.save(content, tmp_path / "dump.pt")
    found = load_torch_file(tmp_path / "dump.pt")
    assert_equal(found, wanted | {"window": VALUE["map"][1:], "huge": 2**40})


class Attack:
    def __reduce__(self):
        return os.system, ("touch was-run",)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_calls_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    torch_archive.write_members(tmp_path / "bad.pt", pickle.dumps({"a": Attack()}, protocol=protocol), [])
    with pytest.raises(TraceError, match=r"bad\.pt: byte \d+ of data\.pkl: needs .*only tensors, dicts, lists"):
        load_torch_file(tmp_path / "bad.pt")
    assert not (tmp_path / "was-run").exists()


def tensor(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, size: int = 4) -> bytes:
    encode = torch_archive.encode
    storage = b"(" + encode("storage", []) + b"ctorch\nIntStorage\n" + encode("0", []) + encode("cpu", []) + encode(size, [])
    layout = b"tQ" + encode(offset, []) + encode(shape, []) + encode(strides, []) + b"\x89"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + layout + b"ccollections\nOrderedDict\n)RtR."


@pytest.mark.parametrize(
    ("pickle_bytes", "message"),
    [
        (tensor((4,), (1,), offset=1), r"shape \(4,\) is larger than its 4 numbers"),
        (tensor((2, 2), (3, 1)), r"shape \(2, 2\) is larger than its 4 numbers"),
        (tensor((1000, 1000), (0, 0)), r"shape \(1000, 1000\) is larger than its 4 numbers"),
        (tensor((4,), (1,), size=5), r"data/0 holds 4 numbers; its description says 5"),
        (tensor((2,), (-1,), offset=3), r"not a valid operation"),
        (b"\x80\x02ctorch\nBFloat16Storage\n.", r"byte 2 of data\.pkl: needs 'torch\.BFloat16Storage'"),
        (b"\x80\x02}(K\x01u.", r"not a valid operation"),
        (b"\x80\x02t.", r"not a valid operation"),
        (b"\x80\x02h\x05.", r"not a valid operation"),
        (b"\x80\x02]K\x01K\x02.", r"not a valid operation"),
        (b"\x80\x02]", r"not a valid operation|has no end"),
    ],
)
def test_wrong_descriptions_are_refused(tmp_path: Path, pickle_bytes: bytes, message: str) -> None:
    torch_archive.write_members(tmp_path / "bad.pt", pickle_bytes, [np.arange(4, dtype=np.int32)])
    with pytest.raises(TraceError, match=message):
        load_torch_file(tmp_path / "bad.pt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no zip")
    with pytest.raises(TraceError, match=r"text\.pt: cannot be read as a torch\.save archive"):
        load_torch_file(tmp_path / "text.pt")
    np.savez(tmp_path / "arrays.pt.npz", a=np.arange(3))
    with pytest.raises(TraceError, match=r"without one data\.pkl"):
        load_torch_file(tmp_path / "arrays.pt.npz")
    torch_archive.write(tmp_path / "bomb.pt", {"a": np.zeros(1000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(TraceError, match=r"is compressed; torch\.save does not compress"):
        load_torch_file(tmp_path / "bomb.pt")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_escapes_as_another_error(tmp_path: Path, data: st.DataObject) -> None:
    storages: list[np.ndarray] = []
    content = bytearray(b"\x80\x02" + torch_archive.encode(VALUE, storages) + b".")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    torch_archive.write_members(tmp_path / "fuzzed.pt", bytes(content), storages)
    try:
        load_torch_file(tmp_path / "fuzzed.pt")
    except TraceError as refusal:
        message = str(refusal)
    else:
        message = "still readable"
    assert len(message.splitlines()) == 1
