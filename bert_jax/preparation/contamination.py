# SPDX-License-Identifier: Apache-2.0
"""How much of an evaluation set stands in the training text: 13-grams of words that both have.

Brown et al. 2020 (2005.14165), appendix C: words are lower-cased and stripped of punctuation, and a text counts as
overlapping where one of its n-grams, n up to 13, occurs in the training text. Here n is 13 always: a text of fewer
words cannot be checked and is counted apart. In scripts without spaces (Chinese, Japanese, Thai) a word is a character.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bert_jax.base.bucket_cache import readable
from bert_jax.base.errors import UserError
from bert_jax.base.lines import decode_text, grouped, without_no_characters
from bert_jax.base.types import JsonObject
from bert_jax.feed.order import mix64
from bert_jax.text.scripts import class_table, CLASSES, code_points, LETTER_CLASSES, MARKS, NUMBERS, UNSPACED_SCRIPTS
from bert_jax.text.streams import open_stream

WORDS = 13  # of an n-gram
MOST_NGRAMS = 2**23  # of all evaluation files together: 64 MB of hashes
EXAMPLES = 3  # n-grams that were found, told for each file
_COUNTED_AT_ONCE = 2**18  # characters; a document, or a file, may be much longer
LARGEST_FILE = 2**30  # bytes, unpacked
_LONGEST_FILTER = 2**26  # bytes


class TextWords(NamedTuple):
    """The words of a text: their hashes, [W] uint64, and their places in the lower-cased text, [W] int64 each."""

    hashes: np.ndarray
    begins: np.ndarray
    ends: np.ndarray


def words_of(lowered: str) -> TextWords:
    """The words of a lower-cased text. A hash is a function of the word's characters alone."""
    codes = code_points(lowered)
    kind = _word_table()[codes]  # [characters] 0 no part of a word, 1 part of one, 2 a word by itself
    places = np.flatnonzero(kind)
    if not len(places):
        return TextWords(np.zeros(0, np.uint64), places, places)
    kind = kind[places]
    begins = np.ones(len(places), bool)
    begins[1:] = (np.diff(places) > 1) | (kind[1:] == 2) | (kind[:-1] == 2)
    first = np.flatnonzero(begins)
    # A polynomial in an odd number, modulo 2**64; dividing by the power at its begin makes it the word's own.
    powers, inverses = _powers(len(places).bit_length())
    sums = np.add.reduceat(_code_values()[codes[places]] * powers[: len(places)], first)
    last = np.append(first[1:], len(places)) - 1
    return TextWords(mix64(sums * inverses[first]), places[first], places[last] + 1)


def ngrams_of(hashes: np.ndarray, size: int = WORDS) -> np.ndarray:
    """Hashes of all runs of `size` words, at most 16: [W] -> [max(0, W - size + 1)] uint64."""
    count = max(0, len(hashes) - size + 1)
    sums = np.zeros(count, np.uint64)
    for place, factor in enumerate(_powers(4)[0][:size]):
        sums += hashes[place : place + count] * factor
    return mix64(sums)


class Lookup:
    """Tells which hashes are among known ones. Can be pickled."""

    def __init__(self, known: np.ndarray):
        """`known` are ascending and different, [K] uint64."""
        self.known = known

    @functools.cached_property
    def _filter(self) -> np.ndarray:
        """Whether a known hash ends in these bits: nearly all others are told apart by that alone."""
        size = min(_LONGEST_FILTER, 1 << (8 * len(self.known) + 1).bit_length())
        seen = np.zeros(size, bool)
        seen[self.known & np.uint64(size - 1)] = True
        return seen

    def places(self, hashes: np.ndarray) -> np.ndarray:
        """Return where the known ones among hashes [N] stand: ascending indices [found] int64."""
        maybe = np.flatnonzero(self._filter[hashes & np.uint64(len(self._filter) - 1)])
        if not len(maybe):
            return maybe
        nearest = np.minimum(np.searchsorted(self.known, hashes[maybe]), len(self.known) - 1)
        return maybe[self.known[nearest] == hashes[maybe]]

    def __getstate__(self) -> JsonObject:
        return {"known": self.known}


@functools.cache
def _word_table() -> np.ndarray:
    kinds = dict.fromkeys((*LETTER_CLASSES, NUMBERS, MARKS), 1) | dict.fromkeys(UNSPACED_SCRIPTS, 2)
    return np.array([kinds.get(name, 0) for name in CLASSES], np.uint8)[class_table()]


