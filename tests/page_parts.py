# SPDX-License-Identifier: Apache-2.0
"""What is on a page, for tests: its parts as data, and its HTML parsed strictly."""

from collections.abc import Iterator
from html.parser import HTMLParser

import markupsafe

from bert_jax.pages.page import Bar, Bars, Card, Fold, Grid, Page, Panel, Part, Section, Table
from bert_jax.pages.template import render


def plain(text: str) -> str:
    """A text as one reads it: no tags, no characters that only keep lines together."""
    words = text.striptags() if isinstance(text, markupsafe.Markup) else text
    return words.replace("\N{NO-BREAK SPACE}", " ")


def section(page: Page, name: str) -> Section:
    """The section of that name."""
    return next(part for part in page.sections if part.name == name)


def parts(item: Page | Section | Part) -> Iterator[Part]:
    """All parts in a page, a section or a part, outer ones first."""
    if isinstance(item, Page):
        for inner in item.sections:
            yield from parts(inner)
    elif isinstance(item, Section | Card | Fold | Grid):
        for inner in item.parts:
            yield inner
            yield from parts(inner)


def tables(item: Page | Section) -> list[dict[str, list[str]]]:
    """The rows of each table: first cell -> the others."""
    found = [part.rows for part in parts(item) if isinstance(part, Table)]
    return [{plain(row[0]): [plain(cell) for cell in row[1:]] for row in table} for table in found]


def bars(item: Page | Section) -> dict[str, Bar]:
    """The bars by their labels."""
    return {bar.label: bar for part in parts(item) if isinstance(part, Bars) for bar in part.bars}


def rows(item: Page | Section) -> dict[str, list[str]]:
    """The rows of all tables, and the words of all bars, by their first cell or label."""
    found = {label: [plain(bar.text)] for label, bar in bars(item).items()}
    for table in tables(item):
        found |= table
    return found


def panels(item: Page | Section) -> dict[str, Panel]:
    """The panels by their titles."""
    return {part.title: part for part in parts(item) if isinstance(part, Panel)}


def readings(panel: Panel) -> dict[str, str]:
    """The newest values of a panel's curves."""
    return {name: plain(value) for name, value, _ in panel.readings}


def tiles(page: Page) -> dict[str, tuple[str, str, str]]:
    """The key figures: label -> (value, unit, note)."""
    return {plain(tile.label): (tile.value, tile.unit, plain(tile.note)) for tile in page.tiles}


class Html(HTMLParser):
    """Visible text, tags and links of a page; a tag that closes another one is an error."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.source = render(page)
        self.words: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        """The visible text, white space made single."""
        return " ".join(" ".join(self.words).split())

    def stands_alone(self) -> bool:
        """Whether it needs no network, no script and no other file."""
        loaded = {"script", "img", "iframe", "link", "object"} & set(self.tags)
        return not loaded and not self.links and "@import" not in self.source and "url(" not in self.source
