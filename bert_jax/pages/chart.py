# SPDX-License-Identifier: Apache-2.0
"""Charts as data, and their SVG: curves over steps, dots, histograms, with axes, levels and labels.

Colours are CSS classes of the page (style.css), so one drawing serves light and dark.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import markupsafe
import numpy as np

from bert_jax.pages.wording import SPACE

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 480, 236  # user units of the drawing; the page scales it
LEFT, TOP, BOTTOM = 58, 22, 192  # of the field that is drawn in
NARROW, WIDE = 412, 446  # its right side, with and without room for names of curves
MOST_POINTS = 300  # of a curve; longer ones are averaged
LETTER = 6.2  # user units of a letter of a label, about
LABEL_GAP = 15  # user units between two labels, enough for the larger text of a narrow screen
FEW = 40  # points of a curve that are marked one by one


@dataclass(frozen=True)
class Axis:
    """The stretch of values that is drawn, and its labelled ticks."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    label: str = ""
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at `low`, 1 at `high`; not a number where the axis has no place for it."""
        if not math.isfinite(value) or (self.logarithmic and value <= 0):
            return math.nan
        low, high, value = (math.log(end) if self.logarithmic else end for end in (self.low, self.high, value))
        return (value - low) / (high - low)


@dataclass(frozen=True)
class Curve:
    """Points joined by lines, within a pale band of (x, lowest, highest); its name stands at the right end."""

    points: Points
    style: str = "training"  # CSS classes
    name: str = ""
    band: Sequence[tuple[float, float, float]] = ()
    marked: bool = False  # with a dot at each point


@dataclass(frozen=True)
class Dot:
    """A single value; a cross instead of a dot stands for one that does not count."""

    x: float
    y: float
    style: str = "training"
    cross: bool = False


@dataclass(frozen=True)
class Level:
    """A dashed line across at a value to compare with."""

    value: float
    label: str


@dataclass(frozen=True)
class Upright:
    """A line from bottom to top, its label above the field, or inside it."""

    x: float
    label: str
    inside: bool = False


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn, the lowest layer first."""

    description: str  # for those who do not see it
    x: Axis
    y: Axis
    range: tuple[float, float] | None = None  # a pale band across
    uprights: Sequence[Upright] = ()
    boxes: Sequence[tuple[float, float, float]] = ()  # (begin, end, height) of a histogram
    curves: Sequence[Curve] = ()
    dots: Sequence[Dot] = ()
    level: Level | None = None


# ---- axes ------------------------------------------------------------------------------------------------------------


def tick_text(value: float) -> str:
    """A number at an axis."""
    return f"{value:,.10g}"


def percent_text(value: float) -> str:
    """A share at an axis."""
    return f"{100 * value:.4g}{SPACE}%"


def around(values: Sequence[float], text: Callable[[float], str] = tick_text) -> Axis:
    """An axis around the values that begins and ends on a tick."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    equal = 1e-9 * max(abs(low), abs(high))  # what rounding alone tells apart: ticks have twelve digits
    ticks = _ticks(low, high if high - low > equal else low + max(1.0, 1000 * equal), most=5, cover=True)
    return Axis(ticks[0], ticks[-1], [(tick, text(tick)) for tick in ticks])


def from_zero(values: Sequence[float], text: Callable[[float], str] = tick_text) -> Axis:
    """An axis from 0 to a little above the values."""
    highest = max((value for value in values if math.isfinite(value)), default=0)
    return between(0, 1.08 * highest if highest > 0 else 1, text)


def between(low: float, high: float, text: Callable[[float], str] = tick_text, most: int = 5) -> Axis:
    """An axis with these ends."""
    return Axis(low, high, [(tick, text(tick)) for tick in _ticks(low, high, most)])


def steps_axis(last: int) -> Axis:
    """The optimizer steps from 0 to the last one."""
    ticks = _ticks(0, max(last, 1), most=4, whole=True)
    return Axis(0, max(last, 1), [(tick, f"{tick:,.0f}") for tick in ticks], "optimizer steps")


def logarithmic(values: Sequence[float], text: Callable[[float], str] = tick_text) -> Axis:
    """A logarithmic axis between round numbers (1, 2, 5, 10 ...) around the values."""
    positive = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
    lowest, highest = (math.floor(math.log10(end)) for end in (min(positive), max(positive)))
    rounds = [factor * 10.0**power for power in range(lowest, highest + 2) for factor in (1, 2, 5)]
    low = max(number for number in rounds if number <= min(positive) * 1.000001)
    high = min(number for number in rounds if number >= max(positive) * 0.999999 and number > low)
    factors = (1, 2, 5) if high / low <= 1000 else (1,)
    ticks = [number for number in rounds if low <= number <= high and _leading_digit(number) in factors]
    return Axis(low, high, [(tick, text(tick)) for tick in ticks], logarithmic=True)


def _leading_digit(number: float) -> int:
    return int(f"{number:e}"[0])


def _ticks(low: float, high: float, most: int, cover: bool = False, whole: bool = False) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, in at most `most` stretches; `cover`: also beyond both ends."""
    power = math.floor(math.log10((high - low) / most))
    steps = [factor * 10.0**exponent for exponent in range(power, power + 3) for factor in (1, 2, 2.5, 5)]
    for step in (step for step in steps if not whole or step == round(step) > 0):
        if cover:
            first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        else:
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first <= most and (high - low) / step <= most + cover:
            return [float(f"{place * step:.12g}") for place in range(first, last + 1)]
    return [low, high]


