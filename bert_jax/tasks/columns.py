# SPDX-License-Identifier: Apache-2.0
"""Files with columns -> examples: TSV without quoting as GLUE's, CSV with it, JSON lines, and data sets of TFDS."""

import csv
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError
from bert_jax.tasks.examples import ChoiceExample, Sentence, TextExample
from bert_jax.tasks.multi_label import class_numbers, flagged_classes, listed_classes
from bert_jax.tasks.scoring.labels import distinct_labels, label_key
from bert_jax.tasks.table import Column, Columns, is_test, Task, TFDS, tfds_place
from bert_jax.tasks.task_files import find_file, plain_suffix, read_lines
from bert_jax.text.lines import EmptyLines, json_record, LONGEST_LINE
from bert_jax.text.tfds_source import read_records

_NOTHING = ("", "\\N")  # what stands where there is no label; the second is how databases export it
_LISTED = 12  # columns, labels or lines in a message
_MOST_LABELS = 1000  # found in a training file; more are no classes

Cells = Any  # of one line, by key: a list or a dict


@dataclass
class Records:
    """The lines of a file with columns.

    keys: column -> where it stands in `cells`; without those that the file lacks. names: of all its columns.
    lines: (place, cells). notes: grows while lines are read.
    """

    name: str
    keys: Mapping[Column, Any]
    names: Sequence[str]
    lines: Iterable[tuple[str, Cells]]
    notes: list[str]


def read_examples(
    task: Task, split: str, source: str | Path, unknown_labels: str | None = None
) -> tuple[list[TextExample] | list[ChoiceExample] | list[Sentence], list[str]]:
    """The examples of a split, and notes for people about what was left out.

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
    columns = _columns(task, split, source)
    records = _open(task, split, source, columns)
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
    """The examples of which those with a label that is none of the classes are refused, kept or left out."""
    foreign = [example for example in examples if example.foreign is not None]
    if not foreign:
        return examples
    words = _listed(sorted({str(example.foreign) for example in foreign}))
    if unknown_labels in (None, "refuse"):
        shown = task.labels if task.meanings is None else (*(task.labels or ()), *task.meanings)
        raise UserError(
            f"{foreign[0].place}: label {foreign[0].foreign} is not one of {_listed(shown or ())}: mend the file"
            f"{unknown_advice(task, split) if unknown_labels else ''}"
        )
    what = "count as mistakes" if unknown_labels == "error" else "are left out"
    records.notes.append(
        f"{records.name}: {len(foreign):,} examples have labels that are no classes ({words}) and {what}"
    )
    return examples if unknown_labels == "error" else [one for one in examples if one.foreign is None]


def with_labels(task: Task, source: str | Path) -> Task:
    """The task with its labels: those of the training file, by number if all are numbers, else by alphabet.

    Raises:
      UserError: the training file has no labels, one only, or too many to be classes.
    """
    if task.labels is not None or task.kind not in ("classification", "multi_label"):
        return task
    columns = _columns(task, "train", source)
    records = _open(task, "train", source, columns)
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
    """What else than to mend the file can be done about labels that are not known, for a message of fine-tuning."""
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


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: {_short(value)} stands where a text must be")
    return value


def _strings(value: Any, place: str, column: str) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        raise UserError(f"{place}: {column} is {_short(value)}, and must be a list of texts")
    return value


def _key(records: Records, column: Column | None) -> Any:
    """Where a column stands that a file may lack; None where it does."""
    return None if column is None else records.keys.get(column)


def _name_reader(columns: Columns, records: Records) -> Callable[[Cells, int], str]:
    """(cells, number) -> the example's id."""
    key = _key(records, columns.id)
    if key is None:
        return lambda cells, number: str(number)
    return lambda cells, number: str(number) if cells[key] in (None, "") else str(cells[key]).strip()


# ---- labels --------------------------------------------------------------------------------------------------


def _need_labels(records: Records, columns: Columns, split: str) -> None:
    if columns.label is None and not columns.flags:
        raise UserError(f"{records.name} is read as {split}, which needs labels: name their column with --label")
    for column in columns.flags or (columns.label,):
        if column not in records.keys:
            raise UserError(
                f"{records.name} has no column {column}, and {split} needs labels: its columns are"
                f" {_listed(records.names)}"
            )


