# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 of each class, and over all, where an example may have any number of classes."""

import numpy as np

from bert_jax.pages.class_tables import HEAD
from bert_jax.pages.page import Card, Part, Table
from bert_jax.pages.wording import count, percent
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.tasks.scoring.multi_label import ClassCounts, count_classes


def multi_label_parts(run: FinetunedRun) -> list[Part]:
    """A row for each class, the mean over classes, and all decisions together."""
    truth, predicted = (_indicators(run, field) for field in ("label", "predicted"))
    counts = count_classes(truth, predicted)
    rows = [_row(run.class_words(place), _only(counts, place)) for place in range(truth.shape[1])]
    means = [percent(float(rates.mean())) for rates in (counts.precision(), counts.recall(), counts.f1())]
    together = _row("all decisions together", ClassCounts(*(part.sum(keepdims=True) for part in counts)))
    table = Table(HEAD, [*rows, ("mean of the classes", *means, *together[4:]), together])
    return [Card([table], "Scores of each class")]


def _indicators(run: FinetunedRun, field: str) -> np.ndarray:
    """Whether each class is in a field of the labelled predictions, bool [N, C]."""
    matrix = np.zeros((len(run.labelled), len(run.record["labels"])), np.bool_)
    for number, record in enumerate(run.labelled):
        matrix[number, record[field]] = True
    return matrix


def _only(counts: ClassCounts, place: int) -> ClassCounts:
    return ClassCounts(*(part[place : place + 1] for part in counts))


def _row(words: str, counts: ClassCounts) -> tuple[str, ...]:
    """A row under `HEAD`; a precision or recall of nothing is a dash."""
    precision = percent(float(counts.precision()[0])) if counts.predicted[0] else "–"
    recall = percent(float(counts.recall()[0])) if counts.support[0] else "–"
    figures = (count(int(counts.support[0])), count(int(counts.predicted[0])))
    return (words, precision, recall, percent(float(counts.f1()[0])), *figures)
