# SPDX-License-Identifier: Apache-2.0
"""Gold against predicted ratings, drawn, and how far apart they are."""

from dataclasses import replace

import numpy as np

from bert_jax.pages.chart import between, Chart, Curve, Dot
from bert_jax.pages.page import Card, Grid, Panel, Part, Table
from bert_jax.pages.wording import count, decimal
from bert_jax.runs.finetuned import FinetunedRun, prediction_fields

MOST_DOTS = 1500
PARTS = 5  # of the range of the truth, in the table


def rating_parts(run: FinetunedRun) -> list[Part]:
    """The drawing of gold and predicted ratings beside the table of errors."""
    gold, predicted = (np.array(field, float) for field in prediction_fields(run.labelled))
    head = ["Gold rating", "Examples", "Mean gold", "Mean predicted", "Mean error", "Root of mean square"]
    errors = Card([Table(head, error_rows(gold, predicted))], "Errors by rating")
    return [Grid([scatter_panel(gold, predicted, run.split), errors], "many")]


def error_rows(gold: np.ndarray, predicted: np.ndarray) -> list[tuple[str, ...]]:
    """Errors of ratings [N] in equal parts of the range of the truth, and of all."""
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
    """A dot for each of the ratings [N]; on the dashed line both are equal."""
    every = -(-len(gold) // MOST_DOTS)
    note = f"Every {every}th of {count(len(gold))} examples." if every > 1 else f"{count(len(gold))} examples."
    dots = [Dot(x, y) for x, y in zip(gold[::every].tolist(), predicted[::every].tolist(), strict=True)]
    low, high = _around(gold)
    chart = Chart(
        "Predicted against gold ratings",
        x=replace(between(low, high), label="gold"),
        y=replace(between(*_around(np.concatenate([gold, predicted]))), label="predicted"),
        curves=[Curve([(low, low), (high, high)], "level")],
        dots=dots,
    )
    return Panel("Gold and predicted ratings", split, chart, note=f"{note} Dashed: equal.")


def _around(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room
