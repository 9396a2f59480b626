# SPDX-License-Identifier: Apache-2.0
"""The curves of a fine-tuned run: loss, dev scores, learning rate, gradient norm, speed."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import markupsafe
import numpy as np

from bert_jax.pages.charts import gradient_norm_chart, single_chart
from bert_jax.pages.drawing import blank_chart, draw_pair, Points, round_ticks, Steps, svg
from bert_jax.pages.metric_words import CORRELATIONS, fraction, metric_name, title_name, unit
from bert_jax.pages.panels import Panel
from bert_jax.pages.wording import count, decimal, percent, plain, superscript
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import number, series

CLASSES = ("classification", "choice")


def curve_panels(run: FinetunedRun) -> list[Panel]:
    """Loss first, then the metrics of dev, then what the optimizer did."""
    steps = Steps(max(run.last_step, 1))
    panels = [_loss_panel(run, steps), *(_metric_panel(run, name, steps) for name in run.drawn_metrics)]
    if "accuracy" not in run.drawn_metrics and series(run.train, "accuracy"):
        panels.append(_training_accuracy_panel(run, steps))
    return [*panels, _rate_panel(run, steps), _norm_panel(run, steps), _speed_panel(run, steps)]


def _panel(run: FinetunedRun, title: str, of: str, curves: dict[str, tuple[Points, Any]], draw: Callable[[], str],
           note: str = "") -> Panel:  # fmt: skip
    """`curves`: name -> (points, how the newest value is written)."""
    readings = tuple(
        (name, text(points[-1][1]), "held-out" if name == run.split else "training")
        for name, (points, text) in curves.items()
        if points
    )
    if not readings:
        missing = "No such value in metrics.jsonl." if run.train or run.dev else "No step is logged yet."
        return Panel(title, of, None, missing=missing)
    return Panel(title, of, markupsafe.Markup(draw()), readings, note)


def _loss_panel(run: FinetunedRun, steps: Steps) -> Panel:
    losses = series(run.train, "loss")
    chance, words = chance_loss(run) or (None, "")

    def draw() -> str:
        figure, axes = blank_chart(steps)
        round_ticks(axes, [value for _, value in losses] + [chance])
        draw_pair(axes, losses, [], chance, words)
        return svg(figure, "loss", "Training loss against optimizer steps")

    of = "squared error" if run.kind == "regression" else "nats"
    note = "Mean of each logged interval, with dropout."
    return _panel(run, "Training loss", of, {"training": (losses, decimal)}, draw, note)


def chance_loss(run: FinetunedRun) -> tuple[float, str] | None:
    """The loss of a model that has learned the distribution of the truth and nothing else, and its name."""
    if not run.labelled:
        return None
    if run.kind in CLASSES:
        counts = Counter(record["label"] for record in run.labelled)
        shares = [times / len(run.labelled) for times in counts.values()]
        entropy = -math.fsum(share * math.log(share) for share in shares)
        return entropy, f"classes' shares alone {decimal(entropy)}"
    if run.kind == "multi_label":
        counts = Counter(place for record in run.labelled for place in record["label"])
        parts = [_binary_entropy(counts[place] / len(run.labelled)) for place in range(len(run.record["labels"]))]
        entropy = math.fsum(parts) / len(parts)
        return entropy, f"classes' shares alone {decimal(entropy)}"
    if run.kind == "regression":
        variance = float(np.var([record["label"] for record in run.labelled]))
        return variance, f"always the mean {decimal(variance, 2)}"
    return None


def _binary_entropy(share: float) -> float:
    return -math.fsum(part * math.log(part) for part in (share, 1 - share) if part > 0)


def commonest_class(run: FinetunedRun) -> tuple[str, float] | None:
    """The class that is right most often, and its share of the split."""
    if run.kind not in CLASSES or not run.labelled:
        return None
    place, times = Counter(record["label"] for record in run.labelled).most_common(1)[0]
    return run.class_words(place), times / len(run.labelled)


def _metric_panel(run: FinetunedRun, name: str, steps: Steps) -> Panel:
    """A score of dev over the steps; of accuracy that of the training text too."""
    percentages = name not in CORRELATIONS
    scale = 1 if percentages else 100
    dev = [(step, scale * fraction(value, run.per_cent)) for step, value in series(run.main_dev(), name)]
    training = series(run.train, name)  # lines of training have accuracy, of multi_label that of whole examples
    token, share = (commonest_class(run) if name == "accuracy" else None) or ("", None)

    def draw() -> str:
        figure, axes = blank_chart(steps, percentages)
        round_ticks(axes, [*(value for _, value in [*training, *dev]), share])
        draw_pair(
            axes, training, dev, share, f"always {shortened(token)} {percent(share)}", names=("training", run.split)
        )
        return svg(figure, f"metric-{name}", f"{title_name(name)} of {run.split} against optimizer steps")

    def text(value: float) -> str:
        return percent(value) if percentages else decimal(value, 1)

    undefined = sum(name in line and number(line, name) is None for line in run.main_dev())
    note = f"Not defined at {count(undefined)} of {count(len(run.main_dev()))} evaluations." if undefined else ""
    if undefined and not dev:
        return Panel(title_name(name), run.split, None, missing=note)
    unit_words = run.split if percentages else f"{run.split}, {unit(name)}"
    return _panel(run, title_name(name), unit_words, {"training": (training, text), run.split: (dev, text)}, draw, note)


def shortened(text: str, most: int = 24) -> str:
    """The beginning of a text that is too long for its place."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _training_accuracy_panel(run: FinetunedRun, steps: Steps) -> Panel:
    points = series(run.train, "accuracy")
    of = {"span": "of first and last words", "tagging": "of words"}.get(run.kind, "of examples")
    return _panel(
        run, "Training accuracy", of, {"training": (points, percent)},
        lambda: single_chart(points, "training-accuracy", "Training accuracy", steps, percentages=True),
    )  # fmt: skip


