# SPDX-License-Identifier: Apache-2.0
"""Sentence pairs for MLM and next-sentence prediction, as ranges of tokens.

The algorithm, and the order of its random draws, is that of google-research/bert (create_pretraining_data.py,
`create_instances_from_document` and `truncate_seq_pair`), restated on offsets: both halves of a pair are
contiguous runs of sentences, and truncation only moves their ends, so a pair is four numbers and a label.
Masks are not drawn here.

Shapes: N sentences, D documents, T tokens, K examples.
"""

import random
from array import array
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

COLUMNS = ("a_start", "a_length", "b_start", "b_length", "label")
IS_NEXT, NOT_NEXT = 0, 1
SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
SHORTEST_SEQUENCE = 8


def make_examples(
    sentence_starts: Sequence[int] | np.ndarray,
    document_starts: Sequence[int] | np.ndarray,
    sequence_length: int,
    rng: random.Random,
    short_seq_prob: float = 0.1,
    random_next_prob: float = 0.5,
) -> np.ndarray:
    """Pairs of all documents, in the order of the text.

    A document is cut into chunks of about `sequence_length - 3` tokens (with `short_seq_prob`, a random
    shorter target for the whole document); a chunk is split at a random sentence into A and B. With
    `random_next_prob`, and always where the chunk is a single sentence, B is taken from another document
    instead and the unused sentences go back.

    One difference: the original tries ten times to draw another document and then takes what it has; here the
    draw is repeated until the document is another one. Up to ten tries the draws are the same.

    Args:
      sentence_starts: [N + 1] token offset of each sentence; the last is T. Every sentence has at least one
        token.
      document_starts: [D + 1] sentence index of each document; the last is N. Every document has a sentence;
        D >= 2.
      sequence_length: tokens of a row with [CLS] and two [SEP]; a_length + b_length <= sequence_length - 3.
      rng: source of all draws.
      short_seq_prob: share of documents with a shorter target.
      random_next_prob: share of random B among chunks of two sentences or more.

    Returns:
      [K, 5] int32 with the columns `COLUMNS`; label 0 = IsNext, 1 = NotNext.
    """
    if sequence_length < SHORTEST_SEQUENCE:
        raise ValueError(f"sequence_length={sequence_length} is less than {SHORTEST_SEQUENCE}")
    if len(document_starts) < 3:
        raise ValueError("a random next sentence needs at least two documents")
    if np.diff(sentence_starts).min() < 1 or np.diff(document_starts).min() < 1:
        raise ValueError("a sentence without tokens or a document without sentences")
    starts = np.asarray(sentence_starts).tolist()  # plain lists: the loop does little but index them
    documents = np.asarray(document_starts).tolist()
    longest = sequence_length - SPECIAL_TOKENS
    examples = array("i")
    for document in range(len(documents) - 1):
        target = rng.randint(2, longest) if rng.random() < short_seq_prob else longest
        _pair_document(examples, starts, documents, document, longest, target, random_next_prob, rng)
    return np.frombuffer(examples, dtype=np.int32).reshape(-1, len(COLUMNS))


def _pair_document(
    examples: array,
    starts: list[int],
    documents: list[int],
    document: int,
    longest: int,
    target: int,
    random_next_prob: float,
    rng: random.Random,
) -> None:
    """Append the pairs of one document to `examples`, five numbers each."""
    begin, document_end = documents[document], documents[document + 1]
    while begin < document_end:
        # The chunk is the sentences begin .. end - 1: as many as it takes to reach the target.
        end = bisect_left(starts, starts[begin] + target, begin + 1, document_end)
        a_end = begin + (rng.randint(1, end - begin - 1) if end - begin >= 2 else 1)
        a_length = starts[a_end] - starts[begin]
        if end - begin == 1 or rng.random() < random_next_prob:
            label, next_begin = NOT_NEXT, a_end
            b_start, b_stop = _random_next(starts, documents, document, target - a_length, rng)
        else:
            label, next_begin = IS_NEXT, end
            b_start, b_stop = starts[a_end], starts[end]
        pair = starts[begin], a_length, b_start, b_stop - b_start
        excess = a_length + b_stop - b_start - longest
        if excess > 0:
            pair = _truncate(*pair, excess, rng)
        examples.extend(pair)
        examples.append(label)
        begin = next_begin


def _random_next(
    starts: list[int], documents: list[int], document: int, target: int, rng: random.Random
) -> tuple[int, int]:
    """Token range of sentences from a random place of another document: at least one, and until `target`
    tokens."""
    other = document
    while other == document:
        other = rng.randint(0, len(documents) - 2)
    first = documents[other] + rng.randint(0, documents[other + 1] - documents[other] - 1)
    return starts[first], starts[bisect_left(starts, starts[first] + target, first + 1, documents[other + 1])]


def _truncate(
    a_start: int, a_length: int, b_start: int, b_length: int, excess: int, rng: random.Random
) -> tuple[int, int, int, int]:
    """Take `excess` tokens away, one at a time from the longer half (B where they are equal), at its front or
    back."""
    draw = rng.random
    for _ in range(excess):
        front = draw() < 0.5
        if a_length > b_length:
            a_length -= 1
            a_start += front
        else:
            b_length -= 1
            b_start += front
    return a_start, a_length, b_start, b_length
