# SPDX-License-Identifier: Apache-2.0
"""Schemes of tags: how the words of an entity are marked with its type.

IOB1   I-X; B-X only where an entity of the same type stands right before (Ramshaw and Marcus, 1995)
IOB2   B-X begins each entity, I-X goes on (also called BIO)
IOBES  B-X begins, I-X goes on, E-X ends; S-X is an entity of one word (also BIOES); "13 labels" are O and these four of
       three types
BMES   the same with M-X for I-X; BILOU: the same with L-X for E-X and U-X for S-X

Any sequence of tags can be read: as conlleval reads it (Tjong Kim Sang), which for a sequence that keeps to its scheme
is what the scheme says. E-X and S-X, of which conlleval knows little, are read in the same spirit.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.tasks.examples import Sentence
from bert_jax.tasks.scoring.conll import Tag

OUTSIDE = "O"
# The letters of each scheme for what begins, is inside, ends, and is a whole entity.
SCHEMES = {"IOB1": "BI", "IOB2": "BI", "IOBES": "BIES", "BMES": "BMES", "BILOU": "BILU"}
_ROLES = "BIES"
_OTHER_NAMES = {"BIO": "IOB2", "BIO2": "IOB2", "BIO1": "IOB1", "BIOES": "IOBES", "BMEOS": "BMES", "BMESO": "BMES"}
_OTHER_NAMES |= {"BMOES": "BMES", "BIOUL": "BILOU", "BIOLU": "BILOU", "IOBUL": "BILOU"}
_ROLE_OF = {letter: role for letters in SCHEMES.values() for letter, role in zip(letters, _ROLES, strict=False)}
_TAG = re.compile(r"([BIESMLU])(?:[-_](.*))?", re.DOTALL)
_MOSTLY = 0.5  # share of the tags beside O with a letter of a scheme, from which on the others are mistakes

POLICIES = ("repair", "refuse")

# What can be wrong with a tag, in words for people.
NO_BEGINNING = "inside or end without a beginning"
OTHER_TYPE = "inside or end of another type than what stands before"
NO_END = "beginning or inside without an end"
NEEDLESS_B = "B- where no entity of the same type stands before"
OTHER_LETTER = "letter of another scheme"


class Span(NamedTuple):
    """An entity: the words from `begin` to `end`, which is not in it."""

    begin: int
    end: int
    type: str


class Fault(NamedTuple):
    """A word whose tag breaks the scheme."""

    word: int
    kind: str


class Transitions(NamedTuple):
    """The rules of a scheme for L labels: where each may stand."""

    first: np.ndarray  # [L] bool
    follows: np.ndarray  # [L, L] bool: the second may follow the first
    last: np.ndarray  # [L] bool


_NOTHING = Tag(OUTSIDE, "")  # what stands before and behind a sentence


def scheme_named(name: str) -> str:
    """Return the scheme of that name, however it is spelled.

    Raises:
      UserError: there is none, or it is "IOB", which is said of two.
    """
    upper = name.upper()
    scheme = _OTHER_NAMES.get(upper, upper)
    if scheme not in SCHEMES:
        hint = "IOB is said of two: IOB1 and IOB2" if upper == "IOB" else f"use one of {', '.join(SCHEMES)}"
        raise UserError(f"there is no scheme of tags '{name}': {hint}")
    return scheme


@functools.cache
def parse(tag: str) -> Tag | None:
    """Return a tag taken apart; None where it is none of any scheme. An entity may have no type ("B")."""
    if tag == OUTSIDE:
        return _NOTHING
    match = _TAG.fullmatch(tag)
    return Tag(match[1], match[2] or "") if match else None


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Return the entities, in order. The scheme need not be known: no letter says different things in two of them.

    Raises:
      ValueError: one is no tag of any scheme.
    """
    spans = []
    before, begin = _NOTHING, 0
    for place, tag in enumerate([*map(_parsed, tags), _NOTHING]):
        begins = _begins(before, tag)
        if _role(before) != OUTSIDE and (begins or _role(tag) == OUTSIDE):
            spans.append(Span(begin, place, before.type))
        if begins:
            begin = place
        before = tag
    return spans


def _begins(before: Tag, tag: Tag) -> bool:
    """Whether an entity begins at `tag`."""
    if _role(tag) == OUTSIDE:
        return False
    return _role(tag) in "BS" or _role(before) in "OES" or before.type != tag.type


