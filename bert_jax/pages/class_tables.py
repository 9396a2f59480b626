# SPDX-License-Identifier: Apache-2.0
"""Precision, recall and F1 of each class, and the confusion matrix. C: classes."""

from collections.abc import Callable, Sequence

import numpy as np

from bert_jax.pages.page import Card, Cell, Fold, Grid, Matrix, Part, Table
from bert_jax.pages.wording import count, percent, SPACE
from bert_jax.tasks.scoring.glue import confusion_matrix

MOST_CLASSES = 40  # of a matrix; the rarest beyond it are put together
NUMBERED = 4  # from more classes on, columns are headed by numbers
DENSE = 12  # from more classes on, cells have no figures
FOLDED = 20  # from more rows on, the table of scores is folded in
BESIDE = 5  # classes at most whose matrix stands beside the scores
HEAD = ["Class", "Precision", "Recall", "F1", "Support", "Predicted"]


class Classes:
    """Truth and predictions of a split by class.

    Shown are the classes that occur in one of them; means are over all `classes` of the task, as macro_f1 of scoring.glue,
    which a label that the model does not know is none of.
    """

    def __init__(self, gold: Sequence[int], predicted: Sequence[int], words: Callable[[int], str], classes: int = 0):
        matrix = confusion_matrix(gold, predicted)  # [C, C]
        occurring = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
        self.matrix = matrix[np.ix_(occurring, occurring)]
        self.words = [words(int(place)) for place in occurring]
        self.classes = classes or len(occurring)
        self.absent = self.classes - int((occurring < self.classes).sum()) if classes else 0

    @property
    def right(self) -> int:
        """Examples whose class is predicted."""
        return int(np.trace(self.matrix))

    def table(self) -> list[tuple[str, ...]]:
        """Rows of `HEAD`, and their mean; a precision or recall of nothing is a dash."""
        right, support, predicted = np.diag(self.matrix), self.matrix.sum(1), self.matrix.sum(0)
        rows = [
            (word, *_rates(int(r), int(p), int(s)), count(int(s)), count(int(p)))
            for word, r, p, s in zip(self.words, right, predicted, support, strict=True)
        ]
        # What cannot be divided is 0, and so are the classes that do not occur.
        means = [_divided(right, by).sum() / self.classes for by in (predicted, support)]
        f1 = _divided(2 * right, predicted + support).sum() / self.classes
        rates = [percent(float(mean)) for mean in (*means, f1)]
        name = "mean of the classes"
        if self.absent:
            name = f"mean of all {self.classes} classes, {self.absent} of them absent"
        return [*rows, (name, *rates, count(int(support.sum())), count(int(predicted.sum())))]

    def drawn(self, caption: str) -> Matrix:
        """The matrix under a caption, the rarest classes put together where there are very many."""
        matrix, words = self.matrix, self.words
        note = "Rows: truth, columns: predicted; a fully coloured cell holds its whole row."
        note += f" {count(self.right)} of {count(int(matrix.sum()))} right."
        if len(words) > MOST_CLASSES:
            matrix, words = _folded(matrix, words)
            note += f" The {len(self.words) - MOST_CLASSES + 1} rarest classes are one row and column."
        numbered = len(words) > NUMBERED
        if numbered:
            note += " Columns have the numbers of the rows."
        names = [f"{place}{SPACE}{word}" for place, word in enumerate(words, 1)] if numbered else words
        columns = [str(place) for place in range(1, len(words) + 1)] if numbered else words
        rows = [(name, _cells(matrix, words, place)) for place, name in enumerate(names)]
        return Matrix(caption, columns, rows, len(words) > DENSE, note)

    def confusions(self, most: int = 10) -> list[tuple[str, ...]]:
        """The commonest mistakes: (truth, predicted, how often, share of the true class)."""
        wrong = self.matrix - np.diag(np.diag(self.matrix))
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [divmod(int(place), len(self.words)) for place in order if wrong.flat[place]]
        rows: list[tuple[str, ...]] = []
        for row, column in pairs:
            times = int(wrong[row, column])
            share = percent(times / int(self.matrix[row].sum()))
            rows.append((self.words[row], self.words[column], count(times), share))
        return rows


def _rates(right: int, predicted: int, support: int) -> tuple[str, str, str]:
    precision = percent(right / predicted) if predicted else "–"
    recall = percent(right / support) if support else "–"
    return precision, recall, percent(2 * right / (predicted + support))


def _divided(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _folded(matrix: np.ndarray, words: list[str]) -> tuple[np.ndarray, list[str]]:
    """The commonest classes in their order, and the others as one."""
    common = np.sort(np.argsort(-matrix.sum(1), kind="stable")[: MOST_CLASSES - 1])
    places = np.full(len(words), MOST_CLASSES - 1)
    places[common] = np.arange(MOST_CLASSES - 1)
    folded = np.zeros((MOST_CLASSES, MOST_CLASSES), np.int64)
    np.add.at(folded, (places[:, None], places[None, :]), matrix)
    return folded, [*(words[place] for place in common), f"{len(words) - MOST_CLASSES + 1} others"]


def _cells(matrix: np.ndarray, words: Sequence[str], row: int) -> list[Cell]:
    whole = int(matrix[row].sum())
    cells = []
    for column, times in enumerate(matrix[row].tolist()):
        share = times / whole if whole else 0.0
        text = f"{words[row]}, predicted {words[column]}: {count(times)} ({percent(share)})"
        cells.append(Cell(times, share, text, row == column))
    return cells


def class_parts(classes: Classes, caption: str, confusions: bool = True) -> list[Part]:
    """The scores of each class beside the matrix, and the commonest confusions where there are many classes."""
    rows, matrix = classes.table(), classes.drawn(caption)
    scores: Part = Table(HEAD, rows)
    if len(rows) > FOLDED:
        scores = Fold(f"{len(rows) - 1} classes", "", [scores])
    cards = [Card([scores], "Scores of each class"), Card([matrix], "Confusion matrix")]
    parts: list[Part] = [Grid(cards, "many" if len(matrix.columns) <= BESIDE else "stack")]
    commonest = classes.confusions() if confusions and len(classes.words) > 2 else []
    if commonest:
        table = Table(["Truth", "Predicted", "Times", "Of the true class"], commonest, "words")
        parts.append(Card([table], "Commonest confusions"))
    return parts
