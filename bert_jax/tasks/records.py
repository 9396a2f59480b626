# SPDX-License-Identifier: Apache-2.0
"""Files with columns -> records: TSV without quoting as GLUE's, CSV with it, JSON lines, and data sets of TFDS."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import listed, UserError
from bert_jax.base.lines import EmptyLines, json_record, LONGEST_LINE
from bert_jax.tasks.table import Column, Columns, is_test, Task, TFDS, tfds_place
from bert_jax.tasks.task_files import find_file, LISTED, plain_suffix
from bert_jax.text.streams import read_lines
from bert_jax.text.tfds_source import read_records

Cells = Any  # of one line, by key: a list or a dict


@dataclass
class Records:
    """The lines of a file with columns.

    keys: column -> where it stands in `cells`; without those that the file lacks. names: of all its columns.
    lines: (place, cells). notes: grows while lines are read.
    """

    name: str
    keys: Mapping[Column, Column]
    names: Sequence[str]
    lines: Iterable[tuple[str, Cells]]
    notes: list[str]


def columns_of(task: Task, split: str, source: str | Path) -> Columns:
    if str(source).startswith(TFDS):
        if task.tfds is not None:
            return task.tfds.columns
        if task.columns is None:
            raise UserError(
                f"{source}: its fields are not known as {task.title}'s: name them, bert-jax finetune own --kind {task.kind}"
                " --text-column WORDS --label-column TAGS"
            )
    return task.columns_of(split)


def open_records(task: Task, split: str, source: str | Path, columns: Columns) -> Records:
    if str(source).startswith(TFDS):
        return _tfds_records(task, split, str(source), columns)
    path = find_file(task, split, readable(source))
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
            found = f"its columns are {listed(map(str, names), LISTED)}"
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
        notes.append(f"{name}: {len(short)} lines lack columns and are left out: {listed(short, LISTED)}")
    notes += empty.note()


def _json_records(name: str, numbered: Iterator[tuple[int, str]], columns: Columns, empty: EmptyLines) -> Records:
    first, line = _first(numbered, name)
    names = list(json_record(line, f"{name}, line {first}"))
    optional = [column for column in columns.optional if column in names]
    keys: dict[Column, Column] = {column: column for column in (*columns.needed, *optional)}
    notes: list[str] = []

    def lines() -> Iterator[tuple[str, dict[Column, object]]]:
        for number, row in itertools.chain([(first, line)], numbered):
            place = f"{name}, line {number}"
            cells: dict[Any, Any] = json_record(row, place)
            if missing := [column for column in columns.needed if column not in cells]:
                raise UserError(f"{place} has no {missing[0]}: it has {listed(map(str, cells), LISTED)}")
            yield place, {column: cells.get(column) for column in keys}
        notes.extend(empty.note())

    return Records(name, keys, names, lines(), notes)


def _tfds_records(task: Task, split: str, source: str, columns: Columns) -> Records:
    spec, tfds_split = tfds_place(task, split, source)
    optional = [str(column) for column in columns.optional]
    data = read_records(spec, tfds_split, [str(column) for column in columns.needed], optional)
    keys: dict[Column, str] = {field: field for field in data.fields}
    return Records(data.name, keys, data.all_fields, data.records, [])
