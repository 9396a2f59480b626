# SPDX-License-Identifier: Apache-2.0
"""SQuAD-shaped files -> questions: SQuAD 1.1 and 2.0, and CMRC 2018, DRCD and others that took the shape over; and the
same data sets in TFDS.

    {"version": .., "data": [{"paragraphs": [{"context": .., "qas": [
        {"id": .., "question": .., "is_impossible": .., "answers": [{"text": .., "answer_start": ..}]}]}]}]}

`is_impossible` is what version 2.0 added; where it is missing every question has an answer. Errors name the place in
the JSON: data[3].paragraphs[0].qas[2].
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_jax.errors import UserError
from bert_jax.files import JSON_KINDS
from bert_jax.tasks.examples import Answer, Question
from bert_jax.tasks.scoring.squad import read_json
from bert_jax.tasks.table import SQUAD_FIELDS, Task, tfds_place
from bert_jax.text.lines import json_record
from bert_jax.text.tfds_source import read_records

_SHAPE = "a SQuAD file is data[].paragraphs[] with context and qas[], which have id, question and answers[]"


def read_questions(path: Path, labelled: bool = True, unique: bool = True) -> list[Question]:
    """The questions of a file in its order, with the answers as the file has them (see `answer_begin`).

    Args:
      path: .json, .json.xz or .json.gz.
      labelled: every question must have an answer or be marked as impossible. Without it answers may be missing.
      unique: ids must differ, as answers and scores go by them; not so of questions that are trained on.

    Raises:
      OSError: the file cannot be read.
      UserError: it is empty, not JSON or of another shape; an id comes twice (if `unique`); a question has no answer and is
        not marked as impossible, or is marked so and has one.
    """
    if not path.stat().st_size:
        raise UserError(f"{path} is empty: {_SHAPE}")
    return _questions(_entries(read_json(path), path), labelled, unique, f"{path} has no questions: {_SHAPE}")


def read_tfds_questions(
    task: Task, split: str, source: str, labelled: bool = True, unique: bool = True
) -> list[Question]:
    """The questions of a data set of TFDS with the fields of its `squad`, in the order of its files.

    Args:
      split: a name of `task.files`.
      source: `tfds:NAME[/CONFIG][:VERSION]`; `tfds:` is the task's own.
      labelled, unique: as for `read_questions`.

    Raises:
      UserError: as `tfds_source.read_records`, and as `read_questions`.
    """
    spec, tfds_split = tfds_place(task, split, source)
    columns = task.tfds.columns if task.tfds is not None else SQUAD_FIELDS
    question, context, name, answers = (str(column) for column in (*columns.text, columns.id, columns.label))
    data = read_records(spec, tfds_split, [question, context, name], [answers, "is_impossible"])
    entries = (
        (place, record[context], {"id": record[name], "question": record[question]} | _labels(record, answers, place))
        for place, record in data.records
    )
    return _questions(entries, labelled, unique, f"{data.name} has no questions: is it the right split?")


def read_question_lines(lines: Sequence[str], first: int) -> list[Question]:
    """The questions of JSON lines, {"question": .., "context": .., "id": ..}; the id may be missing. Empty lines are left out.

    Args:
      lines: of standard input.
      first: number of the first of them, for messages, and for the names of questions without an id.

    Raises:
      UserError: a line is no such object.
    """
    questions = []
    for number, line in enumerate(lines, start=first):
        if line.strip():
            place = f"line {number}"
            entry = {"id": str(number), **json_record(line, place)}
            questions.append(_question(entry, _member(entry, "context", str, place), place, labelled=False))
    return questions


def answer_begin(context: str, answer: Answer) -> int | None:
    """Where an answer is: at `answer.begin` if its text stands there, else where it stands nearest to it.

    Offsets lie in official files too: -1, or counted in other units than characters. Of two places that are equally
    near, the first. None: the text stands nowhere in the context.
    """
    begin = max(answer.begin, 0)
    before = context.rfind(answer.text, 0, begin + len(answer.text))  # begins at `begin` at the latest
    if before == begin == answer.begin:
        return begin
    after = context.find(answer.text, begin)
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - answer.begin), default=None)


# ---- questions ---------------------------------------------------------------------------------------------


def _questions(
    entries: Iterable[tuple[str, str, Any]], labelled: bool, unique: bool, none_found: str
) -> list[Question]:
    """Of the places, contexts and entries of a whole split."""
    questions: list[Question] = []
    places: dict[str, str] = {}
    for place, context, entry in entries:
        question = _question(entry, context, place, labelled)
        first = places.setdefault(question.name, place)
        if unique and first is not place:
            raise UserError(
                f"{place} has the id '{question.name}', as has {first}: ids must differ, answers go by them"
            )
        questions.append(question)
    if not questions:
        raise UserError(none_found)
    return questions


def _labels(record: Mapping[str, Any], answers: str, place: str) -> dict[str, Any]:
    """What a record of TFDS tells of the answers, as the file has it: TFDS keeps {text: [..], answer_start: [..]}."""
    found = {name: record[name] for name in ("is_impossible",) if name in record}
    if answers not in record:
        return found
    held = record[answers]
    if not isinstance(held, dict) or not {"text", "answer_start"} <= held.keys():
        raise UserError(f"{place}: {answers} does not hold text and answer_start: it is no data set like squad")
    pairs = zip(held["text"], held["answer_start"], strict=True)
    return found | {"answers": [{"text": text, "answer_start": begin} for text, begin in pairs]}


# ---- the file ----------------------------------------------------------------------------------------------


def _entries(content: Any, path: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, context and question of each entry."""
    file = path.name
    for number, article in enumerate(_member(content, "data", list, file, joint=", ")):
        article_place = f"{file}, data[{number}]"
        for paragraph_number, paragraph in enumerate(_member(article, "paragraphs", list, article_place)):
            place = f"{article_place}.paragraphs[{paragraph_number}]"
            context = _member(paragraph, "context", str, place)
            for question_number, entry in enumerate(_member(paragraph, "qas", list, place)):
                yield f"{place}.qas[{question_number}]", context, entry


