# SPDX-License-Identifier: Apache-2.0
"""Curves of what a run logs: a `Measure` for each panel, of pre-training and fine-tuning alike.

A new curve on a page is a `Measure` more in the list of pretrain_curves or finetune_curves.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bert_jax.pages.chart import (
    Axis,
    Chart,
    curve_of,
    from_zero,
    Level,
    logarithmic,
    percent_text,
    Points,
    steps_axis,
    Upright,
)
from bert_jax.pages.page import Panel
from bert_jax.pages.wording import decimal, percent, superscript
from bert_jax.runs.reading import Record, series


@dataclass(frozen=True)
class Lines:
    """The lines of a run's metrics.jsonl, and the steps they are drawn over."""

    training: Sequence[Record]
    held_out: Sequence[Record]
    last_step: int
    held_out_name: str = "held-out"
    phases: Sequence[Upright] = ()


@dataclass(frozen=True)
class Measure:
    """A value of the lines of metrics.jsonl and how it is drawn."""

    key: str  # its name in the lines
    title: str
    unit: str
    text: Callable[[float], str]  # the newest value in words
    axis: Callable[[Sequence[float]], Axis] = from_zero  # of all values that are drawn
    held_out: bool = False  # whether evaluations have it too
    transform: Callable[[float], float] = float  # of a logged value before it is drawn and written
    level: Level | None = None
    note: str = ""


def panels(measures: Sequence[Measure], lines: Lines) -> list[Panel]:
    """A panel for each measure."""
    return [panel(measure, lines) for measure in measures]


def panel(measure: Measure, lines: Lines) -> Panel:
    """The curves of a measure; without a value the panel says so."""
    training = series(lines.training, measure.key)
    held_out = series(lines.held_out, measure.key) if measure.held_out else []
    newest = "training" if measure.held_out else "newest"
    drawn = [(newest, training, "training"), (lines.held_out_name, held_out, "held-out")]
    drawn = [(name, points, style) for name, points, style in drawn if points]
    readings = [(name, measure.text(measure.transform(points[-1][1])), style) for name, points, style in drawn]
    if not drawn:
        logged = lines.training or lines.held_out
        missing = "No such value in metrics.jsonl." if logged else "No step is logged yet."
        return Panel(measure.title, measure.unit, None, missing=missing)
    return Panel(measure.title, measure.unit, _chart(measure, drawn, lines), readings, measure.note)


def _chart(measure: Measure, drawn: Sequence[tuple[str, Points, str]], lines: Lines) -> Chart:
    values = [measure.transform(value) for _, points, _ in drawn for _, value in points]
    level = measure.level if measure.level is not None and math.isfinite(measure.level.value) else None
    names = measure.held_out
    return Chart(
        description=f"{measure.title} against optimizer steps",
        x=steps_axis(lines.last_step),
        y=measure.axis([*values, *([level.value] if level else [])]),
        uprights=lines.phases,
        curves=[curve_of(points, style, name if names else "", measure.transform) for name, points, style in drawn],
        level=level,
    )


def percentages(values: Sequence[float]) -> Axis:
    """An axis of shares from 0 to a little above the values."""
    return from_zero(values, percent_text)


# ---- what both kinds of runs log -------------------------------------------------------------------------------------


def learning_rate(records: Sequence[Record], note: str) -> Measure:
    """The learning rate, times the power of ten that its peak begins with."""
    highest = max((rate for _, rate in series(records, "learning_rate") if rate > 0), default=1.0)
    exponent = math.floor(math.log10(highest))
    unit = f"× 10{superscript(exponent)}"

    def axis(rates: Sequence[float]) -> Axis:
        scaled = from_zero([rate / 10.0**exponent for rate in rates])
        ticks = [(value * 10.0**exponent, text) for value, text in scaled.ticks]
        return Axis(scaled.low, scaled.high * 10.0**exponent, ticks)

    return Measure("learning_rate", "Learning rate", unit, lambda rate: f"{rate:.2g}", axis, note=note)


def gradient_norm(clip_norm: float | None, unclipped: str) -> Measure:
    """The global norm of the gradient before clipping; `unclipped` is the note where it is not clipped."""
    level = Level(clip_norm, f"clipped above {clip_norm:g}") if clip_norm else None
    unit = "before clipping, logarithmic axis"
    note = "" if clip_norm else unclipped
    return Measure("grad_norm", "Gradient norm", unit, lambda n: decimal(n, 2), logarithmic, level=level, note=note)


def share_measure(
    key: str, title: str, unit: str, transform: Callable[[float], float] = float, note: str = ""
) -> Measure:
    """A share of the training that nothing is compared with."""
    return Measure(key, title, unit, percent, percentages, transform=transform, note=note)
