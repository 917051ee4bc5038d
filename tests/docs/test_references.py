"""Every name that a docstring refers to exists, such as ``smoes_sim.network.Network`` in a ``:class:`` role."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "smoes_sim").rglob("*.py"))
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc|obj):`~?([\w.]+)`")


def has(owner: object, names: list[str]) -> bool:
    """Whether ``owner.a.b`` exists; fields of a class count."""
    for name in names:
        if name in getattr(owner, "model_fields", {}) or name in getattr(owner, "__dataclass_fields__", {}):
            return True
        if not hasattr(owner, name):
            return False
        owner = getattr(owner, name)
    return True


def is_known(name: str, module: ModuleType) -> bool:
    """Whether a name is absolute, of the module, of one of its classes, or public."""
    parts = name.split(".")
    if parts[0] == "smoes_sim":
        for length in range(len(parts), 0, -1):
            try:
                return has(importlib.import_module(".".join(parts[:length])), parts[length:])
            except ModuleNotFoundError:
                continue
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return any(has(owner, parts) for owner in (module, *classes, importlib.import_module("smoes_sim")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_docstrings_exist(path: Path) -> None:
    names = set(_ROLE.findall(path.read_text(encoding="utf-8")))
    if not names:
        return
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert [name for name in sorted(names) if not is_known(name, found)] == []
