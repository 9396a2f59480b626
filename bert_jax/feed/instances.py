# SPDX-License-Identifier: Apache-2.0
"""Examples as ranges of tokens: which part of the text a row shows, for each of the published objectives.

| kind           | row                   | from                                                                  |
|----------------|-----------------------|-----------------------------------------------------------------------|
| nsp            | [CLS] A [SEP] B [SEP] | BERT: B follows A (IsNext) or is of another document (NotNext)        |
| sop            | [CLS] A [SEP] B [SEP] | ALBERT (1909.11942): neighbouring runs of one document, half the time swapped |
| full_sentences | [CLS] A [SEP]         | RoBERTa (1907.11692, section 4.2): as many whole sentences as fit     |
| document       | [CLS] A [SEP]         | the same, and a row ends where its document ends                      |

Pairs follow google-research/bert (create_pretraining_data.py, `create_instances_from_document` and
`truncate_seq_pair`), draw by draw, restated on offsets: both halves of a pair are contiguous runs of sentences, and
truncation only moves their ends, so an example is four numbers and a label. Masks are not drawn here.

Shapes: N sentences, D documents, T tokens, K examples.
"""

import random
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.feed.kinds import COLUMNS, IN_ORDER, IS_NEXT, NOT_NEXT, PAIRS, SHORTEST_SEQUENCE, special_tokens, SWAPPED

_DRAWN_AT_ONCE = 10_000  # tokens


class ExampleTable(NamedTuple):
    """The examples of a shard, and what could not be made as the objective asks."""

    examples: np.ndarray  # [K, 5] int32, columns `COLUMNS`
    same_document_negatives: int = 0  # nsp: NotNext pairs whose B had to come from A's own document
    unpaired_documents: int = 0  # nsp, sop: documents of a single sentence that nothing could be paired with


def make_table(
    kind: str,
    sentence_starts: Sequence[int] | np.ndarray,
    document_starts: Sequence[int] | np.ndarray,
    sequence_length: int,
    rng: random.Random,
    short_seq_prob: float = 0.1,
    random_next_prob: float = 0.5,
) -> ExampleTable:
    """The examples of a kind from all documents, in the order of the text.

    Args:
      kind: one of `KINDS`.
      sentence_starts: [N + 1] token offset of each sentence; the last is T. Every sentence has a token.
      document_starts: [D + 1] sentence index of each document; the last is N. Every document has a sentence.
      sequence_length: tokens of a row with [CLS] and [SEP].
      rng: source of all draws (none for full_sentences and document).
      short_seq_prob: nsp, sop: share of documents with a shorter target.
      random_next_prob: nsp: share of random B among chunks of two sentences or more.
    """
    if sequence_length < SHORTEST_SEQUENCE:
        raise ValueError(f"sequence_length={sequence_length} is less than {SHORTEST_SEQUENCE}")
    if np.diff(sentence_starts).min() < 1 or np.diff(document_starts).min() < 1:
        raise ValueError("a sentence without tokens or a document without sentences")
    longest = sequence_length - special_tokens(kind)
    if kind not in PAIRS:
        stops = document_starts if kind == "document" else [0, len(sentence_starts) - 1]
        return ExampleTable(_packed_sentences(np.asarray(sentence_starts), np.asarray(stops), longest))
    # Plain lists: the loop does little but index them.
    starts, documents = np.asarray(sentence_starts).tolist(), np.asarray(document_starts).tolist()
    pairs = _Pairs(starts, documents, longest, rng, random_next_prob)
    pair_document = pairs.add_next if kind == "nsp" else pairs.add_ordered
    for document in range(len(documents) - 1):
        target = rng.randint(2, longest) if rng.random() < short_seq_prob else longest
        pair_document(document, target)
    table = np.frombuffer(pairs.examples, dtype=np.int32).reshape(-1, len(COLUMNS))
    return ExampleTable(table, pairs.same_document_negatives, pairs.unpaired_documents)


# ---- pairs -------------------------------------------------------------------------------------------------


