# SPDX-License-Identifier: Apache-2.0
"""Several runs of one task: how far their scores are apart, in figures and drawn."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import markupsafe

from bert_jax.pages.drawing import blank_chart, HELD_OUT, MUTED, Points, round_ticks, Steps, svg, TEXT_SIZE, TRAINING
from bert_jax.pages.metric_words import CORRELATIONS, fraction, title_name
from bert_jax.pages.panels import Panel
from bert_jax.pages.wording import SPACE
from bert_jax.runs.finetuned import SeveralRuns
from bert_jax.runs.reading import series

MOST_NAMES = 20  # of runs below the drawing
SOUND_DOT = {"marker": "o", "color": TRAINING, "markeredgewidth": 0}
COLLAPSED_DOT = {"marker": "x", "color": HELD_OUT, "markeredgewidth": 2}


class Spread(NamedTuple):
    """Of the main scores of the runs that count, in the scorer's units."""

    mean: float
    deviation: float | None  # of the sample (n - 1); None of one run
    interval: tuple[float, float] | None  # 95 %, of the mean, from Student's t


def spread_of(values: Sequence[float]) -> Spread | None:
    """Mean, standard deviation and t interval; None of nothing."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(mean, None, None)
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # here: loading it takes a quarter of a second

    deviation = statistics.stdev(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
    return Spread(mean, deviation, (mean - half, mean + half))


# ---- drawn ----------------------------------------------------------------------------------------------------------


def strip_panel(several: SeveralRuns, spread: Spread | None) -> Panel:
    """The main score of each run."""
    title = f"{title_name(several.metric)} of each run"
    if all(one.value is None for one in several.runs):
        return Panel(title, several.split, None, missing="No run has a score yet.")
    note = "Filled: runs that count; crosses: collapsed."
    if spread and spread.interval and not several.is_sweep:
        note += f" Line: their mean; band: its 95{SPACE}% t interval."
    drawing = strip_chart(several, None if several.is_sweep else spread)
    return Panel(title, several.split, markupsafe.Markup(drawing), note=note)


def strip_chart(several: SeveralRuns, spread: Spread | None) -> str:
    """A dot for each run in the order of seeds.json, the mean and its interval behind them."""
    drawing, axes = blank_chart(Steps(1), percentages=several.metric not in CORRELATIONS, names=False)
    heights = [None if one.value is None else _height(several, one.value) for one in several.runs]
    ends = [] if spread is None or spread.interval is None else [_height(several, end) for end in spread.interval]
    round_ticks(axes, [*heights, *ends])
    axes.set_xlim(-0.6, len(heights) - 0.4)
    axes.set_xticks(range(len(heights)), _run_numbers(several))
    axes.set_xlabel("run of the sweep" if several.is_sweep else "seed", color=MUTED, fontsize=TEXT_SIZE, labelpad=5)
    if ends:
        axes.axhspan(*ends, color=TRAINING, alpha=0.15, linewidth=0)
    if spread is not None:
        axes.axhline(_height(several, spread.mean), color=TRAINING, linewidth=1.4)
    for place, (one, value) in enumerate(zip(several.runs, heights, strict=True)):
        if value is not None:
            style = COLLAPSED_DOT if one.degenerate else SOUND_DOT
            axes.plot([place], [value], linestyle="", markersize=7, clip_on=False, zorder=3, **style)
    return svg(drawing, "strip", f"{title_name(several.metric)} of each run, and their mean")


def _run_numbers(several: SeveralRuns) -> list[str]:
    """Seeds, or of a sweep the places in seeds.json; of very many runs only some are named."""
    names = [
        str(place if several.is_sweep else one.entry.get("seed", place)) for place, one in enumerate(several.runs, 1)
    ]
    every = -(-len(names) // MOST_NAMES)
    return [name if place % every == 0 else "" for place, name in enumerate(names)]


def _height(several: SeveralRuns, value: float) -> float:
    """Where a score is drawn: fractions, correlations times 100."""
    return fraction(value, several.per_cent) * (100 if several.metric in CORRELATIONS else 1)


def curves_panel(several: SeveralRuns) -> Panel:
    """The main score of each run over its steps."""
    title = f"{title_name(several.metric)} over the steps"
    curves = []
    for one in several.runs:
        points = series(one.run.main_dev(), several.metric) if one.run else []
        if points:
            curves.append(([(step, _height(several, value)) for step, value in points], one.degenerate is None))
    if not curves:
        return Panel(title, several.split, None, missing="No such value in the runs' metrics.jsonl.")
    note = "Dashed: collapsed." if any(not sound for _, sound in curves) else ""
    return Panel(title, several.split, markupsafe.Markup(curves_chart(several, curves)), note=note)


def curves_chart(several: SeveralRuns, curves: Sequence[tuple[Points, bool]]) -> str:
    """The drawing of `curves_panel`: points, and whether the run counts."""
    last = int(max(points[-1][0] for points, _ in curves))
    drawing, axes = blank_chart(Steps(last), percentages=several.metric not in CORRELATIONS, names=False)
    round_ticks(axes, [value for points, _ in curves for _, value in points])
    for points, sound in curves:
        style: dict[str, Any] = {"color": TRAINING} if sound else {"color": HELD_OUT, "dashes": (4, 3)}
        axes.plot(*zip(*points, strict=True), linewidth=1.6, marker="o", markersize=3, alpha=0.85, **style)
    return svg(drawing, "seed-curves", f"{title_name(several.metric)} of each run against optimizer steps")
