# SPDX-License-Identifier: Apache-2.0
"""Tasks on files of one's own, and tasks of the table on files with other columns: options -> a `Task`, or a refusal."""

from collections.abc import Sequence
from dataclasses import replace

from bert_jax.base.errors import UserError
from bert_jax.tasks.scoring.labels import distinct_labels
from bert_jax.tasks.table import Column, Columns, find_task, is_conll_column, Task

_OWN_METRICS = {
    "classification": ("accuracy", "mcc", "f1"),
    "multi_label": ("micro_f1", "macro_f1", "subset_accuracy"),
    "regression": ("pearson", "spearman"),
    "choice": ("accuracy",),
    "span": ("f1", "exact_match"),
    "tagging": ("f1", "precision", "recall"),
}
_OWN_SPLITS = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
_CONLL_ENDINGS = ("conll", "conllu", "txt")
_OWN_ENDINGS = {"span": ("json",), "tagging": _CONLL_ENDINGS}


def own_task(
    kind: str,
    text: Sequence[Column] = (),
    label: Column | None = None,
    id: Column | None = None,
    labels: Sequence[str] | None = None,
    choices: Sequence[Column] = (),
    positive: str | None = None,
    separator: str | None = None,
) -> Task:
    """Return a task on files of one's own, whose columns are named.

    TSV has no quoting, CSV has; the ending of the file decides. Columns are given by name, or all by number for files
    without a header. Tagging has CoNLL files, of which columns may be named (see `conll.read_conll`), or JSON lines with a
    list of words and a list of tags, whose fields must be named.

    Args:
      kind: one of description.TASKS.
      text: one text or two; choice: the context (and the common beginning of the continuations); tagging: the words.
      labels: the classes in the order of their numbers, of tagging also the types of its phrases (see
        `schemes.named_labels`); None: those of the training file.
      choices: a column for each, or one with a list.
      positive: the class that F1 is of where there are two; None: the second.
      separator: multi_label: what stands between the classes in the column `label`; None: it holds lists. Without
        `label` each of `labels` is the name of a column of 0 and 1.

    Raises:
      UserError: columns that do not fit together or the kind.
    """
    given = bool(text) or label is not None or id is not None or bool(choices)
    columns = Columns(tuple(text), label, id, tuple(choices)) if given else None
    if kind == "multi_label":
        columns = _multi_label_columns(columns or Columns(()), labels, separator)
    elif separator is not None:
        raise UserError(
            f"--separator belongs to multi_label, whose examples have several classes: {kind} has none such"
        )
    endings = _OWN_ENDINGS.get(kind, ("tsv", "csv", "jsonl"))
    if columns is not None and kind == "tagging":
        of_conll = all(map(is_conll_column, columns.text))
        endings = (*_CONLL_ENDINGS, "jsonl") if of_conll else ("jsonl", *_CONLL_ENDINGS)
    task = Task(
        "own",
        "own data",
        kind,
        _OWN_METRICS.get(kind, ()),
        {split: tuple(f"{name}.{end}" for end in endings for name in names) for split, names in _OWN_SPLITS.items()},
        labels=None if labels is None else tuple(labels),
        columns=columns,
        max_length=384 if kind == "span" else 128,
        positive=positive,
    )
    _check_own(kind, columns, task.labels)
    if kind == "choice" and task.labels is None and len(choices) > 1:
        task = replace(task, labels=tuple(str(number) for number in range(len(choices))))
    if positive is not None and kind != "classification":
        raise UserError(f"--positive belongs to classification, whose F1 is of one class: {kind} has none such")
    return task.with_classes(labels) if labels is not None and kind == "classification" else task


def with_columns(
    name: str, text: Sequence[Column], label: Column | None = None, labels: Sequence[str] | None = None
) -> Task:
    """Return a task of tagging of the table on files with other columns, or with labels that its training file lacks.

    Raises:
      UserError: it is no task of tagging, whose files alone come in many layouts, or columns that do not fit together.
    """
    task = find_task(name)
    if task.kind != "tagging":
        raise UserError(
            f"{task.name} has its own columns and labels: describe your own data with bert-jax finetune own"
        )
    columns = Columns(tuple(text), label) if text or label is not None else None
    _check_own(task.kind, columns, labels)
    tfds = task.tfds if task.tfds is None or columns is None else replace(task.tfds, columns=columns)
    return replace(task, columns=columns, labels=None if labels is None else tuple(labels), tfds=tfds)


def _multi_label_columns(columns: Columns, labels: Sequence[str] | None, separator: str | None) -> Columns:
    if columns.label is not None:
        if separator == "":
            raise UserError("--separator '' parts nothing: name what stands between classes, such as ';'")
        return replace(columns, separator=separator)
    if separator is not None or not labels:
        raise UserError(
            "multi_label needs --label-column, the column that lists the classes, or --labels, each the name of a column of 0"
            " and 1"
        )
    return replace(columns, flags=tuple(labels))


def _check_own(kind: str, columns: Columns | None, labels: Sequence[str] | None) -> None:
    if labels is not None:
        if len(distinct_labels(labels)) != len(labels):
            raise UserError(f"--labels {' '.join(labels)}: one is given twice")
        if kind in ("regression", "span"):
            found = "a regression has numbers" if kind == "regression" else "answers are pieces of their context"
            raise UserError(f"--labels belongs to classification, choice and tagging: {found}")
    if columns is None and kind in _OWN_ENDINGS:
        return
    if kind == "span":
        raise UserError("span has no columns: its files are as SQuAD's, name them with --data alone")
    columns = columns or Columns(())
    given = [*columns.needed, *columns.optional]
    if kind != "tagging" and len({type(column) for column in given}) > 1:
        raise UserError(f"columns {given} are given by name and by number: a file has a header or it has none")
    allowed = (1,) if kind == "tagging" else (1, 2)
    if len(columns.text) not in allowed:
        raise UserError(
            f"{len(columns.text)} columns are named as text, and {kind} has {' or '.join(map(str, allowed))}: name"
            " them with --text-column"
        )
    if bool(columns.choices) != (kind == "choice"):
        raise UserError(
            f"{kind} with {len(columns.choices)} columns of choices: --choice-column belongs to choice, which needs it"
        )
