# SPDX-License-Identifier: Apache-2.0
"""SQuAD's scores, as its official programs evaluate-v1.1.py and evaluate-v2.0.py compute them.

A predicted text is compared with every text of the question's answers, without case, punctuation and articles, and the
best comparison counts: `exact` where all words are equal, F1 of the words in common otherwise.

Where the official programs stop or differ: a question without prediction is scored 0 in both versions (evaluate-v2.0.py
fails on it), and a question of version 1.1 without answers is refused.
"""

import json
import math
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bert_jax.base.errors import UserError
from bert_jax.base.files import JSON_KINDS, parse_json
from bert_jax.base.types import JsonObject
from bert_jax.text.streams import read_text

Answers = Mapping[str, Sequence[str]]  # question's id -> texts of its answers; none where it has no answer
Predictions = Mapping[str, str]  # question's id -> text, empty for "no answer"

SHAPE = "a SQuAD file is data[].paragraphs[] with context and qas[], which have id, question and answers[]"
NA_THRESHOLD = 1.0  # the official default: a probability never exceeds it, so every prediction stands

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerScore(NamedTuple):
    """How well one question was answered."""

    exact: int  # 1 or 0
    f1: float  # 0 to 1


# ---- one question ------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Return the words that are compared: lower case, without ASCII punctuation and English articles."""
    return _ARTICLE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def word_f1(answer: Sequence[str], predicted: Sequence[str]) -> float:
    """Return F1 of the words that two texts have in common, 0 where there are none."""
    return overlap_f1((Counter(answer) & Counter(predicted)).total(), answer, predicted)


def overlap_f1(common: int, answer: Sequence[str], predicted: Sequence[str]) -> float:
    """Return F1 where `common` parts of two texts are shared, 0 where none is; with the official programs' rounding."""
    if common == 0:
        return 0
    precision, recall = common / len(predicted), common / len(answer)
    return (2 * precision * recall) / (precision + recall)


def _score_v1(answers: Sequence[str], predicted: str) -> AnswerScore:
    words = words_of(predicted)
    pairs = [(answer == words, word_f1(answer, words)) for answer in map(words_of, answers)]
    return AnswerScore(int(max(pair[0] for pair in pairs)), max(pair[1] for pair in pairs))


def _score_v2(answers: Sequence[str], predicted: str) -> AnswerScore:
    """Return the score of version 2.0: as 1.1, but an answer without words is the answer "none", and two such agree."""
    words = words_of(predicted)
    wanted = [answer for answer in map(words_of, answers) if answer] or [[]]
    exact = int(words in wanted)
    return AnswerScore(exact, max(word_f1(answer, words) if answer and words else exact for answer in wanted))


# ---- all questions -----------------------------------------------------------------------------------------


def answer_scores(answers: Answers, predictions: Predictions, version: str) -> dict[str, AnswerScore]:
    """Return the score of every question that has a prediction, in the order of `answers`. `version` is "1.1" or "2.0"."""
    if version == "1.1":
        require_answers(answers, version)
    score = {"1.1": _score_v1, "2.0": _score_v2}[version]
    return {name: score(texts, predictions[name]) for name, texts in answers.items() if name in predictions}


def scores_v1(answers: Answers, predictions: Predictions) -> dict[str, float]:
    """Return `exact_match` and `f1`, in per cent, as evaluate-v1.1.py names them."""
    scored = answer_scores(answers, predictions, "1.1").values()
    f1 = 0.0
    for score in scored:  # not sum(): it adds more exactly than the official program
        f1 += score.f1
    return {
        "exact_match": 100.0 * sum(score.exact for score in scored) / len(answers),
        "f1": 100.0 * f1 / len(answers),
    }


