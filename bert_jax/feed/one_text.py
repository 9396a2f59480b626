# SPDX-License-Identifier: Apache-2.0
"""One text or pair as the row that a model reads, and what masking does to it, by the functions that batches are made of.

Shapes: T tokens of a text without special ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bert_jax.base.errors import UserError
from bert_jax.config.objective import ObjectiveConfig
from bert_jax.feed.batch import Batch, BatchShape
from bert_jax.feed.examples import Examples
from bert_jax.feed.kinds import IS_NEXT, special_tokens
from bert_jax.feed.layout import SpecialIds
from bert_jax.feed.shards import Shard, Split, table_name, TRAIN
from bert_jax.tokenization import Segmenter, Tokenizer

MASK = "[MASK]"
_OBJECTIVES = {1: "mlm_document", 2: "mlm_nsp"}  # texts in a row -> an objective with such rows


@dataclass(frozen=True)
class TextRow:
    """A row of one text or pair, as lists of equal length."""

    pieces: list[str]
    ids: list[int]
    segments: list[int]
    positions: list[int]


@dataclass(frozen=True)
class MaskedPiece:
    """A picked token: what stands at its position, and what is shown to the model there."""

    position: int
    piece: str
    becomes: str


def tokens_of(tokenizer: Tokenizer, text: str, segmenter: Segmenter | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a text and which of them begin a word, each [T]; every `[MASK]` in it is one token."""
    parts = tokenizer.encode_flat(text.split(MASK), segmenter)
    places = np.cumsum(parts.lengths)[:-1]  # of the masks between the parts
    return np.insert(parts.ids, places, tokenizer.mask_id), np.insert(parts.word_starts, places, True)


class OneText:
    """A text, or a pair, as the only example of a split in memory.

    Raises:
      UserError: a text without tokens.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], segmenter: Segmenter | None = None):
        self.tokenizer = tokenizer
        self.objective = _OBJECTIVES[len(texts)]
        parts = [tokens_of(tokenizer, text, segmenter) for text in texts]
        for text, (ids, _) in zip(texts, parts, strict=True):
            if not len(ids):
                raise UserError(f"{text!r} has no tokens: give a text with a letter, a digit or a sign")
        a_length, b_length = len(parts[0][0]), sum(len(ids) for ids, _ in parts[1:])
        kind = ObjectiveConfig(self.objective).examples
        self.length = a_length + b_length + special_tokens(kind)
        tokens, word_starts = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        table = np.array([[0, a_length, a_length, b_length, IS_NEXT]], np.int32)
        starts = np.array([0, len(tokens)])
        packed = np.packbits(word_starts, bitorder="little")
        shard = Shard(Path("text"), tokens, packed, starts, np.array([0, 1]), {table_name(kind, self.length): table})
        self._split = Split(TRAIN, Path("text"), (shard,), {})

    def row(self) -> TextRow:
        """Return the row as it is read, nothing masked."""
        batch = self._batch(ObjectiveConfig(), seed=0)
        ids = batch["input_ids"][0].copy()
        picked = batch["masked_lm_weights"][0] > 0
        ids[batch["masked_lm_positions"][0, picked]] = batch["masked_lm_ids"][0, picked]
        pieces = [self.tokenizer.vocabulary[index] for index in ids]
        return TextRow(pieces, ids.tolist(), batch["segment_ids"][0].tolist(), batch["position_ids"][0].tolist())

    def masked(self, objective: ObjectiveConfig, seed: int) -> list[MaskedPiece]:
        """Return the picked tokens of the text, by their positions, as it is masked as example 0 in epoch 0 of a run.

        Args:
          objective: what is picked as one unit, and the shares.
          seed: of the run.
        """
        batch, words = self._batch(objective, seed), self.tokenizer.vocabulary
        count = int(batch["masked_lm_weights"][0].sum())
        places, labels = batch["masked_lm_positions"][0, :count], batch["masked_lm_ids"][0, :count]
        return [
            MaskedPiece(int(place), words[label], words[batch["input_ids"][0, place]])
            for place, label in zip(places, labels, strict=True)
        ]

    def _batch(self, objective: ObjectiveConfig, seed: int) -> Batch:
        tokenizer = self.tokenizer
        examples = Examples(
            split=self._split,
            shape=BatchShape(1, self.length, self.length),
            objective=replace(objective, name=self.objective),
            special=SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id),
            vocab_size=tokenizer.vocab_size,
        )
        return examples.batch(np.zeros((1, 1), np.int64), np.zeros(1, np.int64), seed)
