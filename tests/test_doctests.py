"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from shared_predictions import predictions_made_once

PACKAGE = Path(__file__).parents[1] / "smoes_sim"
NEEDS_TORCH = (["learning"], ["distributed"])
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>>" in path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("name", [name_of(path) for path in WITH_EXAMPLES])
def test_examples_of_a_module_print_what_they_say(name):
    if name.split(".")[1:2] in NEEDS_TORCH:
        pytest.importorskip("torch")
    with predictions_made_once():
        found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
