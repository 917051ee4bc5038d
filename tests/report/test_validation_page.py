import re
from pathlib import Path
from typing import Any

import pytest
from report.outline import assert_stands_alone, outline_of

from smoes_sim.errors import ConfigError
from smoes_sim.report.page import check_page_file
from smoes_sim.report.validation_page import write_validation_page
from smoes_sim.validation.errors import ErrorSummary, SkippedRow, ValidatedRow
from smoes_sim.validation.result import CalibrationSource, Validation


def row(name: str, error: float, **changes: Any) -> ValidatedRow:
    measured = 1e-3
    fields = {
        "id": name, "family": "alltoall, direct", "system": "star", "ranks": 4, "size_bytes": 1e6, "measured_s": measured,
        "predicted_s": measured * (1 + error), "low_s": 0.9e-3, "high_s": 1.1e-3, "inside": True, "relative_error": error,
        "repeatability": None, "in_sample": False, "doubt": "",
    }  # fmt: skip
    return ValidatedRow(**fields | changes)


def validation(rows: list[ValidatedRow]) -> Validation:
    errors = ErrorSummary(n=2, median_ape=0.015, mape=0.015, p90_ape=0.019, max_ape=0.02, coverage=1.0)
    known = CalibrationSource(
        rows=1, data_hash="", same_file=False, command="smoes-sim calibrate <rows>", open=("per_message",)
    )
    return Validation(
        families={"alltoall, direct": errors}, systems={"star": errors}, in_sample={"sendrecv": errors}, rows=tuple(rows),
        unmeasured=(), skipped=(SkippedRow(id="z", reason="mode <b> needs a library model"),), repeatability=None,
        calibrated_on=known,
    )  # fmt: skip


ROWS = [row("<script>alert(1)</script>", 0.02, doubt="<i>why</i>"), row("b", -0.01), row("c", 0.5, in_sample=True)]


def test_the_page_needs_nothing_else_and_escapes_everything(tmp_path: Path) -> None:
    write_validation_page(validation(ROWS), tmp_path / "p.html", measurements="<x>.csv", calibration="c.json")
    assert_stands_alone(tmp_path / "p.html")
    text, tags = (tmp_path / "p.html").read_text(), outline_of(tmp_path / "p.html").tags
    assert {"i", "b", "rows"}.isdisjoint(tags)
    assert tags.count("svg") == 5
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;i&gt;why&lt;/i&gt;" in text


def test_the_answer_comes_first_and_fitted_rows_are_not_among_the_worst(tmp_path: Path) -> None:
    write_validation_page(validation(ROWS), tmp_path / "p.html", measurements="rows.csv", calibration="c.json")
    text = (tmp_path / "p.html").read_text()
    answer = re.search(r'class="answer">([^<]*)<', text)
    assert answer
    assert answer[1] == (
        "The median error is 1.5 % for alltoall, direct (2 rows); 100.0 % of 2 measurements lie inside their 80% interval."
    )
    worst = text.partition("Largest errors")[2].partition("In-sample")[0]
    assert "+2.0" in worst
    assert "+50.0" not in worst
    assert "5-12% between sites" in text


def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_validation_page(validation(ROWS), tmp_path / name, measurements="rows.csv", calibration="")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_page_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no row could be predicted"):
        write_validation_page(validation([]), tmp_path / "p.html", measurements="rows.csv", calibration="")
    assert not (tmp_path / "p.html").exists()
    with pytest.raises(ConfigError, match=r'p\.pdf: ends in "\.pdf": a report is one HTML file'):
        check_page_file(tmp_path / "p.pdf")
