"""Quantities with units, parsed and printed; SI inside (seconds, bytes, bytes per second).

Own code, because libraries misread the usual spelling of network rates: pint reads ``400 Gb/s`` as gilbert per second,
``pydantic.ByteSize`` reads ``400Gb`` as bytes. Here the table is closed, a bare number is refused, and so is ``400G``,
which could be bits or bytes.

Example:
    >>> parse_bandwidth("400 Gb/s") == parse_bandwidth("50 GB/s") == 50e9
    True
    >>> parse_size("64 MiB")
    67108864.0
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_PREFIXES = _DECIMAL | _BINARY
_DATA = {f"{prefix}B": float(factor) for prefix, factor in _PREFIXES.items()} | {
    f"{prefix}{bit}": factor / 8 for prefix, factor in _PREFIXES.items() for bit in ("b", "bit")
}
_TIME = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
_ARRIVALS = {"/s": 1.0}
_RATE = {f"{unit}{per}": factor for unit, factor in _DATA.items() for per in ("/s", "ps")}
_FLOPS = {f"{prefix}FLOPS": float(10**power) for prefix, power in (("", 0), ("G", 9), ("T", 12), ("P", 15))}
_NCCL_SIZE = re.compile(r"\s*(\d+\.?\d*|\.\d+)\s*([kKmMgG]?)\s*")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S*)\s*")


def _parse(value: Any, table: dict[str, float], kind: str, example: str) -> float:
    """The SI value of a string of a number and a unit of ``table``; ValueError with what to write instead."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not {kind}. Write {example}.")
    if not isinstance(value, str):
        raise ValueError(f"{value} has no unit of {kind}. Write {example}.")
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise ValueError(f'"{value}" is not a number and a unit of {kind}. Write {example}.')
    number, unit = float(match[1]), match[2]
    if unit not in table:
        problem = "has no unit" if unit in _PREFIXES else f'has the unknown unit "{unit}", not one'
        raise ValueError(f'"{value}" {problem} of {kind}. Write {example}.')
    if not math.isfinite(number * table[unit]):
        raise ValueError(f'"{value}" is not finite. Write {example}.')
    if number < 0:
        raise ValueError(f'"{value}" is negative; {kind} must be >= 0. Write {example}.')
    return number * table[unit]


def parse_bandwidth(value: Any) -> float:
    """Bytes per second of a string such as ``400 Gb/s`` or ``50 GB/s``; ValueError without a unit or for zero."""
    result = _parse(value, _RATE, "bandwidth", '"400 Gb/s" or "50 GB/s"')
    if result <= 0:
        raise ValueError(f'"{value}" is zero; bandwidth must be > 0. Leave the link out if there is none.')
    return result


def parse_duration(value: Any) -> float:
    """Seconds of a string such as ``3 us`` or ``0 us``; ValueError without a unit."""
    return _parse(value, _TIME, "time", '"3 us" or "1.5 ms"')


def parse_arrivals(value: Any) -> float:
    """Requests per second of a string such as ``2/s``; ValueError without a unit or for zero."""
    result = _parse(value, _ARRIVALS, "arrivals", '"2/s"')
    if result <= 0:
        raise ValueError(f'"{value}" is zero; a rate of arrivals must be > 0. Write "2/s".')
    return result


def parse_size(value: Any) -> float:
    """Bytes of a string such as ``64 MiB`` (2**20) or ``64 MB`` (10**6); ValueError without a unit."""
    return _parse(value, _DATA, "data", '"64 MiB" or "64 MB"')


def parse_message_size(value: Any) -> float:
    """Bytes of a message, read as :func:`parse_size` does or as nccl-tests does.

    nccl-tests (``parsesize`` in src/common.cu) takes a number of bytes, or one followed by K, M or G in either case, which
    are powers of two. Files need a full unit, because ``64M`` alone could be decimal.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_message_size("64M") == parse_message_size("64 MiB") == parse_message_size(67108864)
        True
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return parse_size(f"{value!r} B")
    match = _NCCL_SIZE.fullmatch(value) if isinstance(value, str) else None
    return parse_size(f"{match[1]} {match[2].upper() + 'iB' if match[2] else 'B'}" if match else value)


def parse_flops(value: Any) -> float:
    """Floating-point operations per second of a string such as ``989 TFLOPS``."""
    return _parse(value, _FLOPS, "compute rate", '"989 TFLOPS"')


def _print(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    """``value`` in the largest unit of which it is at least 1 and that parses back exactly, else in the last one."""
    for factor, unit in steps:
        if value >= factor and float(f"{value / factor:.15g}") * factor == value:
            return f"{value / factor:.15g} {unit}"
    return f"{float(value)!r} {steps[-1][1]}"


def print_bandwidth(value: float) -> str:
    """``50e9`` as ``50 GB/s``; parses back to the same float."""
    return _print(value, ((1e9, "GB/s"), (1e6, "MB/s"), (1.0, "B/s")))


def print_duration(value: float) -> str:
    """``3e-6`` as ``3 us``; parses back to the same float."""
    return _print(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1.0, "s")))


def print_arrivals(value: float) -> str:
    """``2.0`` as ``2/s``; parses back to the same float."""
    return f"{value:.15g}/s" if float(f"{value:.15g}") == value else f"{value!r}/s"


def print_size(value: float) -> str:
    """``67108864`` as ``64 MiB``; parses back to the same float."""
    return _print(value, ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")))


def print_flops(value: float) -> str:
    """``989e12`` as ``989 TFLOPS``; parses back to the same float."""
    return _print(value, ((1e12, "TFLOPS"), (1e9, "GFLOPS"), (1.0, "FLOPS")))


def _string_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": list(examples)})


Bandwidth = Annotated[
    float, BeforeValidator(parse_bandwidth), PlainSerializer(print_bandwidth), _string_schema("400 Gb/s", "50 GB/s")
]
Duration = Annotated[
    float, BeforeValidator(parse_duration), PlainSerializer(print_duration), _string_schema("3 us", "1.5 ms")
]
Arrivals = Annotated[float, BeforeValidator(parse_arrivals), PlainSerializer(print_arrivals), _string_schema("2/s")]
Size = Annotated[float, BeforeValidator(parse_size), PlainSerializer(print_size), _string_schema("64 MiB", "64 MB")]
Flops = Annotated[float, BeforeValidator(parse_flops), PlainSerializer(print_flops), _string_schema("989 TFLOPS")]
