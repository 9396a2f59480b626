# SPDX-License-Identifier: Apache-2.0
"""Scores of begins and ends -> answers, with probabilities, as google-research/bert finds them (run_squad.py), in NumPy.

An answer is a slice of the context between two tokens, character for character. Google's program works on words and
tokens without case and accents, and finds its way back by a heuristic (get_final_text), which gives whole words where it
fails. So here punctuation belongs to an answer if and only if its token does, and white space is as it was.

Shapes: R rows, S their tokens, N best places of a row, P candidates.
"""

import itertools
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.base.files import complete_or_absent
from bert_jax.tasks.examples import Question
from bert_jax.tasks.question_rows import QuestionRows, Window
from bert_jax.tasks.scoring.squad import answer_scores, best_threshold

NORMALISATIONS = ("nbest", "window", "question")
_BLOCK = 256  # rows whose candidates are looked for at once


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are chosen.

    normalisation: what the scores of begins and ends mean.
      nbest: as run_squad.py: they are compared over all windows of a question as they are, and the probabilities are a
        softmax over the candidates that are listed.
      window: they are turned into probabilities over the tokens of each window first.
      question: they are turned into probabilities over the tokens of all windows of the question. The order of the
        candidates is that of `nbest`; a probability does not depend on how many are listed.

    Raises:
      UserError: a value that is none.
    """

    n_best_size: int = 20  # candidates listed, and best begins and ends of a window that are paired
    max_answer_length: int = 30  # tokens
    may_be_impossible: bool = False  # as in version 2.0: "no answer" ([CLS] to [CLS]) is a candidate
    normalisation: str = "nbest"

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise UserError(f"normalisation is '{self.normalisation}': use {', '.join(NORMALISATIONS)}")
        if self.n_best_size < 1 or self.max_answer_length < 1:
            raise UserError(
                f"n_best_size is {self.n_best_size}, max_answer_length {self.max_answer_length}: both must be at least 1"
            )


class Candidate(NamedTuple):
    """A possible answer, or "no answer", which has an empty text."""

    text: str
    begin: int  # in characters of the context
    end: int
    start_score: float  # of its first token: the network's, or the logarithm of a probability (`normalisation`)
    end_score: float
    probability: float


class Answered(NamedTuple):
    """The answer to a question, with the other candidates.

    text: the best answer, whether or not there is one; empty only where the context has no tokens.
    null_difference: score of "no answer" less that of `text`; None where every question has an answer.
    candidates: the best first; at most `n_best_size`, and "no answer", if that may be, in any case.
    """

    name: str
    text: str
    null_difference: float | None
    candidates: list[Candidate]

    def decided(self, null_threshold: float = 0.0) -> str:
        """`text`, or the empty text where `null_difference` is above the threshold."""
        return "" if self.null_difference is not None and self.null_difference > null_threshold else self.text


def find_answers(
    questions: Sequence[Question],
    made: QuestionRows,
    start: Sequence[np.ndarray],
    end: Sequence[np.ndarray],
    settings: AnswerSettings | None = None,
) -> list[Answered]:
    """Return the answers to `questions`, in their order.

    Args:
      made: the rows of these questions, without labels, so that none is left out.
      start, end: for each row the scores of its tokens as first and as last token of the answer. They may go on over
        padding, which is not looked at.
      settings: None: those of run_squad.py.

    A candidate begins in the window that shows its first token in most context, and ends in the same window.
    """
    settings = settings or AnswerSettings()
    if not questions:
        return []
    row_bounds = _row_bounds(len(questions), made, start, end)
    rows, found = _normalised(*_examine(made, start, end, settings), row_bounds, settings.normalisation)
    return [
        _answer(question, spans, _RowScores(*(column[begin:after] for column in rows)), settings)
        for question, spans, (begin, after) in zip(
            questions, _spans_of_questions(found, row_bounds), itertools.pairwise(row_bounds), strict=True
        )
    ]


def _row_bounds(
    questions: int, made: QuestionRows, start: Sequence[np.ndarray], end: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the first row of each question, and after the last [questions + 1]."""
    if not len(made.rows) == len(start) == len(end):
        raise ValueError(f"there are {len(made.rows)} rows, {len(start)} rows of starts and {len(end)} of ends")
    row_bounds = np.searchsorted([row.example for row in made.rows], np.arange(questions + 1))
    if np.any(np.diff(row_bounds) == 0):
        raise ValueError("a question has no row: make them with labelled=False")
    return row_bounds


# ---- the candidates of rows --------------------------------------------------------------------------------


class _RowScores(NamedTuple):
    """Scores of each row, [R]."""

    null_start: np.ndarray  # of [CLS]
    null_end: np.ndarray
    start_total: np.ndarray  # log of the sum of exp
    end_total: np.ndarray
    lowest: np.ndarray  # no span of the row has a lower score


class _Spans(NamedTuple):
    """Candidates of all rows, [P]."""

    row: np.ndarray
    text_begin: np.ndarray  # in characters of the context
    text_end: np.ndarray
    start: np.ndarray  # scores
    end: np.ndarray


