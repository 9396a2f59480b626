# SPDX-License-Identifier: Apache-2.0
"""How a chart is drawn: axes over the optimizer steps, curves, their labels, and the SVG that stands in the page.

Colours become CSS variables of the page, so one drawing serves light and dark.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import markupsafe
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bert_jax.pages.wording import SPACE

Points = Sequence[tuple[float, float]]  # (optimizer step, value)
Transform = Callable[[Any], Any]  # of the values before they are drawn

WIDTH, HEIGHT = 480, 236  # user units of the drawing; the page scales it
TEXT_SIZE = 11
MOST_POINTS = 300  # of a curve; longer ones are averaged
LABEL_GAP = 15  # user units between two labels, enough for the larger text of a narrow screen

# What matplotlib draws with, and the page's CSS variable it becomes.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
TRAINING, HELD_OUT, REFERENCE = "#040404", "#050505", "#060606"
CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    TRAINING: "--training",
    HELD_OUT: "--held-out",
    REFERENCE: "--reference",
}


@dataclass(frozen=True)
class Steps:
    """The horizontal axis: optimizer steps from 0 to `last`, and where later phases begin."""

    last: int
    phases: tuple[tuple[int, str], ...] = ()  # (first step of the phase, its label)


def blank_chart(steps: Steps, percentages: bool = False, names: bool = True) -> tuple[Any, Any]:
    """A figure with the steps below and marks where phases begin; at its right room for the `names` of curves."""
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
    left, bottom, top, right = 58, 44, 22, 68 if names else 34
    box = (left / WIDTH, bottom / HEIGHT, (WIDTH - left - right) / WIDTH, (HEIGHT - bottom - top) / HEIGHT)
    axes = figure.add_axes(box)
    axes.set_xlim(0, max(steps.last, 1))
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(REFERENCE)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=TEXT_SIZE, length=0, pad=6)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(_percent_tick if percentages else _tick))
    axes.set_xlabel("optimizer steps", color=MUTED, fontsize=TEXT_SIZE, labelpad=5)
    _mark_phases(axes, steps)
    return figure, axes


def _tick(value: float, _: int) -> str:
    return f"{value:,.10g}"


def _percent_tick(value: float, _: int) -> str:
    return f"{100 * value:.4g}{SPACE}%"


def _mark_phases(axes: Any, steps: Steps) -> None:
    for begin, label in steps.phases:
        late = begin > steps.last / 2
        axes.axvline(begin, color=REFERENCE, linewidth=1, dashes=(1, 2))
        axes.text(
            begin, 1.03, label, transform=axes.get_xaxis_transform(), color=MUTED, fontsize=TEXT_SIZE,
            horizontalalignment="right" if late else "left", parse_math=False,
        )  # fmt: skip


# ---- the vertical axis ----------------------------------------------------------------------------------------------


def round_ticks(axes: Any, values: Sequence[float | None]) -> None:
    """A vertical axis around the values that begins and ends on a tick."""
    finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
    ticks = axes.yaxis.get_major_locator().tick_values(
        min(finite), max(finite) if max(finite) > min(finite) else min(finite) + 1
    )
    axes.set_yticks(ticks)
    axes.set_ylim(ticks[0], ticks[-1])


def start_at_zero(axes: Any, values: Sequence[float]) -> None:
    """A vertical axis from 0 to a little above the values."""
    highest = max((value for value in values if math.isfinite(value)), default=0)
    axes.set_ylim(0, 1.08 * highest if highest > 0 else 1)


def logarithmic(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis between round numbers (1, 2, 5, 10 ...) around the values."""
    positive = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    low, high = _round_number(min(positive), down=True), _round_number(max(positive), down=False)
    axes.set_yscale("log")
    axes.set_ylim(low, high if high > low else 2 * low)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low <= 1000 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.minorticks_off()


def _round_number(value: float, down: bool) -> float:
    """The nearest of 1, 2, 5 times a power of ten below or above."""
    scale = 10.0 ** math.floor(math.log10(value))
    choices = [factor * scale for factor in (1, 2, 5, 10)]
    if down:
        return max(choice for choice in choices if choice <= value * 1.000001)
    return min(choice for choice in choices if choice >= value * 0.999999)


# ---- curves and their labels ----------------------------------------------------------------------------------------


def _unchanged(values: Any) -> Any:
    return values


