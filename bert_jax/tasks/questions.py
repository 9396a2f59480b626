# SPDX-License-Identifier: Apache-2.0
"""SQuAD-shaped files -> questions: SQuAD 1.1 and 2.0, and CMRC 2018, DRCD and others that took the shape over; and the
same data sets in TFDS.

    {"version": .., "data": [{"paragraphs": [{"context": .., "qas": [
        {"id": .., "question": .., "is_impossible": .., "answers": [{"text": .., "answer_start": ..}]}]}]}]}

`is_impossible` is what version 2.0 added; where it is missing every question has an answer. Errors name the place in
the JSON: data[3].paragraphs[0].qas[2].
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bert_jax.base.errors import UserError
from bert_jax.base.lines import json_record
from bert_jax.base.types import JsonObject
from bert_jax.tasks.examples import Answer, Question
from bert_jax.tasks.scoring.squad import entries, member, question_id, SHAPE
from bert_jax.tasks.table import SQUAD_FIELDS, Task, tfds_place
from bert_jax.text.tfds_source import read_records


def read_questions(path: Path, labelled: bool = True, unique: bool = True) -> list[Question]:
    """Return the questions of a file in its order, with the answers as the file has them (see `answer_begin`).

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
        raise UserError(f"{path} is empty: {SHAPE}")
    return _questions(entries(path), labelled, unique, f"{path} has no questions: {SHAPE}")


def read_tfds_questions(
    task: Task, split: str, source: str, labelled: bool = True, unique: bool = True
) -> list[Question]:
    """Return the questions of a data set of TFDS with the fields of its `squad`, in the order of its files.

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
    found = (
        (place, record[context], {"id": record[name], "question": record[question]} | _labels(record, answers, place))
        for place, record in data.records
    )
    return _questions(found, labelled, unique, f"{data.name} has no questions: is it the right split?")


def read_question_lines(lines: Sequence[str], first: int) -> list[Question]:
    """Return the questions of JSON lines, {"question": .., "context": .., "id": ..}, of which the id may be missing.

    Nothing else is read: an answer does not depend on what other lines, or this one, say of answers.

    Args:
      lines: of standard input; empty ones are left out.
      first: number of the first of them, for messages, and for the names of questions without an id.

    Raises:
      UserError: a line is no such object.
    """
    questions = []
    for number, line in enumerate(lines, start=first):
        if line.strip():
            place = f"line {number}"
            record = json_record(line, place)
            entry = {"id": str(number)} | {
                name: record[name] for name in ("id", "question", "context") if name in record
            }
            questions.append(_question(entry, member(entry, "context", str, place), place, labelled=False))
    return questions


def answer_begin(context: str, answer: Answer) -> int | None:
    """Return where an answer begins: at `answer.begin` if its text stands there, else where it stands nearest to it.

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
    entries: Iterable[tuple[str, str, object]], labelled: bool, unique: bool, none_found: str
) -> list[Question]:
    """Return the questions of a whole split, given place, context and entry of each."""
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


def _labels(record: Mapping[str, object], answers: str, place: str) -> JsonObject:
    """Return the answers of a record of TFDS as the file has them: TFDS keeps {text: [..], answer_start: [..]}."""
    found = {name: record[name] for name in ("is_impossible",) if name in record}
    if answers not in record:
        return found
    held = record[answers]
    if not isinstance(held, dict) or not {"text", "answer_start"} <= held.keys():
        raise UserError(f"{place}: {answers} does not hold text and answer_start: it is no data set like squad")
    pairs = zip(held["text"], held["answer_start"], strict=True)
    return found | {"answers": [{"text": text, "answer_start": begin} for text, begin in pairs]}


def _question(entry: object, context: str, place: str, labelled: bool) -> Question:
    holder = entry if isinstance(entry, dict) else {}
    name = question_id(entry, place)
    text = member(entry, "question", str, place)
    impossible = member(entry, "is_impossible", bool, place) if "is_impossible" in holder else None
    given = member(entry, "answers", list, place) if (labelled and not impossible) or "answers" in holder else []
    answers = tuple(_answer(answer, f"{place}.answers[{number}]") for number, answer in enumerate(given))
    if impossible and answers:
        raise UserError(f"{place} ('{name}') is_impossible and has the answer '{answers[0].text}': remove one of them")
    if labelled and not impossible and not answers:
        raise UserError(
            f"{place} ('{name}') has no answer: add one, or \"is_impossible\": true (version 2.0) if there is none"
        )
    return Question(name, text, context, answers, impossible, place)


def _answer(entry: object, place: str) -> Answer:
    text = member(entry, "text", str, place)
    if not text.strip():
        raise UserError(f"{place}.text is empty: a question without an answer has an empty list of answers")
    return Answer(text, member(entry, "answer_start", int, place))
