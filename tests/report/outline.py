"""What a page is made of, for tests: its tags, and what a browser would fetch or run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path


class Outline(HTMLParser):
    """What a page is made of.

    Attributes:
        tags: Names of all elements.
        fetched: Addresses of pictures, links, frames.
        handlers: Names of attributes that run something.
        words: All text in the order of the page.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset", "action"}]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(" ".join(data.split()))


def outline_of(path: Path) -> Outline:
    """The outline of a page."""
    outline = Outline()
    outline.feed(path.read_text(encoding="utf-8"))
    return outline


def assert_stands_alone(path: Path) -> None:
    """Nothing on the page is fetched or run, and its own rules forbid both."""
    text, outline = path.read_text(encoding="utf-8"), outline_of(path)
    assert {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image"}.isdisjoint(outline.tags)
    assert outline.fetched == []
    assert outline.handlers == []
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    assert "default-src 'none'" in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids)