def draw_pair(
    axes: Any,
    training: Points,
    held_out: Points,
    reference: float | None,
    label: str,
    transform: Transform = _unchanged,
    names: tuple[str, str] = ("training", "held-out"),
) -> None:
    """Both curves with their `names` at their right ends, and a dashed line at `reference`."""
    curves = [(names[0], training, TRAINING), (names[1], held_out, HELD_OUT)]
    drawn = [(name, points, colour) for name, points, colour in curves if points]
    for _, points, colour in drawn:
        draw(axes, points, colour, transform)
    if reference is not None and math.isfinite(reference):
        values = [[(step, float(transform(value))) for step, value in points] for _, points, _ in drawn]
        draw_reference(axes, reference, label, values)
    _label_ends(axes, [(name, points[-1][1], colour) for name, points, colour in drawn], transform)


def draw(axes: Any, points: Points, colour: str = TRAINING, transform: Transform = _unchanged) -> None:
    """A curve; of more than MOST_POINTS points, their averages and a pale band from lowest to highest."""
    if not points:
        return
    step, mean, low, high = thin(points)
    marker = "o" if len(points) <= 40 else None
    axes.plot(step, transform(mean), color=colour, linewidth=1.8, marker=marker, markersize=3.2)
    if len(points) > MOST_POINTS:
        axes.fill_between(step, transform(low), transform(high), color=colour, alpha=0.22, linewidth=0)


def thin(points: Points, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, means, lowest and highest values of at most `most` stretches of neighbouring points.

    A stretch with a value that is not finite is not a number: a gap in the curve.
    """
    table = np.asarray(points, dtype=np.float64)  # [points, 2]
    table[~np.isfinite(table[:, 1]), 1] = np.nan
    parts = np.array_split(table, min(most, len(table)))
    step = [part[:, 0].mean() for part in parts]
    values = [(part[:, 1].mean(), part[:, 1].min(), part[:, 1].max()) for part in parts]
    mean, low, high = np.asarray(values).T
    return np.asarray(step), mean, low, high


def exp(values: Any) -> Any:
    """e to the values, infinite where that is too large for a float."""
    with np.errstate(over="ignore"):
        return np.exp(values)


def draw_reference(axes: Any, value: float, label: str, curves: Sequence[Points]) -> None:
    """A dashed line across, its label at the right end on the side where no curve ends."""
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, value), max(high, value))
    axes.axhline(value, color=REFERENCE, linewidth=1.2, dashes=(4, 3))
    height = axes.transData.transform((0, value))[1]
    ends = [axes.transData.transform((0, points[-1][1]))[1] - height for points in curves if points]
    below = any(0 <= end < LABEL_GAP for end in ends) and height - axes.bbox.y0 > LABEL_GAP
    axes.annotate(
        label, (1, value), xycoords=axes.get_yaxis_transform(), xytext=(0, -4 if below else 4),
        textcoords="offset points", verticalalignment="top" if below else "bottom",
        horizontalalignment="right", color=MUTED, fontsize=TEXT_SIZE, parse_math=False,
    )  # fmt: skip


def _label_ends(axes: Any, ends: Sequence[tuple[str, float, str]], transform: Transform) -> None:
    """The name of each curve (name, newest value, colour) right of it, moved apart where they would meet."""
    placed = [(float(transform(value)), name, colour) for name, value, colour in ends]
    placed = sorted(end for end in placed if math.isfinite(end[0]))
    heights = [axes.transData.transform((0, value))[1] for value, _, _ in placed]
    for (value, name, colour), height, wanted in zip(placed, heights, spread(heights), strict=True):
        axes.annotate(
            name, (1, value), xycoords=axes.get_yaxis_transform(), xytext=(7, wanted - height),
            textcoords="offset points", color=colour, fontsize=TEXT_SIZE, verticalalignment="center",
            annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """Ascending heights moved apart until neighbours are `gap` from each other."""
    moved = list(heights)
    for upper in range(1, len(moved)):
        lack = gap - (moved[upper] - moved[upper - 1])
        if lack > 0:
            moved[upper - 1] -= lack / 2
            moved[upper] += lack / 2
    return moved


# ---- SVG ------------------------------------------------------------------------------------------------------------


def svg(figure: Any, name: str, description: str) -> str:
    """The figure as SVG to stand inside a page. Nothing of matplotlib's global state changes."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # Text stays text and the page's reader has the fonts; matplotlib's own is asked for widths only.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<svg[^>]*>", "<svg>", drawing, count=1)
    unneeded = r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>|(?<=>)\s+(?=<)"
    drawing = re.sub(unneeded, "", drawing, flags=re.DOTALL)
    wanted = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", drawing))
    drawing = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag[0], wanted), drawing)
    opening = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{markupsafe.escape(description)}">'
    return drawing.replace("<svg>", opening, 1)


def _page_tag(tag: str, wanted: set[str]) -> str:
    """One tag of matplotlib's SVG for the page: its colours and font, short numbers, only ids referred to."""
    for colour, variable in CSS_VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in wanted else "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", tag)
    return re.sub(r"\s+", " ", tag.replace("xlink:href", "href"))
