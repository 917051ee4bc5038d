"""The table of packages and layers on the page of the architecture, from .importlinter and the packages' docstrings."""

from __future__ import annotations

import configparser
import inspect
from pathlib import Path

from markdown import cell, table

ROOT = Path(__file__).parents[2]


def layers() -> list[list[str]]:
    """Module names by layer, the top layer first."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    lines = parser["importlinter:contract:layers"]["layers"].split("\n")
    names = [[name.strip(" ()") for name in line.replace(":", "|").split("|")] for line in lines if line.strip()]
    return [[name for name in line if name] for line in names]


def first_line(module: str) -> str:
    """The first line of a package's docstring, from its source, so that nothing heavy is imported."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = compile(file.read_text(encoding="utf-8"), str(file), "exec", dont_inherit=True).co_consts[0]
    return cell(inspect.cleandoc(found).partition("\n")[0]) if isinstance(found, str) else ""


def layer_pages() -> dict[str, str]:
    """The table, which the page of the architecture includes."""
    rows = []
    for level, names in enumerate(layers(), start=1):
        rows += [[str(level) if i == 0 else "", f"`{name}`", first_line(name)] for i, name in enumerate(names)]
    header = ["layer", "package", "first line of its docstring"]
    return {"packages.md": f"---\norphan: true\n---\n\n# Packages\n\n<!-- table -->\n\n{table(header, rows)}"}
