# SPDX-License-Identifier: Apache-2.0
"""The scores of GLUE: accuracy, F1, Matthews and two correlations, and the two averages that are both called GLUE's.

Scores are fractions (1.0: all right), as scikit-learn and SciPy give them; the averages take any unit, the paper's and the
GLUE site's figures are 100 times these. N: examples, C: classes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.lines import decode_text
from bert_jax.tasks.scoring.labels import label_key

Numbers = Sequence[float] | np.ndarray  # [N] numbers of classes, or ratings
TaskScores = Mapping[str, Mapping[str, float | None]]  # name of a task -> name of a metric -> score

# ---- metrics -----------------------------------------------------------------------------------------------


def scores(
    metrics: Sequence[str], gold: Numbers, predicted: Numbers, classes: int = 2, positive: int = 1
) -> dict[str, float | None]:
    """Return each metric of `metrics`, from gold and predicted numbers of classes, or ratings.

    Args:
      metrics: accuracy, f1 (of the class `positive`), macro_f1 (the mean over all classes), mcc, pearson, spearman.
      gold, predicted: [N].
      classes: C, how many the task has, also those that occur neither in `gold` nor in `predicted`.
      positive: number of the class that f1 is of.

    Returns:
      Name -> score; None: a correlation with a constant, which is not defined.

    Raises:
      UserError: lengths differ, there is nothing to score, or a number is not finite.
    """
    wanted, found = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)  # [N]
    _check(wanted, found)
    of_classes: dict[str, Callable[[], float]] = {
        "f1": lambda: f1(wanted, found, positive),
        "macro_f1": lambda: macro_f1(wanted, found, classes),
    }
    return {name: of_classes[name]() if name in of_classes else METRICS[name](wanted, found) for name in metrics}


def _check(gold: np.ndarray, predicted: np.ndarray) -> None:
    if gold.shape != predicted.shape:
        raise UserError(
            f"{len(gold):,} gold labels and {len(predicted):,} predictions: give one prediction for each example"
        )
    if gold.size == 0:
        raise UserError("there is no example to score: give files with at least one")
    for what, numbers in (("gold label", gold), ("prediction", predicted)):
        wrong = np.flatnonzero(~np.isfinite(numbers))
        if wrong.size:
            raise UserError(f"{what} {wrong[0]} (of 0 to {len(gold) - 1}) is {numbers[wrong[0]]}: give finite numbers")


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of equal labels."""
    return float(np.mean(gold == predicted))


def f1(gold: np.ndarray, predicted: np.ndarray, positive: int = 1) -> float:
    """Return F1 of the class `positive`, 0 where it is neither there nor predicted."""
    return _f1_of(gold == positive, predicted == positive)