def _examine(
    made: QuestionRows, start: Sequence[np.ndarray], end: Sequence[np.ndarray], settings: AnswerSettings
) -> tuple[_RowScores, _Spans]:
    row_scores, spans = [], []
    for first in range(0, len(made.rows), _BLOCK):
        block = slice(first, first + _BLOCK)
        lengths = [len(row.ids) for row in made.rows[block]]
        starts = _padded(start[block], lengths, first)  # [R, S]
        ends = _padded(end[block], lengths, first)
        lowest = _lowest(starts) + _lowest(ends)
        row_scores.append(_RowScores(starts[:, 0], ends[:, 0], _log_sum(starts), _log_sum(ends), lowest))
        spans.append(_spans(starts, ends, made.windows[block], first, settings))
    return (
        _RowScores(*map(np.concatenate, zip(*row_scores, strict=True))),
        _Spans(*map(np.concatenate, zip(*spans, strict=True))),
    )


def _padded(scores: Sequence[np.ndarray], lengths: Sequence[int], first_row: int) -> np.ndarray:
    """Return the scores as [R, S] float64, -inf after the end of a row."""
    padded = np.full((len(lengths), max(lengths)), -np.inf)
    for number, (row, length) in enumerate(zip(scores, lengths, strict=True)):
        if len(row) < length:
            raise ValueError(f"row {first_row + number} has {length} tokens and {len(row)} scores")
        padded[number, :length] = row[:length]
    if np.isnan(padded).any():
        raise ValueError("there are scores that are not numbers")
    return padded


def _lowest(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(scores), np.inf, scores).min(axis=1)


def _log_sum(scores: np.ndarray) -> np.ndarray:
    top = scores.max(axis=1, keepdims=True)
    return (top + np.log(np.sum(np.exp(scores - top), axis=1, keepdims=True)))[:, 0]


def _spans(
    starts: np.ndarray, ends: np.ndarray, windows: Sequence[Window], first_row: int, settings: AnswerSettings
) -> _Spans:
    """Return the pairs of the best begins and the best ends of each row that can be answers: that have text.

    A piece of SentencePiece may have none; its text would be that of "no answer".
    """
    begin = _best_places(starts, settings.n_best_size)[:, :, None]  # [R, N, 1]
    last = _best_places(ends, settings.n_best_size)[:, None, :]  # [R, 1, N]
    shape = [(w.first, w.first + w.best_begin, w.first + w.best_end, w.first + len(w.spans)) for w in windows]
    first, best_begin, best_end, after = np.array(shape).T[:, :, None, None]  # [R, 1, 1] each
    possible = (best_begin <= begin) & (begin < best_end) & (last < after)
    possible &= (begin <= last) & (last < begin + settings.max_answer_length)
    row, begin_rank, last_rank = np.nonzero(possible)  # [P], in the order of run_squad.py
    begin, last = begin[row, begin_rank, 0], last[row, 0, last_rank]
    spans = np.concatenate([window.spans for window in windows])
    before = np.cumsum([0, *(len(window.spans) for window in windows)])[row] - first[row, 0, 0]
    found = _Spans(
        row + first_row, spans[before + begin, 0], spans[before + last, 1], starts[row, begin], ends[row, last]
    )
    return _Spans(*(column[found.text_end > found.text_begin] for column in found))


