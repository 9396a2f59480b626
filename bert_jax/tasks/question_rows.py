# SPDX-License-Identifier: Apache-2.0
"""Questions -> rows [CLS] question [SEP] context [SEP], a long context in windows, and where in the context tokens are.

Windows, their overlap and which of them shows a token best are those of google-research/bert (run_squad.py). Places of
tokens are characters of the context as it was given, so that an answer is a slice of it, whatever the tokenizer does.

Shapes: T tokens of a context, C of them in one window.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import Question
from bert_jax.tasks.questions import answer_begin
from bert_jax.tasks.rows import check_row_settings, Cut, cut_windows, Row, too_long_error
from bert_jax.tokenization import Tokenizer

_SPECIAL = 3  # [CLS], [SEP] and [SEP]


@dataclass(frozen=True)
class QuestionSettings:
    """How questions and contexts become rows; lengths are in tokens.

    Raises:
      UserError: no room is left for a context, or a value that is none.
    """

    max_length: int = 384  # of a row
    doc_stride: int = 128  # windows begin so far apart
    max_query_length: int = 64  # a longer question is cut, and counted
    too_long: str = "windows"  # a context that does not fit: "error", "truncate" (counted) or "windows"

    def __post_init__(self) -> None:
        if self.max_query_length < 1:
            raise UserError(f"max_query_length={self.max_query_length} leaves no question: set 1 or more")
        beside = f" beside a question of max_query_length={self.max_query_length}"
        check_row_settings(
            self.max_length, self.max_query_length + _SPECIAL + 1, self.too_long, self.doc_stride, beside
        )


class Window(NamedTuple):
    """The part of a context that a row shows."""

    first: int  # place in the row of the first token of the context
    spans: np.ndarray  # [C, 2] int32, [begin, end) of each token in characters of the context
    best_begin: int  # the tokens [best_begin, best_end) of the C have more context here than in
    best_end: int  # the other windows of the question


class QuestionRows(NamedTuple):
    """Rows of questions; rows of one question are neighbours."""

    rows: list[Row]
    windows: list[Window]  # of each row
    counts: dict[str, int]  # for people
    left_out: list[str]  # questions without a row, with the reason; none if the rows have no labels


def question_rows(
    questions: Sequence[Question], tokenizer: Tokenizer, settings: QuestionSettings, labelled: bool
) -> QuestionRows:
    """Return the rows of `questions`, in their order.

    Args:
      labelled: give each row the places of the first and the last token of the answer; (0, 0), that is [CLS], where
        there is no answer or the window does not hold the whole of it. Of several answers, the first whose place is
        found. A question none of whose answers is found gets no row. Without it answers are not looked at.

    Raises:
      UserError: a question without an answer that is not marked as impossible (if `labelled`), or a context that is too
        long (if `settings.too_long` is "error").
    """
    made = QuestionRows([], [], Counter(), [])
    asked = _question_tokens(questions, tokenizer, settings, made)
    contexts: dict[str, _Context] = {}
    progress = tqdm(questions, unit=" questions", desc="rows", disable=None, leave=False)
    for number, question in enumerate(progress):
        if question.context not in contexts:
            contexts[question.context] = _encode(question.context, tokenizer)
        context = contexts[question.context]
        answer = _answer_tokens(question, context, made) if labelled else None
        if answer is not None or not labelled or not question.answers:
            head = [tokenizer.cls_id, *asked[number], tokenizer.sep_id]
            windows = _windows(question, len(context.ids), settings.max_length - len(head) - 1, settings, made)
            _add_rows(number, head, context, windows, answer, made)
    if not labelled:
        made.rows[:] = [row._replace(labels=()) for row in made.rows]
    counts = {"questions": len(questions), "rows": len(made.rows)}
    return made._replace(counts=counts | {what: count for what, count in made.counts.items() if count})


# ---- tokens ------------------------------------------------------------------------------------------------


class _Context(NamedTuple):
    ids: list[int]  # T
    spans: np.ndarray  # [T, 2] int32


def _encode(text: str, tokenizer: Tokenizer) -> _Context:
    encoding = tokenizer.encode(text)
    return _Context(encoding.ids, np.array(encoding.offsets, np.int32).reshape(-1, 2))


def _question_tokens(
    questions: Sequence[Question], tokenizer: Tokenizer, settings: QuestionSettings, made: QuestionRows
) -> list[list[int]]:
    flat = tokenizer.encode_flat([question.question for question in questions])
    kept = np.minimum(flat.lengths, settings.max_query_length)
    made.counts["questions cut to max_query_length"] = int(np.sum(kept < flat.lengths))
    ids, begins = flat.ids.tolist(), np.cumsum(flat.lengths) - flat.lengths
    return [ids[begin:end] for begin, end in zip(begins.tolist(), (begins + kept).tolist(), strict=True)]


def _answer_tokens(question: Question, context: _Context, made: QuestionRows) -> tuple[int, int] | None:
    """Return the first and the last token of the context that the answer has a part in."""
    if not question.answers and not question.impossible:
        raise UserError(f"{question.place} ('{question.name}') has no answer to learn from")
    chosen = None
    in_context = False
    for answer in question.answers:
        made.counts["answers"] += 1
        begin = answer_begin(question.context, answer)
        if begin is None:
            made.counts["answers that are nowhere in their context"] += 1
            continue
        in_context = True
        made.counts["answers moved to the nearest place where they are"] += begin != answer.begin
        tokens = covering_tokens(context.spans, begin, begin + len(answer.text))
        if tokens is None:
            made.counts["answers that no token stands for"] += 1
            continue
        first, last = tokens
        inside = context.spans[first, 0] < begin or context.spans[last, 1] > begin + len(answer.text)
        made.counts["answers that begin or end inside a token"] += int(inside)
        chosen = chosen or tokens
    if chosen is None and question.answers:
        made.counts["questions left out"] += 1
        reason = "no token stands for its answer" if in_context else "its answer is nowhere in its context"
        made.left_out.append(f"{question.place} ('{question.name}'): {reason}: '{question.answers[0].text}'")
    return chosen


def covering_tokens(spans: np.ndarray, begin: int, end: int) -> tuple[int, int] | None:
    """Return the first and the last of the tokens at `spans` [T, 2] that have a character in [begin, end); None: none has."""
    first = int(np.searchsorted(spans[:, 1], begin, side="right"))
    last = int(np.searchsorted(spans[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else None


# ---- windows -----------------------------------------------------------------------------------------------


def _windows(
    question: Question, tokens: int, room: int, settings: QuestionSettings, made: QuestionRows
) -> tuple[Cut, ...]:
    if tokens > room and settings.too_long == "error":
        whole = settings.max_length - room + tokens
        raise too_long_error(f"{question.place} ('{question.name}')", [whole], settings.max_length)
    if tokens > room and settings.too_long == "truncate":
        made.counts["contexts cut to max_length"] += 1
        tokens = room
    windows = cut_windows(tokens, room, settings.doc_stride)
    made.counts["questions with several windows"] += len(windows) > 1
    return windows


# ---- rows --------------------------------------------------------------------------------------------------


def _add_rows(
    number: int,
    head: list[int],
    context: _Context,
    windows: tuple[Cut, ...],
    answer: tuple[int, int] | None,
    made: QuestionRows,
) -> None:
    """Add the rows of one question. `head`: [CLS] question [SEP]."""
    held = False
    for begin, best_begin, best_end, end in windows:
        labels = (0, 0)
        if answer is not None and begin <= answer[0] and answer[1] < end:
            labels = (len(head) + answer[0] - begin, len(head) + answer[1] - begin)
            held = True
        ids = [*head, *context.ids[begin:end], head[-1]]
        made.rows.append(Row(ids, _segments(len(head), end - begin + 1), number, labels))
        made.windows.append(Window(len(head), context.spans[begin:end], best_begin - begin, best_end - begin))
    made.counts["answers that no window holds"] += answer is not None and not held


@functools.lru_cache(maxsize=2**16)
def _segments(first: int, second: int) -> tuple[int, ...]:
    return (0,) * first + (1,) * second