def macro_f1(gold: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Return the mean F1 over the classes 0 to `classes` - 1; one that is neither there nor predicted counts as 0.

    A gold number beyond them is of a label that the model does not know: its example is a mistake in what was predicted.
    """
    if predicted.max() >= classes:
        raise ValueError(f"there are numbers beyond those of {classes} classes")
    return float(np.mean([f1(gold, predicted, number) for number in range(classes)]))


def _f1_of(gold: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of what is true in both, bool [N]."""
    right, counted = int((gold & predicted).sum()), int(gold.sum()) + int(predicted.sum())
    return 2 * right / counted if counted else 0.0


def mcc(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Return Matthews' correlation for any number of classes (R_K of Gorodkin 2004), 0 where gold or predicted is constant."""
    matrix = confusion_matrix(gold, predicted).astype(np.float64)
    of_gold, of_predicted, total = matrix.sum(axis=1), matrix.sum(axis=0), float(matrix.sum())  # [C], [C]
    covariance = np.trace(matrix) * total - of_gold @ of_predicted
    variances = (total**2 - of_gold @ of_gold) * (total**2 - of_predicted @ of_predicted)
    return float(covariance / math.sqrt(variances)) if variances else 0.0


def confusion_matrix(gold: Numbers, predicted: Numbers, classes: int = 0) -> np.ndarray:
    """Return how many of class i were called j, [C, C] int64. C is `classes`, or as many as the highest number needs."""
    rows, columns = np.asarray(gold, np.int64), np.asarray(predicted, np.int64)
    size = max(classes, int(rows.max()) + 1, int(columns.max()) + 1)
    return np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)


def pearson(gold: np.ndarray, predicted: np.ndarray) -> float | None:
    """Return Pearson's correlation, -1 to 1; None where gold or predicted is constant."""
    if np.all(gold == gold[0]) or np.all(predicted == predicted[0]):
        return None
    directions = []
    for numbers in (gold, predicted):
        # Scaled first, so that squares neither vanish nor overflow.
        centred = numbers / np.abs(numbers).max()
        centred = centred - centred.mean()
        directions.append(centred / np.linalg.norm(centred))
    return float(np.clip(directions[0] @ directions[1], -1, 1))


def spearman(gold: np.ndarray, predicted: np.ndarray) -> float | None:
    """Return Spearman's correlation: Pearson's of the ranks; equal numbers share the mean of their ranks."""
    return pearson(mean_ranks(gold), mean_ranks(predicted))


def mean_ranks(numbers: np.ndarray) -> np.ndarray:
    """Return ranks from 1, float [N]; equal numbers share the mean of theirs."""
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


# Those that need gold and predicted alone.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "accuracy": accuracy,
    "mcc": mcc,
    "pearson": pearson,
    "spearman": spearman,
}
# What programs that read GLUE's scores call them, where that differs: the names of Hugging Face's metric "glue".
OFFICIAL_NAMES = {"mcc": "matthews_correlation", "spearman": "spearmanr"}

# ---- averages ----------------------------------------------------------------------------------------------

PAPER_AVERAGE = "paper's average (nine figures, MNLI-m and MNLI-mm apart, without WNLI)"
SITE_AVERAGE = "GLUE site's average (nine tasks, two metrics or test sets of a task averaged first, with WNLI)"

# BERT's Table 1: "F1 scores are reported for QQP and MRPC, Spearman correlations for STS-B, accuracy for the other tasks";
# the figure of CoLA is Matthews' correlation.
PAPER_METRICS = {
    "mnli": "accuracy",
    "mnli_mismatched": "accuracy",
    "qqp": "f1",
    "qnli": "accuracy",
    "sst2": "accuracy",
    "cola": "mcc",
    "stsb": "spearman",
    "mrpc": "f1",
    "rte": "accuracy",
}
# GLUE paper (Wang et al. 2018), section 3: "for tasks with multiple metrics, we use an unweighted average".
SITE_METRICS: dict[str, tuple[tuple[str, str], ...]] = {
    "cola": (("cola", "mcc"),),
    "sst2": (("sst2", "accuracy"),),
    "mrpc": (("mrpc", "f1"), ("mrpc", "accuracy")),
    "stsb": (("stsb", "pearson"), ("stsb", "spearman")),
    "qqp": (("qqp", "f1"), ("qqp", "accuracy")),
    "mnli": (("mnli", "accuracy"), ("mnli_mismatched", "accuracy")),
    "qnli": (("qnli", "accuracy"),),
    "rte": (("rte", "accuracy"),),
    "wnli": (("wnli", "accuracy"),),
}


def paper_average(task_scores: TaskScores) -> float:
    """Return `PAPER_AVERAGE`, from the scores of every task of `PAPER_METRICS`. UserError where one lacks."""
    _check_complete(task_scores, list(PAPER_METRICS.items()), PAPER_AVERAGE)
    return _mean(task_scores, list(PAPER_METRICS.items()))


def site_average(task_scores: TaskScores) -> float:
    """Return `SITE_AVERAGE`, from the scores of every task of `SITE_METRICS`. UserError where one lacks."""
    _check_complete(task_scores, [part for parts in SITE_METRICS.values() for part in parts], SITE_AVERAGE)
    means = [_mean(task_scores, parts) for parts in SITE_METRICS.values()]
    return sum(means) / len(means)


def _check_complete(task_scores: TaskScores, parts: Sequence[tuple[str, str]], average: str) -> None:
    lacking = [f"{task} ({metric})" for task, metric in parts if task_scores.get(task, {}).get(metric) is None]
    if lacking:
        raise UserError(f"the {average} lacks {', '.join(lacking)}: score these too")