class _Pairs:
    """Cuts documents into chunks of about a row, and each chunk at a random sentence into A and B."""

    def __init__(
        self, starts: list[int], documents: list[int], longest: int, rng: random.Random, random_next_prob: float
    ):
        self.examples = array("i")
        self.same_document_negatives = 0
        self.unpaired_documents = 0
        self._starts = starts
        self._documents = documents
        self._longest = longest
        self._rng = rng
        self._random_next_prob = random_next_prob

    def add_next(self, document: int, target: int) -> None:
        """Next-sentence pairs of a document.

        With `random_next_prob`, and always where the chunk is a single sentence, B is taken from another document and
        the sentences after A go back. One difference: the original tries ten times to draw another document and then
        takes what it has; here the draw is repeated until the document is another one. Up to ten tries the draws are
        the same. See `_elsewhere` for a shard with a single document.
        """
        starts, rng = self._starts, self._rng
        begin, document_end = self._documents[document], self._documents[document + 1]
        alone = len(self._documents) == 2
        while begin < document_end:
            # The chunk is the sentences begin .. end - 1: as many as it takes to reach the target.
            end = bisect_left(starts, starts[begin] + target, begin + 1, document_end)
            a_end = begin + (rng.randrange(1, end - begin) if end - begin >= 2 else 1)
            a_length = starts[a_end] - starts[begin]
            random_next = None
            if end - begin == 1 or rng.random() < self._random_next_prob:
                if alone:
                    end = max(end, a_end + 1)  # the sentence after A is what follows it, in the chunk or not
                    random_next = self._elsewhere(begin, end, target - a_length)
                else:
                    random_next = self._of_another_document(document, target - a_length)
            if random_next:
                self._add(starts[begin], a_length, *random_next, NOT_NEXT)
                begin = a_end
            elif end <= document_end:
                self._add(starts[begin], a_length, starts[a_end], starts[end], IS_NEXT)
                begin = end
            else:  # a document of one sentence, and no other document
                self.unpaired_documents += 1
                return

    def add_ordered(self, document: int, target: int) -> None:
        """Sentence-order pairs of a document: two neighbouring runs, swapped with probability one half.

        A chunk of one sentence is joined by the next one, or at the end of the document by the one before (which is
        then seen twice).
        """
        starts, rng = self._starts, self._rng
        begin, document_end = self._documents[document], self._documents[document + 1]
        if document_end - begin < 2:
            self.unpaired_documents += 1
            return
        while begin < document_end:
            if begin == document_end - 1:
                begin -= 1
            end = max(bisect_left(starts, starts[begin] + target, begin + 1, document_end), begin + 2)
            a_end = begin + rng.randrange(1, end - begin)
            first, second = (starts[begin], starts[a_end]), (starts[a_end], starts[end])
            swapped = rng.random() < 0.5
            (a_start, a_stop), (b_start, b_stop) = (second, first) if swapped else (first, second)
            self._add(a_start, a_stop - a_start, b_start, b_stop, SWAPPED if swapped else IN_ORDER)
            begin = end

    def _of_another_document(self, document: int, target: int) -> tuple[int, int]:
        """Token range of sentences from a random place of another document: at least one, and until `target`
        tokens."""
        starts, documents, rng = self._starts, self._documents, self._rng
        other = document
        while other == document:
            other = rng.randrange(len(documents) - 1)
        first = documents[other] + rng.randrange(documents[other + 1] - documents[other])
        return starts[first], starts[bisect_left(starts, starts[first] + target, first + 1, documents[other + 1])]

    def _elsewhere(self, begin: int, end: int, target: int) -> tuple[int, int] | None:
        """The same from the only document, outside its sentences begin .. end - 1; None where that is all of it."""
        starts, document_end = self._starts, self._documents[1]
        places = begin + max(document_end - end, 0)
        if not places:
            return None
        self.same_document_negatives += 1
        first = self._rng.randrange(places)
        stop = begin
        if first >= begin:
            first, stop = first - begin + end, document_end
        return starts[first], starts[bisect_left(starts, starts[first] + target, first + 1, stop)]

    def _add(self, a_start: int, a_length: int, b_start: int, b_stop: int, label: int) -> None:
        pair = a_start, a_length, b_start, b_stop - b_start
        excess = a_length + b_stop - b_start - self._longest
        if excess > 0:
            pair = _truncate(*pair, excess, self._rng)
        self.examples.extend(pair)
        self.examples.append(label)


def _truncate(
    a_start: int, a_length: int, b_start: int, b_length: int, excess: int, rng: random.Random
) -> tuple[int, int, int, int]:
    """Take `excess` tokens away, one at a time from the longer half (B where they are equal), at its front or back."""
    if abs(a_length - b_length) > _DRAWN_AT_ONCE:  # a "sentence" of a million words: as many draws, in one call
        count = min(excess, abs(a_length - b_length))
        at_front = rng.getrandbits(count).bit_count()
        excess -= count
        if a_length > b_length:
            a_start, a_length = a_start + at_front, a_length - count
        else:
            b_start, b_length = b_start + at_front, b_length - count
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


# ---- whole sentences ---------------------------------------------------------------------------------------


def _packed_sentences(sentence_starts: np.ndarray, stops: np.ndarray, longest: int) -> np.ndarray:
    """Fill rows with as many sentences as fit in `longest` tokens; no row goes over the sentence index of a stop.

    A sentence that is longer is cut into pieces of `longest` tokens, so every token is in exactly one row.
    """
    lengths = np.diff(sentence_starts)
    pieces = -(-lengths // longest)
    first_piece = np.concatenate([[0], np.cumsum(pieces)])  # [N + 1], of each sentence
    sentence = np.repeat(np.arange(lengths.size), pieces)  # of each piece
    within = np.arange(sentence.size) - first_piece[sentence]
    starts = np.append(sentence_starts[sentence] + within * longest, sentence_starts[-1])
    # The piece that the row after a row that begins with this piece begins with.
    following = np.searchsorted(starts, starts[:-1] + longest, side="right") - 1
    stop_pieces = first_piece[stops]
    stop_of = stop_pieces[np.searchsorted(stop_pieces, np.arange(sentence.size), side="right")]
    following = np.minimum(following, stop_of).tolist()
    begins = [0]
    while begins[-1] < sentence.size:
        begins.append(following[begins[-1]])
    borders = starts[begins]
    table = np.zeros((len(borders) - 1, len(COLUMNS)), np.int32)
    table[:, 0] = borders[:-1]
    table[:, 1] = np.diff(borders)
    return table
