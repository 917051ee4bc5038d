"""Contents of a ``torch.save`` file, read without torch and without executing anything in it.

Such a file is a zip archive: ``data.pkl`` describes nested dicts and lists whose tensors lie as raw numbers in
``data/0``, ``data/1``, ... A pickle can name any function; so it is not unpickled. Its opcodes (as ``pickletools`` lists
them) drive a small stack machine that knows a closed set: numbers, strings, lists, tuples, dicts and tensors of plain
numbers. Anything else is an error. Nothing is imported, looked up or called by name.

Why not ``torch.load(weights_only=True)``: importing expert counts and traces belongs to the planning side, which must work
without torch (about 1 GB, an extra), on the login node or laptop where the dump is analysed; and ``weights_only`` has had
holes through which a file could run code (CVE-2025-32434), while here there is nothing to call. The format is old and
fixed (protocol 2), and the tests read files that torch itself has written.

Format: pytorch ``torch/serialization.py`` (``_save``) and ``torch/_utils.py`` (``_rebuild_tensor_v2``), protocol 2.
"""

from __future__ import annotations

import math
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from smoes_sim.errors import TraceError

_STORAGE_TYPES = {
    "torch ByteStorage": "<u1",
    "torch CharStorage": "<i1",
    "torch ShortStorage": "<i2",
    "torch IntStorage": "<i4",
    "torch LongStorage": "<i8",
    "torch BoolStorage": "?",
    "torch HalfStorage": "<f2",
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_EMPTY_HOOKS = "collections OrderedDict"
_GLOBALS = frozenset((*_STORAGE_TYPES, _REBUILD, _EMPTY_HOOKS))
_LITERALS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_TUPLE")
)
_LITERAL_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Exceptions of zipfile for a file that is truncated, damaged, encrypted or of another kind."""
_MALFORMED = (IndexError, KeyError, TypeError, ValueError, OverflowError, RecursionError)
"""Exceptions of the stack machine for opcodes that make no sense."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A name of the closed set; it is never resolved."""

    text: str


def load_torch_file(path: Path) -> Any:
    """The dicts, lists, tuples, strings, numbers and arrays (one per tensor) of a file written by ``torch.save``.

    Raises:
        TraceError: If the file cannot be read or holds anything else, with the byte of its description.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Machine(archive).run()
    except TraceError as error:
        raise error.at(str(path)) from None
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise TraceError(f"{path}: cannot be read as a torch.save archive ({reason}). Is it a whole .pt file?") from None


class _Machine:
    """The stack machine: a closed table with one method per kind of opcode."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.folder = _folder_of(archive)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "GLOBAL": self._name,
            "BINPERSID": lambda _: self.stack.append(self._storage(self.stack.pop())),
            "REDUCE": self._reduce,
            "TUPLE": lambda _: self.stack.append(tuple(self._since_mark())),
            "TUPLE1": lambda _: self._tuple_of(1),
            "TUPLE2": lambda _: self._tuple_of(2),
            "TUPLE3": lambda _: self._tuple_of(3),
            "APPEND": lambda _: self._extend([self.stack.pop()]),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._set_items([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda _: self._set_items(self._since_mark()),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "BINGET": lambda index: self.stack.append(self.memo[index]),
            "LONG_BINGET": lambda index: self.stack.append(self.memo[index]),
            "PROTO": lambda _: None,
        }

    def run(self) -> Any:
        """The object that ``data.pkl`` describes."""
        if _member(self.archive, f"{self.folder}byteorder", b"little") != b"little":
            raise TraceError(
                "holds big-endian numbers; only little-endian ones can be read. Write it on a little-endian machine."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pickletools decodes what damage made an escape sequence
            return self._play(_member(self.archive, f"{self.folder}data.pkl"))

    def _play(self, description: bytes) -> Any:
        operations = pickletools.genops(description)
        position: int | None = 0
        try:
            for operation, argument, place in operations:
                position = place
                if operation.name == "STOP":
                    (result,) = self.stack
                    return result
                if operation.name in _LITERALS:
                    self.stack.append(_LITERAL_VALUES.get(operation.name, argument))
                elif operation.name in self.steps:
                    self.steps[operation.name](argument)
                else:
                    raise self._refusal(f"the operation {operation.name}")
        except TraceError as error:
            raise error.at(f"byte {position} of data.pkl") from None
        except _MALFORMED:
            raise TraceError(f"byte {position} of data.pkl: is not a valid operation. Is the file damaged?") from None
        raise TraceError("data.pkl: has no end. Is the file damaged?")

    @staticmethod
    def _refusal(what: str) -> TraceError:
        return TraceError(
            f"needs {what}; only tensors, dicts, lists, strings and numbers can be read. Is it a dump of SGLang?"
        )

    def _name(self, argument: str) -> None:
        if argument not in _GLOBALS:
            raise self._refusal(repr(argument.replace(" ", ".")))
        self.stack.append(_Name(argument))

    def _remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _tuple_of(self, size: int) -> None:
        items = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.stack.append(items)

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError
        self.stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise TypeError
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _storage(self, description: Any) -> NDArray[Any]:
        """Numbers of one member, read by the name of their type; the device of the tensor is ignored."""
        kind, name, key, _device, size = description
        if kind != "storage" or not isinstance(name, _Name) or not isinstance(key, str) or not key.isdecimal():
            raise TypeError
        dtype = np.dtype(_STORAGE_TYPES[name.text])
        numbers = np.frombuffer(_member(self.archive, f"{self.folder}data/{key}"), dtype=dtype)
        if type(size) is not int or len(numbers) != size:
            raise TraceError(f"data/{key} holds {len(numbers)} numbers; its description says {size}. Is the file damaged?")
        return numbers

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == _Name(_EMPTY_HOOKS) and arguments == ():
            self.stack.append({})
        elif function == _Name(_REBUILD):
            storage, offset, shape, strides, _requires_grad, _hooks = arguments
            self.stack.append(_tensor(storage, offset, shape, strides))
        else:
            raise self._refusal("a function call")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> NDArray[Any]:
    """A read-only view inside a storage."""
    if not isinstance(storage, np.ndarray) or storage.ndim != 1 or type(shape) is not tuple or type(strides) is not tuple:
        raise TypeError
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise TypeError
    count = math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count > len(storage) or (count and last >= len(storage)):
        raise TraceError(f"a tensor of shape {shape} is larger than its {len(storage)} numbers. Is the file damaged?")
    if not count:
        return np.empty(shape, dtype=storage.dtype)
    bytes_of = [stride * storage.itemsize for stride in strides]
    return as_strided(storage[offset:], shape=shape, strides=bytes_of, writeable=False)


def _folder_of(archive: zipfile.ZipFile) -> str:
    found = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(found) != 1:
        raise TraceError("is a zip archive without one data.pkl. Is it written by torch.save?")
    return found[0].removesuffix("data.pkl")


def _member(archive: zipfile.ZipFile, name: str, default: bytes | None = None) -> bytes:
    """Bytes of a member; torch does not compress members, so their size is bounded by that of the file."""
    if default is not None and name not in archive.namelist():
        return default
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise TraceError(f"{name} is compressed; torch.save does not compress. Is it written by torch.save?")
    return archive.read(name)
