# SPDX-License-Identifier: Apache-2.0
"""Scores of tags that a network gave to words: of phrases as conlleval counts them, of classes, or of both.

Classes are tags of no scheme, such as parts of speech (NOUN), or types beside O (location-city, COMMA). Beside O,
neighbours of one class are a phrase of that type.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from bert_jax.tasks.scoring import conll

OUTSIDE = "O"
_PHRASE_NAMES = {"f1": "FB1", "precision": "precision", "recall": "recall"}


def tag_scores(
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    scored: Sequence[Sequence[bool]],
    classes: Sequence[str] | None = None,
) -> dict[str, float | None]:
    """Return the scores by name, in per cent; none where no word is scored.

    `f1`, `precision` and `recall` are of phrases, `accuracy` and, of classes, `macro_f1` of words.

    Args:
      gold, predicted: the tags of each sentence, in IOB2 or classes.
      scored: of each word, whether it is scored. What is predicted as a phrase and reaches into one that is not, counts
        neither as right nor as wrong.
      classes: those of the task; None: tags are in IOB2.
    """
    sentences = zip(gold, predicted, scored, strict=True)
    counts = [count_tags(*sentence, classes) for sentence in sentences]
    return scores_of_counts(np.sum(counts, axis=0), classes) if counts else {}


def count_tags(
    gold: Sequence[str], predicted: Sequence[str], scored: Sequence[bool], classes: Sequence[str] | None = None
) -> np.ndarray:
    """Return the counts of a sentence, whose sums over sentences `scores_of_counts` takes; the arguments are its own.

    Returns:
      [5 + 3 C] int64: phrases that are right, predicted, true; words that are scored, right; then of each class but "O" words
      that are right, true, predicted.
    """
    pairs = [(wanted, found) for wanted, found, counts in zip(gold, predicted, scored, strict=True) if counts]
    phrases = [0, 0, 0]
    if classes is None or OUTSIDE in classes:
        tags = (gold, predicted) if classes is None else (_phrases_of_classes(gold), _phrases_of_classes(predicted))
        parts = list(_scored_parts(*tags, scored))
        counted = conll.count(conll.tagged_words([part[0] for part in parts], [part[1] for part in parts]))
        phrases = [counted.correct.total(), counted.predicted.total(), counted.gold.total()]
    right = Counter(wanted for wanted, found in pairs if wanted == found)
    every = (right, Counter(wanted for wanted, _ in pairs), Counter(found for _, found in pairs))
    by_class = [count[name] for name in classes or () if name != OUTSIDE for count in every]
    return np.array([*phrases, len(pairs), right.total(), *by_class], np.int64)


def scores_of_counts(counts: np.ndarray, classes: Sequence[str] | None = None) -> dict[str, float | None]:
    """Return what `tag_scores` does, from sums of `count_tags` [5 + 3 C]."""
    correct, predicted, gold, words, right = counts[:5].tolist()
    if not words:
        return {}
    scores: dict[str, float | None] = {}
    if classes is None or OUTSIDE in classes:
        found = conll.phrase_scores(correct, predicted, gold)
        scores = {ours: getattr(found, theirs) for ours, theirs in _PHRASE_NAMES.items()}
    scores["accuracy"] = 100 * right / words
    if classes is not None:
        scores["macro_f1"] = _macro_f1(counts[5:].reshape(-1, 3))
    return scores


def _phrases_of_classes(tags: Sequence[str]) -> list[str]:
    """Return classes as conlleval reads neighbours of one type as a phrase."""
    return [tag if tag == OUTSIDE else f"I-{tag}" for tag in tags]


def _scored_parts(
    gold: Sequence[str], predicted: Sequence[str], scored: Sequence[bool]
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the runs of words that are scored, as if each were a sentence."""
    if all(scored):
        yield list(gold), list(predicted)
        return
    kept = list(predicted)
    for begin, end in _phrases(predicted):
        if not all(scored[begin:end]):
            kept[begin:end] = [OUTSIDE] * (end - begin)
    begin = 0
    for place, counts in enumerate([*scored, False]):
        if not counts:
            if place > begin:
                yield list(gold[begin:place]), kept[begin:place]
            begin = place + 1


def _phrases(tags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each phrase, as conlleval finds them."""
    last, begin = conll.OUTSIDE, None
    for place, tag in enumerate([*map(conll.parse_tag, tags), conll.OUTSIDE]):
        if begin is not None and conll.ends_between(last, tag):
            yield begin, place
            begin = None
        if conll.begins_between(last, tag):
            begin = place
        last = tag


def _macro_f1(counts: np.ndarray) -> float | None:
    """Return the mean F1 of classes, 0 for one that is neither there nor predicted; per cent. [C, 3] as in `count_tags`."""
    if not len(counts):
        return None
    right, occurring = counts[:, 0], counts[:, 1] + counts[:, 2]
    return float(100 * (2 * right / np.maximum(occurring, 1)).sum() / len(counts))