@functools.cache
def _code_values() -> np.ndarray:
    return mix64(np.arange(0x110000, dtype=np.uint64))


@functools.cache
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The first 2**bits powers of an odd number and of its inverse, modulo 2**64."""
    odd = 0x9E3779B97F4A7C15
    numbers = np.array([odd, pow(odd, -1, 2**64)], np.uint64)
    powers = np.broadcast_to(numbers[:, None], (2, 2**bits)).copy()
    powers[:, 0] = 1
    first, second = np.cumprod(powers, axis=1, dtype=np.uint64)
    return first, second


# ---- the evaluation files -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvaluationFile:
    """A file of evaluation data and its 13-grams."""

    path: Path
    bytes: int
    sha256: str
    texts: int  # of 13 words or more
    short_texts: int  # of fewer, which cannot be checked
    ngrams: np.ndarray  # the different ones, ascending, uint64


@dataclass(frozen=True)
class EvaluationNgrams:
    """The 13-grams of all evaluation files, to be found in the training text. Can be pickled."""

    files: tuple[EvaluationFile, ...]

    @classmethod
    def from_files(cls, paths: Iterable[Path]) -> "EvaluationNgrams":
        """Read the texts of files: every string in JSON or JSON lines, every cell of other lines (TSV, plain text).

        Raises:
          UserError: a file that cannot be read, is not UTF-8 or has no text of 13 words, or too much of it together.
        """
        files = []
        for path in paths:
            files.append(_read_file(readable(path)))
            if sum(len(file.ngrams) for file in files) > MOST_NGRAMS:
                raise UserError(
                    f"--evaluation-data {path}: the files hold more than {MOST_NGRAMS:,} different {WORDS}-grams"
                    " together: name fewer or smaller files"
                )
        return cls(tuple(files))

    def described(self) -> list[JsonObject]:
        """Describe the files for JSON; the last folder tells dev.tsv from dev.tsv."""
        return [
            {"file": "/".join(file.path.parts[-2:]), "bytes": file.bytes, "sha256": file.sha256} for file in self.files
        ]

    def hits(self, *documents: Sequence[str]) -> np.ndarray:
        """Return the different 13-grams of the evaluation files that documents have: [found] uint64.

        A document is given as its sentences; n-grams go across these, not across documents. Many short documents cost
        less in one call.
        """
        found = [np.zeros(0, np.uint64)]
        texts = []
        for sentences in documents:
            if sum(map(len, sentences)) < _COUNTED_AT_ONCE:
                texts.append("\n".join(sentences).lower())
            else:
                found += self._hits_of_long(sentences)
        for group in grouped(texts, _COUNTED_AT_ONCE):
            ngrams = _ngrams_of_texts(group).hashes
            found.append(ngrams[self._lookup.places(ngrams)])
        return np.unique(np.concatenate(found))

    def _hits_of_long(self, sentences: Sequence[str]) -> Iterator[np.ndarray]:
        """The same of a document that is looked at piece by piece."""
        last = np.zeros(0, np.uint64)
        for group in grouped(sentences, _COUNTED_AT_ONCE):
            hashes = np.concatenate([last, words_of("\n".join(group).lower()).hashes])
            ngrams = ngrams_of(hashes)
            yield ngrams[self._lookup.places(ngrams)]
            last = hashes[-(WORDS - 1) :]

    @functools.cached_property
    def _lookup(self) -> Lookup:
        return Lookup(np.unique(np.concatenate([np.zeros(0, np.uint64), *(file.ngrams for file in self.files)])))


def _read_file(path: Path) -> EvaluationFile:
    digest = hashlib.sha256()
    texts, short, ngrams = 0, 0, [np.zeros(0, np.uint64)]
    for group in grouped(_texts(path, digest), _COUNTED_AT_ONCE):
        grams = _ngrams_of_texts(group)
        texts += int((grams.words >= WORDS).sum())
        short += int(((grams.words > 0) & (grams.words < WORDS)).sum())
        ngrams.append(np.unique(grams.hashes))
    if not texts:
        raise UserError(f"--evaluation-data {path}: has no text of {WORDS} words or more, so nothing can be looked for")
    different = np.unique(np.concatenate(ngrams))
    return EvaluationFile(path, path.stat().st_size, digest.hexdigest(), texts, short, different)


class _TextNgrams(NamedTuple):
    """The 13-grams of several texts; none goes across two."""

    words: np.ndarray  # [texts] words of each
    hashes: np.ndarray  # [N] uint64
    texts: np.ndarray  # [N] the text of each n-gram
    begins: np.ndarray  # [N] its place in the joined texts, ascending
    ends: np.ndarray  # [N]


def _ngrams_of_texts(lowered: Sequence[str]) -> _TextNgrams:
    words = words_of("\n".join(lowered))
    ends_of_texts = np.cumsum([len(text) + 1 for text in lowered])
    text = np.searchsorted(ends_of_texts, words.begins, side="right")  # of each word
    last = text[WORDS - 1 :]
    whole = text[: len(last)] == last
    return _TextNgrams(
        np.bincount(text, minlength=len(lowered)),
        ngrams_of(words.hashes)[whole],
        last[whole],
        words.begins[: len(last)][whole],
        words.ends[WORDS - 1 :][whole],
    )


def _texts(path: Path, digest: "hashlib._Hash | None" = None) -> Iterator[str]:
    """The texts of a file, packed or not, lower-cased."""
    if not path.is_file():
        raise UserError(f"--evaluation-data {path}: no such file")
    with open_stream(path, digest=digest) as file:
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE:
        raise UserError(f"--evaluation-data {path}: holds more than {LARGEST_FILE // 2**20:,} MiB: divide it")
    content = decode_text(raw, f"--evaluation-data {path}")
    values = _json_values(content, path)
    if values is not None:
        yield from map(str.lower, _strings(values))
        return
    for line in _lines(content):
        yield from line.lower().split("\t")


def _lines(content: str) -> list[str]:
    """The lines of a file, which a line feed alone ends: others stand in texts, such as U+2028."""
    return [line.removesuffix("\r") for line in content.split("\n")]


def _json_values(content: str, path: Path) -> object:
    """Return the content of a JSON file, or of a file of JSON objects a line; None for other text."""
    if not content.lstrip().startswith(("{", "[")):
        return None
    for read in (json.loads, lambda text: [json.loads(line) for line in _lines(text) if line.strip()]):
        try:
            return read(content)
        except json.JSONDecodeError:
            continue
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested as deep
            raise UserError(f"--evaluation-data {path}: is JSON that cannot be read: {error}") from error
    return None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield without_no_characters(value)[0]
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


# ---- what was found -------------------------------------------------------------------------------------------------


def contamination_report(
    evaluation: EvaluationNgrams, hits: np.ndarray, of_sources: Sequence[tuple[str, np.ndarray]] = ()
) -> list[JsonObject]:
    """Report how much of each evaluation file was found, as the passport's `contamination`. The files are read again.

    Args:
      hits: [N] uint64, what `EvaluationNgrams.hits` returned for all documents, together; may hold repetitions.
      of_sources: the name of each source of text, and the same for its documents.
    """
    report = []
    for described, file in zip(evaluation.described(), evaluation.files, strict=True):
        found, *found_in = (np.intersect1d(file.ngrams, one) for one in (hits, *(one for _, one in of_sources)))
        (texts, *texts_with), examples = _texts_with(file.path, [found, *found_in])
        report.append(
            {
                **described,
                "ngram_words": WORDS,
                "ngrams": len(file.ngrams),
                "found_ngrams": len(found),
                "found_share": len(found) / len(file.ngrams),
                "texts": file.texts,
                "texts_with_found": texts,
                "short_texts": file.short_texts,
                "sources": [
                    {"source": name, "found_ngrams": len(own), "texts_with_found": number}
                    for (name, _), own, number in zip(of_sources, found_in, texts_with, strict=True)
                ],
                "examples": examples,
            }
        )
    return report


def _texts_with(path: Path, found: Sequence[np.ndarray]) -> tuple[list[int], list[str]]:
    """How many texts of a file have one of these n-grams, for each set of them; of the first set some examples."""
    counts = [0] * len(found)
    examples: list[str] = []
    lookups = [Lookup(ngrams) for ngrams in found]
    for group in grouped(_texts(path), _COUNTED_AT_ONCE):
        grams = _ngrams_of_texts(group)
        places = [lookup.places(grams.hashes) for lookup in lookups]
        firsts = [place[np.unique(grams.texts[place], return_index=True)[1]] for place in places]
        counts = [count + len(first) for count, first in zip(counts, firsts, strict=True)]
        joined = "\n".join(group)
        for place in firsts[0][: EXAMPLES - len(examples)]:
            examples.append(" ".join(joined[grams.begins[place] : grams.ends[place]].split()))
    return counts, examples
