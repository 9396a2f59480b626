# SPDX-License-Identifier: Apache-2.0
"""Accents and other marks: which words lose some where they are stripped, and which become equal by it.

google-research/bert strips nonspacing marks (Unicode category Mn after decomposition) wherever it lower-cases. In English
that takes é for e; in Hindi it takes vowels away, in Japanese the difference between か and が.
"""

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_END = 0x20000  # no mark, and nothing that is decomposed into one, stands beyond but symbols of music
_PLAIN_WORD = re.compile("[A-Za-z0-9]+")


@dataclass(frozen=True)
class MarkLoss:
    """Counts of the words that stripping changes. A word is a run of letters, digits and marks."""

    words: int  # that were looked at
    marked: int  # of them, those that lose a mark
    distinct: int  # different words with their marks
    forms: int  # different words without them
    examples: tuple[tuple[str, ...], ...]  # words that become equal to each other, the commonest first

    @property
    def collapsed_share(self) -> float:
        """The share of the different words that become equal to another one."""
        return (self.distinct - self.forms) / max(self.distinct, 1)


def measure_marks(words: Mapping[str, int], examples: int = 3) -> MarkLoss:
    """Count what stripping does to words, which are given with how often each occurs."""
    groups = defaultdict(list)
    for word in words:
        groups[without_marks(word)].append(word)
    marked = sum(times for word, times in words.items() if loses_marks(word))
    equal = [sorted(group, key=lambda word: (-words[word], word)) for group in groups.values() if len(group) > 1]
    equal.sort(key=lambda group: (-words[group[1]], group))  # by the second: what the first is taken for
    return MarkLoss(
        words=sum(words.values()),
        marked=marked,
        distinct=len(words),
        forms=len(groups),
        examples=tuple(tuple(group) for group in equal[:examples]),
    )


def count_words(texts: Iterable[str], lowercase: bool) -> Counter[str]:
    """Count the words of texts, lower-cased where the tokenizer does so."""
    counts: Counter[str] = Counter()
    for text in texts:
        pattern = _PLAIN_WORD if text.isascii() else _patterns()[0]  # the plain one is faster
        counts.update(pattern.findall(text.lower() if lowercase else text))
    return counts


def without_marks(word: str) -> str:
    """Return a word as google-research/bert's tokenizer makes it where it strips accents."""
    if word.isascii():
        return word
    return "".join(character for character in _decomposed(word) if unicodedata.category(character) != "Mn")


def loses_marks(text: str) -> bool:
    """Return whether stripping takes anything from a text."""
    return not text.isascii() and _patterns()[1].search(text) is not None


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a word and of a character that stripping takes something from."""
    characters = list(map(chr, range(0x80, _END)))
    marks = _character_class(character for character in characters if unicodedata.category(character)[0] == "M")
    losing = _character_class(
        character for character in characters if without_marks(character) != _decomposed(character)
    )
    return re.compile(rf"[^\W_]+(?:{marks}+[^\W_]*)*"), re.compile(losing)


def _decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _character_class(characters: Iterable[str]) -> str:
    """Return the class of a pattern, in ranges, which are searched faster than single characters."""
    ranges: list[list[str]] = []
    for character in characters:
        if ranges and ord(character) == ord(ranges[-1][1]) + 1:
            ranges[-1][1] = character
        else:
            ranges.append([character, character])
    return f"[{''.join(f'{first}-{last}' for first, last in ranges)}]"