def _rate_panel(run: FinetunedRun, steps: Steps) -> Panel:
    rates = series(run.train, "learning_rate")
    exponent = math.floor(math.log10(max([rate for _, rate in rates if rate > 0], default=1.0)))
    scaled = [(step, rate / 10.0**exponent) for step, rate in rates]
    optimizer = run.settings["optimizer"]
    peak, share, steps_up = (number(optimizer, name) for name in ("learning_rate", "warmup_share", "warmup_steps"))
    warmup = f"over {percent(share, 0)} of the steps" if share is not None else f"of {count(steps_up or 0)} steps"
    note = f"Peak {plain(peak)}; warm-up {warmup}." if peak else ""
    return _panel(
        run, "Learning rate", f"× 10{superscript(exponent)}", {"newest": (rates, lambda rate: f"{rate:.2g}")},
        lambda: single_chart(scaled, "learning-rate", "Learning rate", steps), note,
    )  # fmt: skip


def _norm_panel(run: FinetunedRun, steps: Steps) -> Panel:
    norms = series(run.train, "grad_norm")
    clip = number(run.settings["optimizer"], "clip_norm")
    return _panel(
        run, "Gradient norm", "before clipping, logarithmic axis", {"newest": (norms, lambda norm: decimal(norm, 2))},
        lambda: gradient_norm_chart(norms, clip, steps), "" if clip else "Not clipped: optimizer.clip_norm=0.",
    )  # fmt: skip


def _speed_panel(run: FinetunedRun, steps: Steps) -> Panel:
    rates = series(run.train, "examples_per_second")
    thing = "rows" if run.kind in ("span", "tagging") else "examples"
    filled = _mean([share for _, share in series(run.train, "valid_token_share")])
    note = "" if filled is None else f"{percent(filled)} of the tokens in a batch are no padding."
    return _panel(
        run, "Throughput", f"{thing}/s", {"newest": (rates, lambda rate: f"{rate:,.4g}")},
        lambda: single_chart(rates, "throughput", f"{thing.capitalize()} a second", steps), note,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def metric_words(run: FinetunedRun, name: str) -> str:
    """A metric with its split: "accuracy (dev)"."""
    return f"{metric_name(name)}{of_class(run, name)} ({run.split})"


def of_class(run: FinetunedRun, name: str) -> str:
    """Return " of CLASS" for F1 of one class."""
    f1_of = run.record.get("f1_of")
    return f" of {f1_of}" if name == "f1" and f1_of else ""
