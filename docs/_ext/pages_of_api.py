"""Pages of the Python API: a summary and one page for each public name."""

from __future__ import annotations

import inspect

from markdown import cell, table

import smoes_sim


def public_names() -> list[str]:
    """The public names, without dunder names."""
    return [name for name in getattr(smoes_sim, "__all__", []) if not name.startswith("_")]


def first_line(name: str) -> str:
    """First line of the docstring."""
    return cell((inspect.getdoc(getattr(smoes_sim, name)) or "").partition("\n")[0])


def page(name: str) -> str:
    """The page of one name."""
    found = getattr(smoes_sim, name)
    directive = "autoclass" if inspect.isclass(found) else "autofunction"
    return f"# {name}\n\n```{{eval-rst}}\n.. {directive} :: smoes_sim.{name}\n```\n".replace(" ::", "::")


def api_pages() -> dict[str, str]:
    """The summary and all pages."""
    names = public_names()
    classes = [name for name in names if inspect.isclass(getattr(smoes_sim, name))]
    parts = ["# Python API", "`import smoes_sim as ss` gives the names below; importing it loads no heavy library.\n"]
    for title, members in (("Functions", [n for n in names if n not in classes]), ("Classes", classes)):
        if members:
            rows = [[f"[{name}](api-{name}.md)", first_line(name)] for name in members]
            parts += [f"## {title}", table(["name", "what"], rows)]
    if names:
        parts.append("```{toctree}\n:hidden:\n\n" + "\n".join(f"api-{name}" for name in names) + "\n```")
    return {"api.md": "\n\n".join(parts) + "\n"} | {f"api-{name}.md": page(name) for name in names}