def _label_reader(task: Task, split: str, columns: Columns, records: Records) -> Callable[[Cells, str], Any]:
    """(cells, place) -> number of the class, rating, or None where a test file has none; a word that is no class."""
    key, may_miss = _key(records, columns.label), is_test(split)
    if task.kind == "multi_label":
        return _classes_reader(task, split, columns, records)
    if key is None:
        return lambda cells, place: None
    parse = _rating(task) if task.kind == "regression" else _class_number(task)
    known: dict[Any, int | float | str] = {}  # str -> label: most lines have a label that was seen before

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
    """(cells, place) -> numbers of the classes that are right, or None where a test file does not tell."""
    key, may_miss, labels = _key(records, columns.label), is_test(split), task.labels or ()
    flags = [records.keys[column] for column in columns.flags if column in records.keys]
    if flags and len(flags) < len(columns.flags):
        lacking = [str(column) for column in columns.flags if column not in records.keys]
        raise UserError(f"{records.name} has columns of some classes and none of {_listed(lacking)}: give all or none")
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


def _listed_words(cell: Any, place: str, columns: Columns) -> tuple[str, ...]:
    words = listed_classes(cell, place, columns.separator, _word)
    if words is None:
        raise UserError(
            f"{place} does not tell its classes: add them, leave the cell empty for none, or leave the line out"
        )
    return words


def _word(cell: Any, place: str) -> str | None:
    """A label as it would stand in a TSV file; None where there is none."""
    if cell is None or (isinstance(cell, str) and cell.strip() in _NOTHING):
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, str | int | float):
        return str(cell).strip()
    raise UserError(f"{place}: {_short(cell)} stands where a label must be")


def _needed_word(cell: Any, place: str) -> str:
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
    """(word, place) -> number of the class; of a classification the word itself where it is no class."""
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
        raise UserError(f"{place}: label {word} is not one of {_listed(shown) or 'the numbers from 0'}")

    return parse


def _rating(task: Task) -> Callable[[str, str], float]:
    low, high = task.rating or (-math.inf, math.inf)

    def parse(word: str, place: str) -> float:
        try:
            rating = float(word)
        except ValueError:
            raise UserError(f"{place}: {_short(word)} stands where a number must be") from None
        if not math.isfinite(rating) or not low <= rating <= high:
            wanted = "a finite number" if task.rating is None else f"from {low} to {high}"
            raise UserError(f"{place}: the rating {word} is not {wanted}")
        return rating

    return parse


# ---- lines -----------------------------------------------------------------------------------------------------


def _columns(task: Task, split: str, source: str | Path) -> Columns:
    if str(source).startswith(TFDS):
        if task.tfds is not None:
            return task.tfds.columns
        if task.columns is None:
            raise UserError(
                f"{source}: its fields are not known as {task.title}'s: name them, --task own --kind {task.kind} --text WORDS"
                " --label TAGS"
            )
    return task.columns_of(split)


def _open(task: Task, split: str, source: str | Path, columns: Columns) -> Records:
    if str(source).startswith(TFDS):
        return _tfds_records(task, split, str(source), columns)
    path = find_file(task, split, Path(source))
    suffix = plain_suffix(path)
    if suffix not in (".jsonl", ".tsv", ".txt", ".csv"):
        raise UserError(f"{path}: the ending {suffix or '(none)'} is not known: name it .tsv, .csv or .jsonl")
    empty = EmptyLines(path.name)
    if suffix == ".jsonl":
        return _json_records(path.name, empty.without(read_lines(path)), columns, empty)
    read = _csv_lines if suffix == ".csv" else _tsv_lines
    lines = read(path.name, read_lines(path), empty)
    return _table_records(path.name, lines, columns, task.skips_short_lines and not is_test(split), empty)


def _tsv_lines(name: str, lines: Iterable[tuple[int, str]], empty: EmptyLines) -> Iterator[tuple[int, list[str]]]:
    """(number, cells). A quote is a character like any other, and only a line feed ends a line."""
    for number, line in empty.without(lines):
        yield number, line.removesuffix("\r").split("\t")


