"""The template of all pages: one HTML file that needs no other file, with every value escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smoes_sim.errors import ConfigError
from smoes_sim.yaml_files import write_bytes

_TEMPLATES = Path(__file__).parent / "templates"


def check_page_file(path: Path) -> None:
    """Refuse a page that cannot be written, before the work.

    Raises:
        ConfigError: If its name does not end in .html, or the report extra is not installed.
    """
    if path.suffix != ".html":
        raise ConfigError(f'{path}: ends in "{path.suffix}": a report is one HTML file. Write for example report.html.')
    _environment()


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template of the folder ``templates`` and write the page.

    Every value is escaped except pictures, which are ``markupsafe.Markup``.

    Raises:
        ConfigError: If the report extra is not installed or the file cannot be written.
    """
    page = _environment().get_template(template).render(**values)
    write_bytes(path, page.encode())


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, words: Sequence[int] = ()) -> str:
    """A table as HTML, every cell escaped.

    Args:
        header: Names of the columns.
        rows: Cells.
        left: Number of leading columns that are aligned to the left.
        words: Indices of columns of running text.
    """
    return str(_environment().get_template("table.html").module.table(header, rows, left=left, words=words))


def picture(svg: str) -> Any:
    """An SVG drawn by this package, put into a page without escaping."""
    from markupsafe import Markup

    return Markup(svg)  # drawn by this package, which escapes its text


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise ConfigError("pages need the report extra. Install it with: pip install 'smoes-sim[report]'") from None
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
