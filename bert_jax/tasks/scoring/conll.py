# SPDX-License-Identifier: Apache-2.0
"""Scores of tagged phrases as conlleval (CoNLL-2000 and 2003 shared tasks, version 2004-01-26) counts and prints them.

A phrase is correct where its words and its type are those of the gold phrase. A tag is a prefix and, after the first
"-", a type: B-PER, I-PER, O. conlleval forgives what breaks a scheme: I- after O, or after another type, begins a phrase.

conlleval was written for IOB1 and IOB2, for their mirror images with E, and for "[" and "]" as phrases of one word. It does not
know IOBES or BMES: there it takes neighbours of one type for one phrase, so such tags should be made IOB2 before
(`unknown_prefixes` finds them).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bert_jax.base.errors import UserError
from bert_jax.base.lines import foreign_encoding, mend_encoding
from bert_jax.base.types import JsonObject

BOUNDARY = "-X-"  # a line with this first item stands between sentences, as an empty one does
UNKNOWN_PREFIXES = ("S", "U", "L", "M")  # of schemes that conlleval does not know (IOBES, BILOU, BMES)


class Tag(NamedTuple):
    """A tag taken apart: its letter (B, I, O, ...), or whatever stands there, and its type, empty where it has none."""

    letter: str
    type: str


class TaggedWord(NamedTuple):
    """The two tags of a word that are compared."""

    gold: Tag
    predicted: Tag


OUTSIDE = Tag("O", "")
BETWEEN_SENTENCES = TaggedWord(OUTSIDE, OUTSIDE)


def parse_tag(text: str) -> Tag:
    """Return a tag divided at the first "-", whatever stands before it. A type "0" is none: in Perl it is false."""
    letter, _, kind = text.partition("-")
    return Tag(letter, "" if kind == "0" else kind)


# ---- where phrases begin and end ---------------------------------------------------------------------------

_ENDS = {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O"), ("E", "E"), ("E", "I"), ("E", "O")}
_BEGINS = {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I"), ("E", "E"), ("E", "I"), ("O", "E")}
_NO_PHRASE = ("O", ".")
_ONE_WORD = ("[", "]")


def ends_between(previous: Tag, tag: Tag) -> bool:
    """Return whether a phrase ends after the word of `previous`?"""
    return (
        (previous.letter, tag.letter) in _ENDS
        or (previous.letter not in _NO_PHRASE and previous.type != tag.type)
        or previous.letter in _ONE_WORD
    )


def begins_between(previous: Tag, tag: Tag) -> bool:
    """Return whether a phrase begins with the word of `tag`?"""
    return (
        (previous.letter, tag.letter) in _BEGINS
        or (tag.letter not in _NO_PHRASE and previous.type != tag.type)
        or tag.letter in _ONE_WORD
    )


# ---- counts ------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """The counts of conlleval. Phrases are counted by type; their sums are the figures over all types."""

    words: int = 0
    correct_tags: int = 0
    gold: Counter[str] = field(default_factory=Counter)  # phrases
    predicted: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)


def count(words: Iterable[TaggedWord | None]) -> Counts:
    """Count words and phrases; None stands between sentences."""
    result = Counts()
    last = BETWEEN_SENTENCES
    in_correct = False  # inside a phrase of both, which began at the same word and has the same type
    for found in words:
        word = found or BETWEEN_SENTENCES
        ends = (ends_between(last.gold, word.gold), ends_between(last.predicted, word.predicted))
        begins = (begins_between(last.gold, word.gold), begins_between(last.predicted, word.predicted))
        same_type = word.gold.type == word.predicted.type
        if in_correct:
            if all(ends) and last.gold.type == last.predicted.type:
                result.correct[last.gold.type] += 1
                in_correct = False
            elif ends[0] != ends[1] or not same_type:
                in_correct = False
        if all(begins) and same_type:
            in_correct = True
        if begins[0]:
            result.gold[word.gold.type] += 1
        if begins[1]:
            result.predicted[word.predicted.type] += 1
        if found is not None:
            result.words += 1
            result.correct_tags += word.gold == word.predicted
        last = word
    if in_correct:
        result.correct[last.gold.type] += 1
    return result


class PhraseScores(NamedTuple):
    """Per cent, 0 where nothing can be divided; F1 is called FB1 by conlleval."""

    precision: float
    recall: float
    FB1: float


def phrase_scores(correct: int, predicted: int, gold: int) -> PhraseScores:
    """Return precision, recall and F1 of numbers of phrases."""
    precision = 100 * correct / predicted if predicted else 0.0
    recall = 100 * correct / gold if gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return PhraseScores(precision, recall, f1)


def scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> JsonObject:
    """Return the scores of sentences' tags, as `as_dict` names them. UserError where lengths differ or there is no word."""
    if len(gold) != len(predicted):
        raise UserError(
            f"{len(gold):,} sentences have gold tags, {len(predicted):,} predicted ones: give the same sentences"
        )
    return as_dict(count(tagged_words(gold, predicted)))