def tags_of(spans: Iterable[Span], length: int, scheme: str) -> list[str]:
    """Return the tags of `length` words; `spans` are in order and do not overlap."""
    tags = [OUTSIDE] * length
    letters = SCHEMES[scheme]
    before = Span(0, -1, "")
    for span in spans:
        begin, end, kind = span
        marks = [letters[1]] * (end - begin)
        if scheme != "IOB1" or (before.end, before.type) == (begin, kind):
            marks[0] = letters[0]
        if len(letters) == 4:
            marks[-1] = letters[2] if end - begin > 1 else letters[3]
        tags[begin:end] = [_spelled(letter, kind) for letter in marks]
        before = span
    return tags


def in_scheme(tags: Sequence[str], scheme: str) -> list[str]:
    """Return the tags of the same entities in another scheme."""
    return tags_of(spans_of(tags), len(tags), scheme)


def in_iob(tags: Sequence[str], scheme: str | None) -> list[str]:
    """Return tags of a scheme in IOB2, as conlleval reads them (it would join neighbours of others); of none as they are."""
    return list(tags) if scheme is None else in_scheme(tags, "IOB2")


# ---- sequences that break their scheme ----------------------------------------------------------------------


def faults(tags: Sequence[str], scheme: str) -> list[Fault]:
    """Return the words whose tags break the scheme, in order; what lacks its end is named at its last word."""
    found = []
    before = _NOTHING
    for place, tag in enumerate([*map(_parsed, tags), _NOTHING]):
        if _role(tag) != OUTSIDE and tag.letter not in SCHEMES[scheme]:
            found.append(Fault(place, OTHER_LETTER))
        elif kind := _fault(before, tag, scheme):
            found.append(Fault(place - (kind == NO_END), kind))
        before = tag
    return found


def _fault(before: Tag, tag: Tag, scheme: str) -> str | None:
    """Return the kind of fault where `tag` follows `before`."""
    inside = _role(before) in "BI"
    if scheme == "IOB1":
        return NEEDLESS_B if _role(tag) == "B" and not (inside and before.type == tag.type) else None
    if _role(tag) in "IE":
        if not inside:
            return NO_BEGINNING
        return OTHER_TYPE if before.type != tag.type else None
    return NO_END if inside and scheme != "IOB2" else None


def checked[AnySentence: Sentence](
    sentences: Sequence[AnySentence], scheme: str, policy: str
) -> tuple[list[AnySentence], dict[str, int]]:
    """Return the sentences with tags that keep to the scheme.

    Args:
      policy: "repair": where the scheme is broken, the entities that conlleval reads are written in the scheme;
        "refuse": it is an error.

    Returns:
      The sentences, and how many tags broke the scheme by kind, with "sentences repaired".

    Raises:
      UserError: a sequence breaks the scheme and is to be refused, or has a tag of no scheme.
    """
    if policy not in POLICIES:
        raise UserError(f"tags that break their scheme: '{policy}' is not one of {', '.join(POLICIES)}")
    result, counts = [], collections.Counter[str]()
    for sentence in sentences:
        _require_tags(sentence)
        found = faults(sentence.tags or (), scheme)
        if found and policy == "refuse":
            word, kind = found[0]
            tags = sentence.tags or ()
            where = f"{sentence.place}, word {word + 1} ({sentence.words[word]})"
            raise UserError(
                f"{where}: the tag {tags[word]} breaks {scheme} ({kind}; before it: {tags[word - 1] if word else 'none'}):"
                " mend the file, or have such tags repaired, which reads them as conlleval does"
            )
        if found:
            counts.update(fault.kind for fault in found)
            counts["sentences repaired"] += 1
            sentence = dataclasses.replace(sentence, tags=tuple(in_scheme(sentence.tags or (), scheme)))
        result.append(sentence)
    return result, dict(counts)


def _require_tags(sentence: Sentence) -> None:
    for place, tag in enumerate(sentence.tags or ()):
        if parse(tag) is None:
            where = f"{sentence.place}, word {place + 1} ({sentence.words[place]})"
            raise UserError(
                f"{where}: '{tag}' is no tag: those of a scheme are O, or B, I, E, S, M, L, U with a type (B-PER)"
            )


# ---- the scheme and the labels of a file --------------------------------------------------------------------


