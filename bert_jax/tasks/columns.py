# SPDX-License-Identifier: Apache-2.0
"""Records of files with columns -> examples with labels."""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bert_jax.base.errors import listed, shortened, UserError
from bert_jax.tasks.examples import ChoiceExample, Sentence, TextExample
from bert_jax.tasks.multi_label import class_numbers, flagged_classes, listed_classes
from bert_jax.tasks.records import Cells, columns_of, open_records, Records
from bert_jax.tasks.scoring.labels import distinct_labels, label_key
from bert_jax.tasks.table import Column, Columns, is_test, Task
from bert_jax.tasks.task_files import LISTED

_NOTHING = ("", "\\N")  # what stands where there is no label; the second is how databases export it
_MOST_LABELS = 1000  # found in a training file; more are no classes


def read_examples(
    task: Task, split: str, source: str | Path, unknown_labels: str | None = None
) -> tuple[list[TextExample] | list[ChoiceExample] | list[Sentence], list[str]]:
    """Return the examples of a split, and notes for people about what was left out.

    Examples are of text for classification and regression, choices for choice, sentences for tagging. A task whose
    labels are to be found in the training file goes through `with_labels` first. SQuAD's and CoNLL's files have no
    columns and readers of their own.

    Args:
      split: a name of `task.files`.
      source: the folder of the data, a file, or `tfds:NAME[/CONFIG][:VERSION]`; `tfds:` is the task's own.
      unknown_labels: a label of a text that is none of the task's classes is refused (None; "refuse" names the options of
        fine-tuning too), or the example is kept, with a number
        that no class has ("error"), or left out ("ignore"). Counted in the notes.

    Raises:
      UserError: missing files and columns, lines of another width, labels that are unknown or missing in a split that
        must have them, ratings that are no numbers, text that is not UTF-8, a file without examples.
    """
    if task.kind in ("classification", "multi_label") and task.labels is None:
        raise ValueError(f"the labels of {task.name} are not known yet: call with_labels")
    columns = columns_of(task, split, source)
    records = open_records(task, split, source, columns)
    if not is_test(split):
        _need_labels(records, columns, split)
    makers: dict[str, Callable[..., Iterator[Any]]] = {"choice": _choices, "tagging": _sentences}
    examples = list(makers.get(task.kind, _texts)(task, split, columns, records))
    if task.kind == "classification":
        examples = _with_foreign(task, split, records, examples, unknown_labels)
    if not examples:
        raise UserError(f"{records.name} has no examples: is it the right file?")
    return examples, records.notes


def _with_foreign(
    task: Task, split: str, records: Records, examples: list[TextExample], unknown_labels: str | None
) -> list[TextExample]:
    """Return the examples, of which those with a label that is none of the classes are refused, kept or left out."""
    foreign = [example for example in examples if example.foreign is not None]
    if not foreign:
        return examples
    words = listed(sorted({str(example.foreign) for example in foreign}), LISTED)
    if unknown_labels in (None, "refuse"):
        shown = task.labels if task.meanings is None else (*(task.labels or ()), *task.meanings)
        raise UserError(
            f"{foreign[0].place}: label {foreign[0].foreign} is not one of {listed(shown or (), LISTED)}: mend the file"
            f"{unknown_advice(task, split) if unknown_labels else ''}"
        )
    what = "count as mistakes" if unknown_labels == "error" else "are left out"
    records.notes.append(
        f"{records.name}: {len(foreign):,} examples have labels that are no classes ({words}) and {what}"
    )
    return examples if unknown_labels == "error" else [one for one in examples if one.foreign is None]


def with_labels(task: Task, source: str | Path) -> Task:
    """Return the task with its labels: those of the training file, by number if all are numbers, else by alphabet.

    Raises:
      UserError: the training file has no labels, one only, or too many to be classes.
    """
    if task.labels is not None or task.kind not in ("classification", "multi_label"):
        return task
    columns = columns_of(task, "train", source)
    records = open_records(task, "train", source, columns)
    _need_labels(records, columns, "train")
    key = _key(records, columns.label)
    if task.kind == "multi_label":
        words = distinct_labels(
            {word for place, cells in records.lines for word in _listed_words(cells[key], place, columns)}
        )
        if not words:
            raise UserError(f"{records.name}: no example has a class: nothing can be learned")
    else:
        words = distinct_labels({_needed_word(cells[key], place) for place, cells in records.lines})
    if len(words) < 2 and task.kind == "classification":
        raise UserError(
            f"{records.name}: every example has the label {words[0] if words else 'none'}: nothing can be learned"
        )
    if len(words) > _MOST_LABELS:
        raise UserError(
            f"{records.name}: the column {columns.label} has {len(words)} different values, which are no classes:"
            " name another column, or use --kind regression"
        )
    return task.with_classes(words)