def _question(entry: Any, context: str, place: str, labelled: bool) -> Question:
    numbered = isinstance(entry, dict) and type(entry.get("id")) is int
    name = str(_member(entry, "id", int if numbered else str, place)).strip()  # as the scorer reads it
    text = _member(entry, "question", str, place)
    impossible = _member(entry, "is_impossible", bool, place) if "is_impossible" in entry else None
    given = _member(entry, "answers", list, place) if (labelled and not impossible) or "answers" in entry else []
    answers = tuple(_answer(answer, f"{place}.answers[{number}]") for number, answer in enumerate(given))
    if impossible and answers:
        raise UserError(f"{place} ('{name}') is_impossible and has the answer '{answers[0].text}': remove one of them")
    if labelled and not impossible and not answers:
        raise UserError(
            f"{place} ('{name}') has no answer: add one, or \"is_impossible\": true (version 2.0) if there is none"
        )
    return Question(name, text, context, answers, impossible, place)


def _answer(entry: Any, place: str) -> Answer:
    text = _member(entry, "text", str, place)
    if not text.strip():
        raise UserError(f"{place}.text is empty: a question without an answer has an empty list of answers")
    return Answer(text, _member(entry, "answer_start", int, place))


def _member[T](holder: Any, name: str, kind: type[T], place: str, joint: str = ".") -> T:
    """`holder[name]`, which must be of that kind."""
    if not isinstance(holder, dict):
        raise UserError(f"{place} is {_said(holder)}, not an object with '{name}': {_SHAPE}")
    if name not in holder:
        raise UserError(f"{place} has no '{name}': {_SHAPE}")
    value = holder[name]
    if type(value) is not kind:  # isinstance would take true for a number
        raise UserError(f"{place}{joint}{name} is {_said(value)}, not {JSON_KINDS[kind]}: {_SHAPE}")
    return value


def _said(value: Any) -> str:
    if isinstance(value, list | dict):
        return JSON_KINDS[type(value)]
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 40 else f"{said[:40]}..."
