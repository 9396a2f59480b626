# SPDX-License-Identifier: Apache-2.0
"""Rows of a table of one vocabulary for the entries of another, by the text of the pieces.

An entry that both have keeps its row. A new one begins as the mean of the rows of the pieces that the old vocabulary cuts
it into (Fast Vocabulary Transfer, 2402.09977, section 3), and where these say nothing of it, it is drawn.

Shapes: V entries of the new vocabulary, U rows of the old table, D features.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bert_jax.base.types import JsonObject
from bert_jax.tokenization import WordPieceTokenizer

_SPECIAL = re.compile(r"\[.+\]")  # [unused7], which is no text


@dataclass(frozen=True)
class EntryMap:
    """The old rows that the row of each new entry is the mean of; of one that is drawn none."""

    sources: tuple[Sequence[int], ...]  # [V]

    def counts(self) -> JsonObject:
        """Return how many entries keep a row, are a mean, are drawn."""
        sizes = [len(ids) for ids in self.sources]
        return {"kept": sizes.count(1), "means": sum(size > 1 for size in sizes), "drawn": sizes.count(0)}

    def rows(self, table: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Return the new table, [V, D] or [V].

        Args:
          table: the old one, [U, D] or [U].
          drawn: [V, D] or [V], whose rows are taken where there are no old ones.
        """
        result = drawn.copy()
        for index, ids in enumerate(self.sources):
            if ids:
                result[index] = table[list(ids)].mean(0)
        return result


def map_entries(old: WordPieceTokenizer, new: WordPieceTokenizer) -> EntryMap:
    """Return the rows of `old` for the entries of `new`; a piece inside a word is cut as a word of the same letters."""
    known = {entry: index for index, entry in enumerate(old.vocabulary)}

    def of(entry: str) -> Sequence[int]:
        if entry in known:
            return (known[entry],)
        ids = [] if _SPECIAL.fullmatch(entry) else old.encode(entry.removeprefix("##")).ids
        return () if old.unk_id in ids else tuple(ids)

    return EntryMap(tuple(of(entry) for entry in new.vocabulary))
