"""Tables as text and HTML."""

from __future__ import annotations

from smoes_sim.display.tables import Table, as_html, as_text, seconds, size, time_column


def test_columns_are_aligned_and_the_title_stands_above():
    table = Table(title="T", header=["name", "x"], rows=[["a", "1"], ["long", "22"]])
    assert as_text([table]) == "T\nname   x\na      1\nlong  22\n"


def test_a_table_wider_than_the_terminal_numbers_its_rows():
    table = Table(header=["one", "two", "x"], rows=[["a" * 10, "b" * 10, "1"], ["c", "d", "2"]], left=2)
    assert as_text([table], width=20).splitlines() == [
        "row  one         two",
        "1    aaaaaaaaaa  bbbbbbbbbb",
        "2    c           d",
        "row  x",
        "1    1",
        "2    2",
    ]


def test_html_escapes_every_cell_title_and_note():
    text = as_html([Table(title="<t>", header=["<h>"], rows=[["<script>"]], notes=["<n>"])])
    assert "<script>" not in text
    assert all(f"&lt;{word}&gt;" in text for word in ("t", "h", "script", "n"))


def test_quantities_have_the_unit_of_which_they_hold_at_least_one():
    assert [seconds(value) for value in (2.0, 0.5, 2e-5, 5e-8, 0.0, None)] == [
        "2 s",
        "500 ms",
        "20 us",
        "0.05 us",
        "0 s",
        "-",
    ]
    assert [size(value) for value in (5.0, 2e3, 743604224.0, 0.0)] == ["5 B", "2 kB", "743.6 MB", "0 B"]


def test_a_column_of_times_has_one_unit_in_which_no_cell_is_below_one():
    unit, form = time_column([12.0, 0.5, None, 0.0])
    assert unit == "ms"
    assert [form(value) for value in (12.0, 0.5)] == ["12000", "500"]


def test_the_last_column_of_words_is_wrapped():
    table = Table(header=["name", "what"], rows=[["a", "one two three four five"]], words=1)
    assert as_text([table], width=18).splitlines() == ["name  what", "a     one two", "      three four", "      five"]
