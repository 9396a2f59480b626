# SPDX-License-Identifier: Apache-2.0
"""A split of texts or pairs each of which may be of any number of classes.

Shapes: N examples, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.finetuning.batches import Draw, NOBODY
from bert_jax.finetuning.split import Outcome, Outputs
from bert_jax.finetuning.text_split import TextSplit
from bert_jax.tasks.examples import TextExample
from bert_jax.tasks.scoring import multi_label
from bert_jax.tasks.submissions import write_predictions
from bert_jax.tasks.table import Task

THRESHOLD = 0.5  # a class is predicted from this probability on


class MultiLabelSplit(TextSplit):
    """Texts or pairs, each of any number of classes."""

    def true_labels(self) -> np.ndarray | None:
        """Whether each class is right, bool [N, C]; None where the file does not tell."""
        known = [example.label for example in self.examples if example.label is not None]
        if len(known) < len(self.examples):
            return None
        gold = multi_label.indicators(known, len(self.task.labels or ()))
        silent = [word for word, times in zip(self.task.labels or (), gold.sum(0), strict=True) if not times]
        if silent and self.name == "train":
            self.notes.append(f"train: no example is of {', '.join(silent)}: nothing of it can be learned")
        return gold

    def labels(self, draw: Draw) -> dict[str, np.ndarray]:
        """`targets` [N, C] float32, 1 where a class is right; of packed rows [B, E, C]."""
        assert self.gold is not None
        chosen = np.where((draw.examples == NOBODY)[..., None], False, self.gold[draw.examples])
        return {"targets": chosen.astype(np.float32)}

    def outcome(self, outputs: Outputs) -> Outcome:
        """Score and predict from the logits [C] of each example, each through a sigmoid of its own."""
        probabilities = sigmoid(np.stack(outputs))
        predicted = probabilities >= THRESHOLD
        scores = {} if self.gold is None else multi_label.scores(self.task.metrics, self.gold, predicted)
        chosen = [tuple(np.flatnonzero(row).tolist()) for row in predicted]

        def write(folder: Path, stem: str) -> list[Path]:
            path = folder / f"{stem}.tsv"
            write_predictions(self.task, self.examples, chosen, probabilities, path)
            return [path]

        records = [
            _record(example, *found) for example, *found in zip(self.examples, chosen, probabilities, strict=True)
        ]
        return Outcome(scores, self.gold, predicted, records, write)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64."""
    return 0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))  # overflows nowhere


def _record(example: Any, chosen: tuple[int, ...], probabilities: np.ndarray) -> JsonObject:
    assert isinstance(example, TextExample)
    return {
        "name": example.name,
        "predicted": list(chosen),
        "label": example.label if example.label is None else list(example.label),  # type: ignore[arg-type]
        "text": " | ".join(example.texts),
        "probabilities": [round(share, 6) for share in probabilities.tolist()],
    }


def class_lines(task: Task, outcome: Outcome) -> list[str]:
    """Precision, recall and F1 of each class, a class a line; nothing without labels."""
    if outcome.gold is None or outcome.predicted is None:
        return []
    counts = multi_label.count_classes(outcome.gold, outcome.predicted)
    words = task.labels or ()
    width = max(*(len(word) for word in words), len("class")) + 2
    heads = ("precision", "recall", "F1", "support", "predicted")
    lines = ["", f"{'class':<{width}}" + "".join(f"{head:>11}" for head in heads)]
    rates = zip(counts.precision(), counts.recall(), counts.f1(), strict=True)
    for word, row, support, predicted in zip(words, rates, counts.support, counts.predicted, strict=True):
        lines.append(f"{word:<{width}}" + "".join(f"{rate:>11.4f}" for rate in row) + f"{support:>11,}{predicted:>11,}")
    return [*lines, ""]