def _mean(task_scores: TaskScores, parts: Sequence[tuple[str, str]]) -> float:
    return sum(task_scores[task][metric] or 0.0 for task, metric in parts) / len(parts)


# ---- files of predictions ----------------------------------------------------------------------------------

_NAMES_OF_INDEX = ("index", "id", "name")


class PredictedExample(NamedTuple):
    """A prediction as its file spells it."""

    text: str
    place: str  # file and line, for messages


def read_predictions(path: Path, names: Sequence[str]) -> list[PredictedExample]:
    """Return the prediction of every example, in the order of their `names` [N].

    The file is TSV with a header that has a column `prediction` and perhaps one of `index` (GLUE's submissions: the number of
    the example from 0, or its name), or it has one label a line in the order of the examples. Quotes mean nothing.

    Raises:
      UserError: the file is empty or has other columns, other examples, or another number of them.
    """
    lines = decode_text(path.read_bytes(), str(path)).rstrip("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty: give one prediction a line")
    header = [name.strip().lower() for name in lines[0].split("\t")]
    if "prediction" not in header:
        if len(header) > 1:
            raise UserError(f"{path}, line 1: no column is called prediction: give a header 'index<TAB>prediction'")
        found = [PredictedExample(line.strip(), f"{path}, line {n}") for n, line in enumerate(lines, start=1)]
        _check_number(path, len(found), len(names))
        return found
    rows = [_cells(line, header, f"{path}, line {n}") for n, line in enumerate(lines[1:], start=2)]
    _check_number(path, len(rows), len(names))
    column = header.index("prediction")
    found = [PredictedExample(row[column], f"{path}, line {n}") for n, row in enumerate(rows, start=2)]
    index = next((header.index(name) for name in _NAMES_OF_INDEX if name in header), None)
    return found if index is None else _in_order(found, [row[index] for row in rows], names, path)


def _cells(line: str, header: Sequence[str], place: str) -> list[str]:
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) != len(header):
        raise UserError(f"{place} has {len(cells)} columns, the header has {len(header)}: give every line the same")
    return cells


def _check_number(path: Path, found: int, examples: int) -> None:
    if found != examples:
        raise UserError(f"{path} has {found:,} predictions for {examples:,} examples: give one for each")


def _in_order(
    found: Sequence[PredictedExample], indices: Sequence[str], names: Sequence[str], path: Path
) -> list[PredictedExample]:
    """Sorted as the examples are: by their names where these are the indices, else by number from 0."""
    by_index = dict(zip(indices, found, strict=True))
    numbers = [str(number) for number in range(len(names))]
    for order in (names, numbers):
        if len(by_index) == len(order) and set(order) == by_index.keys():
            return [by_index[index] for index in order]
    strange = next((index for index in indices if index not in set(numbers)), "one twice")
    raise UserError(
        f"{path}: the indices are neither 0 to {len(names) - 1:,} nor the examples' ids (there is {strange}): give the"
        " predictions of this file"
    )


def class_numbers(predictions: Sequence[PredictedExample], words: Mapping[str, int]) -> np.ndarray:
    """Return the numbers of the classes of predictions, int64 [N]. UserError names an unknown one.

    Args:
      predictions: labels in words, or as numbers of classes.
      words: label -> number of its class.
    """
    spelled = {str(number): number for number in words.values()} | dict(words)
    known = {label_key(word): number for word, number in spelled.items()}
    for prediction in predictions:
        if label_key(prediction.text) not in known:
            raise UserError(
                f"{prediction.place}: '{prediction.text}' is no label of the task: give one of {', '.join(spelled)}"
            )
    return np.array([known[label_key(prediction.text)] for prediction in predictions], np.int64)


def ratings(predictions: Sequence[PredictedExample]) -> np.ndarray:
    """Return the predictions as numbers, float64 [N]. UserError names one that is not finite, or none."""
    return np.array([_rating(prediction) for prediction in predictions], np.float64)


def _rating(prediction: PredictedExample) -> float:
    try:
        number = float(prediction.text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{prediction.place}: '{prediction.text}' is no finite number: give a rating")
    return number
