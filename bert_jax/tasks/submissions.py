# SPDX-License-Identifier: Apache-2.0
"""Predictions as files: those that the GLUE site takes (https://gluebenchmark.com/faq), and one line an example."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent
from bert_jax.tasks.examples import ChoiceExample, TextExample
from bert_jax.tasks.table import Columns, GLUE, Task, TASKS

_SAME_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can tell: the same predictions give the same file


def predicted_word(task: Task, prediction: Any) -> str:
    """Return a prediction as the task's files spell it: the word of a class, or a number.

    A rating in a range, as STS-B's, has three decimals and is put into its range; another number has the nine digits that
    tell float32 apart.

    Args:
      prediction: number of the class or choice, the rating, or of multi_label the numbers of the classes, which come with
        the file's separator between them, or as a JSON list where it has none.
    """
    if task.kind == "multi_label":
        words = [(task.labels or ())[number] for number in prediction]
        separator = task.columns.separator if isinstance(task.columns, Columns) else None
        return json.dumps(words, ensure_ascii=False) if separator is None else separator.join(words)
    if task.kind == "regression":
        return f"{prediction:.9g}" if task.rating is None else f"{np.clip(prediction, *task.rating):.3f}"
    return task.labels[int(prediction)] if task.labels else str(int(prediction))


# ---- GLUE ----------------------------------------------------------------------------------------------------


def write_submission(
    task: Task, split: str, examples: Sequence[TextExample], predictions: Sequence[float] | np.ndarray, folder: Path
) -> Path:
    """Write the file of a GLUE test split into `folder`: "index" and "prediction", a line an example, in their order.

    Returns its path.

    Raises:
      UserError: a task or split that GLUE does not score, or examples that are not those of its test file.
    """
    submission = task.submissions.get(split)
    if submission is None:
        raise UserError(f"GLUE takes no predictions for {split} of {task.title}: it takes {', '.join(_splits())}")
    _same_length(examples, predictions)
    if len(examples) != submission.examples:
        raise UserError(
            f"{submission.file} would have {len(examples)} predictions, and GLUE's test file has"
            f" {submission.examples}: predict all of it"
        )
    lines = ["index\tprediction"]
    lines += [
        f"{example.name}\t{predicted_word(task, prediction)}"
        for example, prediction in zip(examples, predictions, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / submission.file
    with complete_or_absent(path) as file:
        file.write(("\n".join(lines) + "\n").encode())
    return path


def zip_submissions(folder: Path, path: Path) -> list[str]:
    """Put the submission files of `folder` into the zip `path`. Returns the names of those that are not there.

    The site wants all of them, the diagnostic's too.

    Raises:
      UserError: there is none.
    """
    names = [submission.file for name in GLUE for submission in TASKS[name].submissions.values()]
    there = [name for name in names if (folder / name).is_file()]
    if not there:
        raise UserError(
            f"{folder} has no submission file, which takes all of GLUE's test file: it would be one of {', '.join(names)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name in there:
            entry = zipfile.ZipInfo(name, _SAME_TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes())
    return [name for name in names if name not in there]


def _splits() -> Iterator[str]:
    for name in GLUE:
        yield from (f"{split} of {TASKS[name].title}" for split in TASKS[name].submissions)


# ---- one line an example -------------------------------------------------------------------------------------


def write_predictions(
    task: Task,
    examples: Sequence[TextExample | ChoiceExample],
    predictions: Sequence[Any] | np.ndarray,
    probabilities: Sequence[Sequence[float]] | np.ndarray | None,
    path: Path,
) -> None:
    """Write index, prediction, the label where it is known and the probability of each class or choice.

    The ending of `path` decides: .tsv has a column each, .jsonl an object a line. Columns begin as those of a
    submission, so that what reads one reads both.

    Args:
      predictions: numbers of classes or choices, or ratings, [N]; of multi_label a tuple of numbers each.
      probabilities: [N][classes]; of choices each as many as there are; None: there are none (a regression).
    """
    _same_length(examples, predictions)
    rows: list[dict[str, str | None]] = [
        {
            "index": example.name,
            "prediction": predicted_word(task, prediction),
            "label": None if example.label is None else _foreign(example) or _label(task, example.label),
        }
        for example, prediction in zip(examples, predictions, strict=True)
    ]
    shares = [_named(task, part) for part in probabilities] if probabilities is not None else [{} for _ in rows]
    _same_length(rows, shares)
    if path.suffix == ".jsonl":
        lines = [_json(task, row, share) for row, share in zip(rows, shares, strict=True)]
    elif path.suffix == ".tsv":
        lines = list(_tsv(rows, shares))
    else:
        raise UserError(f"{path}: predictions are written as .tsv or .jsonl: end the name so")
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as file:
        file.write(("\n".join(lines) + "\n").encode())


def _foreign(example: TextExample | ChoiceExample) -> str | None:
    """Return an example's label where that is none of the classes."""
    return example.foreign if isinstance(example, TextExample) else None


def _label(task: Task, label: Any) -> str:
    return f"{label:.9g}" if task.kind == "regression" else predicted_word(task, label)


def _named(task: Task, probabilities: Sequence[float] | np.ndarray) -> dict[str, float]:
    names = task.labels or [str(number) for number in range(len(probabilities))]
    return dict(zip(names, map(float, probabilities), strict=True))


def _json(task: Task, row: dict[str, str | None], share: dict[str, float]) -> str:
    content: dict[str, object] = {key: value for key, value in row.items() if value is not None}
    if task.kind == "regression":
        content |= {key: float(str(content[key])) for key in ("prediction", "label") if key in content}
    if share:
        content["probabilities"] = {name: round(value, 6) for name, value in share.items()}
    return json.dumps(content, ensure_ascii=False)


def _tsv(rows: Sequence[dict[str, str | None]], shares: Sequence[dict[str, float]]) -> Iterator[str]:
    labelled = any(row["label"] is not None for row in rows)
    classes = list(dict.fromkeys(name for share in shares for name in share))
    columns = ["index", "prediction", *(["label"] if labelled else []), *(f"p({name})" for name in classes)]
    yield "\t".join(map(_cell, columns))
    for row, share in zip(rows, shares, strict=True):
        cells = [row["index"], row["prediction"], *([row["label"] or ""] if labelled else [])]
        yield "\t".join(
            [*map(_cell, map(str, cells)), *(f"{share[name]:.6f}" if name in share else "" for name in classes)]
        )


def _cell(text: str) -> str:
    """Return a text for one cell of a TSV, which has no quoting."""
    return " ".join(text.split())


def _same_length(first: Sequence[object], second: Sequence[object] | np.ndarray) -> None:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} must be the same number")
