# SPDX-License-Identifier: Apache-2.0
"""The page engine: every part is printed, escaped and well-formed; charts have round ticks and bear odd points."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_parts import Html

from bert_jax.checks.findings import Finding, PROBLEM
from bert_jax.pages.chart import (
    around,
    Axis,
    between,
    Chart,
    curve_of,
    Dot,
    from_zero,
    Level,
    logarithmic,
    spread,
    steps_axis,
    svg,
    thin,
    Upright,
)
from bert_jax.pages.page import (
    Bar,
    Bars,
    Card,
    Cell,
    command,
    filled,
    Fold,
    Grid,
    Hard,
    link,
    MaskedSlot,
    Matrix,
    Page,
    Panel,
    Paragraph,
    Sample,
    Section,
    Setting,
    Settings,
    Table,
    Tile,
)
from bert_jax.pages.template import render, write

SLOT = MaskedSlot(1, "file", [("disk", 0.625), ("file", 0.25)])
CHART = Chart(
    "Loss <1>",
    x=steps_axis(100),
    y=around([1.0, 4.0]),
    uprights=[Upright(60, "phase 1")],
    curves=[curve_of([(0, 4.0), (100, 1.5)], "training", "training")],
    level=Level(2.0, "chance"),
)
PARTS = [
    Grid(
        [
            Card([Paragraph("a <b>", "lede")], "Title", "small"),
            Panel("Loss", "nats", CHART, [("newest", "1.5", "training")]),
        ]
    ),
    Fold("Files", "2", [Table(["File", "Bytes"], [("x", "1"), ("y & z", "2")], "numbers", {1: "marked"})]),
    Bars([Bar("share", 0.25, "25 %", 0.5), Bar("all", 1.5, "150 %")]),
    Matrix("caption", ["a", "b"], [("a", [Cell(3, 0.75, "three", True), Cell(1, 0.25, "one", False)])], False, "note"),
    Settings({"model": [Setting("width", "32", "768", "features"), Setting("layers", "2", None, "layers")]}),
    Card([Sample(["the ", SLOT, None, " end"], "The pair.")], style="sample"),
    Card([Hard("dev-1", ("before ", "wrong", " after"), "PER", "ORG", "with 90 %")]),
    Paragraph(filled("Run {} or {}", command("a < b"), link("a b/report.html", "see"))),
    Panel("Nothing", "", None, missing="No step is logged yet."),
]


@pytest.fixture
def page() -> Page:
    finding = Finding(PROBLEM, "Masks", "masking is broken", "a bug", "report it", "bert-jax doctor RUN")
    return Page("title", "eyebrow", "name", [Section("all", "All", PARTS)], "end", "open", "open", 0.5, [("Data", "much")],
                [finding], [Tile("Loss", "1.5", "nats", "of dev")], "below the tiles")  # fmt: skip


def test_every_part_is_printed_and_escaped(page: Page) -> None:
    html = Html(page)
    for words in ("a <b>", "y & z", "not the default", "default 768", "ranked 2", "62.5 %", "The pair."):
        assert words in html.text
    assert "Masks: masking is broken: report it: bert-jax doctor RUN Usual cause: a bug." in html.text
    assert html.links == ["a%20b/report.html"]
    assert html.tags.count("svg") == 1
    assert {"script", "link", "img"}.isdisjoint(html.tags)
    assert re.findall(r'class="bar"><i style="width: (\S+)%"></i>(?:<u style="left: (\S+)%")?', html.source) == [
        ("25.00", "50.00"),
        ("100.00", ""),
    ]


def test_colours_of_charts_follow_the_page(page: Page) -> None:
    """A colour that is written into a chart would be unreadable in dark mode."""
    for drawing in re.findall(r"<svg.*?</svg>", render(page), flags=re.DOTALL):
        assert not re.search(r"#[0-9a-f]{3,6}|rgb|style=|fill=|stroke=", drawing)


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path) -> None:
    path = write(Page("é", "", "first", [], ""), tmp_path / "page.html")
    with pytest.raises(UnicodeEncodeError):
        write(Page("\ud800", "", "second", [], ""), path)
    assert "first" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


# ---- charts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "ends", "ticks"),
    [
        (around([4.66, 8.1]), (4, 9), ["4", "5", "6", "7", "8", "9"]),
        (around([0.5]), (0.5, 1.5), ["0.5", "0.75", "1", "1.25", "1.5"]),
        (around([0.7, 0.7000000000000001]), (0.5, 1.75), ["0.5", "0.75", "1", "1.25", "1.5", "1.75"]),
        (around([1e18]), (1e18, 1.000001e18), None),
        (from_zero([0.25, 2.0]), (0, 2.16), ["0", "0.5", "1", "1.5", "2"]),
        (from_zero([math.nan]), (0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (between(0.45, 1.0), (0.45, 1.0), ["0.6", "0.8", "1"]),
        (logarithmic([0.8, 3.1]), (0.5, 5), ["0.5", "1", "2", "5"]),
        (logarithmic([1e-9, 1e9]), (1e-9, 1e9), None),
        (logarithmic([1.0]), (1, 2), ["1", "2"]),
        (steps_axis(3300), (0, 3300), ["0", "1,000", "2,000", "3,000"]),
        (steps_axis(3), (0, 3), ["0", "1", "2", "3"]),
    ],
)
def test_axes_have_round_ticks(axis: Axis, ends: tuple[float, float], ticks: list[str] | None) -> None:
    assert (axis.low, axis.high) == pytest.approx(ends)
    if ticks is not None:
        assert [text for _, text in axis.ticks] == ticks
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value, _ in axis.ticks)


@pytest.mark.parametrize("points", [[(10, 1.0)], [(10, 0.0), (20, 0.0)], [(10, math.nan)], [(5, 1e-9), (9, 1e9)]])
def test_charts_bear_few_and_odd_points(points: list[tuple[float, float]]) -> None:
    values = [value for _, value in points]
    for axis in (around(values), from_zero(values), logarithmic(values)):
        drawing = svg(
            Chart("odd", steps_axis(20), axis, curves=[curve_of(points, name="odd")], level=Level(1.0, "one"))
        )
        assert drawing.endswith("</svg>")
        assert "nan" not in drawing
        assert "inf" not in drawing


def test_a_curve_lies_where_its_values_are() -> None:
    drawing = svg(
        Chart("", Axis(0, 10, []), Axis(0, 1, []), curves=[curve_of([(0, 0.0), (10, 1.0)])], dots=[Dot(5, 0.5)])
    )
    assert 'class="curve training" d="M58.0 192.0L446.0 22.0"' in drawing
    assert 'cx="252.0" cy="107.0"' in drawing


def test_a_gap_breaks_the_curve() -> None:
    points = [(0, 1.0), (1, 1.0), (2, math.inf), (3, 1.0), (4, 1.0)]
    path = re.search(
        r'class="curve training" d="([^"]*)"',
        svg(Chart("", steps_axis(4), from_zero([1.0]), curves=[curve_of(points)])),
    )
    assert path is not None
    assert path[1].count("M") == 2


def test_thin_keeps_extremes_and_means() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    step, mean, low, high = thin(list(enumerate(values)), most=100)
    assert len(step) == len(mean) == 100
    np.testing.assert_allclose(mean, values.reshape(100, 10).mean(1))
    assert (low.min(), high.max()) == (values.min(), values.max())
    assert np.isnan(thin([(0, 1.0), (1, math.inf)], most=1)[1]).all()


def test_long_curves_are_averaged_in_a_band() -> None:
    curve = curve_of([(step, step % 7) for step in range(5000)])
    assert len(curve.points) == len(curve.band) == 300
    assert all(low <= mean <= high for (_, mean), (_, low, high) in zip(curve.points, curve.band, strict=True))
    assert len(svg(Chart("", steps_axis(5000), from_zero([6.0]), curves=[curve]))) < 20_000


def test_spread_moves_labels_apart_and_no_further() -> None:
    assert spread([10.0, 12.0], gap=14.0) == [4.0, 18.0]
    assert spread([10.0, 40.0], gap=14.0) == [10.0, 40.0]


@pytest.mark.parametrize(
    ("points", "phase", "place"),
    [
        ([(0, 0.1), (10, 0.1)], None, ("446.0", "86.0", "end")),  # free: above, at the right end
        ([(0, 0.1), (8, 0.65), (10, 0.65)], None, ("58.0", "86.0", "start")),  # a curve over the right end
        ([(0, 0.65), (10, 0.65)], None, ("446.0", "104.0", "end")),  # all along above
        ([(0, 0.55), (10, 0.1)], 8, ("446.0", "86.0", "end")),
    ],
)
def test_the_label_of_a_level_covers_no_curve(
    points: list[tuple[float, float]], phase: float | None, place: tuple[str, str, str]
) -> None:
    """The bug: it stands on the curve that it is to be compared with, and neither can be read."""
    uprights = [] if phase is None else [Upright(phase, "phase 1")]
    chart = Chart("", Axis(0, 10, []), Axis(0, 1, []), uprights=uprights, level=Level(0.6, "chance"))
    drawing = svg(replace(chart, curves=[curve_of(points)]))
    assert re.findall(r'x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">chance', drawing) == [place]


def test_the_label_of_a_phase_is_left_out_where_it_would_cover_another() -> None:
    """The bug: phases that follow each other closely had their names on top of each other."""
    uprights = [Upright(4.0, "64 tokens"), Upright(4.6, "32 tokens"), Upright(9.0, "64 rows")]
    drawing = svg(Chart("", Axis(0, 10, []), Axis(0, 1, []), curves=[curve_of([(0, 0), (10, 1)])], uprights=uprights))
    assert drawing.count('class="phase"') == 3
    assert [name in drawing for name in ("64 tokens", "32 tokens", "64 rows")] == [True, False, True]
