"""Write what ``torch.save`` writes, without torch, from plain values and numpy arrays: the oracle of the reader's tests."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {"u1": "Byte", "i1": "Char", "i2": "Short", "i4": "Int", "i8": "Long", "f4": "Float", "f8": "Double"}


def write(path: Path, value: Any, *, compression: int = zipfile.ZIP_STORED) -> None:
    storages: list[np.ndarray] = []
    write_members(path, b"\x80\x02" + encode(value, storages) + b".", storages, compression=compression)


def write_members(path: Path, pickle: bytes, storages: list[np.ndarray], *, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression=compression) as archive:
        archive.writestr("dump/data.pkl", pickle)
        archive.writestr("dump/byteorder", b"little")
        for index, storage in enumerate(storages):
            archive.writestr(f"dump/data/{index}", storage.tobytes())


def encode(value: Any, storages: list[np.ndarray]) -> bytes:
    if isinstance(value, np.ndarray):
        return encode_tensor(value, storages)
    if isinstance(value, dict):
        pairs = [encode(item, storages) for pair in value.items() for item in pair]
        return b"}(" + b"".join(pairs) + b"u"
    if isinstance(value, list | tuple):
        items = b"(" + b"".join(encode(item, storages) for item in value)
        return b"]" + items + b"e" if isinstance(value, list) else items + b"t"
    return encode_scalar(value)


def encode_scalar(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    return b"J" + struct.pack("<i", value) if isinstance(value, int) else b"G" + struct.pack(">d", value)


def encode_tensor(array: np.ndarray, storages: list[np.ndarray]) -> bytes:
    kind = STORAGES[array.dtype.str[1:]]
    storages.append(np.ascontiguousarray(array))
    key = encode(str(len(storages) - 1), [])
    storage = b"(" + encode("storage", []) + f"ctorch\n{kind}Storage\n".encode() + key + encode("cuda:0", [])
    storage += encode(array.size, []) + b"tQ"
    strides = tuple(stride // array.itemsize for stride in np.ascontiguousarray(array).strides)
    layout = encode(0, []) + encode(array.shape, []) + encode(strides, []) + b"\x89"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + layout + b"ccollections\nOrderedDict\n)RtR"
