# SPDX-License-Identifier: Apache-2.0
"""Scores where any number of the classes of an example is right: F1 over all decisions, over classes, and whole examples.

As scikit-learn's f1_score and accuracy_score have them for indicator matrices; what cannot be divided is 0. Scores are
fractions. N: examples, C: classes of the task.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.base.errors import UserError


class ClassCounts(NamedTuple):
    """Counts of each class, [C] int64."""

    right: np.ndarray  # examples that are of the class and predicted so
    support: np.ndarray  # that are of the class
    predicted: np.ndarray  # that are predicted so

    def precision(self) -> np.ndarray:
        """Return the precision of each class, [C]; 0 where nothing is predicted."""
        return _divided(self.right, self.predicted)

    def recall(self) -> np.ndarray:
        """Return the recall of each class, [C]; 0 where there is nothing."""
        return _divided(self.right, self.support)

    def f1(self) -> np.ndarray:
        """Return F1 of each class, [C]; 0 where nothing is there nor predicted."""
        return _divided(2 * self.right, self.support + self.predicted)

    def micro_f1(self) -> float:
        """Return F1 of all decisions together."""
        return float(_divided(2 * self.right.sum(), (self.support + self.predicted).sum()))


def indicators(numbers: Sequence[Any], classes: int) -> np.ndarray:
    """Return the classes of each example, a list of numbers, as bool [N, C]."""
    matrix = np.zeros((len(numbers), classes), np.bool_)
    for example, own in enumerate(numbers):
        matrix[example, list(own)] = True
    return matrix


def count_classes(gold: np.ndarray, predicted: np.ndarray) -> ClassCounts:
    """Count each class, from whether it is right and predicted, bool [N, C] both.

    Raises:
      UserError: the shapes differ, or there is no example.
    """
    if gold.shape != predicted.shape:
        raise UserError(
            f"gold labels are {gold.shape} and predictions {predicted.shape}: give one row for each example"
        )
    if not len(gold):
        raise UserError("there is no example to score: give files with at least one")
    return ClassCounts((gold & predicted).sum(0), gold.sum(0), predicted.sum(0))


def scores(metrics: Sequence[str], gold: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """Return each metric of `metrics`: micro_f1, macro_f1 (the mean over all C classes), subset_accuracy.

    Args:
      gold, predicted: bool [N, C].

    Raises:
      UserError: the shapes differ, or there is no example.
    """
    counts = count_classes(gold, predicted)
    values: dict[str, float | None] = {
        "micro_f1": counts.micro_f1(),
        "macro_f1": float(counts.f1().mean()),
        "subset_accuracy": float((gold == predicted).all(1).mean()),
    }
    return {metric: values[metric] for metric in metrics}


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)