def _best_places(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the N highest scores, [R, N], the highest score first; of equals, the first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _normalised(rows: _RowScores, found: _Spans, row_bounds: np.ndarray, how: str) -> tuple[_RowScores, _Spans]:
    """Return the scores as logarithms of probabilities, unless they are compared as they are."""
    if how == "nbest":
        return rows, found
    start, end = rows.start_total, rows.end_total  # [R]
    if how == "question":
        count = np.diff(row_bounds)
        start = np.repeat(np.logaddexp.reduceat(start, row_bounds[:-1]), count)
        end = np.repeat(np.logaddexp.reduceat(end, row_bounds[:-1]), count)
    return (
        rows._replace(
            null_start=rows.null_start - start, null_end=rows.null_end - end, lowest=rows.lowest - start - end
        ),
        found._replace(start=found.start - start[found.row], end=found.end - end[found.row]),
    )


# ---- one question ------------------------------------------------------------------------------------------


def _spans_of_questions(found: _Spans, row_bounds: np.ndarray) -> Iterator[list[tuple[int, int, float, float]]]:
    """Yield the candidates of each question, the best first: begin and end of the text, score of begin and of end."""
    question = np.searchsorted(row_bounds, found.row, side="right") - 1  # [P]
    order = np.lexsort((-(found.start + found.end), question))  # stable: of equals, as they were found
    bounds = np.searchsorted(question[order], np.arange(len(row_bounds))).tolist()
    columns = [column[order].tolist() for column in found[1:]]
    for begin, after in itertools.pairwise(bounds):
        yield list(zip(*(column[begin:after] for column in columns), strict=True))


def _answer(
    question: Question, spans: Sequence[tuple[int, int, float, float]], rows: _RowScores, settings: AnswerSettings
) -> Answered:
    """`spans`: as `_spans_of_questions` gives them. `rows`: those of the question."""
    least = int(np.argmin(rows.null_start + rows.null_end))  # the window that is least sure that there is no answer
    null = Candidate("", 0, 0, float(rows.null_start[least]), float(rows.null_end[least]), 1.0)
    listed = _listed(question.context, spans, null, settings)
    best = spans[0][2] + spans[0][3] if spans else float(rows.lowest.min())
    text = next((candidate.text for candidate in listed if candidate.text), "")
    difference = null.start_score + null.end_score - best if settings.may_be_impossible else None
    return Answered(question.name, text, difference, _with_probabilities(listed, settings.normalisation))


def _listed(
    context: str, spans: Sequence[tuple[int, int, float, float]], null: Candidate, settings: AnswerSettings
) -> list[Candidate]:
    """Return the candidates of different texts; "no answer" in its place, or last."""
    listed: list[Candidate] = []
    texts: set[str] = set()
    for begin, end, start_score, end_score in spans:
        if (
            settings.may_be_impossible
            and "" not in texts
            and start_score + end_score < null.start_score + null.end_score
        ):
            texts.add("")
            listed.append(null)
        if len(listed) >= settings.n_best_size:
            break
        text = _text(context, begin, end)
        if text not in texts:
            texts.add(text)
            listed.append(Candidate(text, begin, begin + len(text), start_score, end_score, 1.0))
    if not listed or (settings.may_be_impossible and "" not in texts):
        listed.append(null)
    return listed


def _text(context: str, begin: int, end: int) -> str:
    """Return the slice, and the marks that belong to its last character, which are no part of any token."""
    while end < len(context) and not context[end].isascii() and unicodedata.category(context[end])[0] == "M":
        end += 1
    return context[begin:end]


def _with_probabilities(listed: Sequence[Candidate], normalisation: str) -> list[Candidate]:
    scores = [candidate.start_score + candidate.end_score for candidate in listed]
    if normalisation == "nbest":
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        total = sum(weights)
    else:
        weights, total = list(map(math.exp, scores)), 1.0
    return [candidate._replace(probability=weight / total) for candidate, weight in zip(listed, weights, strict=True)]


# ---- no answer ---------------------------------------------------------------------------------------------


def tuned_threshold(questions: Sequence[Question], answered: Sequence[Answered]) -> float:
    """Return the `null_difference` above which "no answer" should be said for the best F1, found as evaluate-v2.0.py finds it
    on probabilities.

    That program says 0 where it is best never to answer, which is right for probabilities only; here it is a number
    below every difference.
    """
    answers = {question.name: [answer.text for answer in question.answers] for question in questions}
    texts = {found.name: found.text for found in answered}
    differences = null_differences(answered)
    scores = {name: score.f1 for name, score in answer_scores(answers, texts, "2.0").items()}
    best = best_threshold(answers, texts, scores, differences)
    never = 100.0 * sum(not given for given in answers.values()) / len(answers)
    return math.nextafter(min(differences.values()), -math.inf) if best.score == never else best.threshold


def null_differences(answered: Sequence[Answered]) -> dict[str, float]:
    """Return question's id -> how much better "no answer" is than the best answer (null_odds.json of run_squad.py)."""
    differences = {found.name: found.null_difference for found in answered if found.null_difference is not None}
    if len(differences) < len(answered):
        raise ValueError("the answers were found without `may_be_impossible`")
    return differences


def null_probabilities(answered: Sequence[Answered]) -> dict[str, float]:
    """Return the differences as probabilities, 1 / (1 + exp(-difference)), for the official scorer's --na-prob-file.

    Its default threshold is 1: given the differences themselves it would take every answer with a higher one away.
    """
    return {name: _sigmoid(difference) for name, difference in null_differences(answered).items()}


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


# ---- files -------------------------------------------------------------------------------------------------


def write_predictions(path: Path, answered: Sequence[Answered], null_threshold: float = 0.0) -> None:
    """Write the file that the official scorers take: question's id -> text."""
    _write(path, {found.name: found.decided(null_threshold) for found in answered})


def write_candidates(path: Path, answered: Sequence[Answered]) -> None:
    """Write the candidates of every question, as nbest_predictions.json of run_squad.py."""
    names = ("text", "probability", "start_logit", "end_logit")
    _write(
        path,
        {
            found.name: [
                dict(zip(names, (one.text, one.probability, one.start_score, one.end_score), strict=True))
                for one in found.candidates
            ]
            for found in answered
        },
    )


def write_null_differences(path: Path, answered: Sequence[Answered]) -> None:
    """Write `null_differences`, as null_odds.json of run_squad.py."""
    _write(path, null_differences(answered))


def write_null_probabilities(path: Path, answered: Sequence[Answered]) -> None:
    """Write `null_probabilities`, for --na-prob-file."""
    _write(path, null_probabilities(answered))


def _write(path: Path, content: Mapping[str, object]) -> None:
    with complete_or_absent(path) as file:
        file.write((json.dumps(content, indent=4) + "\n").encode())
