# SPDX-License-Identifier: Apache-2.0
"""CMRC 2018's scores for Chinese questions, as its official cmrc2018_evaluate.py (v5, v6) computes them; DRCD has them too.

Texts are compared without case and without punctuation. `EM` wants them equal. `F1` is that of the longest run of
segments that both have: a Chinese character is a segment, and what lies between is cut into English words. The official
program asks NLTK for these; here its rules for a single sentence are restated. In Latin text of several sentences, where
NLTK consults a trained model for where sentences end, a full stop may stay with its word here.
"""

import re
from collections.abc import Sequence

from bert_jax.tasks.scoring.squad import Answers, overlap_f1, Predictions, require_answers

PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")

_CHINESE = re.compile("([\u4e00-\u9fa5])")
# NLTK's cuts, in its order, as far as CMRC's list leaves their characters and case: pattern -> what stands for it.
_CUTS = tuple(
    (re.compile(pattern), cut)
    for pattern, cut in (
        ("[«‘„]", r" \g<0> "),
        ('^"', " `` "),
        (r"""(?<=[ (\[{<])("|'')""", " `` "),
        (r"(?<!\w)'(?!(re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),  # before a word
        (r"""(?<=[^.])\.(?=[\])}>"'» ]*\s*$)""", " . "),  # the full stop at the end
        (r",(\D)", r" , \1"),  # not in 1,000
        (",$", " , "),
        (r"\.{2,}", r" \g<0> "),
        ("[;@#$%&?!‒–—―]", r" \g<0> "),
        (r"(?<=[^'])' ", " ' "),
        (r"[\][(){}<>»]", r" \g<0> "),
        ("$", " "),
        ("''|\"", " '' "),
        (r"\s+", " "),
        (r"(?<=[^' ])('[smd]|') ", r" \1 "),
        ("(?<=[^' ])('ll|'re|'ve|n't) ", r" \1 "),
        (
            r"\b(?=(?:cannot|d'ye|gimme|gonna|gotta|lemme|more'n)\b|wanna\s)(can|d|gim|gon|got|lem|more|wan)"
            r"(not|'ye|me|na|ta|'n)",
            r" \1 \2 ",
        ),
        (r" ('t)(is)\b", r" \1 \2 "),
        (r" ('t)(was)\b", r" \1 \2 "),
    )
)


def scores_cmrc(answers: Answers, predictions: Predictions) -> dict[str, float]:
    """Return the scores by their official names; `F1`, `EM` and their `AVERAGE` are in per cent.

    `TOTAL` counts the questions and `SKIP` those without prediction, which are scored 0.

    Raises:
      UserError: a question has no answers.
    """
    require_answers(answers, "cmrc")
    f1 = exact = 0.0
    for name, texts in answers.items():
        if name in predictions:
            f1 += f1_score(texts, predictions[name])
            exact += exact_score(texts, predictions[name])
    f1, exact = 100.0 * f1 / len(answers), 100.0 * exact / len(answers)
    skipped = sum(name not in predictions for name in answers)
    return {"AVERAGE": (exact + f1) * 0.5, "F1": f1, "EM": exact, "TOTAL": len(answers), "SKIP": skipped}


def f1_score(answers: Sequence[str], predicted: str) -> float:
    """Return the best F1 of the longest common run of segments, 0 to 1."""
    segments = segments_of(predicted)
    wanted = list(map(segments_of, answers))
    return max(overlap_f1(longest_common_run(answer, segments), answer, segments) for answer in wanted)


def exact_score(answers: Sequence[str], predicted: str) -> int:
    """Return 1 where the text is that of an answer, but for case and punctuation; else 0."""
    return int(without_punctuation(predicted) in [without_punctuation(answer) for answer in answers])


def without_punctuation(text: str) -> str:
    """Return a text in lower case, without surrounding white space and CMRC's list of punctuation."""
    return "".join(character for character in text.lower().strip() if character not in PUNCTUATION)


def segments_of(text: str) -> list[str]:
    """Return Chinese characters one by one, and the words between them."""
    parts = _CHINESE.split(without_punctuation(text))  # text, character, text, character, ..., text
    return [segment for n, part in enumerate(parts) for segment in ([part] if n % 2 else latin_words(part))]


def latin_words(text: str) -> list[str]:
    """Return words and punctuation of a lower-cased sentence, as NLTK cuts them."""
    for pattern, cut in _CUTS:
        text = pattern.sub(cut, text)
    return text.split()


def longest_common_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest stretch of segments that is in both."""
    longest = 0
    ends: dict[int, int] = {}  # place in `other` -> length of the common run that ends there
    places: dict[str, list[int]] = {}
    for place, segment in enumerate(other):
        places.setdefault(segment, []).append(place)
    for segment in one:
        ends = {place: ends.get(place - 1, 0) + 1 for place in places.get(segment, ())}
        longest = max(longest, *ends.values()) if ends else longest
    return longest
