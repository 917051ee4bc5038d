"""The example of docs/how-to/capture.md runs and prints what the page says, up to the last digits."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="transformers missing: pip install 'smoes-sim[capture]'")

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "capture.md"


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_prints_what_the_page_says() -> None:
    printed = io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(printed):
        exec(compile(block("example"), "docs/how-to/capture.md", "exec"), {})
    torch.set_num_threads(threads)
    number = r"\d+\.\d+"
    found, wanted = printed.getvalue(), block("output")
    assert re.sub(number, "x", found) == re.sub(number, "x", wanted)
    pairs = zip(re.findall(number, found), re.findall(number, wanted), strict=True)
    assert all(float(one) == pytest.approx(float(other), abs=0.15) for one, other in pairs)