# ---- long curves -----------------------------------------------------------------------------------------------------


def thin(points: Points, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average stretches of neighbouring points: at most `most` x, means, lowest and highest values, each [P].

    A stretch with a value that is not finite is not a number: a gap in the curve.
    """
    table = np.asarray(points, dtype=np.float64)  # [points, 2]
    table[~np.isfinite(table[:, 1]), 1] = np.nan
    parts = np.array_split(table, min(most, len(table)))
    x = [part[:, 0].mean() for part in parts]
    mean, low, high = np.asarray([(part[:, 1].mean(), part[:, 1].min(), part[:, 1].max()) for part in parts]).T
    return np.asarray(x), mean, low, high


def curve_of(
    points: Points, style: str = "training", name: str = "", transform: Callable[[float], float] = lambda value: value
) -> Curve:
    """The curve through points; of more than MOST_POINTS their averages, and a band from lowest to highest.

    Args:
      points: as they are logged.
      style: CSS classes.
      name: of the curve, at its right end.
      transform: of the averaged values before they are drawn.
    """
    x, *values = (column.tolist() for column in thin(points))
    mean, low, high = ([transform(value) for value in column] for column in values)
    band = list(zip(x, low, high, strict=True)) if len(points) > MOST_POINTS else []
    return Curve(list(zip(x, mean, strict=True)), style, name, band, marked=len(points) <= FEW)


# ---- SVG -------------------------------------------------------------------------------------------------------------


def svg(chart: Chart) -> markupsafe.Markup:
    """The drawing, to stand inside a page."""
    return markupsafe.Markup(_Drawing(chart).text())


class _Drawing:
    """The field of a chart in user units, and what is drawn in it."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.right = NARROW if any(curve.name for curve in chart.curves) else WIDE

    def text(self) -> str:
        """The whole SVG, the lowest layer first."""
        description = markupsafe.escape(self.chart.description)
        parts = [*self._axes(), *self._below(), *self._curves(), *self._dots(), *self._level(), *self._names()]
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{description}">{"".join(parts)}</svg>'

    def _x(self, value: float) -> float:
        return LEFT + self.chart.x.share(value) * (self.right - LEFT)

    def _y(self, value: float) -> float:
        return BOTTOM - self.chart.y.share(value) * (BOTTOM - TOP)

    def _axes(self) -> list[str]:
        x, y = self.chart.x, self.chart.y
        parts = [_line(LEFT, self._y(tick), self.right, self._y(tick), "grid-line") for tick, _ in y.ticks]
        parts += [_label(LEFT - 6, self._y(tick) + 4, text, anchor="end") for tick, text in y.ticks]
        parts.append(_line(LEFT, BOTTOM, self.right, BOTTOM, "base"))
        parts += [_label(self._x(tick), BOTTOM + 17, text, anchor="middle") for tick, text in x.ticks]
        parts.append(_label((LEFT + self.right) / 2, BOTTOM + 35, x.label, anchor="middle"))
        if y.label:
            middle = (TOP + BOTTOM) / 2
            parts.append(f'<g transform="rotate(-90 12 {middle:g})">{_label(12, middle, y.label, anchor="middle")}</g>')
        return parts

    def _below(self) -> list[str]:
        """The layers behind the curves: the band across, uprights, and the boxes of a histogram."""
        parts = []
        if self.chart.range is not None:
            low, high = map(self._y, self.chart.range)
            parts.append(_box(LEFT, high, self.right - LEFT, low - high, "training pale"))
        for begin, end, height in self.chart.boxes:
            left, top = self._x(begin), self._y(height)
            parts.append(_box(left, top, self._x(end) - left, BOTTOM - top, "training"))
        free = 0.0  # where the next label above the field may begin: one without room is left out
        for upright in self.chart.uprights:
            x, late = self._x(upright.x), self.chart.x.share(upright.x) > 0.5
            parts.append(_line(x, TOP, x, BOTTOM, "mean" if upright.inside else "phase"))
            if not upright.inside:
                width = LETTER * len(upright.label)
                begin = x - width if late else x
                if begin < free:
                    continue
                free = begin + width + LETTER
            gap = (-5 if late else 5) if upright.inside else 0
            height = TOP + 10 if upright.inside else TOP - 5
            parts.append(_label(x + gap, height, upright.label, anchor="end" if late else "start"))
        return parts

    def _curves(self) -> list[str]:
        parts = []
        for curve in self.chart.curves:
            places = [(self._x(x), self._y(y)) for x, y in curve.points]
            parts.append(f'<path class="curve {curve.style}" d="{_path(places)}"/>')
            if curve.marked:
                parts += [_circle(x, y, 1.9, curve.style) for x, y in places if math.isfinite(y)]
            known = [edge for edge in curve.band if math.isfinite(self._y(edge[1]) + self._y(edge[2]))]
            edges = [(self._x(x), self._y(high)) for x, _, high in known]
            edges += [(self._x(x), self._y(low)) for x, low, _ in reversed(known)]
            if edges:
                parts.append(f'<path class="{curve.style} pale" d="{_path(edges)}Z"/>')
        return parts

    def _dots(self) -> list[str]:
        parts = []
        for dot in self.chart.dots:
            x, y = self._x(dot.x), self._y(dot.y)
            if dot.cross:
                cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8M{x - 4:.1f} {y + 4:.1f}l8 -8"
                parts.append(f'<path class="curve {dot.style}" d="{cross}"/>')
            else:
                parts.append(_circle(x, y, 3.5 if len(self.chart.dots) <= FEW else 1.5, dot.style))
        return parts

    def _level(self) -> list[str]:
        """The dashed line, its label above or below it, at the right or the left end, where it covers least."""
        level = self.chart.level
        if level is None:
            return []
        height = self._y(level.value)
        wide = LETTER * len(level.label)
        places = [(end, down) for down in (-4, 14) for end in ("end", "start")]  # the first of equals is taken

        def covered(place: tuple[str, int]) -> float:
            end, down = place
            left = self.right - wide if end == "end" else LEFT
            return self._covered(left, left + wide, height + down)

        end, down = min(places, key=covered)
        label = _label(self.right if end == "end" else LEFT, height + down, level.label, anchor=end)
        return [_line(LEFT, height, self.right, height, "level"), label]

    def _covered(self, left: float, right: float, base: float) -> float:
        """How much a label from `left` to `right` with its base line at `base` would cover: 1 for the length of a curve."""
        high, low = base - LABEL_GAP + 3, base + 3
        covered = 2.0 * (low > BOTTOM)
        for upright in self.chart.uprights:
            x, late = self._x(upright.x), self.chart.x.share(upright.x) > 0.5
            begin, end = (x - LETTER * len(upright.label), x) if late else (x, x + LETTER * len(upright.label))
            covered += begin < right and left < end and high < (TOP + 12 if upright.inside else TOP - 3)
        return covered + sum(self._share_within(curve, (left, right), (high, low)) for curve in self.chart.curves)

    def _share_within(self, curve: Curve, across: tuple[float, float], down: tuple[float, float]) -> float:
        """The share of a stretch `across` in which a curve is between two heights."""
        places = [(self._x(x), self._y(y)) for x, y in curve.points]
        known = np.asarray([place for place in places if np.isfinite(place).all()]).reshape(-1, 2)  # [P, 2]
        if not len(known):
            return 0.0
        heights = np.interp(np.linspace(*across, 25), known[:, 0], known[:, 1], left=np.nan, right=np.nan)  # [25]
        return float(((down[0] < heights) & (heights < down[1])).mean())

    def _names(self) -> list[str]:
        """The name of each curve right of its end, moved apart where names would meet."""
        ends = [(self._y(curve.points[-1][1]), curve.name, curve.style) for curve in self.chart.curves]
        ends = sorted(end for end in ends if end[1] and math.isfinite(end[0]))
        heights = spread([height for height, _, _ in ends])
        named = zip(ends, heights, strict=True)
        return [_label(self.right + 7, height + 4, name, style=style) for (_, name, style), height in named]


def spread(heights: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """Ascending heights moved apart until neighbours are `gap` from each other."""
    moved = list(heights)
    for upper in range(1, len(moved)):
        lack = gap - (moved[upper] - moved[upper - 1])
        if lack > 0:
            moved[upper - 1] -= lack / 2
            moved[upper] += lack / 2
    return moved


def _path(places: Points) -> str:
    """The commands of a path through places in user units, broken where there is none."""
    words, pen = [], "M"
    for x, y in places:
        if math.isfinite(x) and math.isfinite(y):
            words.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(words)


def _line(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
    return f'<path class="{style}" d="M{x:.1f} {y:.1f}L{to_x:.1f} {to_y:.1f}"/>'


def _box(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect class="{style}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"/>'


def _circle(x: float, y: float, radius: float, style: str) -> str:
    return f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def _label(x: float, y: float, text: str, anchor: str = "start", style: str = "muted") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{markupsafe.escape(text)}</text>'
