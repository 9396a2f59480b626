# SPDX-License-Identifier: Apache-2.0
"""Scores of questions by the length of the gold answer, and how often "no answer" is said rightly."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bert_jax.pages.class_tables import Classes
from bert_jax.pages.page import Bar, Bars, beside, Card, Grid, Paragraph, Part, Table
from bert_jax.pages.wording import count, decimal, percent
from bert_jax.runs.finetuned import FinetunedRun
from bert_jax.runs.reading import number, Record
from bert_jax.tasks.scoring import cmrc, squad
from bert_jax.tasks.table import CMRC

# Lengths that are put together; the last is open.
LENGTHS = ((1, 1), (2, 2), (3, 3), (4, 5), (6, 10), (11, 20), (21, None))
HAS_ANSWER, NO_ANSWER = "has an answer", "no answer"


class Scored(NamedTuple):
    """A question with its score."""

    record: Record
    exact: float  # 0 or 1
    f1: float
    length: int  # of the first gold answer; 0: there is none
    given: int  # of the predicted answer


def scored(run: FinetunedRun) -> list[Scored]:
    """Every question, as the task's official program scores it."""
    if _is_cmrc(run):
        return [_scored_cmrc(record) for record in run.labelled if record["label"]]
    answers = {str(place): record["label"] for place, record in enumerate(run.labelled)}
    predictions = {str(place): record["predicted"] for place, record in enumerate(run.labelled)}
    version = "1.1" if all(answers.values()) else "2.0"
    found = squad.answer_scores(answers, predictions, version) if answers else {}
    lengths = [(_words((record["label"] or [""])[0]), _words(record["predicted"])) for record in run.labelled]
    return [
        Scored(record, score.exact, score.f1, *length)
        for record, score, length in zip(run.labelled, found.values(), lengths, strict=True)
    ]


def _is_cmrc(run: FinetunedRun) -> bool:
    return run.task is not None and run.task.question_scorer == CMRC


def _words(text: str) -> int:
    return len(text.split())


def _scored_cmrc(record: Record) -> Scored:
    answers, predicted = record["label"], record["predicted"]
    lengths = len(cmrc.segments_of(answers[0])), len(cmrc.segments_of(predicted))
    return Scored(record, cmrc.exact_score(answers, predicted), cmrc.f1_score(answers, predicted), *lengths)


def answer_parts(run: FinetunedRun) -> list[Part]:
    """The table and the bars of scores by length, and of questions without an answer where there are some."""
    questions = scored(run)
    unit = "characters" if _is_cmrc(run) else "words"
    lede = f"{unit.capitalize()} of the first gold answer; scores of {run.split} against all of its answers."
    head = [f"Gold answer, {unit}", "Questions", "Share", "Exact match", "F1", f"Predicted {unit}, mean"]
    bars = Card([Bars(_bars(questions))], "F1 by length", "the upright mark is exact match")
    parts: list[Part] = [Paragraph(lede, "lede"), Grid([Card([Table(head, length_rows(questions))]), bars], "many")]
    if any(one.length == 0 for one in questions):
        parts.append(_impossible(run, questions))
    return parts


def length_rows(questions: Sequence[Scored]) -> list[tuple[str, ...]]:
    """Rows of the table: each length, and all questions."""
    groups = [(label, part) for label, part in _groups(questions) if part]
    return [(label, *_figures(part, len(questions))) for label, part in [*groups, ("all", list(questions))]]


def _groups(questions: Sequence[Scored]) -> list[tuple[str, list[Scored]]]:
    groups = [(NO_ANSWER, [one for one in questions if one.length == 0])]
    for low, high in LENGTHS:
        label = f"{low} and more" if high is None else str(low) if low == high else f"{low} to {high}"
        part = [one for one in questions if low <= one.length <= (math.inf if high is None else high)]
        groups.append((label, part))
    return groups


def _figures(part: Sequence[Scored], total: int) -> tuple[str, ...]:
    if not part:
        return ("0", "–", "–", "–", "–")
    exact, f1, given = (_mean([getattr(one, name) for one in part]) for name in ("exact", "f1", "given"))
    return count(len(part)), percent(len(part) / total), percent(exact), percent(f1), decimal(given, 1)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _bars(questions: Sequence[Scored]) -> list[Bar]:
    """F1 as a bar and exact match as a mark on it, for each length."""
    bars = []
    for label, part in _groups(questions):
        if part:
            f1, exact = (_mean([getattr(one, name) for one in part]) for name in ("f1", "exact"))
            bars.append(Bar(label, f1, beside(percent(f1), f"of {count(len(part))}"), exact))
    return bars


def _impossible(run: FinetunedRun, questions: Sequence[Scored]) -> Grid:
    """Whether it is known of the questions without an answer that there is none."""
    words = (HAS_ANSWER, NO_ANSWER)
    gold = [int(one.length == 0) for one in questions]
    predicted = [int(not one.record["predicted"]) for one in questions]
    caption = "Questions with and without an answer, and what was said"
    matrix = Classes(gold, predicted, lambda place: words[place]).drawn(caption)
    rows = []
    for kind, name in enumerate(words):
        part = [one for one, truth in zip(questions, gold, strict=True) if truth == kind]
        answered = sum(bool(one.record["predicted"]) for one in part)
        share = percent(answered / len(part)) if part else "–"
        rows.append((name, count(len(part)), share, *_figures(part, len(questions))[2:4]))
    parts: list[Part] = [Table(["Questions", "Number", "Answered", "Exact match", "F1"], rows)]
    threshold = number(run.record.get("found"), "null_threshold")
    if threshold is not None:
        rule = "“No answer” is said where its score exceeds the best answer's by more than"
        parts.append(Paragraph(f"{rule} {decimal(threshold, 3)}, tuned on {run.split}.", "footnote"))
    return Grid([Card(parts, "Is there an answer?"), Card([matrix], "Confusion matrix")], "many")