def scores_v2(
    answers: Answers,
    predictions: Predictions,
    na_probs: Mapping[str, float] | None = None,
    na_threshold: float = NA_THRESHOLD,
) -> dict[str, float]:
    """Return the figures of evaluate-v2.0.py under its names, in per cent.

    `na_probs` says how sure the model is that a question has no answer; where that exceeds `na_threshold`, the prediction
    counts as "no answer". With it, the best thresholds are searched too (`best_threshold`).
    """
    scored = answer_scores(answers, predictions, "2.0")
    decided = {name: AnswerScore(0, 0) for name in answers} | scored
    if na_probs is not None:
        _check_na_probs(na_probs, scored)
        for name in scored:
            if na_probs[name] > na_threshold:
                right = not answers[name]
                decided[name] = AnswerScore(int(right), float(right))
    result: dict[str, float] = dict(_means(list(decided.values())))
    for kind, has_answers in (("HasAns", True), ("NoAns", False)):
        part = [decided[name] for name, texts in answers.items() if bool(texts) == has_answers]
        if part:
            result |= {f"{kind}_{key}": value for key, value in _means(part).items()}
    if na_probs is not None:
        for key, raw in (
            ("exact", {name: score.exact for name, score in scored.items()}),
            ("f1", {name: score.f1 for name, score in scored.items()}),
        ):
            best = best_threshold(answers, predictions, raw, na_probs)
            result |= {f"best_{key}": best.score, f"best_{key}_thresh": best.threshold}
    return result


def _means(scores: Sequence[AnswerScore]) -> dict[str, float]:
    return {
        "exact": 100.0 * sum(score.exact for score in scores) / len(scores),
        "f1": 100.0 * sum(score.f1 for score in scores) / len(scores),
        "total": len(scores),
    }


class BestThreshold(NamedTuple):
    """The threshold above which "no answer" should be said."""

    score: float  # per cent, with that threshold
    threshold: float


def best_threshold(
    answers: Answers, predictions: Predictions, scores: Mapping[str, float], na_probs: Mapping[str, float]
) -> BestThreshold:
    """Return the threshold on `na_probs` that gives the best mean of `scores` (question's id -> 0 to 1, of its prediction).

    Starts from "no answer" everywhere and lets one prediction after the other stand, the surest of an answer first; among
    equal probabilities, in the order of `na_probs`, as the official program.
    """
    current = best = float(sum(not texts for name, texts in answers.items() if name in predictions))
    threshold: float = 0.0
    for name in sorted(na_probs, key=lambda name: na_probs[name]):
        if name not in scores:
            continue
        if answers[name]:
            current += scores[name]
        elif predictions[name]:
            current -= 1
        if current > best:
            best, threshold = current, na_probs[name]
    return BestThreshold(100.0 * best / len(answers), threshold)


# ---- what cannot be scored ---------------------------------------------------------------------------------


class Coverage(NamedTuple):
    """Questions without predictions, and predictions without questions."""

    missing: list[str]  # ids of questions without prediction
    extra: list[str]  # ids of predictions without question


def coverage(answers: Answers, predictions: Predictions) -> Coverage:
    """Compare the ids. UserError where none is in both: the files do not belong together."""
    if not any(name in predictions for name in answers):
        raise UserError(
            f"none of the {len(predictions):,} predictions is for one of the {len(answers):,} questions (the first ids are"
            f" {next(iter(predictions), 'none')} and {next(iter(answers), 'none')}): give the predictions of this file"
        )
    return Coverage(
        [name for name in answers if name not in predictions], [name for name in predictions if name not in answers]
    )


def require_answers(answers: Answers, version: str) -> None:
    """Raise UserError where a question has no answers; only version 2.0 has such questions."""
    without = [name for name, texts in answers.items() if not texts]
    if without:
        raise UserError(
            f"{len(without):,} of {len(answers):,} questions have no answers, the first is {without[0]}: version {version}"
            " cannot score them; use --version 2.0, or a file with answers"
        )


def _check_na_probs(na_probs: Mapping[str, float], scored: Mapping[str, AnswerScore]) -> None:
    without = [name for name in scored if name not in na_probs]
    if without:
        raise UserError(
            f"{len(without):,} of {len(scored):,} predictions have no probability of having no answer, the first is"
            f" {without[0]}: give the file that was written with the predictions"
        )


