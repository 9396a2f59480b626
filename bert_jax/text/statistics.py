# SPDX-License-Identifier: Apache-2.0
"""Statistics of a text, counted chunk by chunk and added up: characters, scripts, lengths, repetitions.

Each chunk is counted by itself, wherever it is processed; `merge_statistics` adds the records up.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.text.mark_counts import MarkCounts, merge_marks
from bert_jax.text.repetitions import hash_of, MOST_HASHES, Occurrences, RepeatedLines, Repetitions
from bert_jax.text.scripts import CLASSES, count_classes, LETTER_CLASSES

LINES_OF_CHUNK = 100  # repeated lines, the most repeated ones, that a chunk names
LINES_OF_TEXT = 10  # that the passport names
SENTENCE_BYTES = 50  # a low guess: English sentences have 120, lines of dialogue 30
_COUNTED_AT_ONCE = 2**20  # characters

# Where the bins of lengths begin: every length below 8, then four bins to a doubling. The last bin has no end.
BIN_STARTS = (*range(8), *(part << octave for octave in range(1, 26) for part in (4, 5, 6, 7)))

Record = tuple[JsonObject, Mapping[str, np.ndarray]]


def sample_bits(total_bytes: int) -> int:
    """How many bits of a hash are to be zero for it to be compared across chunks, for an input of this size."""
    return max(0, math.ceil(math.log2(max(total_bytes, 1) / SENTENCE_BYTES / MOST_HASHES)))


class TextStatistics:
    """The statistics of a chunk. Beside a megabyte of text it holds 8 bytes for each sentence.

    Args:
      sample_bits: see `sample_bits`.
      marks: what counts the words that lose marks, where the tokenizer strips them.
    """

    def __init__(self, sample_bits: int = 0, marks: MarkCounts | None = None):
        self._sample_bits = sample_bits
        self._marks = marks
        self._classes = np.zeros(len(CLASSES), np.int64)
        self._sentence_lengths, self._document_lengths = LengthHistogram(), LengthHistogram()
        self._sentences, self._documents = Occurrences(), Occurrences()
        self._lines = RepeatedLines(LINES_OF_CHUNK)
        self._begin()

    def _begin(self) -> None:
        """Nothing is pending."""
        self._pending: list[str] = []  # sentences
        self._digests: list[bytes] = []  # of all sentences of a document together
        self._lengths: list[np.ndarray] = []  # of the sentences of a document
        self._characters = 0

    def add_document(self, sentences: Sequence[str], lengths: np.ndarray) -> None:
        """Count a document: its sentences, and the tokens of each, [len(sentences)] integers."""
        if len(sentences) != len(lengths):
            raise ValueError(f"{len(sentences)} sentences, but the lengths of {len(lengths)}")
        self._pending += sentences
        self._digests.append(b"".join([hash_of(text.encode("utf-8", "surrogatepass")) for text in sentences]))
        self._lengths.append(np.asarray(lengths, np.int64))
        self._characters += sum(map(len, sentences))
        if self._characters >= _COUNTED_AT_ONCE:
            self._count_pending()

    def _count_pending(self) -> None:
        if self._marks is not None:
            self._marks.add(self._pending)
        for text in _joined(self._pending):
            self._classes += count_classes(text)
        for place, number, times in self._sentences.add(b"".join(self._digests)):
            self._lines.set(number, times, self._pending[place])
        self._documents.add(b"".join(map(hash_of, self._digests)))
        if self._lengths:
            self._sentence_lengths.add(np.concatenate(self._lengths))
            self._document_lengths.add(np.array([lengths.sum() for lengths in self._lengths]))
        self._begin()

    def record(self) -> tuple[JsonObject, dict[str, np.ndarray]]:
        """Return a part for JSON, and arrays, for `merge_statistics`."""
        self._count_pending()
        record = {
            "sample_bits": self._sample_bits,
            "classes": self._classes.tolist(),
            "sentences": self._sentences.summary(),
            "documents": self._documents.summary(),
            "sentence_lengths": self._sentence_lengths.as_record(),
            "document_lengths": self._document_lengths.as_record(),
            "repeated_lines": self._lines.top(LINES_OF_CHUNK),
        }
        arrays = {
            "sentence_hashes": self._sentences.sample(self._sample_bits),
            "document_hashes": self._documents.sample(self._sample_bits),
        }
        if self._marks is not None:
            record["marks"], arrays["word_hashes"] = self._marks.record()
        return record, arrays


def _joined(sentences: Sequence[str]) -> Iterator[str]:
    """All characters of the sentences in pieces of bounded size: a single sentence may be a document's 64 MB."""
    if sum(map(len, sentences)) <= 2 * _COUNTED_AT_ONCE:
        yield "".join(sentences)
        return
    piece: list[str] = []
    size = 0
    for sentence in sentences:
        for begin in range(0, len(sentence), _COUNTED_AT_ONCE):
            piece.append(sentence[begin : begin + _COUNTED_AT_ONCE])
            size += len(piece[-1])
            if size >= _COUNTED_AT_ONCE:
                yield "".join(piece)
                piece, size = [], 0
    yield "".join(piece)


