"""Sphinx extension: writes the generated pages of the reference into docs/reference/generated before a build.

The pages are derived from the package: file formats from the JSON schemas, commands from the typer application, the
Python API from ``smoes_sim.__all__``, lists from the shipped data. They are not committed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pages_of_api import api_pages
from pages_of_catalogue import catalogue_pages
from pages_of_commands import command_pages
from pages_of_files import file_pages
from pages_of_layers import layer_pages

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def generated_pages() -> dict[str, str]:
    """All generated pages: file name to Markdown."""
    return api_pages() | command_pages() | file_pages() | catalogue_pages() | layer_pages()


def write_pages(app: Sphinx) -> None:
    """Write the pages; a page that has not changed keeps its time, so that it is not built again."""
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    pages = generated_pages()
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in set(folder.glob("*.md")) - {folder / name for name in pages}:
        path.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hook."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