# ---- files -------------------------------------------------------------------------------------------------


def read_answers(path: Path) -> dict[str, list[str]]:
    """Return the texts of the answers by their question's id, from a file in SQuAD's layout."""
    answers: dict[str, list[str]] = {}
    for place, _, question in entries(path, with_context=False):
        name = question_id(question, place)
        if name in answers:
            raise UserError(f"{place}: the id {name} is in the file twice: ids must differ")
        texts = member(question, "answers", list, place)
        answers[name] = [member(answer, "text", str, f"{place}.answers[{n}]") for n, answer in enumerate(texts)]
    if not answers:
        raise UserError(f"{path} has no questions: {SHAPE}")
    return answers


def entries(path: Path, with_context: bool = True) -> Iterator[tuple[str, str, object]]:
    """Yield place, context and question of each question of a file in SQuAD's layout.

    Args:
      path: JSON, packed or not.
      with_context: a paragraph must have one; without it none is looked for, and it is empty.
    """
    file = str(path)
    for number, article in enumerate(member(read_json(path), "data", list, file, joint=", ")):
        article_place = f"{file}, data[{number}]"
        for paragraph_number, paragraph in enumerate(member(article, "paragraphs", list, article_place)):
            place = f"{article_place}.paragraphs[{paragraph_number}]"
            context = member(paragraph, "context", str, place) if with_context else ""
            for question_number, question in enumerate(member(paragraph, "qas", list, place)):
                yield f"{place}.qas[{question_number}]", context, question


def question_id(question: object, place: str) -> str:
    """Return the id of a question, which may be a number."""
    numbered = isinstance(question, dict) and type(question.get("id")) is int
    return str(member(question, "id", int if numbered else str, place))


def member[T](holder: object, name: str, kind: type[T], place: str, joint: str = ".") -> T:
    """Return `holder[name]`, which must be of that kind.

    Args:
      place: of the holder, for messages; `joint` stands between it and the name.

    Raises:
      UserError: the holder is no object, has no such name, or its value is of another kind.
    """
    if not isinstance(holder, dict):
        raise UserError(f"{place} is {_said(holder)}, not an object with '{name}': {SHAPE}")
    if name not in holder:
        raise UserError(f"{place} has no '{name}': {SHAPE}")
    value = holder[name]
    if type(value) is not kind:  # isinstance would take true for a number
        raise UserError(f"{place}{joint}{name} is {_said(value)}, not {JSON_KINDS[kind]}: {SHAPE}")
    return value


def _said(value: object) -> str:
    if isinstance(value, list | dict):
        return JSON_KINDS[type(value)]
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 40 else f"{said[:40]}..."


def read_predictions(path: Path) -> dict[str, str]:
    """Read a file of predictions: one JSON object, question's id -> text."""
    predictions = _object(path, "text")
    for name, text in predictions.items():
        if not isinstance(text, str):
            raise UserError(f'{path}: the prediction of {name} is {json.dumps(text)[:40]}, not text ("": no answer)')
    return predictions


def read_na_probs(path: Path) -> dict[str, float]:
    """Read a file of probabilities that there is no answer: one JSON object, question's id -> number."""
    na_probs = _object(path, "number")
    for name, value in na_probs.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{path}: the probability of {name} is {json.dumps(value)[:40]}, not a finite number")
    return na_probs


def _object(path: Path, what: str) -> JsonObject:
    content = read_json(path, dict)
    if not content:
        raise UserError(f"{path} is empty: give one object, question's id -> {what}")
    return content


def read_json(path: Path, kind: type = object) -> Any:
    """Return what a JSON file of users holds, packed or not.

    Raises:
      UserError: as `streams.read_text` and `files.parse_json`.
    """
    try:
        return parse_json(read_text(path), kind)
    except ValueError as error:
        raise UserError(f"{path} is not JSON of use here: {error}: mend it, or give another file") from None
