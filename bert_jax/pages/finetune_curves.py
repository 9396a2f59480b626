# SPDX-License-Identifier: Apache-2.0
"""The curves of a fine-tuned run: loss, scores on dev, and what the optimizer did; what chance gives stands beside them."""

import dataclasses
import math
from collections import Counter

import numpy as np

from bert_jax.pages.chart import around, Axis, Level, percent_text, tick_text
from bert_jax.pages.curves import gradient_norm, learning_rate, Lines, Measure, panel, panels, share_measure
from bert_jax.pages.metric_words import CORRELATIONS, fraction, metric_name, title_name, unit
from bert_jax.pages.page import Panel
from bert_jax.pages.wording import count, decimal, percent, plain
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import number, series

CLASSES = ("classification", "choice")


def curve_panels(run: FinetunedRun) -> list[Panel]:
    """Loss first, then the metrics of dev, then what the optimizer did."""
    lines = Lines(run.train, run.main_dev(), max(run.last_step, 1), run.split)
    found = [panel(_loss(run), lines), *(_metric_panel(run, name, lines) for name in run.drawn_metrics)]
    if "accuracy" not in run.drawn_metrics and series(run.train, "accuracy"):
        of = {"span": "of first and last words", "tagging": "of words"}.get(run.kind, "of examples")
        found.append(panel(share_measure("accuracy", "Training accuracy", of), lines))
    if series(run.train, "soft_loss"):
        words = "squared error" if run.kind == "regression" else "KL divergence x temperature squared, nats"
        found.append(panel(Measure("soft_loss", "Distance from the teacher", words, decimal), lines))
    return [*found, *panels(_optimizer_measures(run), lines)]


def _loss(run: FinetunedRun) -> Measure:
    chance = chance_loss(run)
    unit_words = "squared error" if run.kind == "regression" else "nats"
    note = "Mean of each logged interval, with dropout."
    return Measure("loss", "Training loss", unit_words, decimal, around, held_out=True, level=chance, note=note)


def chance_loss(run: FinetunedRun) -> Level | None:
    """The loss of a model that has learned the distribution of the truth and nothing else."""
    if not run.labelled:
        return None
    total = len(run.labelled)
    if run.kind == "regression":
        variance = float(np.var([record["label"] for record in run.labelled]))
        return Level(variance, f"always the mean {decimal(variance, 2)}")
    if run.kind in CLASSES:
        counts = Counter(record["label"] for record in run.labelled)
        entropy = _entropy([times / total for times in counts.values()])
    elif run.kind == "multi_label":
        counts = Counter(place for record in run.labelled for place in record["label"])
        shares = [counts[place] / total for place in range(len(run.record["labels"]))]
        entropy = math.fsum(_entropy([share, 1 - share]) for share in shares) / len(shares)
    else:
        return None
    return Level(entropy, f"classes' shares alone {decimal(entropy)}")


def _entropy(shares: list[float]) -> float:
    return -math.fsum(share * math.log(share) for share in shares if share > 0)


def commonest_class(run: FinetunedRun) -> tuple[str, float] | None:
    """The class that is right most often, and its share of the split."""
    if run.kind not in CLASSES or not run.labelled:
        return None
    place, times = Counter(record["label"] for record in run.labelled).most_common(1)[0]
    return run.class_words(place), times / len(run.labelled)


def score_axis(name: str, values: list[float]) -> Axis:
    """An axis of scores: shares in percent, correlations times 100."""
    if name in CORRELATIONS:
        return around(values, tick_text)
    lowest = min(values, default=0.0)
    alone = max(values, default=0.0) - lowest < 1e-9  # an axis from it on would end beyond 100 %
    return around([*values, max(lowest - 0.1, 0.0)] if alone else values, percent_text)


def score_height(name: str, value: float, per_cent: bool) -> float:
    """Return where a score is drawn on `score_axis`."""
    return fraction(value, per_cent) * (100 if name in CORRELATIONS else 1)


def _metric_panel(run: FinetunedRun, name: str, lines: Lines) -> Panel:
    """A score of dev over the steps; of accuracy that of the training text too."""
    title, dev = title_name(name), run.main_dev()
    undefined = sum(name in line and number(line, name) is None for line in dev)
    note = f"Not defined at {count(undefined)} of {count(len(dev))} evaluations." if undefined else ""
    if undefined and not series(dev, name):
        return Panel(title, run.split, None, missing=note)
    always = commonest_class(run) if name == "accuracy" else None
    correlation = name in CORRELATIONS
    measure = Measure(
        name,
        title,
        f"{run.split}, {unit(name)}" if correlation else run.split,
        text=lambda value: decimal(value, 1) if correlation else percent(value),
        axis=lambda values: score_axis(name, list(values)),
        held_out=True,
        level=None if always is None else Level(always[1], f"always {shortened(always[0])} {percent(always[1])}"),
        note=note,
    )
    scores = [{"step": step, name: score_height(name, value, run.per_cent)} for step, value in series(dev, name)]
    return panel(measure, dataclasses.replace(lines, held_out=scores))  # of training, accuracy is logged as a fraction


def shortened(text: str, most: int = 24) -> str:
    """The beginning of a text that is too long for its place."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _optimizer_measures(run: FinetunedRun) -> list[Measure]:
    """Learning rate, gradient norm and throughput."""
    optimizer = run.settings["optimizer"]
    peak, share, steps_up = (number(optimizer, name) for name in ("learning_rate", "warmup_share", "warmup_steps"))
    warmup = f"over {percent(share, 0)} of the steps" if share is not None else f"of {count(steps_up or 0)} steps"
    note = f"Peak {plain(peak)}; warm-up {warmup}." if peak else ""
    thing = "rows" if run.kind in ("span", "tagging") else "examples"
    shares = [share for _, share in series(run.train, "valid_token_share")]
    mean = math.fsum(shares) / len(shares) if shares else None
    filled = "" if mean is None else f"{percent(mean)} of the tokens in a batch are no padding."
    return [
        learning_rate(run.train, note),
        gradient_norm(number(optimizer, "clip_norm"), "Not clipped: optimizer.clip_norm=0."),
        Measure("examples_per_second", "Throughput", f"{thing}/s", lambda rate: f"{rate:,.4g}", note=filled),
    ]


def metric_words(run: FinetunedRun, name: str) -> str:
    """A metric with its split: "accuracy (dev)"."""
    return f"{metric_name(name)}{of_class(run, name)} ({run.split})"


def of_class(run: FinetunedRun, name: str) -> str:
    """Return " of CLASS" for F1 of one class."""
    f1_of = run.record.get("f1_of")
    return f" of {f1_of}" if name == "f1" and f1_of else ""
