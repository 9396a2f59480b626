# SPDX-License-Identifier: Apache-2.0
"""Regression: gold against predicted ratings, drawn, and how far apart they are."""

from typing import Any

import markupsafe
import numpy as np

from bert_jax.pages.drawing import blank_chart, MUTED, REFERENCE, Steps, svg, TEXT_SIZE, TRAINING
from bert_jax.pages.panels import Panel
from bert_jax.pages.wording import count, decimal
from bert_jax.runs.finetuned import FinetunedRun, prediction_fields

MOST_DOTS = 1500
PARTS = 5  # of the range of the truth, in the table


def rating_section(run: FinetunedRun) -> dict[str, Any]:
    """What the page prints of ratings."""
    gold, predicted = (np.array(field, float) for field in prediction_fields(run.labelled))
    return {
        "panel": scatter_panel(gold, predicted, run.split),
        "head": ["Gold rating", "Examples", "Mean gold", "Mean predicted", "Mean error", "Root of mean square"],
        "rows": error_rows(gold, predicted),
    }


def error_rows(gold: np.ndarray, predicted: np.ndarray) -> list[tuple[str, ...]]:
    """Errors in equal parts of the range of the truth, and of all."""
    low, high = float(gold.min()), float(gold.max())
    part = np.minimum((PARTS * (gold - low) / max(high - low, 1e-12)).astype(int), PARTS - 1)
    edges = np.linspace(low, high, PARTS + 1)
    rows = []
    for place in range(PARTS) if high > low else ():
        chosen = part == place
        if chosen.any():
            label = f"{edges[place]:.3g} to {edges[place + 1]:.3g}"
            rows.append((label, *_errors(gold[chosen], predicted[chosen])))
    return [*rows, ("all", *_errors(gold, predicted))]


def _errors(gold: np.ndarray, predicted: np.ndarray) -> tuple[str, ...]:
    error = predicted - gold
    figures = (gold.mean(), predicted.mean(), np.abs(error).mean(), np.sqrt((error**2).mean()))
    return count(len(gold)), *(decimal(float(figure), 2) for figure in figures)


def scatter_panel(gold: np.ndarray, predicted: np.ndarray, split: str) -> Panel:
    """A dot for each example; on the dashed line both are equal."""
    step = -(-len(gold) // MOST_DOTS)
    note = f"Every {step}th of {count(len(gold))} examples." if step > 1 else f"{count(len(gold))} examples."
    drawing = scatter_chart(gold[::step], predicted[::step])
    return Panel("Gold and predicted ratings", split, markupsafe.Markup(drawing), note=f"{note} Dashed: equal.")


def scatter_chart(gold: np.ndarray, predicted: np.ndarray) -> str:
    """The drawing of `scatter_panel`."""
    figure, axes = blank_chart(Steps(1), names=False)
    axes.set_xlabel("gold", color=MUTED, fontsize=TEXT_SIZE, labelpad=5)
    axes.set_ylabel("predicted", color=MUTED, fontsize=TEXT_SIZE, labelpad=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(*_around(gold))
    axes.set_ylim(*_around(np.concatenate([gold, predicted])))
    ends = _around(gold)
    axes.plot(ends, ends, color=REFERENCE, linewidth=1.2, dashes=(4, 3))
    axes.plot(gold, predicted, color=TRAINING, linestyle="", marker="o", markersize=3, markeredgewidth=0, alpha=0.5)
    return svg(figure, "ratings", "Predicted against gold ratings")


def _around(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room
