from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoes_sim import units
from smoes_sim.units import parse_bandwidth, parse_duration, parse_flops, parse_message_size, parse_size

KINDS = {
    "bandwidth": (parse_bandwidth, units.print_bandwidth, '"400 Gb/s" or "50 GB/s"'),
    "time": (parse_duration, units.print_duration, '"3 us" or "1.5 ms"'),
    "data": (parse_size, units.print_size, '"64 MiB" or "64 MB"'),
    "arrivals": (units.parse_arrivals, units.print_arrivals, '"2/s"'),
    "compute rate": (parse_flops, units.print_flops, '"989 TFLOPS"'),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def test_400_gigabits_a_second_are_50_gigabytes_a_second():
    # 400e9 bits / 8 bits a byte = 50e9 bytes
    assert parse_bandwidth("400 Gb/s") == parse_bandwidth("50 GB/s") == 50e9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("400 Gbit/s", 50e9),
        ("400Gbps", 50e9),
        ("50 GBps", 50e9),
        ("  50   GB/s ", 50e9),
        ("5e1 GB/s", 50e9),
        (".5 TB/s", 500e9),
        ("8 Kib/s", 1024.0),  # 8 * 1024 bits
        ("8 b/s", 1.0),
        ("1 kB/s", 1000.0),
        ("1 KB/s", 1000.0),
    ],
)
def test_every_spelling_of_a_bandwidth_is_read(text, expected):
    assert parse_bandwidth(text) == expected


def test_binary_and_decimal_sizes_differ():
    assert parse_size("64 MiB") == 64 * 2**20
    assert parse_size("64 MB") == 64 * 10**6
    assert parse_size("8 Mib") == 2**20


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("64M", 64 * 2**20),
        ("64m", 64 * 2**20),
        ("1G", 2**30),
        ("8K", 8192),
        ("0.5 g", 2**29),
        ("1024", 1024),
        (1024, 1024),
        (1.5, 1.5),
        ("64 MiB", 64 * 2**20),
        ("64 MB", 64 * 10**6),
    ],
)
def test_message_sizes_are_read_as_nccl_tests_does_or_with_their_full_unit(value, expected):
    assert parse_message_size(value) == expected


@pytest.mark.parametrize("value", ["64T", "64 Mx", "M", "", "-64M", -1, math.nan, math.inf, True, None])
def test_what_nccl_tests_would_not_read_is_no_message_size(value):
    with pytest.raises(ValueError, match=r'Write "64 MiB" or "64 MB"\.'):
        parse_message_size(value)


def test_a_size_in_a_file_needs_its_full_unit():
    with pytest.raises(ValueError, match=r'"64M" has no unit of data'):
        parse_size("64M")


def test_times_are_read_in_seconds():
    values = [parse_duration(text) for text in ("2 s", "1.5 ms", "3 us", "7 ns", "0 us")]
    assert values == pytest.approx([2.0, 1.5e-3, 3e-6, 7e-9, 0.0], rel=1e-15)


def test_compute_rates_are_read_in_operations_a_second():
    assert [parse_flops(f"2 {unit}") for unit in ("GFLOPS", "TFLOPS", "PFLOPS")] == [2e9, 2e12, 2e15]


def test_400g_is_refused_because_it_could_be_bits_or_bytes():
    with pytest.raises(ValueError, match=r'"400G" has no unit of bandwidth. Write "400 Gb/s" or "50 GB/s"\.'):
        parse_bandwidth("400G")


@every_kind
@pytest.mark.parametrize("value", [3, 3.5, 0, math.nan, math.inf, np.float64(3.0)])
def test_a_bare_number_is_refused(kind, value):
    parse, _, example = KINDS[kind]
    with pytest.raises(ValueError, match=rf"^{value} has no unit of {kind}. Write {example}\.$"):
        parse(value)


@every_kind
@pytest.mark.parametrize("value", [True, None, [1], {}])
def test_what_is_no_quantity_at_all_is_refused(kind, value):
    parse, _, _ = KINDS[kind]
    with pytest.raises(ValueError, match=f"is not {kind}. Write") as caught:
        parse(value)
    assert str(caught.value).startswith(repr(value))


@every_kind
@pytest.mark.parametrize("text", ["nan s", "inf s", "", "GB/s", "1,5 ms", "1 2 s", "0x10 B"])
def test_text_that_is_no_number_and_unit_is_refused(kind, text):
    parse, _, _ = KINDS[kind]
    with pytest.raises(ValueError, match=rf'^"{text}" is not a number and a unit of {kind}\. Write'):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text", "unit"),
    [
        (parse_bandwidth, "400 gb/s", "gb/s"),
        (parse_bandwidth, "400 Gb", "Gb"),
        (parse_bandwidth, "5 s", "s"),
        (parse_duration, "5 min", "min"),
        (parse_duration, "5 B", "B"),
        (parse_size, "5 GB/s", "GB/s"),
        (parse_flops, "5 TFLOP", "TFLOP"),
    ],
)
def test_a_unit_of_another_kind_is_refused(parse, text, unit):
    with pytest.raises(ValueError, match=f'"{text}" has the unknown unit "{unit}", not one of'):
        parse(text)


@pytest.mark.parametrize(("parse", "text"), [(parse_bandwidth, "-1 GB/s"), (parse_duration, "-3 us"), (parse_size, "-1 B")])
def test_a_negative_quantity_is_refused(parse, text):
    with pytest.raises(ValueError, match=rf'^"{text}" is negative; [a-z]+ must be >= 0\. Write'):
        parse(text)


def test_an_infinite_quantity_is_refused():
    with pytest.raises(ValueError, match='"1e400 B" is not finite'):
        parse_size("1e400 B")
    with pytest.raises(ValueError, match='"1e300 TB/s" is not finite'):
        parse_bandwidth("1e300 TB/s")


@pytest.mark.parametrize("text", ["0 GB/s", "0.0 b/s", "-0 GB/s"])
def test_zero_bandwidth_is_refused_but_zero_time_and_size_are_not(text):
    with pytest.raises(ValueError, match=f'"{text}" is zero; bandwidth must be > 0. Leave the link out'):
        parse_bandwidth(text)
    assert parse_duration("0 us") == parse_size("0 B") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.print_bandwidth(50e9), "50 GB/s"),
        (units.print_bandwidth(1.5e6), "1.5 MB/s"),
        (units.print_bandwidth(7.0), "7 B/s"),
        (units.print_duration(3e-6), "3 us"),
        (units.print_duration(0.0015), "1.5 ms"),
        (units.print_duration(2.0), "2 s"),
        (units.print_size(67108864.0), "64 MiB"),
        (units.print_size(1536.0), "1.5 KiB"),
        (units.print_flops(989e12), "989 TFLOPS"),
    ],
)
def test_quantities_print_in_the_unit_people_use(text, expected):
    assert text == expected


@every_kind
@given(value=st.floats(min_value=0, max_value=1e30, exclude_min=True, allow_subnormal=False))
def test_printing_reads_back_as_the_same_float(kind, value):
    parse, show, _ = KINDS[kind]
    assert parse(show(value)) == value


@every_kind
@given(number=st.integers(1, 10**7), exponent=st.integers(-9, 15))
def test_printing_a_round_number_reads_back_as_the_same_float(kind, number, exponent):
    parse, show, _ = KINDS[kind]
    assert parse(show(number * 10.0**exponent)) == number * 10.0**exponent


@every_kind
def test_a_numpy_float_prints_as_a_number(kind):
    parse, show, _ = KINDS[kind]
    assert parse(show(np.float64(0.1))) == 0.1
