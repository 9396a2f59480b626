# SPDX-License-Identifier: Apache-2.0
"""Many texts -> one array of ids, through a cache of chunks in front of the tokenizer.

Most of a text is chunks (what white space separates) that were seen before: each is looked up in a dict, and its ids
are copied out of a table by NumPy, for thousands of texts at a time.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LARGEST_CACHE = 2**18  # chunks; a fuller cache is emptied before the next block: some 60 MB of memory
LARGEST_TABLE = 2**21  # tokens of the cached chunks, for text without white space, whose chunks are long
BLOCK = 4096  # texts that are expanded at once

Flat = tuple[np.ndarray, np.ndarray]


class FlatEncoding(NamedTuple):
    """N texts as one array of T token ids."""

    ids: np.ndarray  # [T] int32
    lengths: np.ndarray  # [N] int64, tokens of each text
    word_starts: np.ndarray  # [T] bool, True where a token begins a word


class ChunkCache:
    """Encodes texts chunk by chunk and remembers the chunks.

    Codes are those of tokens: id << 1 | begins a word.

    Args:
      split: texts -> the chunks of each, whose tokens in order are the text's.
      encode_chunks: chunks -> the codes of all, and the tokens of each, as `flattened` gives them.
    """

    def __init__(
        self,
        split: Callable[[Sequence[str]], list[list[str]]],
        encode_chunks: Callable[[Sequence[str]], Flat],
    ):
        self._split = split
        self._encode_chunks = encode_chunks
        self._empty()

    def encode(self, texts: Sequence[str]) -> FlatEncoding:
        """Ids, lengths and word starts of `texts`."""
        codes, lengths = self.codes(texts)
        return FlatEncoding(codes >> 1, lengths, (codes & 1).astype(bool))

    def codes(self, texts: Sequence[str]) -> Flat:
        """The codes of all texts, [T] int32, and the tokens of each, [N] int64."""
        blocks = [self._encode_block(texts[begin : begin + BLOCK]) for begin in range(0, len(texts), BLOCK)]
        codes = np.concatenate([codes for codes, _ in blocks] or [np.empty(0, np.int32)])
        return codes, np.concatenate([lengths for _, lengths in blocks] or [np.empty(0, np.int64)])

    def _empty(self) -> None:
        # Chunk -> its number; a chunk that is asked for the first time gets the next one.
        self._numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
        self._used = 0  # entries of the table
        self._table = np.empty(2**16, np.int32)  # codes, chunk after chunk
        self._begins = np.empty(0, np.int64)  # [chunks], in the table
        self._lengths = np.empty(0, np.int64)  # [chunks]

    def _encode_block(self, texts: Sequence[str]) -> Flat:
        if len(self._numbers) > LARGEST_CACHE or self._used > LARGEST_TABLE:
            self._empty()
        chunks = self._split(texts)
        count = np.fromiter(map(len, chunks), np.int64, len(chunks))  # [N]
        lookup = map(self._numbers.__getitem__, itertools.chain.from_iterable(chunks))
        numbers = np.fromiter(lookup, np.int32, int(count.sum()))  # [C]
        self._learn()
        lengths = self._lengths[numbers]  # [C]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        places = np.repeat(self._begins[numbers] - (ends - lengths), lengths) + np.arange(total)
        tokens_before = np.concatenate([[0], ends])
        text_ends = np.concatenate([[0], np.cumsum(count)])
        return self._table[places], np.diff(tokens_before[text_ends])

    def _learn(self) -> None:
        """Encode the chunks that have a number and no codes yet: those that the last lookup saw for the first time."""
        unknown = len(self._numbers) - len(self._lengths)
        if not unknown:
            return
        codes, lengths = self._encode_chunks(list(itertools.islice(reversed(self._numbers), unknown))[::-1])
        end = self._used + len(codes)
        if end > len(self._table):
            self._table = np.resize(self._table, 2 * end)
        self._table[self._used : end] = codes
        self._begins = np.concatenate([self._begins, self._used + np.cumsum(lengths) - lengths])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._used = end


def flattened(codes: Sequence[Sequence[int]]) -> Flat:
    """Codes of N chunks -> the codes of all, [T] int32, and how many each has, [N] int64."""
    lengths = np.fromiter(map(len, codes), np.int64, len(codes))
    return np.fromiter(itertools.chain.from_iterable(codes), np.int32, int(lengths.sum())), lengths
