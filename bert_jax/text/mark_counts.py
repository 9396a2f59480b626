# SPDX-License-Identifier: Apache-2.0
"""The effect of stripping accents on a text: measured on an even sample of each chunk, added up, and judged."""

from collections.abc import Mapping, Sequence

import numpy as np

from bert_jax.base.marks import count_words, MarkLoss, measure_marks, without_marks
from bert_jax.base.types import JsonObject
from bert_jax.text.repetitions import hash_of
from bert_jax.text.sample import EvenSample
from bert_jax.text.scripts import LETTER_CLASSES, SCRIPTS_OF_MARKS

# Of 30,000 to 60,000 words of a language (lists of wordfreq 3.1) this share becomes equal to another by stripping: English
# 0.07 %, Dutch 0.1, Danish 0.5, German 1.1, Italian 2, Spanish 4, French 5, Hindi 14, Vietnamese 32.
MOST_COLLAPSED = 0.01
# Of the letters. From here on it is a text of such a script and no longer one with names in it (Wikipedia's articles).
LEAST_OF_SCRIPTS = 0.05
LARGEST_SAMPLE, SMALLEST_SAMPLE = 2**17, 2**12  # characters of a chunk
EXAMPLES = 3  # that a chunk names, and that the passport names


class MarkCounts:
    """The words of an even sample of a chunk.

    Args:
      lowercase: whether the tokenizer lower-cases; it strips accents.
      sample_bits: how many times the sample is halved, as there are many chunks; see `statistics.sample_bits`.
    """

    def __init__(self, lowercase: bool, sample_bits: int = 0):
        self._lowercase = lowercase
        self._sample = EvenSample(max(LARGEST_SAMPLE >> sample_bits, SMALLEST_SAMPLE))

    def add(self, sentences: Sequence[str]) -> None:
        """Take sentences into account."""
        for sentence in sentences:
            self._sample.add(sentence)

    def record(self) -> tuple[JsonObject, np.ndarray]:
        """Return a part for JSON, and the hashes of each word without and with its marks, [W, 2], for `merge_marks`."""
        words = count_words(self._sample.texts, self._lowercase)
        loss = measure_marks(words, EXAMPLES)
        hashes = b"".join(hash_of(text.encode()) for word in words for text in (without_marks(word), word))
        record = {"words": loss.words, "marked": loss.marked, "examples": loss.examples}
        return record, np.frombuffer(hashes, "<u8").astype(np.uint64).reshape(-1, 2)


def merge_marks(records: Sequence[JsonObject], hashes: Sequence[np.ndarray]) -> MarkLoss:
    """Add up what `MarkCounts.record` gave for each chunk."""
    pairs = np.unique(np.concatenate(hashes), axis=0)  # [W, 2] distinct words
    examples = dict.fromkeys(tuple(group) for record in records for group in record["examples"])
    return MarkLoss(
        words=sum(record["words"] for record in records),
        marked=sum(record["marked"] for record in records),
        distinct=len(pairs),
        forms=len(np.unique(pairs[:, 0])),
        examples=tuple(examples)[:EXAMPLES],
    )


def scripts_of_marks(scripts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the scripts, among letters counted by script, whose marks are parts of words and which have a share here."""
    total = max(sum(scripts.get(name, 0) for name in LETTER_CLASSES), 1)
    return tuple(name for name in SCRIPTS_OF_MARKS if scripts.get(name, 0) >= LEAST_OF_SCRIPTS * total)


def describe_loss(loss: MarkLoss | None, scripts: Sequence[str]) -> tuple[str, bool]:
    """Say what stripping takes from a text, for people, and whether that is too much.

    Args:
      loss: measured on a sample; None where nothing was measured.
      scripts: of `scripts_of_marks`.
    """
    parts = []
    if loss is not None:
        parts.append(
            f"{loss.marked / max(loss.words, 1):.1%} of the words lose a mark, and {loss.distinct - loss.forms:,} of"
            f" {loss.distinct:,} different words ({loss.collapsed_share:.2%}) become equal to another"
        )
        if loss.examples:
            parts[-1] += f", such as {' and '.join(loss.examples[0])}"
    if scripts:
        parts.append(f"in {', '.join(scripts)} marks are parts of words, as vowels are")
    return "; ".join(parts), bool(scripts) or (loss is not None and loss.collapsed_share > MOST_COLLAPSED)