def detect_scheme(sentences: Sequence[Sentence]) -> str | None:
    """Return the scheme that the tags break least, of those that have all letters that occur; None: tags of no scheme.

    Tags of no scheme are classes of words, with O among them (location-city, COMMA) or without (parts of speech). Where
    tags keep to several it is the first in the order of `SCHEMES`, but IOB2 before IOB1.

    Raises:
      UserError: most tags have the form of a scheme and some have not, or their letters are of several schemes.
    """
    counts = collections.Counter(tag for sentence in sentences for tag in sentence.tags or () if tag != OUTSIDE)
    parsed = {tag: parse(tag) for tag in counts}
    formed = sum(count for tag, count in counts.items() if parsed[tag] is not None)
    if formed < counts.total():
        if formed < _MOSTLY * counts.total():
            return None
        for sentence in sentences:
            _require_tags(sentence)
    letters = {tag.letter for tag in parsed.values() if tag} - {OUTSIDE}
    candidates = [scheme for scheme in ("IOB2", *SCHEMES) if letters <= set(SCHEMES[scheme])]
    if not candidates:
        names = ", ".join(SCHEMES)
        raise UserError(f"the tags have the letters {', '.join(sorted(letters))}, which no one scheme has ({names})")
    sequences = [sentence.tags for sentence in sentences if sentence.tags]
    return min(candidates, key=lambda scheme: sum(len(faults(tags, scheme)) for tags in sequences))


def label_names(types: Iterable[str], scheme: str) -> list[str]:
    """Return all labels of a scheme: O, then by type (sorted) those that begin, are inside, end, and are whole."""
    return [OUTSIDE, *(_spelled(letter, kind) for kind in sorted(set(types)) for letter in SCHEMES[scheme])]


def labels_of(sentences: Iterable[Sentence], scheme: str | None) -> list[str]:
    """Return the labels that tag such sentences: all of the scheme for the types that occur, or without one the tags."""
    tags = {tag for sentence in sentences for tag in sentence.tags or ()}
    if scheme is None:
        return sorted(tags)
    return label_names({parsed.type for parsed in map(_parsed, tags) if _role(parsed) != OUTSIDE}, scheme)


def named_labels(names: Sequence[str], scheme: str | None) -> list[str]:
    """Return the labels that a person names: tags (O, B-PER, I-PER), or the types of a scheme (PER), for which all tags stand.

    Of no scheme they are the classes as named.
    """
    if scheme is None:
        return list(names)
    parsed = [parse(name) for name in names]
    if all(parsed) and (OUTSIDE in names or any(tag.type for tag in parsed if tag)):
        return label_names({tag.type for tag in parsed if tag and _role(tag) != OUTSIDE}, scheme)
    return label_names({name for name in names if name != OUTSIDE}, scheme)


def transitions(labels: Sequence[str], scheme: str) -> Transitions:
    """Return which labels may stand at a sentence's beginning, after each other, and at its end.

    Raises:
      UserError: O is not among the labels, or one is not of the scheme.
    """
    tags = [parse(label) or Tag("", label) for label in labels]
    foreign = [label for label, tag in zip(labels, tags, strict=True) if tag.letter not in OUTSIDE + SCHEMES[scheme]]
    foreign += [label for label, tag in zip(labels, tags, strict=True) if not tag.letter]
    if foreign or OUTSIDE not in labels:
        what = f"'{foreign[0]}' is not of {scheme}" if foreign else f"{OUTSIDE} is not among them"
        raise UserError(f"tags cannot be held to {scheme} with these labels: {what}")
    return Transitions(
        first=np.array([_fault(_NOTHING, tag, scheme) is None for tag in tags]),
        follows=np.array([[_fault(before, tag, scheme) is None for tag in tags] for before in tags]),
        last=np.array([_fault(tag, _NOTHING, scheme) is None for tag in tags]),
    )


def _parsed(tag: str) -> Tag:
    parsed = parse(tag)
    if parsed is None:
        raise ValueError(f"'{tag}' is no tag of any scheme")
    return parsed


def _role(tag: Tag) -> str:
    """Return O, B, I, E or S, whatever the tag's letter is in its scheme."""
    return _ROLE_OF.get(tag.letter, tag.letter)


def _spelled(letter: str, kind: str) -> str:
    return f"{letter}-{kind}" if kind else letter
