# SPDX-License-Identifier: Apache-2.0
"""How far the scores of several runs of one task are apart, in figures and drawn."""

from bert_jax.pages.chart import Axis, Chart, Curve, Dot, steps_axis
from bert_jax.pages.finetune_curves import score_axis, score_height
from bert_jax.pages.metric_words import title_name
from bert_jax.pages.page import Panel
from bert_jax.pages.wording import SPACE
from bert_jax.runs.finetuned import SeveralRuns
from bert_jax.runs.reading import series
from bert_jax.tasks.scoring.chance import Spread

MOST_NAMES = 20  # of runs below the drawing


def strip_panel(several: SeveralRuns, spread: Spread | None) -> Panel:
    """A dot for each run in the order of seeds.json; of seeds the mean and its interval behind them."""
    title = f"{title_name(several.metric)} of each run"
    dots = [
        Dot(
            place, _height(several, one.value), "held-out" if one.degenerate else "training", one.degenerate is not None
        )
        for place, one in enumerate(several.runs)
        if one.value is not None
    ]
    if not dots:
        return Panel(title, several.split, None, missing="No run has a score yet.")
    drawn = None if several.is_sweep else spread
    ends = [] if drawn is None or drawn.interval is None else [_height(several, end) for end in drawn.interval]
    names = [(float(place), name) for place, name in enumerate(_run_numbers(several))]
    x = Axis(-0.6, len(several.runs) - 0.4, names, "run of the sweep" if several.is_sweep else "seed")
    mean = [] if drawn is None else [(end, _height(several, drawn.mean)) for end in (x.low, x.high)]
    chart = Chart(
        f"{title}, and their mean",
        x=x,
        y=score_axis(several.metric, [*(dot.y for dot in dots), *ends]),
        range=(ends[0], ends[1]) if ends else None,
        curves=[Curve(mean)] if mean else [],
        dots=dots,
    )
    note = "Filled: runs that count; crosses: collapsed."
    if ends:
        note += f" Line: their mean; band: its 95{SPACE}% t interval."
    return Panel(title, several.split, chart, note=note)


def _run_numbers(several: SeveralRuns) -> list[str]:
    """Seeds, or of a sweep the places in seeds.json; of very many runs only some are named."""
    names = [
        str(place if several.is_sweep else one.entry.get("seed", place)) for place, one in enumerate(several.runs, 1)
    ]
    every = -(-len(names) // MOST_NAMES)
    return [name if place % every == 0 else "" for place, name in enumerate(names)]


def _height(several: SeveralRuns, value: float) -> float:
    return score_height(several.metric, value, several.per_cent)


def curves_panel(several: SeveralRuns) -> Panel:
    """The main score of each run over its steps; the curve of a collapsed one is dashed."""
    title = f"{title_name(several.metric)} over the steps"
    curves = []
    for one in several.runs:
        points = series(one.run.main_dev(), several.metric) if one.run else []
        heights = [(step, _height(several, value)) for step, value in points]
        if heights:
            curves.append(Curve(heights, "held-out dashed" if one.degenerate else "training", marked=True))
    if not curves:
        return Panel(title, several.split, None, missing="No such value in the runs' metrics.jsonl.")
    last = int(max(curve.points[-1][0] for curve in curves))
    y = score_axis(several.metric, [value for curve in curves for _, value in curve.points])
    note = "Dashed: collapsed." if any("dashed" in curve.style for curve in curves) else ""
    description = f"{title_name(several.metric)} of each run against optimizer steps"
    return Panel(title, several.split, Chart(description, steps_axis(last), y, curves=curves), note=note)
