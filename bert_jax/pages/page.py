# SPDX-License-Identifier: Apache-2.0
"""A page as data: sections of parts. `template.write` makes a file of it, which needs no network and no script.

A text is escaped where it is printed; `markupsafe.Markup`, which the functions at the end make, is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import markupsafe

from bert_jax.checks.findings import Finding
from bert_jax.pages.chart import Chart


@dataclass(frozen=True)
class Paragraph:
    """A paragraph. `style` is a CSS class: lede, footnote, absent, muted."""

    words: str
    style: str = ""


@dataclass(frozen=True)
class Tile:
    """A key figure with its unit and a line below it."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """A chart with its heading, the newest values of its curves, and a footnote."""

    title: str
    unit: str
    chart: Chart | None  # None: `missing` says why
    readings: Sequence[tuple[str, str, str]] = ()  # (name, value, CSS class)
    note: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first cell of a row names it."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    style: str = "numbers"  # "numbers": to the right; "words": to the left; more in style.css
    marked: Mapping[int, str] = field(default_factory=dict)  # number of a row -> its CSS class


@dataclass(frozen=True)
class Bar:
    """A share as a horizontal bar, and a second one as an upright mark on it."""

    label: str
    share: float
    text: str  # the share in words
    mark: float | None = None

    @property
    def ends(self) -> tuple[float, float | None]:
        """The bar's length and the place of its mark, in per cent of the width."""
        return 100 * min(self.share, 1.0), None if self.mark is None else 100 * self.mark


@dataclass(frozen=True)
class Bars:
    """Shares, one below the other."""

    bars: Sequence[Bar]


@dataclass(frozen=True)
class Cell:
    """A cell of a confusion matrix."""

    count: int
    share: float  # of its row
    words: str  # shown on pointing at it
    right: bool  # on the diagonal


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix of shaded cells; rows are the truth, columns what is predicted."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    dense: bool  # cells without figures
    note: str


@dataclass(frozen=True)
class Setting:
    """A setting with its meaning; `default` is None where the value is the default."""

    name: str
    value: str
    default: str | None
    help: str


@dataclass(frozen=True)
class Settings:
    """Every setting by section, folded in."""

    groups: Mapping[str, Sequence[Setting]]

    @property
    def rows(self) -> list[Setting]:
        """The settings of all sections."""
        return [row for rows in self.groups.values() for row in rows]

    @property
    def changed(self) -> int:
        """How many settings are not the default."""
        return sum(row.default is not None for row in self.rows)


@dataclass(frozen=True)
class MaskedSlot:
    """A masked position: the true token and the ranked predictions."""

    place: int  # in the sample, from 1
    answer: str
    guesses: Sequence[tuple[str, float]]  # (token, probability)

    @property
    def rank(self) -> int | None:
        """The place of the true token among the predictions, from 1; None where it is not among them."""
        tokens = [token for token, _ in self.guesses]
        return tokens.index(self.answer) + 1 if self.answer in tokens else None


@dataclass(frozen=True)
class Sample:
    """A masked text with its predictions; a piece is a text, a slot, or None where segments meet."""

    pieces: Sequence[str | MaskedSlot | None]
    pair: str = ""  # the predicted label of the pair, as a sentence

    @property
    def slots(self) -> list[MaskedSlot]:
        """The masked positions in their order."""
        return [piece for piece in self.pieces if isinstance(piece, MaskedSlot)]


@dataclass(frozen=True)
class Hard:
    """An example that is predicted wrong; its text is cut into what is before, what is wrong (of tags), and after."""

    name: str
    text: tuple[str, str, str]
    truth: str
    predicted: str
    confidence: str  # in words


@dataclass(frozen=True)
class Card:
    """Parts on a ground of their own, under a heading."""

    parts: Sequence["Part"]
    title: str = ""
    small: str = ""  # behind the title
    style: str = ""


@dataclass(frozen=True)
class Fold:
    """Parts that open on a click on the title."""

    title: str
    small: str
    parts: Sequence["Part"]
    open: bool = False


@dataclass(frozen=True)
class Grid:
    """Cards and panels side by side: "" two columns, "many" as many as fit, "stack" one below the other."""

    parts: Sequence["Part"]
    style: str = ""


Part = Paragraph | Panel | Table | Bars | Matrix | Settings | Sample | Hard | Card | Fold | Grid


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; `name` is the place that a link leads to."""

    name: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """Everything on a page, from top to bottom."""

    title: str  # of the window
    eyebrow: str  # above the name
    name: str
    sections: Sequence[Section]
    footer: str
    status: str = ""
    state: str = ""  # of the status, a CSS class: "" (good), "open", "problem"
    progress: float | None = None  # share that is done
    facts: Sequence[tuple[str, str]] = ()
    findings: Sequence[Finding] = ()
    tiles: Sequence[Tile] = ()
    tiles_note: str = ""


# ---- text with marks -------------------------------------------------------------------------------------------------


def command(text: str) -> markupsafe.Markup:
    """A command to be copied."""
    return markupsafe.Markup('<code class="command">{}</code>').format(text)


def link(target: str, text: str, small: str = "") -> markupsafe.Markup:
    """A link to a page in a folder below, with a smaller text behind it."""
    return beside(markupsafe.Markup('<a href="{}">{}</a>').format(quote(target), text), small)


def below(text: str, small: str) -> markupsafe.Markup:
    """A text with a smaller one in a line below it."""
    return markupsafe.Markup('{}<small class="below">{}</small>').format(text, small)


def beside(text: str, small: str) -> markupsafe.Markup:
    """A text with a smaller one behind it, where that is not empty."""
    behind = markupsafe.Markup(" <small>{}</small>").format(small) if small else ""
    return markupsafe.Markup("{}{}").format(text, behind)


def filled(text: str, *parts: str) -> markupsafe.Markup:
    """A text whose `{}` are filled with Markup, or with what is then escaped."""
    return markupsafe.escape(text).format(*parts)