def unknown_advice(task: Task, split: str) -> str:
    """Return the ways to go on with labels that are not known, besides mending the file, for a message of fine-tuning."""
    ways = ["name every label with --labels"] if task.name == "own" or task.kind == "tagging" else []
    if split != "train":
        ways.append(
            "have such labels scored as mistakes or left out: unknown_labels=error or ignore (--unknown-labels)"
        )
    return "".join(f", or {way}" for way in ways)


# ---- examples ------------------------------------------------------------------------------------------------


def _texts(task: Task, split: str, columns: Columns, records: Records) -> Iterator[TextExample]:
    label_of, name_of = _label_reader(task, split, columns, records), _name_reader(columns, records)
    keys = [records.keys[column] for column in columns.text]
    for number, (place, cells) in enumerate(records.lines):
        texts = tuple(_text(cells[key], place) for key in keys)
        label = label_of(cells, place)
        foreign, label = (label, len(task.labels or ())) if isinstance(label, str) else (None, label)
        yield TextExample(name_of(cells, number), texts, label, place, foreign)


def _choices(task: Task, split: str, columns: Columns, records: Records) -> Iterator[ChoiceExample]:
    label_of, name_of = _label_reader(task, split, columns, records), _name_reader(columns, records)
    context, *beginning = [records.keys[column] for column in columns.text]
    keys = [records.keys[column] for column in columns.choices]
    for number, (place, cells) in enumerate(records.lines):
        values = [cells[key] for key in keys]
        if len(values) == 1:
            values = _strings(values[0], place, str(columns.choices[0]))
        start = [_text(cells[key], place) for key in beginning]
        ends = [" ".join([*start, _text(value, place)]) for value in values]
        if len(ends) < 2:
            raise UserError(f"{place} has {len(ends)} choices: there must be two or more")
        label = label_of(cells, place)
        if label is not None and not 0 <= label < len(ends):
            raise UserError(f"{place}: label {label} is none of its {len(ends)} choices, which are numbered from 0")
        pairs = tuple((_text(cells[context], place), end) for end in ends)
        yield ChoiceExample(name_of(cells, number), pairs, None if label is None else int(label), place)


def _sentences(task: Task, split: str, columns: Columns, records: Records) -> Iterator[Sentence]:
    name_of = _name_reader(columns, records)
    words_key, tags_key = records.keys[columns.text[0]], _key(records, columns.label)
    for number, (place, cells) in enumerate(records.lines):
        words = tuple(_strings(cells[words_key], place, str(columns.text[0])))
        found = None if tags_key is None else cells[tags_key]
        if found is None and not is_test(split):
            raise UserError(f"{place} has no tags: {split} needs them")
        tags = None if found is None else tuple(_strings(found, place, str(columns.label)))
        if tags is not None and len(tags) != len(words):
            raise UserError(f"{place} has {len(words)} words and {len(tags)} tags")
        yield Sentence(name_of(cells, number), words, tags, number, place)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: {shortened(value)} stands where a text must be")
    return value


