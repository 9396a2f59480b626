# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 of each class, and over all, where an example may have any number of classes."""

from bert_jax.pages.class_tables import HEAD
from bert_jax.pages.page import Card, Part, Table
from bert_jax.pages.wording import count, percent
from bert_jax.runs.finetuned import FinetunedRun, prediction_fields
from bert_jax.tasks.scoring.multi_label import ClassCounts, count_classes, indicators


def multi_label_parts(run: FinetunedRun) -> list[Part]:
    """A row for each class, the mean over classes, and all decisions together."""
    classes = len(run.record["labels"])
    truth, predicted = (indicators(field, classes) for field in prediction_fields(run.labelled))
    counts = count_classes(truth, predicted)
    rows = [_row(run.class_words(place), _only(counts, place)) for place in range(truth.shape[1])]
    means = [percent(float(rates.mean())) for rates in (counts.precision(), counts.recall(), counts.f1())]
    together = _row("all decisions together", ClassCounts(*(part.sum(keepdims=True) for part in counts)))
    table = Table(HEAD, [*rows, ("mean of the classes", *means, *together[4:]), together])
    return [Card([table], "Scores of each class")]


def _only(counts: ClassCounts, place: int) -> ClassCounts:
    return ClassCounts(*(part[place : place + 1] for part in counts))


def _row(words: str, counts: ClassCounts) -> tuple[str, ...]:
    """A row under `HEAD`; a precision or recall of nothing is a dash."""
    precision = percent(float(counts.precision()[0])) if counts.predicted[0] else "–"
    recall = percent(float(counts.recall()[0])) if counts.support[0] else "–"
    figures = (count(int(counts.support[0])), count(int(counts.predicted[0])))
    return (words, precision, recall, percent(float(counts.f1()[0])), *figures)