class LengthHistogram:
    """How many lengths fall into each bin, their sum and the longest."""

    def __init__(self) -> None:
        self.counts = np.zeros(len(BIN_STARTS), np.int64)
        self.total = 0
        self.longest = 0

    def add(self, lengths: np.ndarray) -> None:
        """Count lengths, [N] integers."""
        bins = np.searchsorted(BIN_STARTS, lengths, side="right") - 1
        self.counts += np.bincount(bins, minlength=len(BIN_STARTS))
        self.total += int(lengths.sum())
        self.longest = max(self.longest, int(lengths.max(initial=0)))

    def as_record(self) -> JsonObject:
        """Return the counts for JSON; `add_record` takes them."""
        return {"counts": self.counts.tolist(), "total": self.total, "longest": self.longest}

    def add_record(self, record: JsonObject) -> None:
        """Add what another one has counted."""
        self.counts += np.asarray(record["counts"])
        self.total += record["total"]
        self.longest = max(self.longest, record["longest"])

    def as_histogram(self) -> JsonObject:
        """Return the histogram of the passport: `counts[i]` lengths are at least `bins[i]` and less than `bins[i + 1]`."""
        used = int(np.flatnonzero(self.counts).max(initial=-1)) + 1
        number = int(self.counts.sum())
        middle = np.searchsorted(np.cumsum(self.counts), (number + 1) // 2) if number else 0
        return {
            "mean": self.total / number if number else 0.0,
            "median_at_least": BIN_STARTS[middle],
            "longest": self.longest,
            "bins": list(BIN_STARTS[:used]),
            "counts": self.counts[:used].tolist(),
        }


def merge_statistics(records: Iterable[Record]) -> JsonObject:
    """The statistics of the whole text, each document once, as the passport's `text` holds them.

    `scripts` counts letters by script, which is not a language; `other_characters` counts the rest by what they are.
    Lengths are in tokens. `sentences` and `documents` tell how many are equal to an earlier one. `compared` is the
    share of hashes that were compared across chunks: below 1, repetitions across chunks are an estimate, those inside
    a chunk are exact. `repeated_lines` tells how often a line occurs at least: a chunk names its most repeated only.
    `marks` says what stripping of accents does to the words of a sample (`MarkLoss`); None where nothing is stripped.
    """
    classes = np.zeros(len(CLASSES), np.int64)
    lengths = {"sentence_lengths": LengthHistogram(), "document_lengths": LengthHistogram()}
    repetitions = {"sentences": Repetitions(), "documents": Repetitions()}
    lines = RepeatedLines(100 * LINES_OF_CHUNK)
    marks: list[JsonObject] = []
    word_hashes: list[np.ndarray] = []
    for record, arrays in records:
        classes += np.asarray(record["classes"])
        for name, sums in lengths.items():
            sums.add_record(record[name])
        for name, hashes in (("sentences", "sentence_hashes"), ("documents", "document_hashes")):
            repetitions[name].add(record[name], arrays[hashes], record["sample_bits"])
        for number, times, text in record["repeated_lines"]:
            lines.add(number, times, text)
        if "marks" in record:
            marks.append(record["marks"])
            word_hashes.append(np.asarray(arrays["word_hashes"]))
    counted = {name: int(count) for name, count in zip(CLASSES, classes, strict=True) if count}
    return {
        "characters": int(classes.sum()),
        "tokens": lengths["sentence_lengths"].total,
        "scripts": {name: count for name, count in counted.items() if name in LETTER_CLASSES},
        "other_characters": {name: count for name, count in counted.items() if name not in LETTER_CLASSES},
        "sentences": repetitions["sentences"].result(),
        "documents": repetitions["documents"].result(),
        "repeated_lines": [{"text": text, "times": times} for _, times, text in lines.top(LINES_OF_TEXT)],
        "tokens_per_sentence": lengths["sentence_lengths"].as_histogram(),
        "tokens_per_document": lengths["document_lengths"].as_histogram(),
        "marks": dataclasses.asdict(merge_marks(marks, word_hashes)) if marks else None,
    }
