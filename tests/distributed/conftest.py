"""Everything here needs torch and skips, with a reason, without it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

_MISSING = [name for name in ("torch",) if find_spec(name) is None]


class _Skipped(pytest.Module):
    """A test file that is not imported."""

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        pytest.skip("torch missing: pip install 'smoes-sim[torch]'")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return _Skipped.from_parent(parent, path=module_path) if _MISSING else None