def tagged_words(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Iterator[TaggedWord | None]:
    """Yield what `count` takes, from the tags of sentences. UserError where a sentence has two numbers of tags."""
    for number, (wanted, found) in enumerate(zip(gold, predicted, strict=True)):
        if len(wanted) != len(found):
            raise UserError(
                f"sentence {number} has {len(wanted)} gold tags and {len(found)} predicted ones: give a tag for each word"
            )
        yield from map(TaggedWord, map(parse_tag, wanted), map(parse_tag, found))
        yield None


def as_dict(counts: Counts) -> JsonObject:
    """Return conlleval's figures by its names (per cent); `types` holds those of each type in its order of printing."""
    _check_words(counts)
    correct, predicted, gold = counts.correct.total(), counts.predicted.total(), counts.gold.total()
    overall = {"tokens": counts.words, "phrases": gold, "found": predicted, "correct": correct}
    accuracy = 100 * counts.correct_tags / counts.words
    types = {kind: _type_dict(counts, kind) for kind in _sorted_types(counts)}
    return {**overall, "accuracy": accuracy, **phrase_scores(correct, predicted, gold)._asdict(), "types": types}


def _type_dict(counts: Counts, kind: str) -> dict[str, float]:
    correct, predicted, gold = counts.correct[kind], counts.predicted[kind], counts.gold[kind]
    return {
        **phrase_scores(correct, predicted, gold)._asdict(),
        "phrases": gold,
        "found": predicted,
        "correct": correct,
    }


def as_text(counts: Counts) -> str:
    """Return the lines that conlleval prints, to the last blank."""
    found = as_dict(counts)
    lines = [
        f"processed {found['tokens']} tokens with {found['phrases']} phrases; found: {found['found']} phrases;"
        f" correct: {found['correct']}.",
        f"accuracy: {found['accuracy']:6.2f}%; {_percentages(found)}",
    ]
    for kind, row in found["types"].items():
        blanks = " " * (17 - len(_bytes(kind)))  # conlleval aligns bytes
        line = f"{blanks}{kind}: {_percentages(row)}  {row['found']}"
        # Of phrases without type, gold and predicted ones have a line each: conlleval takes the empty name for none.
        lines += [line] * (2 if kind == "" and row["phrases"] and row["found"] else 1)
    return "\n".join(lines)


def _percentages(row: JsonObject) -> str:
    return f"precision: {row['precision']:6.2f}%; recall: {row['recall']:6.2f}%; FB1: {row['FB1']:6.2f}"


def _sorted_types(counts: Counts) -> list[str]:
    return sorted(counts.gold.keys() | counts.predicted.keys(), key=_bytes)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def _check_words(counts: Counts) -> None:
    if counts.words == 0:
        raise UserError("there is no word to score: give lines that end in a gold and a predicted tag")


def unknown_prefixes(words: Iterable[TaggedWord | None]) -> list[str]:
    """Return the letters in use of a scheme that conlleval does not know: S and others, and E beside B (IOBES)."""
    used = {tag.letter for word in words if word is not None for tag in word}
    return [prefix for prefix in UNKNOWN_PREFIXES if prefix in used] + ["E"] * ({"B", "E"} <= used)


# ---- files -------------------------------------------------------------------------------------------------


def read_words(path: Path, delimiter: str = " ", raw: bool = False, outside: str = "O") -> Iterator[TaggedWord | None]:
    """Yield the words of a file whose lines end in gold and predicted tag; None for what stands between sentences.

    `delimiter` is a regular expression, as conlleval's -d. `raw`: tags are bare types, each word a phrase of its own, and
    `outside` is no phrase. A -DOCSTART- line is a word like others, as in conlleval, unless its first item is -X-.
    """
    pattern = _delimiter(delimiter)
    number_of_items = 0  # of the first line that has any
    with path.open("rb") as start:
        if (encoding := foreign_encoding(start.read(256))) is not None:
            raise UserError(f"{path} is {mend_encoding(encoding)}")
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            items = pattern.split(line.rstrip("\r\n"))
            while items and not items[-1]:
                items.pop()
            if not items:
                yield None
                continue
            number_of_items = number_of_items or len(items)
            _check_items(items, number_of_items, f"{path}, line {number}", delimiter)
            yield None if items[0] == BOUNDARY else TaggedWord(*(_read_tag(item, raw, outside) for item in items[-2:]))


def _read_tag(text: str, raw: bool, outside: str) -> Tag:
    if not raw:
        return parse_tag(text)
    return OUTSIDE if text in (outside, "O") else parse_tag(f"B-{text}")


def _delimiter(delimiter: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(delimiter)
    except re.error as error:
        raise UserError(f"the delimiter '{delimiter}' is no regular expression ({error}): write \\| for |") from None
    if pattern.match("") or pattern.groups:
        raise UserError(
            f"the delimiter '{delimiter}' would match nothing or remember groups: write \\| for |, \\t for a tab"
        )
    return pattern


def _check_items(items: Sequence[str], expected: int, place: str, delimiter: str) -> None:
    if len(items) < 2:
        raise UserError(
            f"{place} has {len(items)} item: gold and predicted tag must be its last two, delimited by '{delimiter}'"
            " (another delimiter: -d)"
        )
    if len(items) != expected:
        raise UserError(f"{place} has {len(items)} items, the lines before have {expected}: give every line the same")