def _csv_lines(name: str, lines: Iterable[tuple[int, str]], empty: EmptyLines) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells); quoted cells may hold commas and line feeds."""
    reader = csv.reader((f"{line}\n" for _, line in lines), strict=True)
    with _long_fields():
        number = 1
        try:
            for cells in reader:
                if not cells or (len(cells) == 1 and cells[0].isspace()):
                    empty.count(number)
                else:
                    yield number, cells
                number = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{name}, line {number}: the quoting is broken, or a cell has more than {LONGEST_LINE // 2**20} million"
                f" characters ({error})"
            ) from None


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module refuses fields of more than 131,072 characters: documents may be as long as lines."""
    before = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table_records(
    name: str, lines: Iterator[tuple[int, list[str]]], columns: Columns, skips_short: bool, empty: EmptyLines
) -> Records:
    """Lines of equal width; in some files those that are too short are left out and named."""
    number, first = _first(lines, name)
    notes: list[str] = []
    if columns.header:
        names = [cell.strip() for cell in first]
        keys = _keys_of(name, names, columns)
    else:
        names = [str(place) for place in range(len(first))]
        keys = _keys_of(name, [*range(len(first))], columns)
        lines = itertools.chain([(number, first)], lines)
    return Records(name, keys, names, _of_width(name, lines, len(first), skips_short, notes, empty), notes)


def _first[Line](lines: Iterator[tuple[int, Line]], name: str) -> tuple[int, Line]:
    first = next(lines, None)
    if first is None:
        raise UserError(f"{name} is empty: is it the right file?")
    return first


def _keys_of(name: str, names: Sequence[Column], columns: Columns) -> dict[Column, int]:
    """Column -> its number, of those that the example needs and of label and id where they are there."""
    for column in columns.needed:
        if column not in names:
            found = f"its columns are {_listed([str(word) for word in names])}"
            if isinstance(column, int):
                found = f"its first line has {len(names)} columns, numbered from 0"
            raise UserError(f"{name} has no column {column}: {found}")
    optional = [column for column in columns.optional if column in names]
    wanted = (*columns.needed, *optional)
    if twice := [column for column in wanted if list(names).count(column) > 1]:
        raise UserError(f"{name} has the column {twice[0]} twice: rename one")
    return {column: names.index(column) for column in wanted}


def _of_width(
    name: str,
    lines: Iterator[tuple[int, list[str]]],
    width: int,
    skips_short: bool,
    notes: list[str],
    empty: EmptyLines,
) -> Iterator[tuple[str, list[str]]]:
    prefix, short = f"{name}, line ", []
    for number, cells in lines:
        if len(cells) == width:
            yield f"{prefix}{number}", cells
        elif skips_short and len(cells) < width:
            short.append(str(number))
        else:
            raise UserError(f"{prefix}{number} has {len(cells)} columns, and the first line has {width}")
    if short:
        notes.append(f"{name}: {len(short)} lines lack columns and are left out: {_listed(short)}")
    notes += empty.note()


def _json_records(name: str, numbered: Iterator[tuple[int, str]], columns: Columns, empty: EmptyLines) -> Records:
    first, line = _first(numbered, name)
    names = list(json_record(line, f"{name}, line {first}"))
    optional = [column for column in columns.optional if column in names]
    keys: dict[Column, Column] = {column: column for column in (*columns.needed, *optional)}
    notes: list[str] = []

    def lines() -> Iterator[tuple[str, dict[Column, Any]]]:
        for number, row in itertools.chain([(first, line)], numbered):
            place = f"{name}, line {number}"
            cells: dict[Any, Any] = json_record(row, place)
            if missing := [column for column in columns.needed if column not in cells]:
                raise UserError(f"{place} has no {missing[0]}: it has {_listed(list(map(str, cells)))}")
            yield place, {column: cells.get(column) for column in keys}
        notes.extend(empty.note())

    return Records(name, keys, names, lines(), notes)


def _tfds_records(task: Task, split: str, source: str, columns: Columns) -> Records:
    spec, tfds_split = tfds_place(task, split, source)
    optional = [str(column) for column in columns.optional]
    data = read_records(spec, tfds_split, [str(column) for column in columns.needed], optional)
    keys: dict[Column, str] = {field: field for field in data.fields}
    return Records(data.name, keys, data.all_fields, data.records, [])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(name or "''" for name in names[:_LISTED]) + more


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
