# SPDX-License-Identifier: Apache-2.0
"""Scores of tags that a network gave to words: of phrases as conlleval counts them, of classes, or of both.

Classes are tags of no scheme, such as parts of speech (NOUN), or types beside O (location-city, COMMA). Beside O,
neighbours of one class are a phrase of that type.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

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
    pairs = [
        (wanted, found)
        for own in zip(gold, predicted, scored, strict=True)
        for wanted, found, counts in zip(*own, strict=True)
        if counts
    ]
    if not pairs:
        return {}
    accuracy = 100 * sum(wanted == found for wanted, found in pairs) / len(pairs)
    scores: dict[str, float | None] = {}
    if classes is None or OUTSIDE in classes:
        as_phrases = (lambda tags: tags) if classes is None else _phrases_of_classes
        parts = [
            part
            for one, other, counts in zip(gold, predicted, scored, strict=True)
            for part in _scored_parts(as_phrases(one), as_phrases(other), counts)
        ]
        found = conll.scores([part[0] for part in parts], [part[1] for part in parts])
        scores |= {ours: found[theirs] for ours, theirs in _PHRASE_NAMES.items()}
    scores["accuracy"] = accuracy
    if classes is not None:
        scores["macro_f1"] = _macro_f1(pairs, [name for name in classes if name != OUTSIDE])
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


def _macro_f1(pairs: Sequence[tuple[str, str]], classes: Sequence[str]) -> float | None:
    """Return the mean F1 of the classes, 0 for one that is neither there nor predicted; per cent."""
    gold, predicted = Counter(wanted for wanted, _ in pairs), Counter(found for _, found in pairs)
    right = Counter(wanted for wanted, found in pairs if wanted == found)
    if not classes:
        return None
    return 100 * sum(2 * right[name] / max(gold[name] + predicted[name], 1) for name in classes) / len(classes)