def _strings(value: object, place: str, column: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        raise UserError(f"{place}: {column} is {shortened(value)}, and must be a list of texts")
    return value


def _key(records: Records, column: Column | None) -> Column | None:
    """Return where a column stands that a file may lack; None where it does."""
    return None if column is None else records.keys.get(column)


def _name_reader(columns: Columns, records: Records) -> Callable[[Cells, int], str]:
    """Return a function: (cells, number) -> the example's id."""
    key = _key(records, columns.id)
    if key is None:
        return lambda cells, number: str(number)
    return lambda cells, number: str(number) if cells[key] in (None, "") else str(cells[key]).strip()


# ---- labels --------------------------------------------------------------------------------------------------


def _need_labels(records: Records, columns: Columns, split: str) -> None:
    if columns.label is None and not columns.flags:
        raise UserError(f"{records.name} is read as {split}, which needs labels: name their column with --label-column")
    for column in columns.flags or (columns.label,):
        if column not in records.keys:
            raise UserError(
                f"{records.name} has no column {column}, and {split} needs labels: its columns are"
                f" {listed(records.names, LISTED)}"
            )


def _label_reader(task: Task, split: str, columns: Columns, records: Records) -> Callable[[Cells, str], Any]:
    """Return a function: (cells, place) -> number of the class, rating, a word that is no class, or None where none is told."""
    key, may_miss = _key(records, columns.label), is_test(split)
    if task.kind == "multi_label":
        return _classes_reader(task, split, columns, records)
    if key is None:
        return lambda cells, place: None
    parse = _rating(task) if task.kind == "regression" else _class_number(task)
    known: dict[str, int | float | str] = {}  # str -> label: most lines have a label that was seen before

    def read(cells: Cells, place: str) -> int | float | str | None:
        cell = cells[key]
        if type(cell) is str and cell in known:
            return known[cell]
        word = _word(cell, place)
        if may_miss and (word is None or _is_hidden(word, task)):
            return None
        label = parse(word if word is not None else _needed_word(cell, place), place)
        if type(cell) is str:
            known[cell] = label
        return label

    return read


def _classes_reader(task: Task, split: str, columns: Columns, records: Records) -> Callable[[Cells, str], Any]:
    """Return a function: (cells, place) -> numbers of the classes that are right, or None where a test file does not tell."""
    key, may_miss, labels = _key(records, columns.label), is_test(split), task.labels or ()
    flags = [records.keys[column] for column in columns.flags if column in records.keys]
    if flags and len(flags) < len(columns.flags):
        lacking = [str(column) for column in columns.flags if column not in records.keys]
        raise UserError(
            f"{records.name} has columns of some classes and none of {listed(lacking, LISTED)}: give all or none"
        )
    if flags:
        return lambda cells, place: flagged_classes([cells[flag] for flag in flags], place, _word, may_miss)
    if key is None:
        return lambda cells, place: None

    def read(cells: Cells, place: str) -> tuple[int, ...] | None:
        cell = cells[key]
        if may_miss and (cell is None or (isinstance(cell, str) and _word(cell, place) in (None, "-1"))):
            return None
        return class_numbers(_listed_words(cell, place, columns), labels, place)

    return read


def _listed_words(cell: object, place: str, columns: Columns) -> tuple[str, ...]:
    words = listed_classes(cell, place, columns.separator, _word)
    if words is None:
        raise UserError(
            f"{place} does not tell its classes: add them, leave the cell empty for none, or leave the line out"
        )
    return words


def _word(cell: object, place: str) -> str | None:
    """Return a label as it would stand in a TSV file; None where there is none."""
    if cell is None or (isinstance(cell, str) and cell.strip() in _NOTHING):
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, str | int | float):
        return str(cell).strip()
    raise UserError(f"{place}: {shortened(cell)} stands where a label must be")


def _needed_word(cell: object, place: str) -> str:
    word = _word(cell, place)
    if word is None:
        raise UserError(f"{place} has no label: add it or leave the line out")
    return word


def _is_hidden(word: str, task: Task) -> bool:
    """Whether it is the -1 that stands for the labels that test files do not tell."""
    if re.fullmatch(r"-1(\.0*)?", word) is None:
        return False
    if task.kind == "regression":
        return task.rating is not None
    return label_key(word) not in map(label_key, task.labels or ())


def _class_number(task: Task) -> Callable[[str, str], int | str]:
    """Return a function: (word, place) -> number of the class; of a classification the word itself where it is no class."""
    labels = task.labels or ()
    known = {label_key(word): number for words in (task.meanings or (), labels) for number, word in enumerate(words)}

    def parse(word: str, place: str) -> int | str:
        key = label_key(word)
        if not labels and not isinstance(key, str) and key == int(key) >= 0:  # choices whose number differs by line
            return int(key)
        if key in known:
            return known[key]
        if task.kind == "classification":
            return word
        shown = labels if task.meanings is None else (*labels, *task.meanings)
        raise UserError(f"{place}: label {word} is not one of {listed(shown, LISTED) or 'the numbers from 0'}")

    return parse


def _rating(task: Task) -> Callable[[str, str], float]:
    low, high = task.rating or (-math.inf, math.inf)

    def parse(word: str, place: str) -> float:
        try:
            rating = float(word)
        except ValueError:
            raise UserError(f"{place}: {shortened(word)} stands where a number must be") from None
        if not math.isfinite(rating) or not low <= rating <= high:
            wanted = "a finite number" if task.rating is None else f"from {low} to {high}"
            raise UserError(f"{place}: the rating {word} is not {wanted}")
        return rating

    return parse
